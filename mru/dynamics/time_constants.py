"""The time constants of affine cells."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from mru.cells import Cell, ScanCell
from mru.dynamics._cells import compiled


def time_constants(cell: Cell, x: Array | None = None) -> Array:
    """Steps in which each channel forgets: 1 / (1 - |a|), for cells whose update is h -> a h + b.

    Where `a` depends on the input it is measured: |a| is then the geometric mean over all steps of the data, whose
    power of n is what is left of a state after n such steps.

    Args:
        cell: A cell with an affine operator, such as LRU, S5 or minGRU.
        x: Its inputs (..., T, D); not needed where `a` is constant.

    Returns:
        (N,), from 1; infinite where |a| is 1.

    Raises:
        ValueError: The cell has no time constants, or data are needed.
    """
    name = type(cell).__name__
    found = jnp.zeros((1, cell.features)) if x is None else x
    if not isinstance(cell, ScanCell):
        raise ValueError(f"{name} has no time constants: its update is no scan; cells with an affine update have them")
    op = jax.eval_shape(cell.operator, found)
    if op.says("holds"):
        raise ValueError(f"{name} has no time constants: it holds or writes; `write_statistics` has its hold times")
    if not op.says("decay"):
        raise ValueError(f"{name} has no time constants: its operator {type(op).__name__} does not say its decay")
    if x is None and jax.eval_shape(type(op).decay, op).ndim > 1:
        raise ValueError(f"the time constants of {name} depend on its input; give x, (..., T, {cell.features})")
    if found.size == 0:
        raise ValueError(f"x must have steps to measure the time constants of {name} on, got {found.shape}")
    return _time_constants(cell, found)


@compiled()
def _time_constants(cell: ScanCell, x: Array) -> Array:
    log = jnp.log(cell.operator(x).decay())
    mean = log if log.ndim == 1 else jnp.mean(log, range(log.ndim - 1))
    return 1 / (0.0 - jnp.expm1(mean))  # a difference, as -0 would make it -infinity
