import numpy as np
import pytest
from flax import nnx
from known_cells import Leak, bmru, fq_bmru, normal, pmru

import mru
from mru.dynamics import hold_times, statistics_of, write_statistics, writes

WRITE = np.array(
    [
        [[1, 0], [0, 0], [0, 0], [1, 0], [0, 0]],
        [[0, 0], [1, 0], [1, 0], [0, 0], [0, 0]],
    ],
    bool,
)


def test_rate_hold_time_and_dead_channels_by_hand():
    found = statistics_of(WRITE)
    np.testing.assert_allclose(found.rate, [0.4, 0])
    np.testing.assert_allclose(found.hold_time, [(2 + 1 + 1 + 2) / 4, 5])
    np.testing.assert_array_equal(found.dead, [False, True])
    np.testing.assert_array_equal(np.sort(hold_times(WRITE)), [1, 1, 2, 2, 5, 5])
    always = statistics_of(np.ones((3, 1), bool))
    assert (always.rate, always.hold_time) == (1, 0)
    assert hold_times(np.ones((3, 1), bool)).size == 0


def test_steps_of_padding_do_not_count():
    where = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool)
    found = statistics_of(WRITE, where)
    np.testing.assert_allclose(found.rate, [3 / 8, 0])
    np.testing.assert_allclose(found.hold_time, [(2 + 1 + 2) / 3, 4])


@pytest.mark.parametrize("cell", [bmru((0.5, 3.0)), pmru((0.5, 3.0)), fq_bmru()], ids=["bmru", "pmru", "fq_bmru"])
def test_a_write_is_a_step_of_the_equation_that_does_not_hold(cell):
    x = 2 * normal(4, 30, 1)
    c, name = x, type(cell).__name__
    if name == "BMRU":
        expected = abs(c) >= np.array([0.5, 3.0])
    elif name == "FQBMRU":
        expected = (np.maximum(c, 0) <= 0.5) | (np.maximum(c, 0) >= 1.5)
    else:
        h, expected = np.zeros((4, 2)), np.zeros((4, 30, 2), bool)
        for t in range(30):
            moved = np.clip(h, c[:, t] - [0.5, 3.0], c[:, t] + [0.5, 3.0])
            h, expected[:, t] = moved, moved != h
    found = np.asarray(writes(cell, x))
    np.testing.assert_array_equal(found, expected)
    assert 0.05 < expected.mean() < 0.95
    np.testing.assert_allclose(write_statistics(cell, x).rate, expected.mean((0, 1)), rtol=1e-6)


@pytest.mark.parametrize("name", ["cmru", "alpha_cmru"])
def test_a_counter_writes_where_its_state_changes(name):
    cell, x = mru.cells.get(name)(2, 3, rngs=nnx.Rngs(0)), 2 * normal(4, 30, 2)
    found = {}
    cell(x, capture=found)
    state = np.concatenate([np.zeros((4, 1, 3)), found["state"]], 1)
    np.testing.assert_array_equal(writes(cell, x), np.diff(state, axis=1) != 0)


def test_after_a_reset_the_state_before_is_the_initial_one():
    cell, x = pmru((1.0,)), np.array([[5.0], [5.0], [0.5], [5.0]], np.float32)
    found = {}
    cell(x, reset=np.array([False, False, True, False]), capture=found)
    # Without the reset the third step would move the state from 4 down to 1.5.
    np.testing.assert_array_equal(found["write"][:, 0], [True, False, False, True])


def test_a_cell_that_does_not_hold_says_so():
    with pytest.raises(ValueError, match="Leak has no writes to count: no operator of it says where it holds"):
        write_statistics(Leak([0.5]), normal(4, 1))
