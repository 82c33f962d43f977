"""Weights of few bits, as a crossbar of memristors holds them: `mru.quantized`."""

from __future__ import annotations

import math
import operator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

Weights = TypeVar("Weights", bound=nnx.Module | nnx.State[Any, Any])

# Of 2 bits, the levels are -1, 0 and 1; more bits than float32 has are no quantisation.
FEWEST, MOST = 2, 24


def quantized(weights: Weights, bits: int, *, noise: float = 0.0, key: Array | None = None) -> Weights:
    """A module, or its parameters, with every matrix rounded to a few bits, and the noise of writing it.

    A matrix W becomes step * round(W / step) + noise * r * N(0, 1), where r = max |W| and step = r / (2^(bits-1) - 1):
    at most 2^bits - 1 equal steps from -r to r, zero among them. Complex matrices are rounded in both parts, with r of
    the larger. The derivative passes straight through: it is that of the matrix as it was.

    A matrix is any parameter of two or more axes. Biases, scales and other vectors stay as they are, as in hardware
    that keeps them beside the crossbar. A memristor is written with a normal error, in proportion to the range of the
    crossbar: our reading of programming noise.

    >>> import jax, mru
    >>> cell = mru.cells.get("gru")(4, 8, rngs=0)
    >>> coarse = mru.quantized(cell, bits=4, noise=0.02, key=jax.random.key(0))

    Args:
        weights: Any `nnx.Module`, such as a cell or a model, or an `nnx.State` of parameters. It is not changed.
        bits: From 2 to 24.
        noise: Standard deviation of the noise, relative to the largest number of the matrix.
        key: Key of the noise; not needed where that is 0.

    Returns:
        What was given, with other numbers in it.

    Raises:
        ValueError: `bits` or `noise` is out of its range, or noise is asked for without a key.
    """
    if not hasattr(bits, "__index__") or not FEWEST <= operator.index(bits) <= MOST:
        raise ValueError(f"bits must be an integer from {FEWEST} to {MOST}, got {bits!r}")
    if not 0 <= noise < math.inf:
        raise ValueError(f"noise must be at least 0 and finite, got {noise!r}")
    if noise and key is None:
        raise ValueError(f"noise = {noise!r} needs a key, such as jax.random.key(0)")
    if isinstance(weights, nnx.Module):
        graphdef, params, rest = nnx.split(weights, nnx.Param, ...)  # type: ignore[misc]
        return nnx.merge(graphdef, quantized(params, bits, noise=noise, key=key), rest)
    leaves, tree = jax.tree.flatten(weights)
    keys = [None] * len(leaves) if key is None or not noise else jax.random.split(key, len(leaves))
    return jax.tree.unflatten(tree, [_written(w, bits, noise, k) for w, k in zip(leaves, keys, strict=True)])


def _written(w: Array, bits: int, noise: float, key: Array | None) -> Array:
    if w.ndim < 2:
        return w
    parts = jnp.stack([w.real, w.imag]) if jnp.iscomplexobj(w) else w
    largest = jnp.max(jnp.abs(parts))
    step = largest / (2 ** (bits - 1) - 1)
    held = step * jnp.round(parts / jnp.where(step > 0, step, 1))
    if key is not None:
        held = held + noise * largest * jax.random.normal(key, parts.shape, parts.dtype)
    return _straight_through(w, jax.lax.complex(held[0], held[1]) if jnp.iscomplexobj(w) else held)


@jax.custom_jvp
def _straight_through(w: Array, held: Array) -> Array:
    """`held`, with the derivative of `w`. Not w + stop_gradient(held - w), which rounds once more."""
    return held


_straight_through.defjvps(lambda tangent, value, w, held: tangent, None)
