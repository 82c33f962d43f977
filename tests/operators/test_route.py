"""Maps that send channels to channels, against dense matrices in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import loop

import mru
from mru.operators import Gather, Route, ScoredRoute

pytestmark = pytest.mark.usefixtures("quick_compile")
BATCH, TIME, N = 2, 7, 4
METHODS = ["sequential", "associative", "auto"]
scan = jax.jit(mru.scan, static_argnames=("reverse", "method"))


def numbers(seed, *shape):
    real, imag = np.random.default_rng(seed).normal(size=(2, *shape))
    return (0.7 * (real + 1j * imag)).astype(np.complex64)


def draw(kind, time=TIME):
    """An operator, and its matrices (B, T, N, N) in complex128."""
    rng, shape = np.random.default_rng(0), (BATCH, time, N)
    factor, offset = numbers(1, *shape), numbers(2, *shape)
    if kind is ScoredRoute:
        scores = rng.normal(size=(*shape, N)).astype(np.float32)
        index, op = scores.argmax(-2), ScoredRoute(scores, factor, offset)
    else:
        index = rng.integers(0, N, shape)
        op = kind(index, factor, offset)
    one_hot = np.eye(N)[index]  # row j has its 1 at index[j]
    if kind is Gather:
        return op, factor.astype(np.complex128)[..., :, None] * one_hot
    return op, np.swapaxes(one_hot, -1, -2) * factor.astype(np.complex128)[..., None, :]


def states(op, matrices, h0, reset, restart, reverse):
    def step(t, h):
        return np.einsum("bij,bj->bi", matrices[:, t], h) + op.offset[:, t]

    return loop(step, matrices.shape[1], h0, reset, restart, reverse)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", [Gather, Route, ScoredRoute])
def test_states_are_those_of_the_matrices(kind, method):
    for time in (1, TIME):
        op, matrices = draw(kind, time)
        h0, restart = numbers(3, BATCH, N), numbers(4, BATCH, N)
        reset = np.random.default_rng(5).random((BATCH, time)) < 0.3
        for reverse in (False, True):
            ours = scan(op, h0, reset=reset, reset_state=restart, reverse=reverse, method=method)
            expected = states(op, matrices, h0, reset, restart, reverse)
            np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [Gather, Route])
def test_composition_is_the_product_of_the_matrices(kind):
    (op, matrices), h = draw(kind), numbers(3, BATCH, 1, N)
    later, earlier = (jax.tree.map(lambda x, t=t: x[:, t : t + 1], op) for t in (3, 2))
    product = matrices[:, 3] @ matrices[:, 2]
    offset = np.einsum("bij,bj->bi", matrices[:, 3], op.offset[:, 2]) + op.offset[:, 3]
    ours = later.compose(earlier).apply(h)[:, 0]
    np.testing.assert_allclose(ours, np.einsum("bij,bj->bi", product, h[:, 0]) + offset, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_gradient_is_that_of_the_matrices_with_the_softmax_for_their_slope(method, reverse):
    op, _ = draw(ScoredRoute)
    h0, restart, weight = numbers(3, BATCH, N), numbers(4, BATCH, N), numbers(6, BATCH, TIME, N)
    reset = np.random.default_rng(5).random((BATCH, TIME)) < 0.3

    @functools.partial(jax.grad, argnums=(0, 1, 2))
    def ours(op, h0, restart):
        return (weight * scan(op, h0, reset=reset, reset_state=restart, reverse=reverse, method=method)).real.sum()

    @functools.partial(jax.grad, argnums=(0, 1, 2))
    def plain(op, h0, restart):
        soft = jax.nn.softmax(op.scores, -2)
        hard = jax.nn.one_hot(op.scores.argmax(-2), N, axis=-2)
        matrix = hard + soft - jax.lax.stop_gradient(soft)

        def step(t, h):
            return jnp.einsum("bij,bj->bi", matrix[:, t], op.factor[:, t] * h) + op.offset[:, t]

        return (weight * loop(step, TIME, h0, reset, restart, reverse, xp=jnp)).real.sum()

    for mine, theirs in zip(*(jax.tree.leaves(f(op, h0, restart)) for f in (ours, plain)), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


def test_channels_that_are_sent_to_one_place_add_up():
    op = Route(jnp.array([[1, 2, 2]]), jnp.ones((1, 3)), jnp.zeros((1, 3)))
    np.testing.assert_array_equal(scan(op, jnp.array([1.0, 2.0, 4.0])), [[0, 1, 6]])


def test_a_derivative_that_the_compositions_do_not_have_is_refused():
    op, _ = draw(ScoredRoute)
    with pytest.raises(TypeError, match="no derivative in its scores by method='autodiff'"):
        jax.grad(lambda op: mru.scan(op, method="autodiff").real.sum())(op)
