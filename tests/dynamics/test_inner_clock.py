import jax.numpy as jnp
import numpy as np
from known_cells import Bistable, normal

from mru.cells import BRC, RecurrentCell
from mru.dynamics import InnerClock, hysteresis_loop

GAIN = 2.0


def converged(x, h):
    """h = tanh(x + g h) from h, in float64, by the cell's own slow update."""
    for _ in range(20_000):
        h = 0.9 * h + 0.1 * np.tanh(x + GAIN * h)
    return h


def test_each_step_ends_where_the_update_comes_to_rest():
    x, h, expected = 0.6 * normal(12, 1), 0.0, []
    for value in x[:, 0].astype(float):
        h = converged(value, h)
        expected.append(h)
    y, state = InnerClock(Bistable(GAIN, 0.1), tolerance=1e-7)(x)
    np.testing.assert_allclose(y[:, 0], expected, atol=1e-4)
    np.testing.assert_allclose(state, y[-1])
    slow, _ = Bistable(GAIN, 0.1)(x)
    assert np.abs(np.asarray(slow[:, 0]) - expected).max() > 0.3  # which one update a step does not


def test_it_is_a_relay_whose_thresholds_are_the_folds_of_the_cell():
    loop = hysteresis_loop(InnerClock(Bistable(GAIN, 0.2)), np.ones(1), amplitude=1.5, speed=0.01)
    u, h = np.asarray(loop.drive), np.asarray(loop.state)[:, 0]
    # h = tanh(u + g h) has a vertical tangent where g (1 - h^2) = 1: the fold at which the upper branch ends.
    fold = np.sqrt(1 - 1 / GAIN)
    threshold = GAIN * fold - np.arctanh(fold)
    jump = np.argmax(np.diff(h))
    assert abs(u[jump + 1] - threshold) < 0.02
    drop = np.argmin(np.diff(h))
    assert abs(u[drop + 1] + threshold) < 0.02
    slower = hysteresis_loop(InnerClock(Bistable(GAIN, 0.2)), np.ones(1), amplitude=1.5, speed=0.005)
    np.testing.assert_allclose(slower.area, loop.area, rtol=0.02)  # whatever the speed


def test_it_gives_up_after_its_iterations():
    class Flip(RecurrentCell):
        def __init__(self):
            super().__init__(1, 1)

        def update(self, x, h):
            return 1 - h

        def readout(self, h, x):
            return h

    y, _ = InnerClock(Flip(), iterations=5)(np.zeros((3, 1), np.float32))
    np.testing.assert_array_equal(y[:, 0], [1, 0, 1])


def test_what_a_cell_prepares_of_its_inputs():
    """A BRC rests where an update of its own does not move it."""
    brc, x = BRC(2, 3, rngs=0), normal(2, 2)
    y, state = InnerClock(brc).step(x)
    same, rest = brc.step(x, state)
    np.testing.assert_allclose(rest, state, atol=1e-5)
    np.testing.assert_allclose(y, same, atol=1e-5)


def test_states_of_several_arrays_and_in_steps():
    cell = InnerClock(Bistable(GAIN, 0.3))
    x = normal(2, 5, 1)
    whole, _ = cell(x)
    state = cell.initial_state((2,))
    for t in range(5):
        y, state = cell.step(jnp.asarray(x[:, t]), state)
        np.testing.assert_allclose(y, whole[:, t], rtol=1e-6)
