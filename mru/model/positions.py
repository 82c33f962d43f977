"""Sinusoidal positions: what tells a model when something was written."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike


def sinusoidal_positions(position: Array, channels: int, dtype: DTypeLike = jnp.float32) -> Array:
    """Sines and cosines of the position at `channels / 2` frequencies falling geometrically from 1 to 1e-4.

    Args:
        position: Integer (..., T), or (...) for a single step.
        channels: An even number.
        dtype: Dtype of the angles and of the result, at least float32.

    Returns:
        The shape of `position` + (channels,).
    """
    half = channels // 2
    exponent = jnp.arange(half, dtype=dtype) / max(half - 1, 1)
    frequency = jnp.exp(-jnp.log(jnp.asarray(1e4, dtype)) * exponent)
    angle = position[..., None].astype(dtype) * frequency
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], -1)
