import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from known_cells import Bistable, Leak, Logistic, Pair, bmru, normal, pmru

import mru
from mru.dynamics import lyapunov_exponent


@pytest.mark.parametrize("a", [[0.9, 0.5], [0.9 * np.exp(0.3j), 0.5j], [1.1, 0.9]])
def test_of_a_leak_it_is_the_logarithm_of_its_largest_coefficient(a):
    found = lyapunov_exponent(Leak(a), normal(3, 2000, 2))
    assert found.shape == (3,)
    np.testing.assert_allclose(found, np.log(np.abs(a).max()), atol=1e-3)


def test_of_the_logistic_map_it_is_log_2():
    found = lyapunov_exponent(Logistic(4.0, 0.3), normal(100_000, 1))
    np.testing.assert_allclose(found, np.log(2), atol=0.01)


def test_of_a_driven_nonlinear_cell_it_is_the_mean_of_its_slopes():
    x, h, total = normal(500, 1), 0.0, 0.0
    for value in x[:, 0].astype(float):
        inside = np.tanh(value + 2.0 * h)
        h, total = 0.7 * h + 0.3 * inside, total + np.log(0.7 + 0.3 * 2.0 * (1 - inside**2))
    np.testing.assert_allclose(lyapunov_exponent(Bistable(2.0, 0.3), x), total / 500, atol=1e-4)


def test_a_latch_holds_or_forgets_at_once():
    quiet, loud = 0.1 * normal(50, 1), 9 + normal(50, 1)
    for cell in (bmru((1.0, 2.0)), pmru((1.0, 2.0))):
        assert float(lyapunov_exponent(cell, quiet)) == pytest.approx(0, abs=1e-6)
        assert float(lyapunov_exponent(cell, loud)) == -np.inf


def test_a_counter_counts():
    cell = mru.cells.CMRU(2, 3, rngs=nnx.Rngs(0))
    assert float(lyapunov_exponent(cell, 3 * normal(50, 2))) == pytest.approx(0, abs=1e-6)


def test_a_state_of_several_arrays():
    np.testing.assert_allclose(lyapunov_exponent(Pair(), jnp.asarray(normal(2000, 2))), np.log(0.5), atol=1e-2)


def test_a_window_forgets_what_lies_before_it():
    """Its state counts the steps, in an integer that has no derivative."""
    cell = mru.cells.Attention(2, 4, max_length=3, rngs=0)
    assert float(lyapunov_exponent(cell, normal(3, 2))) == -np.inf
    assert np.isfinite(float(lyapunov_exponent(cell, normal(2, 2))))


def test_inputs_are_checked():
    cell = mru.cells.LRU(2, 3, rngs=0)
    for x in (jnp.ones((0, 2)), jnp.ones((4, 1)), jnp.ones(2)):
        with pytest.raises(ValueError, match=r"x must be \(\.\.\., T, 2\) with T >= 1, got"):
            lyapunov_exponent(cell, x)
