import numpy as np
import pytest

from mru.plots import states


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def legend(figure):
    (found,) = figure.legends
    return [text.get_text() for text in found.get_texts()]


def image(axis):
    (found,) = axis.images
    return found


def test_state_raster(rng, legible):
    state = rng.normal(size=(30, 4))
    figure = states.state_raster(state, inputs=rng.normal(size=(30, 2)), title="a layer")
    above, axis, bar = figure.axes
    np.testing.assert_array_equal(image(axis).get_array(), state.T)
    low, high = image(axis).get_clim()
    assert (low, high) == (-np.abs(state).max(), np.abs(state).max())  # zero is the middle of the colours
    assert image(axis).get_extent() == [0, 30, 4, 0]
    assert bar.get_ylabel() == "state h"
    assert len(above.get_lines()) == 2
    legible(figure)


def test_state_raster_of_complex_states(rng):
    state = rng.normal(size=(5, 3)) + 1j * rng.normal(size=(5, 3))
    axis, bar = states.state_raster(state).axes
    np.testing.assert_allclose(image(axis).get_array(), np.hypot(state.real, state.imag).T)
    assert image(axis).get_clim()[0] == 0
    assert bar.get_ylabel() == "state |h|"


def test_a_long_sequence_is_thinned(rng):
    state, write = rng.normal(size=(4100, 2)), np.zeros((4100, 2), bool)
    write[[7, 4099], [0, 1]] = True
    axis = states.state_raster(state, inputs=state).axes[1]
    np.testing.assert_array_equal(image(axis).get_array(), state[::3].T)  # parts of 3, so that there are up to 2,000
    assert image(axis).get_extent()[:2] == [0, 4100]
    found = image(states.write_raster(write).axes[0]).get_array()
    assert np.argwhere(found).tolist() == [[0, 7 // 3], [1, 4099 // 3]]


def test_write_raster(rng, legible):
    write = rng.random((40, 5)) < 0.3
    figure = states.write_raster(write, inputs=rng.integers(0, 9, 40), title="a layer")
    above, axis = figure.axes
    np.testing.assert_array_equal(image(axis).get_array(), write.T)
    (side,) = axis.child_axes
    np.testing.assert_allclose([bar.get_width() for bar in side.patches], write.mean(0))
    assert len(above.get_lines()) == 1
    legible(figure)


def test_many_inputs_are_not_drawn(rng):
    assert len(states.state_raster(rng.normal(size=(9, 2)), inputs=rng.normal(size=(9, 5))).axes) == 2


def loops(rng, units):
    drive = np.concatenate([np.arange(0, 1, 0.1), np.arange(1, -1, -0.1), np.arange(-1, 0.05, 0.1)])
    return drive, rng.normal(size=(len(drive), units)), np.arange(1.0, units + 1)


def test_hysteresis(rng, legible):
    drive, state, area = loops(rng, 20)
    area[3] = 0.001  # next to nothing, beside the largest of 20
    figure = states.hysteresis(drive, state, area, units=np.arange(100, 120), title="a layer")
    shown = [axis for axis in figure.axes if axis.get_visible()]
    assert len(shown) == 12
    largest = [19, 18, 17, 16, 15, 14, 13, 12, 11, 10, 9, 8]
    for axis, unit in zip(shown, largest):
        rises, falls = axis.get_lines()
        up = np.gradient(drive) > 0
        np.testing.assert_array_equal(rises.get_ydata()[up], state[up, unit])
        np.testing.assert_array_equal(falls.get_ydata()[~up], state[~up, unit])
        assert np.isnan(rises.get_ydata()[~up]).all()
        assert np.isnan(falls.get_ydata()[up]).all()
        assert axis.get_title() == f"unit {100 + unit}: area {area[unit]:.3g}"
    assert {"a layer (12 of 20 units)", "drive rises", "drive falls"} <= set(legible(figure))


@pytest.mark.parametrize("units", [1, 3, 5])
def test_few_units(units, rng, legible):
    drive, state, area = loops(rng, units)
    figure = states.hysteresis(drive, state + 1j, area)
    shown = [axis for axis in figure.axes if axis.get_visible()]
    assert len(shown) == units
    assert shown[0].get_ylabel() == "state Re h"
    assert shown[-1].get_xlabel() == "drive u"
    legible(figure)


def test_units_without_a_loop_are_left_out(rng):
    drive, state, area = loops(rng, 6)
    area[:] = [0, 1, 0, 2, 1e-7, 0]
    shown = [a for a in states.hysteresis(drive, state, area).axes if a.get_visible()]
    assert [axis.get_title() for axis in shown] == ["unit 3: area 2", "unit 1: area 1"]


def histogram(figure):
    """Count by bin of each outline."""
    found = []
    for patch in figure.axes[0].patches:
        values, edges, _ = patch.get_data()
        found.append((values, edges))
    return found


def test_time_constants(rng, legible):
    slow, fast = 10 ** rng.uniform(1, 3, 50), np.append(10 ** rng.uniform(0, 2, 47), [np.inf] * 3)
    figure = states.time_constants({"0/0/LRU": slow, "1/0/MinGRU": fast})
    for (values, edges), held in zip(histogram(figure), (slow, fast[:47])):
        assert values.sum() == len(held)
        for number in range(len(values)):
            assert values[number] == np.sum((edges[number] <= held) & (held < edges[number + 1]))
    assert legend(figure) == [
        f"0/0/LRU: median {np.median(slow):.3g}",
        f"1/0/MinGRU: median {np.median(fast[:47]):.3g}, 3 without decay",
    ]
    assert figure.axes[0].get_xscale() == "log"
    legible(figure)


def test_hold_times(legible):
    held = np.array([1] * 7 + [2] * 5 + [3] * 2 + [60] * 4 + [200] * 9)
    figure = states.hold_times({"a": held, "b": np.array([], int)})
    (values, edges), (none, _) = histogram(figure)
    assert values.sum() == len(held)
    assert none.sum() == 0
    np.testing.assert_array_equal(edges % 1, 0.5)  # a bin holds whole numbers of steps
    np.testing.assert_array_equal(edges[[0, -1]], [0.5, 200.5])
    assert values[:3].tolist() == [7, 5, 2]
    assert values[-1] == 9
    assert legend(figure) == ["a: median 3", "b: none"]
    legible(figure)


@pytest.mark.parametrize("times", [[], [1], [1, 1], [5], [1, 2]])
def test_few_hold_times(times, legible):
    figure = states.hold_times({"a": np.array(times, int)})
    ((values, _),) = histogram(figure)
    assert values.sum() == len(times)
    legible(figure)


def test_sensitivity(legible):
    decay, gaps = 0.9 ** np.arange(100), np.where(np.arange(100) % 10, 0.5, 0.0)
    figure = states.sensitivity({"0/0/LRU": decay, "1/0/BMRU": gaps})
    (axis,) = figure.axes
    first, second = axis.get_lines()
    np.testing.assert_allclose(first.get_xydata(), np.transpose([np.arange(100), decay]))
    np.testing.assert_array_equal(np.isnan(second.get_ydata()), gaps == 0)
    assert axis.get_yscale() == "log"
    assert legend(figure) == ["0/0/LRU", "1/0/BMRU (10 of 100 are 0)"]
    legible(figure)


def test_sensitivity_of_nothing(legible):
    figure = states.sensitivity({"dead": np.zeros(5)})
    assert figure.axes[0].get_yscale() == "linear"
    legible(figure)
