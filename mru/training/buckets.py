"""Batches of examples of like length, cut to a few lengths, so that little of what is computed is padding.

The stream of training examples is sorted by bucket within windows of some hundred batches, and the batches of a window
come in a random order, not in runs of one length: steps after each other would then be no random sample. Which example
is in which step depends on the seed and the step alone, as it does without buckets, so a run goes on where it was
stopped.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from mru.training.messages import UserError
from mru.training.shuffle import permutation
from mru.training.task import Batch, Task

WINDOW = 320  # batches whose examples are sorted together


def check(task: Task, buckets: int) -> None:
    """Require that a task has lengths, if there are several buckets.

    Raises:
        UserError: It has none.
        MissingData: The data set of the task has not been prepared.
    """
    if buckets > 1:
        lengths(task, "train", np.empty(0, np.int64))


def lengths(task: Task, split: str, indices: np.ndarray) -> np.ndarray:
    """Real steps of examples, int (n,); see `check`."""
    found = task.example_lengths(split, indices)
    if found is None:
        raise UserError(f"train.buckets must be 1, as the examples of {task.name} are not padded")
    return found


def sorted_stream(
    task: Task, indices_at: Callable[[np.ndarray], np.ndarray], batch_size: int, buckets: int, seed: int
) -> Callable[[np.ndarray], np.ndarray]:
    """The stream of training examples in batches of one bucket each, but for those where two buckets meet.

    Args:
        task: Has `example_lengths`.
        indices_at: From positions in the stream as it is to example indices, int (n,) both.
        batch_size: Examples of a step.
        buckets: Number of lengths.
        seed: Seed of the order.

    Returns:
        What takes the place of `indices_at`.
    """
    size = WINDOW * batch_size

    @functools.lru_cache(maxsize=4)  # the threads that make batches are in at most two windows
    def window(number: int) -> np.ndarray:
        indices = indices_at(number * size + np.arange(size))
        # Those of one bucket stay in the random order they came in.
        sorted_ = indices[np.argsort(bucket(task, lengths(task, "train", indices), buckets), kind="stable")]
        return sorted_.reshape(WINDOW, batch_size)[permutation(WINDOW, number, seed)].reshape(-1)

    def at(positions: np.ndarray) -> np.ndarray:
        windows, places = np.divmod(positions, size)
        found = np.empty_like(positions)
        for number in np.unique(windows):
            here = windows == number
            found[here] = window(int(number))[places[here]]
        return found

    return at


def bucket(task: Task, lengths: np.ndarray, buckets: int) -> np.ndarray:
    """Number of the bucket that examples of these lengths are in, from 1 up, int (n,)."""
    return -(-lengths * buckets // task.length)


def cut(task: Task, batch: Batch, buckets: int, split: str, indices: np.ndarray, axis: int = 0) -> Batch:
    """A batch without the steps that are padding in all of some examples, as far as that leaves a bucket's length.

    Args:
        task: Whose `time_axes` say what has an axis of time.
        batch: Arrays by name.
        buckets: Number of lengths: equal parts of the task's, rounded up. Of one, the batch is left as it is.
        split: That of the examples.
        indices: The examples, int (n,).
        axis: Batch axis of the arrays.
    """
    if buckets == 1:
        return batch
    length = -(-task.length * int(bucket(task, lengths(task, split, indices), buckets).max()) // buckets)
    here = {name: (slice(None),) * (axis + time) + (slice(length),) for name, time in task.time_axes.items()}
    return {name: x[here[name]] if name in here else x for name, x in batch.items()}
