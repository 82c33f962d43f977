import numpy as np
import pytest
from flax import nnx
from known_cells import Bistable, Leak, bmru, normal, pmru

import mru
from mru.dynamics import attractors


@pytest.mark.parametrize("name", ["lru", "mingru"])
def test_a_monostable_cell_has_one(name):
    cell = mru.cells.get(name)(3, 4, rngs=nnx.Rngs(0))
    assert attractors(cell, normal(16, 20, 3)) == pytest.approx(1)


def test_a_leak_that_has_not_faded_has_as_many_as_there_are_sequences():
    assert attractors(Leak([0.999]), 5 * normal(16, 20, 1), steps=10) == pytest.approx(16)


def test_a_relay_has_as_many_as_there_are_combinations():
    x = 3 * normal(64, 20, 1)
    cell = bmru((1.0, 2.0))
    ends = set()
    for sequence in x[..., 0]:
        h = np.zeros(2)
        for c in sequence:
            h = np.where(abs(c) >= [1, 2], np.sign(c), h)
        ends.add(tuple(h))
    assert attractors(cell, x) == pytest.approx(len(ends))
    assert len(ends) == 4


def test_a_play_has_as_many_as_there_are_sequences():
    x = np.concatenate([np.linspace(2.1, 3, 8).reshape(8, 1, 1), np.zeros((8, 3, 1))], 1).astype(np.float32)
    assert attractors(pmru((2.0,)), x) == pytest.approx(8)
    # Two ends of the same place are one attractor: 8 sequences of 7 places.
    x[1] = x[0]
    assert attractors(pmru((2.0,)), x) == pytest.approx(7)


@pytest.mark.parametrize(("gain", "number"), [(0.5, 1), (2.0, 2)])
def test_a_nonlinear_cell_below_and_above_its_bifurcation(gain, number):
    assert attractors(Bistable(gain, 0.3), 3 * normal(16, 20, 1), steps=1000) == pytest.approx(number)


def test_a_single_sequence_is_refused():
    with pytest.raises(ValueError, match=r"over a batch of sequences \(B, T, 1\), got \(20, 1\)"):
        attractors(bmru(), normal(20, 1))
