import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from known_cells import Bistable, Leak, bmru, fq_bmru, normal, pmru

import mru
from mru.dynamics import InnerClock, equilibria


def test_a_relay_has_two_inside_its_band_and_one_outside():
    cell = bmru((1.0, 2.0))
    found = equilibria(cell, jnp.array([1.5]))
    np.testing.assert_array_equal(found.number, [1, 2])
    assert found.whole == 2
    np.testing.assert_array_equal(np.unique(found.states, axis=0), [[1, -1], [1, 1]])
    np.testing.assert_array_equal(equilibria(cell, jnp.array([0.5])).number, [2, 2])
    outside = equilibria(cell, jnp.array([-2.5]))
    np.testing.assert_array_equal(outside.number, [1, 1])
    np.testing.assert_array_equal(outside.radius, 0)  # what it was is gone at once
    np.testing.assert_array_equal(found.radius, 1)  # and inside the band it stays


def test_a_schmitt_trigger():
    cell = fq_bmru(lower=0.5, gap=1.0, alpha=2.0)
    for x, values in [(0.2, [0]), (1.0, [0, 2]), (1.7, [2])]:
        found = equilibria(cell, jnp.array([x]))
        np.testing.assert_array_equal(np.unique(found.states), values)
        assert found.whole == found.number[0] == len(values)


def test_a_play_has_as_many_as_there_are_starts():
    cell = pmru((2.0, 4.0))
    found = equilibria(cell, jnp.array([0.0]), starts=64, scale=0.9, tolerance=1e-7)
    # A history ends within the band around 0 unless an input was beyond twice the radius, which none of these was.
    assert np.abs(found.states[:, 0]).max() < 2
    assert found.number[0] == 64
    np.testing.assert_array_equal(found.radius, 1)
    assert found.converged.all()
    outside = equilibria(cell, jnp.array([20.0]))
    np.testing.assert_allclose(outside.states, [[18, 16]] * 64, rtol=1e-6)
    assert outside.whole == 1


@pytest.mark.parametrize("a", [[0.5, 0.9], [0.5, 0.9j]])
def test_a_leak_has_one(a):
    cell, x = Leak(a), np.array([1.0, -2.0])
    found = equilibria(cell, x)
    np.testing.assert_allclose(found.states, [x / (1 - np.array(a))] * 64, rtol=1e-4)
    assert found.whole == 1
    np.testing.assert_allclose(found.radius, 0.9, rtol=1e-5)
    assert found.converged.all()


def test_each_channel_has_a_tolerance_of_its_own():
    class Held(mru.cells.ScanCell):
        def operator(self, x):
            return mru.Latch(jnp.abs(x) > 1, jnp.sign(x) * jnp.array([1e-3, 1e3]))

        def readout(self, h, x):
            return h

    found = equilibria(Held(2, 2), np.zeros(2))
    np.testing.assert_array_equal(found.number, [2, 2])
    assert found.whole == 4


def test_what_counts_steps_is_no_channel():
    cell = mru.cells.Attention(2, 4, max_length=3, rngs=0)
    assert equilibria(cell, np.zeros(2), starts=2, steps=10).states.shape == (2, 3 * 2 * 4)


def test_a_leak_that_had_not_the_time_says_so():
    found = equilibria(Leak([0.999]), np.zeros(1), steps=100)
    assert found.converged.mean() < 0.1
    assert found.whole > 60


@pytest.mark.parametrize("inner", [False, True])
def test_a_bistable_cell_and_its_inner_clock(inner):
    gain, x = 2.0, 0.1
    cell = Bistable(gain, 0.1)
    found = equilibria(InnerClock(cell) if inner else cell, jnp.array([x]), tolerance=1e-4)
    # The outer two roots of h = tanh(x + g h), by bisection in float64; the middle one repels.
    roots = [_root(lambda h: np.tanh(x + gain * h) - h, *between) for between in ((-1.5, -0.6), (0.5, 1.5))]
    np.testing.assert_allclose(np.unique(found.states.round(3)), np.round(roots, 3), atol=1e-3)
    assert found.whole == found.number[0] == 2
    slopes = 0.9 + 0.1 * gain * (1 - np.square(roots))
    if not inner:
        near = np.abs(found.states - roots).argmin(1)
        np.testing.assert_allclose(found.radius, slopes[near], rtol=1e-3)


def _root(f, low, high):
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if f(low) * f(middle) > 0 else (low, middle)
    return low


def test_a_layer_of_a_model():
    model = mru.SequenceModel(3, 2, cells="lru,bmru", width=4, state_size=3, rngs=nnx.Rngs(0))
    cell, x = mru.dynamics.layer(model, "1/0/BMRU", normal(5, 7, 3))
    found = equilibria(cell, x[0, 0])
    assert set(np.unique(found.states)) <= {-1, 1}


def test_arguments_are_checked():
    cell = mru.cells.LRU(2, 3, rngs=0)
    with pytest.raises(ValueError, match=r"x must be a constant input \(2,\), got \(5, 2\)"):
        equilibria(cell, jnp.ones((5, 2)))
    with pytest.raises(ValueError, match="starts must be at least 1, got 0"):
        equilibria(cell, jnp.ones(2), starts=0)
