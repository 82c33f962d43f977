import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tasks
from tasks import prepare

ROOT = Path(__file__).parents[2]


def fails(capsys, *arguments):
    """The one line that the command line prints as it fails."""
    with pytest.raises(SystemExit) as caught:
        prepare.main(list(arguments))
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_generated_task_needs_nothing(capsys):
    prepare.main(["copy_first"])
    assert capsys.readouterr().out == "copy_first needs no data set: nothing to prepare\n"


def test_unknown_task_lists_the_known(capsys):
    assert "unknown task 'imagenet'; known tasks: adding, copy_first" in fails(capsys, "imagenet")


def test_bad_arguments_are_one_line(capsys):
    assert "required: task" in fails(capsys)
    assert "--sauce" in fails(capsys, "psmnist", "--sauce", "x")


def test_source_that_lacks_files(capsys, tmp_path):
    (tmp_path / "train-images-idx3-ubyte.gz").touch()
    line = fails(capsys, "psmnist", "--data_dir", str(tmp_path / "data"), "--source", str(tmp_path))
    assert "t10k-images-idx3-ubyte.gz, t10k-labels-idx1-ubyte.gz, train-labels-idx1-ubyte.gz" in line
    assert "lacks train-images" not in line


def test_without_tensorflow_the_extra_is_named(capsys, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorflow" else find(name))
    assert 'pip install "mru-jax[prepare]"' in fails(capsys, "smnist", "--data_dir", str(tmp_path))


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="TensorFlow is not installed")
def test_wrong_checksum_is_refused(tmp_path):
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (tmp_path / f"{name}-ubyte.gz").write_bytes(b"not MNIST")
    command = [sys.executable, "-m", "tasks.prepare", "psmnist", "--data_dir", str(tmp_path), "--source", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "wrong checksum" in done.stderr
    assert "Traceback" not in done.stderr


def test_prepared_set_is_left_alone(capsys):
    data_dir = os.environ.get("TFDS_DATA_DIR")
    try:
        tasks.get("smnist")(data_dir=data_dir).examples("test", [0])
    except tasks.MissingData:
        pytest.skip("MNIST is not prepared in $TFDS_DATA_DIR or ~/tensorflow_datasets")
    prepare.main(["smnist"])
    assert "already" in capsys.readouterr().out
