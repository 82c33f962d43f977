import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference import affine, assert_gradients, cell_parameters, loop, patterns, shake, sigmoid, states_of

from mru.cells import MinLSTM

pytestmark = pytest.mark.usefixtures("quick_compile")
D, N, T = 3, 5, 30


def oracle(p, x, reset, linear_candidate):
    """Every state and output, from the equations."""
    f, i, u = sigmoid(affine(p, "forget_gate", x)), sigmoid(affine(p, "input_gate", x)), affine(p, "candidate", x)
    new = u if linear_candidate else np.where(u >= 0, u + 0.5, sigmoid(u))
    kept, taken = f / (f + i), i / (f + i)
    start = p.get("start", np.zeros(N))
    h = loop(lambda t, h: kept[..., t, :] * h + taken[..., t, :] * new[..., t, :], x.shape[-2], start, reset)
    return h, affine(p, "out", h)


@pytest.mark.parametrize("linear_candidate", [False, True])
def test_output_is_the_equation(linear_candidate):
    cell = shake(MinLSTM(D, N, linear_candidate=linear_candidate, learn_initial_state=True, rngs=nnx.Rngs(0)))
    x, reset = np.random.default_rng(0).normal(size=(5, T, D)).astype(np.float32), patterns(T)
    h, expected = oracle(cell_parameters(cell), x, reset, linear_candidate)
    y, state = jax.jit(lambda x: cell(x, reset=reset))(x)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state, h[:, -1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("linear_candidate", [False, True])
def test_gradients_are_finite_differences_of_the_equation(linear_candidate):
    cell = shake(MinLSTM(D, N, linear_candidate=linear_candidate, rngs=nnx.Rngs(0)))
    assert_gradients(cell, lambda p, x, reset: oracle(p, x, reset, linear_candidate)[1])


def test_gates_that_round_to_zero_are_still_compared():
    """Where f and i both underflow, f / (f + i) is 0 / 0 in floating point; it is sigma(-200 + 201) here."""
    cell = MinLSTM(1, 1, rngs=nnx.Rngs(0))
    for gate, bias in ((cell.forget_gate, -200.0), (cell.input_gate, -201.0)):
        gate.kernel[...], gate.bias[...] = jnp.ones((1, 1)), jnp.full(1, bias)
    cell.candidate.kernel[...], cell.candidate.bias[...] = jnp.zeros((1, 1)), jnp.full(1, 0.5)  # h~ = 1
    (h, bar) = jax.value_and_grad(lambda x: cell(x, jnp.full(1, 3.0))[1].sum())(jnp.zeros((1, 1)))
    np.testing.assert_allclose(h, 3 * sigmoid(1.0) + (1 - sigmoid(1.0)), rtol=1e-5)
    np.testing.assert_allclose(bar, 0, atol=1e-6)  # both gates move alike


def test_the_state_stays_positive_and_below_the_largest_candidate():
    cell = shake(MinLSTM(D, N, rngs=nnx.Rngs(0)))
    x = np.random.default_rng(0).normal(size=(T, D)).astype(np.float32)
    u = affine(cell_parameters(cell), "candidate", x)
    h = np.asarray(states_of(cell, x))
    assert (h > 0).all()
    assert (h <= np.where(u >= 0, u + 0.5, sigmoid(u)).max(0) + 1e-5).all()
