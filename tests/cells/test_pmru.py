import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference import affine, cell_parameters, loop, patterns, shake, softplus, states_of

from mru.cells import PMRU

pytestmark = pytest.mark.usefixtures("quick_compile")
D, N, T = 3, 5, 30


def test_output_is_the_equation():
    cell = shake(PMRU(D, N, learn_initial_state=True, rngs=nnx.Rngs(0)))
    x, reset, p = np.random.default_rng(0).normal(size=(5, T, D)).astype(np.float32), patterns(T), cell_parameters(cell)
    c, r = affine(p, "centre", x), softplus(affine(p, "radius", x))
    h = loop(lambda t, h: np.clip(h, c[:, t] - r[:, t], c[:, t] + r[:, t]), T, p["start"], reset)
    held = h[:, 1:] == h[:, :-1]
    assert 0.2 < held.mean() < 0.9
    y, state = jax.jit(lambda x: cell(x, reset=reset))(x)
    np.testing.assert_allclose(y, affine(p, "out", p["alpha"] * h), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state, h[:, -1], rtol=1e-4, atol=1e-5)


def test_initialisation():
    p = cell_parameters(PMRU(D, N, learn_initial_state=True, rngs=nnx.Rngs(0)))
    np.testing.assert_array_equal(p["radius/bias"], 1)
    np.testing.assert_array_equal(p["centre/bias"], 0)
    np.testing.assert_array_equal(p["alpha"], 1)
    np.testing.assert_array_equal(p["start"], 0)


def play():
    """centre = x, radius = softplus(1)."""
    cell = PMRU(1, 1, rngs=nnx.Rngs(0))
    cell.centre.kernel[...], cell.radius.kernel[...] = jnp.ones((1, 1)), jnp.zeros((1, 1))
    return cell, softplus(1)


def test_a_rise_and_fall_of_the_input_draw_a_loop():
    cell, r = play()
    h = states_of(cell, jnp.array([0.0, 2, 4, 3, 2, 0, -4])[:, None])
    np.testing.assert_allclose(h[:, 0], [0, 2 - r, 4 - r, 4 - r, 4 - r, r, r - 4], rtol=1e-6)


def test_any_value_in_the_band_is_held_bit_for_bit():
    cell, r = play()
    x = np.random.default_rng(0).uniform(-0.5, 0.5, (100_001, 1)).astype(np.float32)
    for first in (1.5, 1.61, -1.7):
        x[0] = first
        h = np.asarray(states_of(cell, x))
        np.testing.assert_allclose(h[0], first - np.sign(first) * r, rtol=1e-5)
        assert (h == h[0]).all()
