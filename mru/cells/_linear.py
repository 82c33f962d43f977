"""Matrix products of cells: of low precision if asked for, accumulated in at least float32.

A gate compares what comes out with a threshold: rounding it to bfloat16 would make the parallel form and the step form
of a cell disagree on which side it falls.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike


def product_dtype(dtype: DTypeLike | None) -> jnp.dtype | None:
    """The `dtype` that a cell is given for its matrix products; None for that of inputs and parameters, promoted.

    Raises:
        ValueError: It is no real floating-point dtype.
    """
    if dtype is None:
        return None
    try:
        found = jnp.dtype(dtype)
    except TypeError:
        found = None
    if found is None or not jnp.issubdtype(found, jnp.floating):
        raise ValueError(f"dtype must be floating point, such as 'float32' or 'bfloat16', or None, got {dtype!r}")
    return found


def linear(inputs: int, outputs: int, *, dtype: DTypeLike | None, rngs: nnx.Rngs, **kwargs: Any) -> nnx.Linear:
    """An `nnx.Linear` that multiplies in `dtype` and accumulates in at least float32."""
    dtype = product_dtype(dtype)
    accumulate = None if dtype is None else jnp.promote_types(dtype, jnp.float32)
    return nnx.Linear(inputs, outputs, dtype=dtype, preferred_element_type=accumulate, rngs=rngs, **kwargs)


def complex_in(x: Array, b: Array, dtype: jnp.dtype | None) -> Array:
    """B x, complex (..., N), for a real x (..., D) and B stored as (D, 2, N), in one product."""
    if dtype is not None:
        x, b = x.astype(dtype), b.astype(dtype)
    u = jnp.einsum("...d,dpn->...pn", x, b, preferred_element_type=jnp.promote_types(x.dtype, jnp.float32))
    return jax.lax.complex(u[..., 0, :], u[..., 1, :])


def real_out(h: Array, c: Array, dtype: jnp.dtype | None) -> Array:
    """Re(C h), (..., D), for a complex h (..., N) and C stored as (2, N, D)."""
    parts = jnp.stack([h.real, -h.imag], -2)
    if dtype is not None:
        parts, c = parts.astype(dtype), c.astype(dtype)
    return jnp.einsum("...pn,pnd->...d", parts, c, preferred_element_type=jnp.promote_types(parts.dtype, jnp.float32))
