"""What a latch does over data: how often it writes, how long it holds, and which channels never write."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from mru.cells import Cell, ScanCell
from mru.dynamics._cells import compiled


class Writes(NamedTuple):
    """Of each channel.

    Attributes:
        rate: Fraction of the steps at which it writes, (N,).
        hold_time: Mean number of steps from one write to the next, or to an end of the data, in which it holds, (N,);
            0 where it always writes.
        dead: Whether it never writes, bool (N,): it then says nothing about its input, and no gradient tells it to.
    """

    rate: Array
    hold_time: Array
    dead: Array


def holds(cell: Cell, x: Array) -> bool:
    """If a cell can hold: whether its operator says where it does."""
    return isinstance(cell, ScanCell) and jax.eval_shape(cell.operator, x).says("holds")


def writes(cell: Cell, x: Array) -> Array:
    """Where a cell writes, bool (..., T, N); elsewhere it leaves its state bit for bit as it is.

    Args:
        cell: A cell that can hold, such as BMRU or PMRU.
        x: Its inputs, (..., T, D).

    Raises:
        ValueError: The cell does not hold.
    """
    if not holds(cell, x):
        raise ValueError(f"{type(cell).__name__} has no writes to count: no operator of it says where it holds")
    return _writes(cell, x)


@compiled()
def _writes(cell: Cell, x: Array) -> Array:
    found: dict[str, Array] = {}
    cell(x, capture=found)
    return found["write"]


def write_statistics(cell: Cell, x: Array) -> Writes:
    """How often and how long, over a batch.

    Args:
        cell: A cell that can hold, such as BMRU or PMRU.
        x: Its inputs, (..., T, D).

    Raises:
        ValueError: The cell does not hold.
    """
    return statistics_of(writes(cell, x))


def statistics_of(write: Array, where: Array | None = None) -> Writes:
    """The same, of what `writes` or `capture` gave.

    Args:
        write: Bool (..., T, N).
        where: Bool (..., T), the steps that count; all of them if None.
    """
    return counts(write, where).statistics()


class Counts(NamedTuple):
    """Sums over the data, from which rates and times are made; those of several batches add up.

    Attributes:
        writes: Steps at which each channel writes, int (N,).
        held: Steps at which it holds, int (N,).
        runs: Runs of holds without a write between them, int (N,).
        steps: All steps, int.
    """

    writes: Array
    held: Array
    runs: Array
    steps: Array

    def statistics(self) -> Writes:
        """The rates and times."""
        return Writes(self.writes / self.steps, self.held / self.runs.clip(1), self.writes == 0)


def counts(write: Array, where: Array | None = None) -> Counts:
    """Count writes and holds; arguments as `statistics_of` has them."""
    real = jnp.ones(write.shape[:-1], bool) if where is None else jnp.asarray(where)
    counted = real[..., None]
    axes = tuple(range(write.ndim - 1))
    held = ~jnp.asarray(write) & counted
    before = jnp.concatenate([jnp.zeros_like(held[..., :1, :]), held[..., :-1, :]], -2)
    return Counts((write & counted).sum(axes), held.sum(axes), (held & ~before).sum(axes), real.sum())


def hold_times(write: Array) -> np.ndarray:
    """The length of every run of holds, in steps, int (number of runs,), for a histogram.

    Args:
        write: Bool (..., T, N).
    """
    held = ~np.moveaxis(np.asarray(write), -2, -1).reshape(-1, np.shape(write)[-2])
    edges = np.diff(np.pad(held.astype(np.int8), ((0, 0), (1, 1))))
    return np.nonzero(edges == -1)[1] - np.nonzero(edges == 1)[1]
