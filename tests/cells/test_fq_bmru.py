import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference import affine, cell_parameters, loop, patterns, shake, states_of, surrogate

from mru.cells import FQBMRU

pytestmark = pytest.mark.usefixtures("quick_compile")
D, N, T = 3, 5, 30


def test_output_is_the_equation():
    cell = shake(FQBMRU(D, N, learn_initial_state=True, rngs=nnx.Rngs(0)), scale=0.1)
    x, reset, p = np.random.default_rng(0).normal(size=(5, T, D)).astype(np.float32), patterns(T), cell_parameters(cell)
    c, lower = np.maximum(affine(p, "candidate", x), 0), abs(p["lower_threshold"])
    upper = lower + abs(p["gap"])

    def step(t, h):
        return np.where(c[:, t] >= upper, p["alpha"], np.where(c[:, t] <= lower, 0, h))

    for branch in (c >= upper, c <= lower, (c > lower) & (c < upper)):
        assert branch.mean() > 0.1
    h = loop(step, T, p["start"], reset)
    y, state = jax.jit(lambda x: cell(x, reset=reset))(x)
    np.testing.assert_allclose(y, affine(p, "out", h), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(state, h[:, -1])  # 0, alpha or the initial state: no rounding


def test_initialisation_holds_most_inputs():
    cell = FQBMRU(64, 500, rngs=nnx.Rngs(0))
    p = cell_parameters(cell)
    lower, upper = p["lower_threshold"], p["lower_threshold"] + p["gap"]
    for values, centre in [(lower, 0.15), (p["gap"], 0.35), (p["candidate/bias"], 0.5)]:
        np.testing.assert_allclose(values.mean(), centre, rtol=0.02)
        assert values.min() >= 0.8 * centre - 1e-6
        assert values.max() <= 1.2 * centre + 1e-6
        assert values.std() > 0.08 * centre
    np.testing.assert_allclose(upper.mean(), 0.5, rtol=0.02)
    assert (p["candidate/kernel"] >= 0).all()
    np.testing.assert_allclose((p["candidate/kernel"] ** 2).mean(), 1 / 64, rtol=0.05)
    np.testing.assert_array_equal(p["alpha"], 1)


def test_gradient_of_one_step_is_the_formula():
    cell = shake(FQBMRU(1, 3, rngs=nnx.Rngs(0)), scale=0.0)
    cell.candidate.kernel[...], cell.candidate.bias[...] = (
        jnp.zeros((1, 3)),
        jnp.array([0.1, 0.3, 0.9]),
    )  # 0, hold, alpha
    cell.lower_threshold[...], cell.gap[...] = jnp.full(3, 0.2), jnp.full(3, 0.3)
    cell.alpha[...], cell.width[...] = jnp.full(3, 1.5), jnp.asarray(0.7)
    graphdef, params, rest = nnx.split(cell, nnx.Param, ...)
    h0 = 0.7
    grads = jax.grad(lambda v: nnx.merge(graphdef, v, rest)(jnp.ones((1, 1)), jnp.full(3, h0))[1].sum())(params)
    c = np.array([0.1, 0.3, 0.9])
    z_lo, z_hi, low, high = c <= 0.2, c >= 0.5, surrogate(0.2 - c, 0.7), surrogate(c - 0.5, 0.7)
    by_z_hi, by_z_lo = 1.5 - (1 - z_lo) * h0, -(1 - z_hi) * h0
    np.testing.assert_allclose(grads["candidate"]["bias"][...], by_z_hi * high - by_z_lo * low, rtol=1e-5)
    np.testing.assert_allclose(grads["lower_threshold"][...], by_z_lo * low - by_z_hi * high, rtol=1e-5)
    np.testing.assert_allclose(grads["gap"][...], -by_z_hi * high, rtol=1e-5)
    np.testing.assert_array_equal(grads["alpha"][...], z_hi)


def test_holds_bit_for_bit():
    cell = FQBMRU(1, N, rngs=nnx.Rngs(0))
    cell.alpha[...] = jnp.linspace(0.1, 0.7, N)
    cell.candidate.kernel[...], cell.candidate.bias[...] = jnp.ones((1, N)), jnp.zeros(N)
    x = np.random.default_rng(0).uniform(0.2, 0.39, (100_001, 1)).astype(np.float32)  # between all thresholds
    for first, state in [(1.0, np.asarray(cell.alpha[...])), (0.0, 0)]:
        x[0] = first
        assert (np.asarray(states_of(cell, x, jnp.full(N, 0.3))) == state).all()
