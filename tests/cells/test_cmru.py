import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference import affine, cell_parameters, loop, np_sign, patterns, shake, states_of, surrogate

from mru.cells import CMRU

pytestmark = pytest.mark.usefixtures("quick_compile")
D, N, T = 3, 5, 30


def test_output_is_the_equation():
    cell = shake(CMRU(D, N, learn_initial_state=True, rngs=nnx.Rngs(0)))
    x, reset, p = np.random.default_rng(0).normal(size=(5, T, D)).astype(np.float32), patterns(T), cell_parameters(cell)
    c, beta = affine(p, "candidate", x), abs(affine(p, "threshold", x))
    increment = np.where(abs(c) >= beta, np_sign(c), 0)
    assert {-1, 0, 1} == set(increment.ravel())
    h = loop(lambda t, h: h + increment[:, t], T, p["start"], reset)
    y, state = jax.jit(lambda x: cell(x, reset=reset))(x)
    np.testing.assert_allclose(y, affine(p, "out", p["alpha"] * h), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(state, h[:, -1], rtol=1e-5, atol=1e-6)


def test_initialisation():
    p = cell_parameters(CMRU(D, N, learn_initial_state=True, rngs=nnx.Rngs(0)))
    np.testing.assert_array_equal(p["threshold/bias"], 1)
    np.testing.assert_array_equal(p["alpha"], 1)
    np.testing.assert_array_equal(p["start"], 0)
    assert p["width"] == 1


def climbing():
    """A cell that counts: it steps up at x = 1, down at x = -1, and holds in between."""
    cell = CMRU(1, 2, rngs=nnx.Rngs(0))
    cell.candidate.kernel[...], cell.candidate.bias[...] = jnp.full((1, 2), 2.0), jnp.zeros(2)
    cell.threshold.kernel[...] = jnp.zeros((1, 2))
    return cell


def test_ladder_is_whole_numbers_held_bit_for_bit():
    x = np.random.default_rng(0).uniform(-0.4, 0.4, (100_003, 1)).astype(np.float32)
    x[:3] = 1
    h = np.asarray(states_of(climbing(), x))
    np.testing.assert_array_equal(h[:3, 0], [1, 2, 3])
    assert (h[3:] == 3).all()


def test_gradient_through_time_is_one():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(50, 1)), jnp.float32)
    cell = climbing()
    jacobian = jax.jit(jax.jacobian(lambda h: cell(x, h)[1]))(jnp.zeros(2))
    np.testing.assert_array_equal(jacobian, np.eye(2))


def test_gradient_of_one_step_is_the_formula():
    """h = h0 + z s, with the surrogates of z at |c| - beta and, twice, of s at c."""
    cell, width = CMRU(1, 3, rngs=nnx.Rngs(0)), 0.7
    cell.width[...] = jnp.asarray(width)
    cell.candidate.kernel[...], cell.threshold.kernel[...] = jnp.zeros((1, 3)), jnp.zeros((1, 3))
    cell.candidate.bias[...], cell.threshold.bias[...] = jnp.array([0.5, -1.2, 3.0]), jnp.array([1.0, -0.8, 2.0])
    graphdef, params, rest = nnx.split(cell, nnx.Param, ...)
    grads = jax.grad(lambda v: nnx.merge(graphdef, v, rest)(jnp.ones((1, 1)))[1].sum())(params)
    c, raw = np.array([0.5, -1.2, 3.0]), np.array([1.0, -0.8, 2.0])
    z, z_slope = abs(c) >= abs(raw), surrogate(abs(c) - abs(raw), width)
    by_c = z_slope * np_sign(c) * np_sign(c) + z * 2 * surrogate(c, width)
    np.testing.assert_allclose(grads["candidate"]["bias"][...], by_c, rtol=1e-5)
    np.testing.assert_allclose(grads["threshold"]["bias"][...], -z_slope * np_sign(raw) * np_sign(c), rtol=1e-5)
