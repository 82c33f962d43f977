import numpy as np
import pytest
from known_cells import Leak, Pair, Silent, bmru, fq_bmru, pmru

from mru.dynamics import enclosed_area, hysteresis_loop

A = 4.0


@pytest.mark.parametrize("speed", [0.1, 0.01])
def test_a_relay_encloses_its_band_times_its_jump_at_any_speed(speed):
    loop = hysteresis_loop(bmru((1.0, 2.0)), amplitude=A, speed=speed)
    # From -1 to 1 at u = beta, and back at -beta: 2 wide in h, 2 beta in u, up to the steps of the drive.
    np.testing.assert_allclose(loop.area, [4, 8], atol=2.1 * speed)


@pytest.mark.parametrize("speed", [0.1, 0.01])
def test_a_play_encloses_a_parallelogram_at_any_speed(speed):
    loop = hysteresis_loop(pmru((1.0, 2.0)), amplitude=A, speed=speed)
    # h goes up as u - r and down as u + r, between -(A - r) and A - r: 2 r wide in u, 2 (A - r) high in h.
    np.testing.assert_allclose(loop.area, [2 * 1 * 2 * 3, 2 * 2 * 2 * 2], rtol=1e-5)


@pytest.mark.parametrize("speed", [0.1, 0.01])
def test_a_schmitt_trigger_encloses_its_gap_times_its_height(speed):
    loop = hysteresis_loop(fq_bmru(lower=0.5, gap=1.0, alpha=2.0), amplitude=A, speed=speed)
    np.testing.assert_allclose(loop.area, [1.0 * 2.0], atol=2.1 * speed)


@pytest.mark.parametrize("a", [[0.5, 0.9], [0.5j, 0.9 * np.exp(0.3j)]])
def test_what_a_leak_encloses_is_that_of_a_loop_and_goes_with_the_speed(a):
    areas = []
    for speed in (0.006, 0.003):
        loop = hysteresis_loop(Leak(np.asarray(a, np.complex64 if np.iscomplexobj(a) else np.float32)), speed=speed)
        quarter = round(3 / speed)
        up = 3 * np.arange(quarter) / quarter
        cycle = np.concatenate([up, 3 - up, -up, up - 3])
        u, h, states = np.append(np.tile(cycle, 2), 0.0), np.zeros(2), []
        for value in u:
            h = np.asarray(a) * h + value * 0.5**0.5
            states.append(h)
        u, states = u[-4 * quarter - 1 :], np.array(states)[-4 * quarter - 1 :]
        np.testing.assert_allclose(loop.drive, u, atol=1e-6)
        np.testing.assert_allclose(loop.state, states, atol=2e-4)
        integral = np.trapezoid(states.T, u)
        np.testing.assert_allclose(loop.area, abs(integral), rtol=1e-3)
        areas.append(np.asarray(loop.area))
    np.testing.assert_allclose(areas[0] / areas[1], 2, rtol=0.02)  # a lag: half the speed, half the area


def test_several_directions_are_several_loops_around_an_input():
    cell = Leak([0.0, 0.0])  # h = x
    directions, around = np.array([[1.0, 0.0], [0.0, -2.0]]), np.array([5.0, 7.0])
    loop = hysteresis_loop(cell, directions, around=around, amplitude=1.0, speed=0.5, cycles=1)
    u = np.array([0, 0.5, 1, 0.5, 0, -0.5, -1, -0.5, 0])
    np.testing.assert_allclose(loop.drive, u, atol=1e-6)
    np.testing.assert_allclose(loop.state, around + u[:, None] * directions[:, None], atol=1e-6)
    assert loop.area.shape == (2, 2)


def test_the_area_of_a_circle_and_of_a_line():
    t = np.linspace(0, 2 * np.pi, 1001)
    states = np.stack([np.sin(t), np.cos(t), 3 * np.sin(t) + 4j * np.sin(t)], -1)
    np.testing.assert_allclose(enclosed_area(np.cos(t), states), [np.pi, 0, 5 * np.pi], atol=1e-3)


def test_a_state_of_several_arrays():
    loop = hysteresis_loop(Pair(), amplitude=1.0, speed=0.25)
    x = np.asarray(loop.drive)[:, None] * np.array([1, 1]) * 0.5**0.5
    np.testing.assert_allclose(loop.state[:, :2], x, atol=1e-6)  # "last" comes before "sum"
    assert loop.state.shape == (17, 4)
    assert (np.asarray(loop.area[2:]) > 0.1).all()


def test_mistakes():
    for wrong in ({"amplitude": 0.0}, {"speed": -1.0}, {"speed": float("nan")}, {"cycles": 0}):
        with pytest.raises(ValueError, match="amplitude and speed must be positive and cycles at least 1, got"):
            hysteresis_loop(bmru(), **wrong)
    with pytest.raises(ValueError, match="Silent captures no state; it captures nothing"):
        hysteresis_loop(Silent())
