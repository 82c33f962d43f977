import numpy as np
import pytest
from known_cells import Leak, Pair, bmru, pmru

from mru.dynamics import retention

MILLION = [0, 1, 10, 1234, 1_000_000]


@pytest.mark.parametrize("cell", [bmru((1.0, 2.0)), pmru((2.0, 4.0))], ids=["bmru", "pmru"])
def test_a_million_steps_later_it_is_exactly_what_it_was(cell):
    # Under noise that stays within the band: nothing is written, and not one bit changes.
    distance = np.asarray(retention(cell, MILLION, noise=0.05, scale=1.0))
    assert distance.shape == (5, 16)
    np.testing.assert_array_equal(distance[1:], np.broadcast_to(distance[1], (4, 16)))
    assert np.median(distance[0]) > 0.2


def test_a_leak_forgets_at_its_rate():
    distance = np.asarray(retention(Leak([0.99]), [0, 1, 100, 1100], noise=1.0), np.float64)
    np.testing.assert_allclose(distance[1:], distance[0] * 0.99 ** np.array([[1], [100], [1100]]), rtol=2e-2, atol=1e-5)


def test_a_leak_that_is_driven_forgets_everything():
    distance = np.asarray(retention(Leak([0.99, 0.9j]), MILLION, noise=1.0))
    assert distance[0].min() > 0
    assert distance[-1].max() < 1e-4


def test_a_state_of_several_arrays():
    distance = np.asarray(retention(Pair(), [0, 1, 3], noise=1.0))
    # The last input is shared after one step, the sums differ by half as much with each.
    np.testing.assert_allclose(distance[2], distance[1] / 4, rtol=1e-5)


def test_lengths_that_do_not_ascend_are_refused():
    for wrong in ([10, 1], [1, 1], [-1, 2], [], [1.5, 2]):
        with pytest.raises(ValueError, match="lengths must be ascending numbers of steps, got"):
            retention(bmru(), wrong)
