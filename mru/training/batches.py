"""The input pipeline: which example is in which batch, and batches made ahead of time in background threads.

A position in the stream is the number of the optimiser step and nothing else, so that is all a checkpoint holds.

grain makes the batches ahead, in threads, and keeps their order. The shuffle is done here, for a batch at a time:
grain's own costs some 8 us an example, more than making the example.
"""

from collections.abc import Callable
from typing import Any

import grain
import numpy as np

from mru.training.buckets import cut, lengths, sorted_stream
from mru.training.finite import all_finite
from mru.training.messages import RunFailed
from mru.training.shuffle import shuffled
from mru.training.task import ENDLESS, Task

Batch = dict[str, np.ndarray]


def train_batches(
    task: Task,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    steps_per_batch: int = 1,
    buckets: int = 1,
    process_index: int = 0,
    process_count: int = 1,
    prefetch: int = 2,
    place: Callable[[Batch], Any] = lambda batch: batch,
) -> grain.DatasetIterator[Any]:
    """Training batches without end, from optimiser step `start_step` on.

    Step s takes examples `[s * batch_size, (s + 1) * batch_size)` of a stream that visits every training example once
    an epoch, in a new order each time. The stream is continuous: a batch may end one epoch and begin the next. A
    generated task has no epochs: the seed says where in its unending list of examples the stream starts.

    Args:
        task: Where the examples come from.
        batch_size: Examples of a step, over all processes.
        seed: Seed of the order, a non-negative integer.
        start_step: First step, to resume.
        steps_per_batch: Steps K in one element, stacked.
        buckets: Lengths that elements are cut to; if there are several, batches are of like length
            (`mru.training.buckets`).
        process_index: This process; it gets that contiguous slice of every global batch.
        process_count: Number of processes.
        prefetch: Elements made ahead, in as many threads; 0 makes each when it is asked for.
        place: What becomes of an element in its thread: `Trainer.place` takes longer than short steps leave time for.

    Returns:
        An iterator of what `task.examples` returns, with leading axes `(K, batch_size / process_count)`, placed. Its
        `close()` ends the threads; leaving the program does too.

    Raises:
        ValueError: an argument out of range, or a batch that the processes cannot share equally.
        MissingData: the data set has not been prepared.
        RunFailed: An example is not finite; when its batch is asked for.
    """
    local = _local_size(batch_size, process_index, process_count)
    for name, value, low in (("seed", seed, 0), ("start_step", start_step, 0), ("steps_per_batch", steps_per_batch, 1)):
        if value < low:
            raise ValueError(f"{name} = {value}, allowed: an integer >= {low}")
    size = task.sizes["train"]
    start = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] % size) if size >= ENDLESS else 0
    here = slice(process_index * local, (process_index + 1) * local)

    def unsorted(positions: np.ndarray) -> np.ndarray:
        return (start + positions) % size if size >= ENDLESS else shuffled(positions, size, seed)

    indices_at = unsorted if buckets == 1 else sorted_stream(task, unsorted, batch_size, buckets, seed)
    within = np.arange(steps_per_batch * batch_size)

    def element(number: int) -> Any:
        indices = indices_at((start_step + number * steps_per_batch) * batch_size + within)
        mine = indices.reshape(steps_per_batch, batch_size)[:, here]
        arrays = _examples(task, "train", mine.reshape(-1))
        batch = {key: array.reshape(*mine.shape, *array.shape[1:]) for key, array in arrays.items()}
        # All processes cut alike, so each looks at the examples of all.
        return place(cut(task, batch, buckets, "train", indices, axis=1))

    return _ahead(task, "train", element, ENDLESS, prefetch)


def evaluation_batches(
    task: Task,
    split: str,
    *,
    batch_size: int,
    buckets: int = 1,
    process_index: int = 0,
    process_count: int = 1,
    count: int | None = None,
    prefetch: int = 2,
) -> grain.DatasetIterator[Batch]:
    """One pass over a split, in order, in batches of one shape; with buckets, by length.

    Args:
        task: Where the examples come from.
        split: "train", "validation" or "test".
        batch_size: Examples of a batch, over all processes.
        buckets: Lengths that batches are cut to; if there are several, shorter examples come first.
        process_index: This process; it gets that contiguous slice of every global batch.
        process_count: Number of processes.
        count: Only the first so many examples; None for all of them.
        prefetch: Batches made ahead, in as many threads; 0 makes each when it is asked for.

    Returns:
        An iterator of what `task.examples` returns for `batch_size / process_count` examples, and two arrays of that
        size: `index`, int32, which examples they are, and `weight`, float32, 1 for an example and 0 for what fills up
        the last batch. The mean of a metric is `sum(weight * metric) / sum(weight)` over all batches and processes.

    Raises:
        ValueError: an argument out of range, or a batch that the processes cannot share equally.
        MissingData: the data set has not been prepared.
        RunFailed: An example is not finite; when its batch is asked for.
    """
    local = _local_size(batch_size, process_index, process_count)
    if split not in task.sizes:
        raise ValueError(f"split = {split!r}, allowed: {', '.join(task.sizes)}")
    if count is not None and count < 1:
        raise ValueError(f"count = {count}, allowed: an integer >= 1, or None for all examples")
    size = task.sizes[split] if count is None else min(count, task.sizes[split])
    here = slice(process_index * local, (process_index + 1) * local)
    # Without buckets no order is held: some tests are of more examples than there is memory for their numbers.
    order = np.argsort(lengths(task, split, np.arange(size)), kind="stable") if buckets > 1 else None

    def element(number: int) -> Batch:
        places = number * batch_size + np.arange(batch_size)
        indices = np.minimum(places, size - 1)  # a real example fills up, so all stays finite
        indices = indices if order is None else order[indices]
        batch = cut(task, _examples(task, split, indices[here]), buckets, split, indices)
        return batch | {"index": indices[here].astype(np.int32), "weight": (places[here] < size).astype(np.float32)}

    return _ahead(task, split, element, -(-size // batch_size), prefetch)


def _examples(task: Task, split: str, indices: np.ndarray) -> Batch:
    """Examples of a task, all of whose numbers are finite: one that is not would be lost in a mean or spoil the model.

    Raises:
        RunFailed: One is not; the message names it.
    """
    batch = task.examples(split, indices)
    require_finite(task.name, split, indices, batch)
    return batch


def require_finite(task: str, split: str, indices: np.ndarray, batch: Batch) -> None:
    """See `_examples`."""
    for name, x in batch.items():
        if not all_finite(x):
            bad = int(np.argmin(np.isfinite(x).reshape(len(x), -1).all(1)))
            raise RunFailed(f"{split} example {indices[bad]} of {task} is damaged: its {name} are not all finite")


def _local_size(batch_size: int, process_index: int, process_count: int) -> int:
    if batch_size < 1 or process_count < 1 or batch_size % process_count:
        raise ValueError(f"batch_size = {batch_size}, allowed: a positive multiple of the {process_count} processes")
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index = {process_index}, allowed: 0 to {process_count - 1}")
    return batch_size // process_count


def _ahead(
    task: Task, split: str, element: Callable[[int], Any], elements: int, prefetch: int
) -> grain.DatasetIterator[Any]:
    if prefetch < 0:
        raise ValueError(f"prefetch = {prefetch}, allowed: an integer >= 0")
    # No example, but the data set is read: what is missing is missed here, and no two threads read it at once.
    task.examples(split, np.empty(0, np.int64))
    options = grain.ReadOptions(num_threads=prefetch, prefetch_buffer_size=prefetch)
    return iter(grain.MapDataset.range(elements).map(element).to_iter_dataset(options))
