"""The affine map of pairs, against 2x2 matrices in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import patterns

import mru
from mru.operators import Pairwise

pytestmark = pytest.mark.usefixtures("quick_compile")
N, T = 3, 13


def fields(constant=False, seed=0):
    """Blocks (..., N, 2, 2) and offsets (5, T, N, 2), float64."""
    rng = np.random.default_rng(seed)
    return 0.6 * rng.normal(size=(N, 2, 2) if constant else (5, T, N, 2, 2)), rng.normal(size=(5, T, N, 2))


def operator(blocks, offsets):
    blocks, offsets = (jnp.asarray(x, jnp.float32) for x in (blocks, offsets))
    matrix = tuple(tuple(blocks[..., i, j] for j in range(2)) for i in range(2))
    return Pairwise(matrix, (offsets[..., 0], offsets[..., 1]))


def looped(blocks, offsets, start, reset, restart, reverse=False):
    blocks, states, h = np.broadcast_to(blocks, (5, T, N, 2, 2)), [None] * T, start
    for t in reversed(range(T)) if reverse else range(T):
        h = np.where(reset[:, t, None, None], restart, h)
        h = np.einsum("bnij,bnj->bni", blocks[:, t], h) + offsets[:, t]
        states[t] = h
    return np.stack(states, 1)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("method", ["sequential", "associative"])
def test_a_scan_is_the_loop_of_matrices(method, constant, reverse):
    (blocks, offsets), (start, restart) = fields(constant), np.random.default_rng(1).normal(size=(2, 5, N, 2))
    reset = patterns(T)
    pairs = [(jnp.asarray(x[..., 0], jnp.float32), jnp.asarray(x[..., 1], jnp.float32)) for x in (start, restart)]
    found = mru.scan(
        operator(blocks, offsets), pairs[0], reset=reset, reset_state=pairs[1], reverse=reverse, method=method
    )
    expected = looped(blocks, offsets, start, reset, restart, reverse)
    np.testing.assert_allclose(np.stack(found, -1), expected, rtol=1e-4, atol=1e-5)


def test_composition_is_the_product_of_matrices():
    later, earlier = fields(seed=1), fields(seed=2)
    both = operator(*later).compose(operator(*earlier))
    matrix = np.stack([np.stack(row, -1) for row in both.matrix], -2)
    np.testing.assert_allclose(matrix, later[0] @ earlier[0], rtol=1e-4, atol=1e-5)
    offset = np.einsum("...ij,...j->...i", later[0], earlier[1]) + later[1]
    np.testing.assert_allclose(np.stack(both.offset, -1), offset, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["sequential", "associative"])
def test_gradient_is_that_of_finite_differences(method):
    (blocks, offsets), direction = fields(), fields(seed=3)
    weight, reset = np.random.default_rng(4).normal(size=(5, T, N, 2)), patterns(T)
    zero = np.zeros((5, N, 2))

    def loss(blocks, offsets):
        return (weight * looped(blocks, offsets, zero, reset, zero)).sum()

    moved = [[x + sign * 1e-5 * d for x, d in zip((blocks, offsets), direction, strict=True)] for sign in (1, -1)]
    slope = (loss(*moved[0]) - loss(*moved[1])) / 2e-5

    def ours(op):
        p, q = mru.scan(op, reset=reset, method=method)
        return (weight[..., 0] * p + weight[..., 1] * q).sum()

    bar = jax.grad(ours)(operator(blocks, offsets))
    along = jax.tree.map(lambda g, d: (g * d).sum(), bar, operator(*direction))
    np.testing.assert_allclose(sum(jax.tree.leaves(along)), slope, rtol=1e-4)
