import pytest
from flax import nnx

import mru
from mru.cells import Ramp
from mru.training import schedules

OWN = Ramp(1.0, 0.0, 0.2, 0.6)  # of BMRU's leak


@pytest.fixture(scope="module")
def variables():
    """Of a model whose first block has a scalar with a ramp and one without, and whose second has one without."""

    def build():
        return mru.SequenceModel(1, 1, cells=["bmru", "cmru"], width=4, state_size=4, rngs=nnx.Rngs(0))

    return nnx.state(nnx.eval_shape(build))


def by_name(found):
    return {".".join(map(str, path)): ramp for path, ramp in found.items()}


def test_a_cell_carries_its_own_ramp(variables):
    assert by_name(schedules.ramps(variables, {})) == {"blocks.0.cells.0.epsilon": OWN}
    assert schedules.complete(variables, {}) == {"epsilon": vars(OWN)}


def test_a_config_changes_fields_of_a_ramp_by_name(variables):
    found = by_name(schedules.ramps(variables, {"epsilon": {"begin": 0.5}}))
    assert found == {"blocks.0.cells.0.epsilon": Ramp(1.0, 0.0, 0.5, 0.6)}
    whole = {"start": 2.0, "end": 1.0, "begin": 0.0, "finish": 1.0}
    found = by_name(schedules.ramps(variables, {"width": whole}))
    assert found["blocks.0.cells.0.width"] == found["blocks.1.cells.0.width"] == Ramp(2.0, 1.0, 0.0, 1.0)
    assert schedules.complete(variables, {"width": whole}) == {"width": whole, "epsilon": vars(OWN)}


def test_a_name_that_no_cell_has(variables):
    with pytest.raises(ValueError, match=r"train\.schedules\.leak = .*scalars of this model, epsilon, width"):
        schedules.ramps(variables, {"leak": {"begin": 0.1}})


def test_a_ramp_moves_between_its_fractions_and_arrives_exactly():
    ramp = Ramp(start=2.0, end=0.5, begin=0.25, finish=0.5)
    assert [float(ramp(step, 100)) for step in (0, 25)] == [2.0, 2.0]
    assert float(ramp(40, 100)) == pytest.approx(2.0 - 1.5 * 15 / 25)
    assert ramp.arrival(100) == 50
    assert [float(ramp(step, 100)) for step in (50, 51, 100)] == [0.5] * 3
    assert float(ramp(49, 100)) > 0.5
    assert [float(Ramp(1.0, 0.0, 0.3, 0.3)(step, 100)) for step in (29, 30)] == [1.0, 0.0]  # a jump
    assert float(Ramp(1.0, 0.0, 0, 0)(0, 100)) == 0.0
