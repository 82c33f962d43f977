"""What the head of a model reads, of the features of all steps: their mean, the last of them, or each one."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from mru.model.segments import Segments


def mean(x: Array, total: Array, segments: Segments) -> tuple[Array, Array]:
    """The mean over the real steps of the last sequence, those of earlier chunks included.

    Args:
        x: Features (..., T, D), at least float32, as they are summed in their own dtype.
        total: The sum over the steps of earlier chunks (..., D).
        segments: Where sequences start and end.

    Returns:
        What the head reads, (..., D), and the sum to carry on.
    """
    carried = (segments.first < 0)[..., None]
    total = jnp.where(carried, total, 0) + jnp.where(segments.in_last[..., None], x, 0).sum(-2)
    return total / segments.length_of_last[..., None], total


def last(x: Array, total: Array, segments: Segments) -> tuple[Array, Array]:
    """The last real step, (..., D)."""
    return segments.last_real(x), total


def none(x: Array, total: Array, segments: Segments) -> tuple[Array, Array]:
    """Every step, (..., T, D)."""
    return x, total


POOLINGS: dict[str, Callable[[Array, Array, Segments], tuple[Array, Array]]] = {
    "mean": mean,
    "last": last,
    "none": none,
}
