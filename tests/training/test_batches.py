import itertools
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import tasks
from mru.training.batches import evaluation_batches, train_batches

ROOT = Path(__file__).parents[2]
DIGITS = tasks.get("digits")()
COPY = tasks.get("copy_first")(length=4)


def take(n, task=DIGITS, **options):
    """The first n elements of a training stream, closed afterwards."""
    batches = train_batches(task, **({"batch_size": 40, "seed": 3} | options))
    try:
        return list(itertools.islice(batches, n))
    finally:
        batches.close()


def rows(batches):
    """Every example of the batches, as bytes."""
    return [row.tobytes() for batch in batches for row in batch["inputs"].reshape(-1, *batch["inputs"].shape[2:])]


def same(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b):
        assert x.keys() == y.keys()
        for key in x:
            np.testing.assert_array_equal(x[key], y[key])


def test_shapes():
    (batch,) = take(1)
    assert batch["inputs"].shape == (1, 40, 64, 1)
    assert batch["targets"].shape == (1, 40)
    (batch,) = take(1, steps_per_batch=3, process_count=4, process_index=1)
    assert batch["inputs"].shape == (3, 10, 64, 1)


@pytest.mark.parametrize("task", [DIGITS, COPY])
def test_same_seed_same_stream_and_other_seed_other_stream(task):
    same(take(3, task), take(3, task))
    assert not set(rows(take(1, COPY))) & set(rows(take(1, COPY, seed=4)))
    assert rows(take(1, task)) != rows(take(1, task, seed=4))


@pytest.mark.parametrize("task", [DIGITS, COPY])
@pytest.mark.parametrize("step", [1, 32, 33, 100])  # digits: the 33rd batch is the first to straddle two epochs
def test_resume_at_a_step_is_the_stream_from_there(task, step):
    same(take(step + 3, task)[step:], take(3, task, start_step=step))


@pytest.mark.parametrize("task", [DIGITS, COPY])
def test_processes_share_each_batch_in_order(task):
    whole = take(40, task)
    parts = [take(40, task, process_index=p, process_count=4) for p in range(4)]
    for step, batch in enumerate(whole):
        for key, array in batch.items():
            np.testing.assert_array_equal(array, np.concatenate([part[step][key] for part in parts], 1))


def test_stacked_steps_are_the_single_ones():
    singles, stacked = take(15, start_step=25), take(3, start_step=25, steps_per_batch=5)
    for key in ("inputs", "targets"):
        np.testing.assert_array_equal(
            np.concatenate([b[key] for b in singles]), np.concatenate([b[key] for b in stacked])
        )


def test_prefetch_changes_nothing():
    same(take(8, prefetch=0), take(8, prefetch=4))


def test_each_epoch_visits_every_example_once_in_a_new_order():
    size = DIGITS.sizes["train"]
    stream = rows(take(100))
    everything = {row.tobytes() for row in DIGITS.examples("train", np.arange(size))["inputs"]}
    epochs = [stream[size * epoch : size * (epoch + 1)] for epoch in range(3)]
    for epoch in epochs:
        assert len(epoch) == size
        assert set(epoch) == everything
    assert epochs[0] != epochs[1]
    # Epoch e of one seed is not epoch e - 1 of the next, as adding the two would make it.
    assert rows(take(100, seed=4))[:size] != epochs[1]


def test_a_batch_may_be_larger_than_an_epoch():
    (batch,) = take(1, batch_size=3000)
    _, counts = np.unique(rows([batch]), return_counts=True)
    assert len(counts) == DIGITS.sizes["train"]
    assert set(counts) == {2, 3}


def test_generated_examples_do_not_repeat():
    assert len(set(rows(take(200, COPY)))) == 200 * 40


def test_closing_ends_the_threads():
    # Threads are compared, not counted: those of an earlier test may end at any moment of this one.
    before = threading.enumerate()
    batches = train_batches(COPY, batch_size=4, seed=0)
    next(batches)
    started = [thread for thread in threading.enumerate() if thread not in before]
    ours = [thread for thread in started if thread.name.startswith("grain-prefetch")]
    assert ours, started
    batches.close()
    for thread in ours:
        thread.join(10)
    assert not any(thread.is_alive() for thread in ours)


def test_elements_are_placed_in_the_threads_that_make_them():
    threads = set()

    def place(batch):
        threads.add(threading.current_thread().name)
        return batch["inputs"].sum()

    placed = take(3, place=place)
    assert placed == [batch["inputs"].sum() for batch in take(3)]
    assert all(name.startswith("grain-prefetch") for name in threads), threads


def test_leaving_without_closing_does_not_hang():
    code = (
        "import tasks; from mru.training.batches import train_batches\n"
        "batches = train_batches(tasks.get('copy_first')(), batch_size=4, seed=0); next(batches); print('left')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stdout) == (0, "left\n"), done.stderr


def test_missing_data_is_missed_at_once(tmp_path):
    task = tasks.get("psmnist")(data_dir=str(tmp_path))
    with pytest.raises(tasks.MissingData):
        train_batches(task, batch_size=4, seed=0)
    with pytest.raises(tasks.MissingData):
        evaluation_batches(task, "test", batch_size=4)


@pytest.mark.parametrize(("split", "count"), [("validation", None), ("test", None), ("test", 50), ("test", 10**6)])
def test_evaluation_visits_each_example_once_in_order(split, count):
    n = min(DIGITS.sizes[split], count or 10**9)
    batches = list(evaluation_batches(DIGITS, split, batch_size=40, count=count))
    assert {batch["inputs"].shape for batch in batches} == {(40, 64, 1)}
    weight = np.concatenate([batch["weight"] for batch in batches])
    assert weight.dtype == np.float32
    assert weight.sum() == n
    expected = DIGITS.examples(split, np.arange(n))
    for key in ("inputs", "targets"):
        np.testing.assert_array_equal(np.concatenate([batch[key] for batch in batches])[weight == 1], expected[key])


def test_evaluation_is_shared_by_processes():
    whole = list(evaluation_batches(DIGITS, "test", batch_size=40))
    parts = [
        list(evaluation_batches(DIGITS, "test", batch_size=40, process_index=p, process_count=4)) for p in range(4)
    ]
    for step, batch in enumerate(whole):
        for key, array in batch.items():
            np.testing.assert_array_equal(array, np.concatenate([part[step][key] for part in parts]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"process_count": 3}, "batch_size = 40, allowed: a positive multiple of the 3 processes"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"process_index": 1}, "process_index = 1, allowed: 0 to 0"),
        ({"seed": -1}, "seed = -1"),
        ({"start_step": -1}, "start_step = -1"),
        ({"steps_per_batch": 0}, "steps_per_batch = 0"),
        ({"prefetch": -1}, "prefetch = -1"),
    ],
)
def test_bad_training_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        take(1, **options)


def test_bad_evaluation_arguments():
    for options, message in (
        ({"split": "dev"}, "'dev', allowed: train, validation, test"),
        ({"count": 0}, "count = 0"),
        ({"process_count": 3}, "batch_size = 40"),
        ({"prefetch": -1}, "prefetch = -1"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluation_batches(DIGITS, **({"split": "test", "batch_size": 40} | options))
