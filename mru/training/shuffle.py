"""Random orders that depend on a key alone, the same in every release of NumPy, in any process and at any time."""

from __future__ import annotations

import functools

import numpy as np


@functools.lru_cache(maxsize=8)
def permutation(n: int, *key: int) -> np.ndarray:
    """A random order of `range(n)` that depends on the key alone, int64 `(n,)`, read-only.

    Sorting raw random bits gives the same order in every release of NumPy, which `Generator.permutation` does not.
    """
    order = np.argsort(np.random.Philox(np.random.SeedSequence(key)).random_raw(n), kind="stable")
    order.setflags(write=False)  # the cache hands out the same array again
    return order


def shuffled(positions: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Example indices at positions of a stream that visits `size` examples anew each epoch, int `(n,)` both."""
    epochs, places = np.divmod(positions, size)
    indices = np.empty_like(places)
    for epoch in range(int(epochs.min()), int(epochs.max()) + 1):
        here = epochs == epoch
        indices[here] = permutation(size, epoch, seed)[places[here]]
    return indices
