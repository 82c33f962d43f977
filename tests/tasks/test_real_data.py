"""The real sets, prepared here from their originals: counts and statistics that others published."""

import itertools
import os
from pathlib import Path

import numpy as np
import pytest

import tasks
from tasks import prepare
from tasks._datasets import SETS, preparation, speech

ORIGINALS = Path(os.environ.get("MRU_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
HERE = ("cifar10", "imdb", "tinyshakespeare", "fsdd", "speech_commands_test_8k", "mitdb12")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Prepares the set of a task in one directory, and makes the task on it."""
    data_dir = str(tmp_path_factory.mktemp("data"))

    def task_on(name, **options):
        if not ORIGINALS.is_dir():
            pytest.skip(f"{ORIGINALS} is absent (set MRU_TEST_DATA to a folder of originals)")
        try:
            prepare.prepare(name, data_dir, str(ORIGINALS))
        except ValueError as error:
            if "lacks" not in str(error):
                raise
            pytest.skip(f"no originals of {name}: {error}")
        return tasks.get(name)(data_dir=data_dir, **options)

    return task_on


def targets(task, split):
    return np.concatenate(
        [
            task.examples(split, np.arange(start, min(start + 500, task.sizes[split])))["targets"]
            for start in range(0, task.sizes[split], 500)
        ]
    )


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("scifar", (45000, 5000, 10000)),
        ("text", (22500, 2500, 25000)),
        ("fsdd", (2430, 270, 300)),
        ("speech_commands", (3505, 405, 980)),
        ("ecg", (13196, 6038, 6077)),
    ],
)
def test_splits_hold_every_example_once(prepared, name, sizes):
    task = prepared(name)
    assert tuple(task.sizes.values()) == sizes
    arrays, key = task.arrays, "beats" if name == "ecg" else "labels"
    parts = [part for part in task.sizes if f"{part}_{key}" in arrays]
    assert sum(len(arrays[f"{part}_{key}"]) for part in parts) == sum(sizes)
    for split, size in task.sizes.items():
        last = task.examples(split, np.array([size - 1]))
        assert np.isfinite(last["inputs"]).all()


def test_cifar10_has_the_published_means(prepared):
    task = prepared("scifar")
    pixels = task.arrays["train_images"][::5] / 255
    np.testing.assert_allclose(pixels.mean((0, 1, 2)), [0.4914, 0.4822, 0.4465], atol=2e-3)
    for split, size in (("train", 5000), ("test", 1000)):
        assert np.bincount(task.arrays[f"{split}_labels"]).tolist() == [size] * 10
    x = task.examples("train", np.arange(0, 45000, 9))["inputs"]
    np.testing.assert_allclose(x.mean((0, 1)), 0, atol=0.03)
    np.testing.assert_allclose(x.std((0, 1)), 1, atol=0.03)
    grey = prepared("image").examples("train", np.arange(0, 45000, 45))["inputs"]
    assert abs(grey.mean()) < 0.03
    assert abs(grey.std() - 1) < 0.03


def test_imdb_is_balanced_and_is_text(prepared):
    task = prepared("text")
    for part in ("train", "test"):
        assert np.bincount(task.arrays[f"{part}_labels"]).tolist() == [12500, 12500]
    # The tail of train is a random sample of it.
    assert abs(targets(task, "validation").mean() - 0.5) < 0.03
    batch = task.examples("test", np.arange(50))
    for row, n in zip(batch["inputs"], batch["lengths"]):
        assert bytes((row[:n] - 1).tolist()).decode("utf-8", errors="ignore").count(" ") > 5
        assert not row[n:].any()


def test_few_reviews_are_there_twice(prepared):
    arrays = prepared("text").arrays
    flat, starts = arrays["train_bytes"], arrays["train_starts"]
    rows = [flat[a:b].tobytes() for a, b in itertools.pairwise(starts)]
    assert 0 < 25000 - len(set(rows)) < 200


def test_shakespeare_reads_as_shakespeare(prepared):
    task = prepared("shakespeare", windows=1)
    first = task.examples("train", np.array([0]))
    assert "".join(task.characters[k] for k in first["inputs"][0]).startswith("First Citizen:\nBefore we proceed")
    counts = np.bincount(task.arrays["tokens"][:1003854], minlength=65) / 1003854
    entropy = -(counts[counts > 0] * np.log2(counts[counts > 0])).sum()
    assert task.chance == pytest.approx(entropy, abs=0.01)


def test_spoken_digits(prepared):
    task = prepared("fsdd")
    assert np.bincount(task.arrays["train_labels"]).tolist() == [270] * 10
    assert np.bincount(task.arrays["test_labels"]).tolist() == [30] * 10
    lengths = np.diff(task.arrays["train_starts"])
    assert lengths.min() == 1149  # 0.14 s
    assert lengths.max() == 18262  # 2.28 s
    samples = task.arrays["train_samples"].astype(np.float64)
    assert np.sqrt((samples**2).mean()) == pytest.approx(task.deviation, rel=1e-3)


def test_speech_commands(prepared):
    task = prepared("speech_commands")
    classes = np.concatenate([targets(task, split) for split in task.sizes])
    assert np.bincount(classes).tolist() == [419, 405, 425, 406, 412, 396, 396, 402, 411, 402, 408, 408]
    x = speech.from_mu_law(task.arrays["train_clips"]).astype(np.float64)
    assert np.sqrt((x**2).mean()) == pytest.approx(task.deviation, rel=1e-3)


def test_beats(prepared):
    task = prepared("ecg")
    found = {split: np.bincount(targets(task, split)).tolist() for split in task.sizes}
    assert sum(map(sum, found.values())) == 25311
    assert sum(count[1] for count in found.values()) == 2011
    assert found["train"] == list(task.counts)
    # The beat in the middle is the largest deflection of the window, more often than not.
    x = np.abs(task.examples("test", np.arange(0, 6077, 20))["inputs"][..., 0])
    assert np.mean(np.abs(x.argmax(1) - 360) < 30) > 0.5


@pytest.mark.parametrize("name", HERE)
def test_second_time_it_is_there(prepared, name):
    reader = next(task for task in tasks.names() if getattr(tasks.get(task), "dataset", "") == name)
    data_dir = prepared(reader).data_dir
    assert prepare.prepare(name, data_dir).endswith("already")
    state = preparation.state(SETS[name], data_dir)
    assert state.said == "prepared"
    assert state.bytes == pytest.approx(SETS[name].bytes, rel=0.03)  # as the list says before
