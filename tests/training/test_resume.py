import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from train_helpers import arrays, assert_same_arrays, parse, spoil

import mru.training.checkpoint
from mru.training import devices, resume
from mru.training import trainer as trainers

pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. None:pytest.PytestUnraisableExceptionWarning")


DAMAGE = ["array cut short", "array overwritten", "array changed", "array missing", "manifest overwritten"]
DAMAGE += ["optimiser missing", "progress cut short", "progress missing", "everything missing"]


@pytest.fixture(scope="module")
def fresh(finished):
    """The state before the first step of the finished run: what `resume` restores into."""
    config = parse(finished[1])
    return trainers.Trainer(config, devices.make_mesh(config.mesh, config.train.batch_size)).initial()


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(how, copied, fresh, capsys):
    workdir, _ = copied
    expected = arrays(workdir, 35)
    spoil(workdir / "checkpoints/40", how)
    with mru.training.checkpoint.manager(workdir, "mse", "min") as checkpoints:
        state, progress = resume.newest(checkpoints, fresh, workdir)
        assert 40 not in checkpoints.all_steps()
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "warning: checkpoint 40 is damaged" in said
    assert int(state.step) == 35
    found = {name: np.asarray(x) for item in resume.arrays(state).values() for name, x in item.items()}
    assert_same_arrays(found, expected)
    assert progress.wall > 0
    assert [path.name.partition("-")[0] for path in (workdir / "damaged").iterdir()] == ["40"]


def test_orbax_is_told_what_to_restore_into(finished, fresh):
    """Names, shapes and dtypes of the checkpoint are those of the state, so that nothing is restored by position."""
    with mru.training.checkpoint.manager(finished[0]) as checkpoints:
        like = resume.arrays(fresh)
        wrong = like | {"model": {name: jnp.zeros(7) for name in like["model"]}}
        with pytest.raises(Exception, match=r"shape|Shape"):
            mru.training.checkpoint.restore(checkpoints, 40, **wrong)
        missing = like | {"model": {"other": jnp.zeros(7)}}
        with pytest.raises((ValueError, KeyError)):
            mru.training.checkpoint.restore(checkpoints, 40, **missing)
    assert isinstance(checkpoints, ocp.CheckpointManager)
