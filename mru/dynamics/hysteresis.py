"""Hysteresis loops: a cell driven up and down, its states against the drive."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from mru.cells import Cell
from mru.dynamics._cells import compiled, states


class HysteresisLoop(NamedTuple):
    """States against a drive, over one whole cycle.

    Attributes:
        drive: u, (T,).
        state: (..., T, N).
        area: What each channel's loop encloses, (..., N): |integral of h du|, of a complex state its modulus.
    """

    drive: Array
    state: Array
    area: Array


def hysteresis_loop(
    cell: Cell,
    direction: Array | None = None,
    *,
    around: Array | None = None,
    amplitude: float = 3.0,
    speed: float = 0.05,
    cycles: int = 2,
) -> HysteresisLoop:
    """Drive one direction of a cell's input up and down, 0 to A to -A to 0, and keep the last cycle.

    A cell with persistent memory encloses an area however slow the drive is. What a fading one encloses is its lag, and
    goes to 0 with the speed.

    Args:
        cell: Cell.
        direction: (..., D), what the drive u is multiplied with; several give several loops. If None, all inputs
            alike, with norm 1.
        around: (D,), the input at u = 0; zeros if None.
        amplitude: A.
        speed: Change of u in a step, at most; a quarter of a cycle is a whole number of steps.
        cycles: Cycles in all. The first begins at the cell's initial state and is no closed loop.

    Raises:
        ValueError: A number is out of its range.
    """
    if not (amplitude > 0 and speed > 0 and cycles >= 1 and math.isfinite(amplitude / speed)):
        raise ValueError(
            f"amplitude and speed must be positive and cycles at least 1, got {amplitude}, {speed} and {cycles}"
        )
    quarter = max(1, math.ceil(amplitude / speed - 1e-6))
    up = np.arange(quarter) / quarter
    cycle = amplitude * np.concatenate([up, 1 - up, -up, up - 1])
    drive = jnp.asarray(np.append(np.tile(cycle, cycles), 0.0), jnp.float32)
    if direction is None:
        direction = jnp.full(cell.features, cell.features**-0.5)
    around = jnp.zeros(cell.features) if around is None else around
    state = _driven(cell, drive, jnp.asarray(direction), jnp.asarray(around), keep=4 * quarter + 1)
    drive = drive[-4 * quarter - 1 :]
    return HysteresisLoop(drive, state, enclosed_area(drive, state))


@compiled("keep")
def _driven(cell: Cell, drive: Array, direction: Array, around: Array, *, keep: int) -> Array:
    return states(cell, around + drive[:, None] * direction[..., None, :])[..., -keep:, :]


def enclosed_area(drive: Array, state: Array) -> Array:
    """|integral of h du| along a closed curve, by the trapezoidal rule.

    Args:
        drive: u, (T,), the first and last alike.
        state: h, (..., T, N), real or complex.

    Returns:
        (..., N).
    """
    middle = (state[..., 1:, :] + state[..., :-1, :]) / 2
    return jnp.abs(jnp.sum(middle * jnp.diff(drive)[:, None], -2))
