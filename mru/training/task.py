"""What the machinery of training asks of a task."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

SPLITS = ("train", "validation", "test")

# A training set at least this large is a generator of independent examples, not a list to visit in epochs.
ENDLESS = 2**62

Task = Any


class MissingData(Exception):
    """A data set is not where it was looked for; the message is one line with the command that puts it there."""


@functools.lru_cache(maxsize=8)
def permutation(n: int, *key: int) -> np.ndarray:
    """A random order of `range(n)` that depends on the key alone, int64 `(n,)`, read-only.

    Sorting raw random bits gives the same order in every release of NumPy, which `Generator.permutation` does not.
    """
    order = np.argsort(np.random.Philox(np.random.SeedSequence(key)).random_raw(n), kind="stable")
    order.setflags(write=False)  # the cache hands out the same array again
    return order
