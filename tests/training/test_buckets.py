import itertools
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from mru.training import Task, buckets
from mru.training.batches import evaluation_batches, train_batches
from mru.training.messages import UserError

BATCH, WINDOW = 4, buckets.WINDOW
SIZES = {"train": 3000, "validation": 10, "test": 30}
LENGTHS = np.random.default_rng(0).integers(1, 41, 3000)


@dataclass(frozen=True)
class Padded(Task, name="padded"):
    """Example i is the number i, as often as it is long, and 0 behind."""

    length: ClassVar[int] = 40
    sizes: ClassVar[dict[str, int]] = SIZES

    def example_lengths(self, split, indices):
        return LENGTHS[indices]

    def examples(self, split, indices):
        lengths = LENGTHS[indices]
        inputs = np.where(np.arange(40) < lengths[:, None], indices[:, None], 0)
        return {"inputs": inputs, "lengths": lengths, "targets": indices}

    outputs = pooling = metric = goal = chance = loss = metrics = None


def take(n, **options):
    """The first n elements of a stream of two buckets, of 20 and 40 steps, or of one."""
    given = {"batch_size": BATCH, "seed": 3, "buckets": 2} | options
    batches = train_batches(Padded(), **given)
    try:
        return list(itertools.islice(batches, n))
    finally:
        batches.close()


def numbers(batches):
    return np.concatenate([batch["targets"].reshape(-1) for batch in batches])


def test_a_window_has_the_examples_that_it_had_without_buckets():
    found, plain = numbers(take(2 * WINDOW)), numbers(take(2 * WINDOW, buckets=1))
    for window in np.split(np.arange(len(found)), 2):
        np.testing.assert_array_equal(np.sort(found[window]), np.sort(plain[window]))
    assert (found != plain).any()
    assert (found != numbers(take(2 * WINDOW, seed=4))).any()


def test_batches_are_of_one_bucket_and_otherwise_as_random_as_without():
    lengths = LENGTHS[numbers(take(WINDOW)).reshape(WINDOW, BATCH)]
    is_short = lengths <= 20
    assert (is_short.all(1) | ~is_short.any(1)).sum() >= WINDOW - 1  # both meet in one batch at most
    # Of 4 lengths drawn from [1, 20] the largest is 11.97 above the smallest on average, with 4 of deviation.
    spread = lengths[is_short.all(1)].max(1) - lengths[is_short.all(1)].min(1)
    assert abs(spread.mean() - 11.97) < 5 * 4 / np.sqrt(len(spread))
    # Of batches drawn at random from two buckets of like size, half are of the bucket of the one before, +- 0.03.
    first = is_short[:, 0]
    assert 0.35 < (first[1:] == first[:-1]).mean() < 0.65


def test_elements_are_cut_to_the_bucket_of_their_longest():
    lengths = set()
    for batch in take(WINDOW // 2, steps_per_batch=2):
        indices, longest = batch["targets"], batch["lengths"].max()
        assert batch["inputs"].shape == (2, BATCH, 20 if longest <= 20 else 40)
        lengths.add(batch["inputs"].shape[2])
        whole = Padded().examples("train", indices.reshape(-1))["inputs"].reshape(*indices.shape, 40)
        np.testing.assert_array_equal(batch["inputs"], whole[..., : batch["inputs"].shape[2]])
    assert lengths == {20, 40}


def test_lengths_that_parts_do_not_divide_are_rounded_up():
    indices = np.flatnonzero(LENGTHS == 27)[:2]
    batch = buckets.cut(Padded(), Padded().examples("train", indices), 7, "train", indices)
    assert batch["inputs"].shape == (2, 29)  # 5 / 7 of 40 is 28.6
    assert batch["targets"].shape == (2,)


@pytest.mark.parametrize("step", [7, WINDOW - 1, WINDOW + 30])
def test_a_stream_goes_on_where_it_was_stopped(step):
    whole, rest = take(step + 3)[step:], take(3, start_step=step)
    for x, y in zip(whole, rest, strict=True):
        for name in x:
            np.testing.assert_array_equal(x[name], y[name])


def test_processes_share_each_batch_and_cut_alike():
    whole = take(40)
    parts = [take(40, process_index=p, process_count=4) for p in range(4)]
    for step, batch in enumerate(whole):
        for name, array in batch.items():
            np.testing.assert_array_equal(array, np.concatenate([part[step][name] for part in parts], 1))


def test_evaluation_visits_each_example_once_by_length():
    batches = list(evaluation_batches(Padded(), "test", batch_size=BATCH, buckets=2))
    assert [len(batch["inputs"]) for batch in batches] == [BATCH] * 8
    index, weight = (np.concatenate([batch[name] for batch in batches]) for name in ("index", "weight"))
    assert sorted(index[weight > 0]) == list(range(30))
    assert weight.tolist() == [1] * 30 + [0] * 2
    assert (np.diff(LENGTHS[index]) >= 0).all()
    for batch in batches:
        np.testing.assert_array_equal(batch["targets"], batch["index"])
        assert batch["inputs"].shape[1] == (20 if batch["lengths"].max() <= 20 else 40)


def test_a_task_that_does_not_pad_has_no_buckets():
    class Whole(Padded, name="whole"):
        def example_lengths(self, split, indices):
            return None

    buckets.check(Whole(), 1)
    buckets.check(Padded(), 2)
    with pytest.raises(UserError, match=r"train\.buckets must be 1, as the examples of whole are not padded"):
        buckets.check(Whole(), 2)
