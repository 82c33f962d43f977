import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from legendre_reference import memories
from reference import affine, cell_parameters, patterns, shake

from mru.cells import PDMU

pytestmark = pytest.mark.usefixtures("quick_compile")
D, N, T = 3, 6, 30


def delayed(m, g, reset):
    """m^ by a post office: each step sends its memory to later ones, and a reset burns what has not arrived."""
    slots, found = g.shape[-1], m.copy()
    for b, t, j in np.ndindex(len(m), T, slots):
        if t + j < T and not reset[b, t + 1 : t + j + 1].any():
            found[b, t + j] += g[b, t, j] * m[b, t]
    return found


@pytest.mark.parametrize(("slots", "channels"), [(2, 1), (5, 3), (40, 1)])
def test_output_is_the_equation(slots, channels):
    cell = shake(PDMU(D, N, slots=slots, channels=channels, theta=10.0, rngs=0))
    x, reset, p = np.random.default_rng(0).normal(size=(5, T, D)).astype(np.float32), patterns(T), cell_parameters(cell)
    scores = np.exp(affine(p, "gate", x))
    g = scores / scores.sum(-1, keepdims=True)

    @jax.jit
    def run(x):
        early, middle = cell(x[:, :13], reset=reset[:, :13])
        late, last = cell(x[:, 13:], middle, reset[:, 13:])
        whole = cell(x)
        return cell(x, reset=reset), (jnp.concatenate([early, late], 1), last), whole

    *packed, whole = run(x)
    for (y, state), firsts in ((packed[0], reset), (packed[1], reset), (whole, np.zeros((5, T), bool))):
        m = memories(np.tanh(affine(p, "signal", x)), N // channels, 10.0, firsts)
        expected = np.tanh(delayed(m, g, firsts) @ p["memory/kernel"] + affine(p, "skip", x))
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
        for b in range(5):
            here = min(slots - 1, T - max([0, *np.flatnonzero(firsts[b])]))
            for mine, line in zip(state, (m, g), strict=True):
                np.testing.assert_allclose(mine[b, :here], line[b, ::-1][:here], rtol=1e-4, atol=1e-5)
                assert not np.asarray(mine[b, here:]).any()


def test_gradient_is_that_of_finite_differences():
    """Over a reset, with a delay line carried in."""
    with jax.enable_x64(True):
        cell, rng = shake(PDMU(D, N, slots=3, theta=8.0, rngs=0)), np.random.default_rng(0)
        graphdef, params = nnx.split(cell)
        point = (params, rng.normal(size=(9, D)), (rng.normal(size=(2, N)), rng.uniform(size=(2, 3))))
        point = jax.tree.map(lambda a: jnp.asarray(a, "float64"), point)
        direction = jax.tree.map(lambda a: rng.normal(size=a.shape), point)

        @jax.jit
        def loss(point):
            params, x, state = point
            y, (m, g) = nnx.merge(graphdef, params)(x, state, np.arange(9) == 4)
            return (y**2).sum() + jnp.cos(m).sum() * (g**2).sum()

        def moved(size):
            return loss(jax.tree.map(lambda a, d: a + size * d, point, direction))

        found = jax.tree.map(lambda g, d: (g * d).sum(), jax.jit(jax.grad(loss))(point), direction)
        np.testing.assert_allclose(sum(jax.tree.leaves(found)), (moved(1e-5) - moved(-1e-5)) / 2e-5, rtol=1e-7)


@pytest.mark.parametrize("slots", [1, 0, 2.5])
def test_slots_are_checked(slots):
    with pytest.raises(ValueError, match=re.escape(f"PDMU needs at least 2 slots, an integer, got {slots}")):
        PDMU(D, N, slots=slots, rngs=0)
    assert PDMU(D, N, slots=np.int64(3), rngs=0).slots == 3
