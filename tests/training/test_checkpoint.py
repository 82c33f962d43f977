import json
import subprocess
import sys

import numpy as np
import pytest
from flax import nnx
from train_helpers import ROOT, arrays, assert_same_arrays, steps

import mru
import mru.training.checkpoint
from mru.training.checksum import is_sealed, sealed
from mru.training.progress import Progress

TRAINING = ["grain", "matplotlib", "tensorboardX", "tqdm", "tensorflow_datasets", "sklearn", "tasks"]


def test_load_gives_the_arrays_of_the_checkpoint(finished):
    workdir, *_ = finished
    best = json.loads((workdir / "summary.json").read_text())["best_step"]
    for step, model in ((best, mru.load(workdir)), (35, mru.load(workdir, 35)), (40, mru.load(str(workdir), step=40))):
        held = arrays(workdir, step)
        found = mru.training.checkpoint.flatten(nnx.state(model))
        assert found.keys() == {name for name in held if not name.startswith("[")}
        assert_same_arrays({name: np.asarray(x) for name, x in found.items()}, {name: held[name] for name in found})


def test_load_without_a_summary_takes_the_newest(copied):
    workdir, _ = copied
    (workdir / "summary.json").unlink()
    found = mru.training.checkpoint.flatten(nnx.state(mru.load(workdir)))
    held = arrays(workdir, 40)
    assert_same_arrays({name: np.asarray(x) for name, x in found.items()}, {name: held[name] for name in found})


def test_load_of_what_is_not_there(finished, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path} holds no checkpoints"):
        mru.load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"has no step 7; steps there: \[.*35, 40\]"):
        mru.load(finished[0], 7)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no step None; steps there: \[\]"):
        mru.load(tmp_path)
    assert not list((tmp_path / "checkpoints").iterdir())


@pytest.mark.parametrize(
    "model", [{"inputs": 1, "outputs": 1, "cells": ["lru"], "hook": "os.system"}, {"cells": ["os.system"]}, None]
)
def test_a_crafted_checkpoint_is_refused(copied, model):
    workdir, _ = copied
    path = workdir / "checkpoints/40/about/metadata"
    about = json.loads(path.read_text())
    assert is_sealed(about)
    crafted = {**about, "model": model} if model else {"format": about["format"]}
    path.write_text(json.dumps(sealed({name: x for name, x in crafted.items() if name != "checksum"})))
    with pytest.raises(ValueError, match="40 holds no model of this version"):
        mru.load(workdir, 40)


def test_checkpoints_hold_no_pickles(finished):
    files = [path for path in (finished[0] / "checkpoints").rglob("*") if path.is_file()]
    assert len(files) > 20
    for path in files:
        data = path.read_bytes()
        assert path.suffix not in (".pkl", ".pickle", ".npy", ".npz", ".pt")
        assert not (data[:1] == b"\x80" and data[1:2] in b"\x02\x03\x04\x05")
        assert b"cnumpy" not in data
        assert b"__reduce__" not in data


def test_of_equal_metrics_the_latest_is_kept(tmp_path):
    """The folder keeps what `Progress.evaluated` says is best, beside the two newest."""
    for goal, values in (("min", [3, 1, 2, 1, 2, 3, 2]), ("max", [1, 3, 2, 3, 2, 1, 2])):
        progress = Progress()
        with mru.training.checkpoint.Writer(tmp_path / goal) as writer:
            for step, value in enumerate(values, 1):
                progress = progress.evaluated(float(value), step, goal)
                held = {"model": {"a": np.ones(1)}, "train": {"b": np.ones(1)}}
                writer.save(step, **held, about={}, best=progress.best_step)
        assert (progress.best_step, progress.since_best) == (4, 3)
        assert steps(tmp_path / goal) == [4, 6, 7]


def test_load_says_nothing_and_needs_no_package_of_training(finished, tmp_path):
    """In a process of its own, where what only training needs can not be imported."""
    code = f"""
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {TRAINING!r}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Refuse())
import mru
model = mru.load({str(finished[0])!r})
print(type(model).__name__, len(model.blocks))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "SequenceModel 1\n"
    assert done.stderr == ""
