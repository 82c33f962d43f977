import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from train_helpers import arrays, assert_same_arrays, parse, spoil, steps

import mru.training.checkpoint
from mru.training import devices, resume
from mru.training import trainer as trainers

pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. None:pytest.PytestUnraisableExceptionWarning")


DAMAGE = ["array cut short", "array overwritten", "array changed", "array missing", "manifest overwritten"]
DAMAGE += ["optimiser missing", "progress cut short", "progress missing", "everything missing"]


@pytest.fixture(scope="module")
def fresh(finished):
    """The config of the finished run, and the state before its first step: what `resume` restores into."""
    config = parse(finished[1])
    return config, trainers.Trainer(config, devices.make_mesh(config.mesh, config.train.batch_size)).initial()


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(how, copied, fresh, capsys):
    workdir, _ = copied
    expected, (config, like) = arrays(workdir, 35), fresh
    spoil(workdir / "checkpoints/40", how)
    state, progress = resume.newest(dataclasses.replace(config, workdir=workdir), like)
    assert 40 not in steps(workdir)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "warning: checkpoint 40 is damaged" in said
    assert int(state.step) == 35
    found = {name: np.asarray(x) for item in resume.arrays(state).values() for name, x in item.items()}
    assert_same_arrays(found, expected)
    assert progress.wall > 0
    assert [path.name.partition("-")[0] for path in (workdir / "damaged").iterdir()] == ["40"]


def test_orbax_is_told_what_to_restore_into(finished, fresh):
    """Names, shapes and dtypes of the checkpoint are those of the state, so that nothing is restored by position.

    Where they are not, this is no damage.
    """
    workdir, like = finished[0], resume.arrays(fresh[1])
    for other, said in (
        ({name: jnp.zeros(7) for name in like["model"]}, r"is float32 \(.*\) there and float32 \(7,\) in this"),
        ({"other": jnp.zeros(7)}, "is float32 .* there and none in this model, and .* more differ"),
    ):
        with pytest.raises(ValueError, match=said) as error:
            mru.training.checkpoint.restore(workdir, 40, **like | {"model": other})
        assert not isinstance(error.value, mru.training.checkpoint.Damaged)
