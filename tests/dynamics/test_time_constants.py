import numpy as np
import pytest
from flax import nnx
from known_cells import Gate, Leak, Logistic, bmru, fq_bmru, normal, pmru
from reference import affine, cell_parameters, sigmoid

import mru
from mru.dynamics import time_constants


def test_a_hundred_steps():
    np.testing.assert_allclose(time_constants(Leak([0.99, 0.5, 0.0])), [100, 2, 1], rtol=1e-4)
    np.testing.assert_allclose(time_constants(Leak([0.99 * np.exp(1j), 0.5j])), [100, 2], rtol=1e-4)
    np.testing.assert_array_equal(time_constants(Leak([1.0])), [np.inf])


def test_where_it_depends_on_the_input_it_is_measured_from_data():
    x = np.array([0.5, 0.9, 0.99])[:, None].astype(np.float32)
    # What three steps leave is the product of the three.
    left = np.prod(x.astype(float)) ** (1 / 3)
    np.testing.assert_allclose(time_constants(Gate(), x), [1 / (1 - left)], rtol=1e-5)


def test_lru_and_mingru_are_as_their_parameters_say():
    lru = mru.cells.LRU(3, 8, rngs=nnx.Rngs(0))
    p = cell_parameters(lru)
    np.testing.assert_allclose(time_constants(lru), 1 / (1 - np.exp(-np.exp(p["nu"]))), rtol=1e-3)
    cell, x = mru.cells.MinGRU(3, 4, rngs=nnx.Rngs(0)), normal(2, 9, 3)
    a = 1 - sigmoid(affine(cell_parameters(cell), "gate", x.astype(float)))
    expected = 1 / (1 - np.exp(np.log(a).mean((0, 1))))
    np.testing.assert_allclose(time_constants(cell, x), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (bmru(), "BMRU has no time constants: it holds or writes; `write_statistics` has its hold times"),
        (pmru(), "PMRU has no time constants: it holds or writes"),
        (fq_bmru(), "FQBMRU has no time constants: it holds or writes"),
        (Logistic(4.0, 0.3), "Logistic has no time constants: its update is no scan"),
        (Gate(), r"the time constants of Gate depend on its input; give x, \(..., T, 1\)"),
    ],
)
def test_a_cell_that_has_none_says_why(cell, said):
    with pytest.raises(ValueError, match=said):
        time_constants(cell)


def test_an_operator_that_does_not_say_its_decay():
    from own_operators import MaxPlus

    class Peak(mru.cells.ScanCell):
        def __init__(self):
            super().__init__(1, 1)

        def operator(self, x):
            return MaxPlus(x, x)

        def readout(self, h, x):
            return h

    with pytest.raises(ValueError, match="Peak has no time constants: its operator MaxPlus does not say its decay"):
        time_constants(Peak())


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match=r"x must have steps to measure the time constants of MinGRU on, got \(0, 2\)"):
        time_constants(mru.cells.MinGRU(2, 3, rngs=0), np.ones((0, 2), np.float32))
