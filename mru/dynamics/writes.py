"""What a latch does over data: how often it writes, how long it holds, and which channels never write."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from mru.cells import Cell
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


def writes(cell: Cell, x: Array) -> Array:
    """Where a cell writes, bool (..., T, N); elsewhere it leaves its state bit for bit as it is.

    Args:
        cell: A cell that can hold, such as BMRU or PMRU.
        x: Its inputs, (..., T, D).

    Raises:
        ValueError: The cell does not hold.
    """
    return _writes(cell, x)


@compiled()
def _writes(cell: Cell, x: Array) -> Array:
    found: dict[str, Array] = {}
    cell(x, capture=found)
    if "write" not in found:
        raise ValueError(
            f"{type(cell).__name__} has no writes to count: its state is never held; it captures {', '.join(found)}"
        )
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
    real = jnp.ones(write.shape[:-1], bool) if where is None else where
    real = jnp.broadcast_to(real[..., None], write.shape)
    axes = tuple(range(write.ndim - 1))
    held = ~write & real
    before = jnp.concatenate([jnp.zeros_like(held[..., :1, :]), held[..., :-1, :]], -2)
    steps, runs = held.sum(axes), (held & ~before).sum(axes)
    rate = (write & real).sum(axes) / real.sum(axes)
    return Writes(rate, steps / jnp.maximum(runs, 1), rate == 0)


def hold_times(write: Array) -> np.ndarray:
    """The length of every run of holds, in steps, int (number of runs,), for a histogram.

    Args:
        write: Bool (..., T, N).
    """
    held = ~np.moveaxis(np.asarray(write), -2, -1).reshape(-1, np.shape(write)[-2])
    edges = np.diff(np.pad(held.astype(np.int8), ((0, 0), (1, 1))))
    return np.nonzero(edges == -1)[1] - np.nonzero(edges == 1)[1]
