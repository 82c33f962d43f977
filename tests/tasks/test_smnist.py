import gzip
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tasks
from mru.training.messages import error_line
from tasks import prepare
from tasks._datasets import SETS, preparation

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
    """A directory with MNIST prepared in it from the originals, without TensorFlow."""
    if not ORIGINALS.is_dir():
        pytest.skip(f"{ORIGINALS} is absent (set MRU_TEST_DATA)")
    path = str(tmp_path_factory.mktemp("data"))
    command = [sys.executable, "-m", "tasks.prepare", "psmnist", "--data_dir", path, "--source", str(ORIGINALS.parent)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert path in done.stdout
    return path


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A directory that the builder of tensorflow-datasets filled, as earlier versions had it do."""
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("without TensorFlow no builder can fill a directory here")
    if not ORIGINALS.is_dir():
        pytest.skip(f"{ORIGINALS} is absent (set MRU_TEST_DATA)")
    import tensorflow_datasets as tfds

    path = str(tmp_path_factory.mktemp("tfds"))
    builder = tfds.builder("mnist", data_dir=path, file_format="array_record")
    downloads = str(tmp_path_factory.mktemp("downloads"))
    config = tfds.download.DownloadConfig(manual_dir=str(ORIGINALS))
    builder.download_and_prepare(download_dir=downloads, download_config=config)
    return path


@pytest.fixture
def fake(monkeypatch):
    """Random pixels in the place of MNIST."""
    rng = np.random.default_rng(0)
    arrays = {}
    for part, n in (("train", 60000), ("test", 10000)):
        arrays[f"{part}_images"] = rng.integers(256, size=(n, 28, 28), dtype=np.uint8)
        arrays[f"{part}_labels"] = rng.integers(10, size=n).astype(np.uint8)
    monkeypatch.setattr(type(SETS["mnist"]), "load", lambda dataset, data_dir, task: arrays)
    monkeypatch.setenv("TFDS_DATA_DIR", "/nowhere")
    return arrays


def test_splits_are_the_parts_with_the_tail_of_train_held_out(fake):
    task = SMNIST()
    where = {"train": ("train", 0), "validation": ("train", 54000), "test": ("test", 0)}
    for split, (part, start) in where.items():
        indices = np.array([0, 5, task.sizes[split] - 1])
        batch = task.examples(split, indices)
        pixels, classes = fake[f"{part}_images"].reshape(-1, 784), fake[f"{part}_labels"]
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
    assert f"{tmp_path}/mnist has no mnist; run" in message
    assert "\n" not in message


def test_the_command_is_whole_where_folders_have_long_names():
    folder = "/nowhere" * 13
    with pytest.raises(tasks.MissingData) as caught:
        PSMNIST(data_dir=folder).examples("train", np.array([0]))
    assert f"python -m tasks.prepare psmnist --data_dir {folder} [--source" in error_line(caught.value)


def test_set_in_a_format_that_needs_tensorflow_is_no_set(tmp_path):
    folder = tmp_path / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text('{"name": "mnist", "version": "3.0.1", "fileFormat": "tfrecord"}')
    with pytest.raises(tasks.MissingData, match="has no mnist; run"):
        SMNIST(data_dir=str(tmp_path)).examples("train", np.array([0]))
    assert preparation.state(SETS["mnist"], str(tmp_path)).said == "missing"


def test_what_earlier_versions_prepared_is_read_as_it_is(built):
    assert "mnist/3.0.1 already" in prepare.prepare("smnist", built)
    assert preparation.state(SETS["mnist"], built).said == "prepared (by tensorflow-datasets)"
    assert_examples_are_the_originals(PSMNIST(data_dir=built), "test")


def test_builder_and_originals_give_the_same_arrays(built, data_dir):
    import tensorflow_datasets as tfds

    def examples(part):
        builder = tfds.builder("mnist", data_dir=built)
        return builder.as_data_source(part, decoders={"image": tfds.decode.SkipDecoding()})

    ours = SETS["mnist"].load(data_dir, "smnist")
    for name, array in SETS["mnist"].from_builder(examples):
        np.testing.assert_array_equal(array, ours[name])


def test_reading_needs_neither_tensorflow_nor_its_datasets(data_dir):
    code = (
        "import sys, numpy as np, tasks; "
        f"tasks.get('psmnist')(data_dir={data_dir!r}).examples('train', np.arange(9)); "
        "print([m for m in sys.modules if m.startswith(('tensorflow', 'PIL'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def assert_examples_are_the_originals(task, part):
    pixels, classes = originals(part)
    inverse = np.argsort(task.order)
    rows = []
    for split in ("train", "validation") if part == "train" else ("test",):
        for start in range(0, task.sizes[split], 2000):
            batch = task.examples(split, np.arange(start, start + 2000))
            bytes_ = np.rint((batch["inputs"][:, inverse, 0] * 0.3081 + 0.1307) * 255).astype(np.uint8)
            rows += [row.tobytes() + bytes([label]) for row, label in zip(bytes_, batch["targets"])]
    # They are stored in an order of our own.
    assert sorted(rows) == sorted(row.tobytes() + bytes([label]) for row, label in zip(pixels, classes))


@pytest.mark.parametrize("part", ["train", "test"])
def test_examples_are_those_of_the_original_files(data_dir, part):
    assert_examples_are_the_originals(PSMNIST(data_dir=data_dir), part)


def test_normalised_training_pixels_have_mean_0_and_deviation_1(data_dir):
    x = SMNIST(data_dir=data_dir).examples("train", np.arange(0, 54000, 9))["inputs"]
    assert abs(x.mean()) < 0.02
    assert abs(x.std() - 1) < 0.02
