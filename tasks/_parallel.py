"""Computes the examples of a generated data set in several processes."""

import multiprocessing
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
from tqdm import tqdm

Generate = Callable[[str, np.ndarray], dict[str, np.ndarray]]

_CHUNK = 200  # examples that a process makes at a time


def chunks(generate: Generate, split: str, size: int, processes: int | None = None) -> Iterator[dict[str, np.ndarray]]:
    """The examples 0 to size - 1 of a split in order, some at a time, with a progress bar on stderr.

    Args:
        generate: From a split and indices to arrays of examples; it is pickled.
        split: "train", "validation" or "test".
        size: Number of examples.
        processes: How many work side by side; one for each core if None.
    """
    indices = [np.arange(start, min(start + _CHUNK, size)) for start in range(0, size, _CHUNK)]
    # Forking would copy the threads of JAX, in whatever state they are.
    context = multiprocessing.get_context("spawn")
    bar = tqdm(total=size, desc=split, unit="example", file=sys.stderr)
    with bar, ProcessPoolExecutor(processes, context) as pool:
        for rows, made in zip(indices, pool.map(partial(generate, split), indices)):
            bar.update(len(rows))
            yield made


def every(generate: Generate, sizes: dict[str, int]) -> Iterator[tuple[str, np.ndarray]]:
    """All examples of each split, as arrays by the name of split and array: `train_inputs` and so on.

    Args:
        generate: From a split and indices to arrays of examples; it is pickled.
        sizes: Number of examples of each split.
    """
    for split, size in sizes.items():
        whole: dict[str, np.ndarray] = {}
        start = 0
        for made in chunks(generate, split, size):
            for name, array in made.items():
                # Filled as it comes: the largest set would not fit twice.
                target = whole.setdefault(name, np.empty((size, *array.shape[1:]), array.dtype))
                target[start : start + len(array)] = array
            start += len(array)
        for name, array in whole.items():
            yield f"{split}_{name}", array
