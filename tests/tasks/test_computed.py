"""Sets that are computed: prepared, they are what tasks compute without them."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import tasks
from tasks import _listops, prepare
from tasks._datasets import SETS, computed, store

ROOT = Path(__file__).parents[2]
SIZES = {"train": 410, "validation": 3, "test": 2}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A directory with a few examples of ListOps prepared in it, by processes."""
    folder = str(tmp_path_factory.mktemp("data"))
    with pytest.MonkeyPatch.context() as patch:
        small = computed._computed("listops", computed.partial(_listops.generate, 0), SIZES, 10)
        patch.setitem(SETS, "listops", small)
        said = prepare.prepare("listops", folder, source="/is/not/looked/at")
        assert said == f"listops is in {folder}/listops/arrays"
        assert "already" in prepare.prepare("listops", folder)
    return folder


def test_prepared_examples_are_those_that_would_be_computed(data_dir, monkeypatch):
    indices = {"train": [0, 409, 200, 199], "validation": [2], "test": [1, 0]}
    expected = {split: tasks.get("listops")().examples(split, rows) for split, rows in indices.items()}
    monkeypatch.setattr(_listops, "generate", None)  # so that they are read
    for split, rows in indices.items():
        batch = tasks.get("listops")(data_dir=data_dir).examples(split, rows)
        assert set(batch) == {"inputs", "targets", "lengths"}
        for name, array in batch.items():
            np.testing.assert_array_equal(array, expected[split][name])
            assert array.dtype == np.int32


def test_another_seed_is_computed(data_dir):
    rows = np.arange(3)
    batch = tasks.get("listops")(seed=1, data_dir=data_dir).examples("train", rows)
    np.testing.assert_array_equal(batch["targets"], _listops.generate(1, "train", rows)["targets"])


def test_damaged_set_says_the_command(tmp_path):
    store.folder(str(tmp_path), "pathfinder_64").mkdir(parents=True)
    with pytest.raises(tasks.MissingData, match=r"that is whole .*python -m tasks.prepare pathfinder_64 --data_dir"):
        tasks.get("pathfinder")(resolution=64, data_dir=str(tmp_path)).examples("train", np.arange(2))
    # The other resolutions are not there, and computed.
    assert tasks.get("pathfinder")(data_dir=str(tmp_path)).examples("train", np.arange(2))["inputs"].shape[1] == 1024


KILLED = """
import os, time
from tasks._datasets import computed
if __name__ == "__main__":
    with computed.workers(1) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        time.sleep(600)
"""


@pytest.mark.slow
def test_workers_end_with_a_process_that_is_killed(tmp_path):
    (tmp_path / "main.py").write_text(KILLED)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, tmp_path / "main.py"], env=environment, stdout=subprocess.PIPE) as process:
        worker = int(process.stdout.readline())
        process.kill()
    end = time.monotonic() + 60
    while running(worker):
        assert time.monotonic() < end, "the worker goes on"
        time.sleep(0.1)


def running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("name", ["listops", *(f"pathfinder_{side}" for side in (32, 64, 128))])
def test_sizes_that_are_listed(name):
    (form,) = SETS[name].forms
    function, sizes = form.arrays.args
    made = function("test", np.arange(2))
    listed = sum(array.nbytes for array in made.values()) / 2 * sum(sizes.values())
    assert SETS[name].bytes == pytest.approx(listed, rel=0.01)
    assert SETS[name].computed
