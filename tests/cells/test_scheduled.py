"""Scalars that a schedule moves: their default ramp is declared with them and stays with them."""

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from mru.cells import BMRU, Ramp, Scheduled

LEAK = Ramp(start=1.0, end=0.0, begin=0.2, finish=0.6)


def ramps(state):
    return {path[-1]: v.ramp for path, v in nnx.to_flat_state(state) if isinstance(v, Scheduled)}


@pytest.fixture(scope="module")
def cell():
    return BMRU(2, 3, rngs=0)


def test_the_leak_of_a_bmru_falls_from_one_to_zero(cell):
    assert cell.epsilon.ramp == LEAK
    assert [float(LEAK(step, 1000)) for step in (0, 200, 400, 600, 999)] == [1, 1, 0.5, 0, 0]
    assert cell.width.ramp is None  # a config may move it; nothing does by itself
    assert ramps(nnx.state(cell)) == {"epsilon": LEAK, "width": None}
    assert Scheduled(0.25)[...].dtype == jnp.float32


@pytest.mark.parametrize(("finish", "arrival"), [(0.07, 7), (0.55, 55), (0.333, 34), (0.6, 60), (0.0, 0), (1.0, 100)])
def test_a_ramp_arrives_at_the_step_of_its_fraction(finish, arrival):
    """0.07 * 100 is 7.000000000000001."""
    ramp = Ramp(1.0, 0.0, begin=0.0, finish=finish)
    assert ramp.arrival(100) == arrival
    assert float(ramp(arrival, 100)) == 0
    assert arrival == 0 or float(ramp(arrival - 1, 100)) > 0


def test_a_ramp_survives_what_variables_go_through(cell):
    expected = {"epsilon": LEAK, "width": None}
    graphdef, state = nnx.split(cell)
    assert hash(graphdef) == hash(nnx.split(BMRU(2, 3, rngs=1))[0])  # one program serves both
    assert ramps(nnx.state(nnx.merge(graphdef, state))) == expected
    assert ramps(jax.tree.map(lambda v: 2 * v, state)) == expected
    assert ramps(jax.jit(lambda s: jax.tree.map(lambda v: 2 * v, s))(state)) == expected
    assert ramps(nnx.eval_shape(lambda: nnx.state(BMRU(2, 3, rngs=0)))) == expected
    assert ramps(nnx.state(nnx.eval_shape(lambda: BMRU(2, 3, rngs=0)))) == expected
    assert ramps(nnx.state(nnx.clone(cell))) == expected
    assert ramps(nnx.state(nnx.jit(lambda: BMRU(2, 3, rngs=0))())) == expected


def test_a_checkpoint_keeps_the_value_and_the_module_its_ramp(cell, tmp_path):
    cell = nnx.clone(cell)
    cell.epsilon[...] = jnp.asarray(0.375)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "held", nnx.to_pure_dict(nnx.state(cell)))
        checkpointer.wait_until_finished()
        fresh = BMRU(2, 3, rngs=1)
        state = nnx.state(fresh)
        nnx.replace_by_pure_dict(state, checkpointer.restore(tmp_path / "held", nnx.to_pure_dict(state)))
    nnx.update(fresh, state)
    assert ramps(nnx.state(fresh)) == {"epsilon": LEAK, "width": None}
    assert fresh.epsilon[...] == 0.375
    x = np.ones((4, 2), np.float32)
    np.testing.assert_array_equal(fresh(x)[0], cell(x)[0])
