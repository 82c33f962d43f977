import numpy as np
import pytest
from flax import nnx
from known_cells import Leak, bmru, normal, pmru

import mru
from mru.dynamics import diagnose, diagnose_layers

T = 20


def first_only():
    """A number at the first step, nothing after it."""
    x = np.zeros((8, T, 1), np.float32)
    x[:, 0, 0] = np.linspace(2, 3, 8)
    return x


@pytest.mark.parametrize("cell", [bmru((1.0, 1.5)), pmru((1.6, 2.4))], ids=["bmru", "pmru"])
def test_what_is_written_once_is_held(cell):
    found = diagnose(cell, first_only())
    assert found.verdict == "holds"
    expected = np.array([(T - 1) / T, (T - 1) / T])
    if cell.__class__.__name__ == "PMRU":  # its second channel is moved by 2.4 or more only: by half of the sequences
        expected[1] = 1 - (np.linspace(2, 3, 8) > 2.4).mean() / T
    np.testing.assert_allclose(found.reach, expected, rtol=1e-6)
    assert not found.dead.any()


def test_what_is_always_written_is_blocked():
    found = diagnose(bmru((0.0, 1e6)), normal(8, T, 1))
    assert found.verdict == "blocked"
    assert found.sentence == (
        "blocked: of 2 channels 0 hold for at least 25 % of a sequence, 1 are overwritten before, 1 never write"
    )
    np.testing.assert_array_equal(found.dead, [False, True])
    np.testing.assert_array_equal(found.reach, [0, 1])


def test_what_never_writes_is_dead():
    assert diagnose(bmru((1e6, 1e6)), normal(8, T, 1)).verdict == "dead"


def test_the_limit_between_blocked_and_held():
    x = np.zeros((1, T, 1), np.float32)
    x[:, T // 2] = 3  # the step at 10 writes; the 9 after it hold
    assert diagnose(bmru((1.0,)), x, least=0.45).verdict == "holds"
    assert diagnose(bmru((1.0,)), x, least=0.46).verdict == "blocked"


def test_a_cell_that_does_not_hold_says_so():
    with pytest.raises(ValueError, match="Leak has no writes to count"):
        diagnose(Leak([0.5]), normal(2, T, 1))


def test_all_layers_of_a_model_that_can_hold():
    model = mru.SequenceModel(2, 1, cells="lru+bmru,pmru", width=4, state_size=10, rngs=nnx.Rngs(0))
    threshold = model.blocks[0].cells[1].threshold
    threshold.kernel[...] *= 0
    threshold.bias[...] = np.array([1e6] * 9 + [0.0])  # one channel of ten writes, always
    found = diagnose_layers(model, normal(8, T, 2))
    assert list(found) == ["0/1/BMRU", "1/0/PMRU"]
    assert found["0/1/BMRU"].verdict == "blocked"
    threshold.bias[...] = np.full(10, 1e6)
    assert diagnose_layers(model, normal(8, T, 2))["0/1/BMRU"].verdict == "dead"
