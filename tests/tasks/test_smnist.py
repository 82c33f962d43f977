import gzip
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tasks
from tasks import prepare, smnist

ROOT = Path(__file__).parents[2]
ORIGINALS = Path(os.environ.get("MRU_TEST_DATA", ROOT.parent / "shared" / "data")) / "mnist"
SMNIST, PSMNIST = tasks.get("smnist"), tasks.get("psmnist")


def originals(part):
    """The part of MNIST in its original files, decoded by hand."""
    if not ORIGINALS.is_dir():
        pytest.skip(f"no original MNIST files: {ORIGINALS} is absent (set MRU_TEST_DATA)")
    prefix = {"train": "train", "test": "t10k"}[part]
    pixels = np.frombuffer(gzip.decompress((ORIGINALS / f"{prefix}-images-idx3-ubyte.gz").read_bytes())[16:], np.uint8)
    classes = np.frombuffer(gzip.decompress((ORIGINALS / f"{prefix}-labels-idx1-ubyte.gz").read_bytes())[8:], np.uint8)
    return pixels.reshape(-1, 784), classes


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A directory with MNIST prepared in it: the user's, or one prepared here."""
    try:
        SMNIST().examples("test", np.array([0]))
        return None
    except tasks.MissingData:
        if importlib.util.find_spec("tensorflow") is None:
            pytest.skip("MNIST is not prepared, and without TensorFlow it cannot be prepared here")
        if not ORIGINALS.is_dir():
            pytest.skip(f"MNIST is not prepared, and {ORIGINALS} is absent (set MRU_TEST_DATA)")
    path = str(tmp_path_factory.mktemp("tfds"))
    command = [sys.executable, "-m", "tasks.prepare", "psmnist", "--data_dir", path, "--source", str(ORIGINALS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert path in done.stdout
    return path


@pytest.fixture
def fake(monkeypatch):
    """Random pixels in the place of MNIST."""
    rng = np.random.default_rng(0)
    parts = {
        part: (rng.integers(256, size=(n, 784), dtype=np.uint8), rng.integers(10, size=n).astype(np.int32))
        for part, n in (("train", 60000), ("test", 10000))
    }
    monkeypatch.setattr(smnist, "_load", lambda name, data_dir, part: parts[part])
    return parts


def test_splits_are_the_parts_with_the_tail_of_train_held_out(fake):
    task = SMNIST()
    where = {"train": ("train", 0), "validation": ("train", 54000), "test": ("test", 0)}
    for split, (part, start) in where.items():
        indices = np.array([0, 5, task.sizes[split] - 1])
        batch = task.examples(split, indices)
        pixels, classes = fake[part]
        expected = (pixels[start + indices] / 255 - 0.1307) / 0.3081
        np.testing.assert_allclose(batch["inputs"][..., 0], expected, atol=1e-6)
        np.testing.assert_array_equal(batch["targets"], classes[start + indices])
    assert sum(task.sizes.values()) == 70000


def test_psmnist_is_smnist_in_one_fixed_order(fake):
    indices = np.arange(3)
    plain = SMNIST().examples("train", indices)["inputs"]
    shuffled = PSMNIST().examples("train", indices)["inputs"]
    order = PSMNIST().order
    np.testing.assert_array_equal(shuffled, plain[:, order])
    np.testing.assert_array_equal(shuffled[:, np.argsort(order)], plain)
    assert len(set(order.tolist())) == 784
    assert not np.array_equal(order, np.arange(784))
    assert not np.array_equal(order, PSMNIST(permutation_seed=1).order)


def test_missing_set_says_the_command(tmp_path):
    with pytest.raises(tasks.MissingData) as caught:
        PSMNIST(data_dir=str(tmp_path)).examples("train", np.array([0]))
    message = str(caught.value)
    assert f"python -m tasks.prepare psmnist --data_dir {tmp_path}" in message
    assert "--source" in message
    assert f"{tmp_path}/mnist/3.0.1 has no MNIST" in message
    assert "\n" not in message


def test_set_in_a_format_that_needs_tensorflow(tmp_path):
    folder = tmp_path / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text('{"name": "mnist", "version": "3.0.1", "fileFormat": "tfrecord"}')
    with pytest.raises(tasks.MissingData, match=r"as tfrecord, not as array_record.*--data_dir DIR"):
        SMNIST(data_dir=str(tmp_path)).examples("train", np.array([0]))
    with pytest.raises(ValueError, match=r"has mnist as tfrecord.*another --data_dir"):
        prepare.prepare("smnist", str(tmp_path))


@pytest.mark.parametrize("part", ["train", "test"])
def test_examples_are_those_of_the_original_files(data_dir, part):
    pixels, classes = originals(part)
    task = PSMNIST(data_dir=data_dir)
    inverse = np.argsort(task.order)
    rows = []
    for split in ("train", "validation") if part == "train" else ("test",):
        for start in range(0, task.sizes[split], 2000):
            batch = task.examples(split, np.arange(start, start + 2000))
            bytes_ = np.rint((batch["inputs"][:, inverse, 0] * 0.3081 + 0.1307) * 255).astype(np.uint8)
            rows += [row.tobytes() + bytes([label]) for row, label in zip(bytes_, batch["targets"])]
    # tensorflow-datasets stores them in an order of its own.
    assert sorted(rows) == sorted(row.tobytes() + bytes([label]) for row, label in zip(pixels, classes))


def test_normalised_training_pixels_have_mean_0_and_deviation_1(data_dir):
    x = SMNIST(data_dir=data_dir).examples("train", np.arange(0, 54000, 9))["inputs"]
    assert abs(x.mean()) < 0.02
    assert abs(x.std() - 1) < 0.02
