"""Sets that a generator computes: made once in several processes, so that training reads instead of computing them."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np

from tasks import _listops, _pathfinder
from tasks._datasets.base import Arrays, DataSet, Form
from tasks._datasets.progress import bar

Generate = Callable[[str, np.ndarray], dict[str, np.ndarray]]

_CHUNK = 200  # examples that a process makes at a time

# The seed whose examples are made; those of another are computed while training.
SEED = 0


@contextlib.contextmanager
def workers(processes: int | None = None) -> Iterator[Executor]:
    """That many processes, one for each core if None; what they have not begun is dropped at the end."""
    # Forked processes would hold the locks that threads of JAX had at that moment.
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _begin)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """What a worker does first: it leaves interrupts to the process that started it, and ends when that does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


def compute(pool: Executor, generate: Generate, split: str, size: int) -> dict[str, np.ndarray]:
    """Examples 0 to size - 1 of a split, with a progress bar.

    Args:
        pool: Who computes them.
        generate: From a split and indices to arrays of examples; it is pickled.
        split: "train", "validation" or "test".
        size: Number of examples.
    """
    indices = [np.arange(start, min(start + _CHUNK, size)) for start in range(0, size, _CHUNK)]
    whole: dict[str, np.ndarray] = {}
    with bar(f"computing {split}", size, "example") as moving:
        for rows, made in zip(indices, pool.map(partial(generate, split), indices)):
            for name, array in made.items():
                # Filled as it comes: the largest would not fit into memory twice.
                if name not in whole:
                    whole[name] = np.empty((size, *array.shape[1:]), array.dtype)
                whole[name][rows] = array
            moving.update(len(rows))
    return whole


def _every(generate: Generate, sizes: dict[str, int], _: list[Path]) -> Arrays:
    """All examples, as arrays named by split and content: `train_inputs` and so on."""
    with workers() as pool:
        for split, size in sizes.items():
            for name, array in compute(pool, generate, split, size).items():
                yield f"{split}_{name}", array


def _computed(name: str, generate: Generate, sizes: dict[str, int], size: int) -> DataSet:
    """A set of `size` bytes that has no originals."""
    forms = (Form((), partial(_every, generate, sizes)),)
    return DataSet(name, "that of this program", "none, it is computed", forms, size)


LISTOPS = _computed("listops", partial(_listops.generate, SEED), _listops.SIZES, 200_500_000)
PATHFINDER = tuple(
    _computed(
        f"pathfinder_{side}", partial(_pathfinder.generate, SEED, side), _pathfinder.SIZES, 200_000 * (side**2 + 1)
    )
    for side in _pathfinder.DRAWINGS
)
