"""Matrix products of cells: of low precision if asked for, accumulated in at least float32.

A gate compares what comes out with a threshold: rounding it to bfloat16 would make the parallel form and the step form
of a cell disagree on which side it falls. Nothing is decided by a derivative: those are of low precision throughout.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from mru.engine.planes import from_planes, planes

_MOST_PARTS = 128  # of the rows, each of which has a cotangent of the weights of its own until they are summed


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


def product(
    x: Array,
    y: Array,
    dimension_numbers: Any,
    precision: Any = None,
    preferred_element_type: DTypeLike | None = None,
    out_sharding: Any = None,
) -> Array:
    """`jax.lax.dot_general` of x (rows, ...) and weights y, with derivatives that are fast on GPUs.

    They are products in the dtype of x and y: JAX would take the cotangent of a wider result as it comes, and multiply
    in the wider dtype. That of the weights is a sum over all rows, which XLA cuts into parts to keep a GPU busy. It
    copies x and the cotangent with padding where its parts do not come out even; so they are given to it in parts.
    """
    return _product(x, y, dimension_numbers, precision, preferred_element_type, out_sharding)


# Not `product` itself, which layers hold: what JAX makes of a function can not be pickled.
@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4, 5))
def _product(x: Array, y: Array, dimensions: Any, precision: Any, wide: Any, sharding: Any) -> Array:
    return jax.lax.dot_general(x, y, dimensions, precision, wide, out_sharding=sharding)


@_product.defjvp
def _product_jvp(
    dimensions: Any, precision: Any, wide: Any, sharding: Any, primals: tuple[Array, Array], tangents: Any
) -> tuple[Array, Array]:
    (x, y), (dx, dy) = primals, tangents
    narrow = functools.partial(jax.lax.dot_general, precision=precision, out_sharding=sharding)
    z = _product(x, y, dimensions, precision, wide, sharding)
    (of_x, _), _ = dimensions
    # Rows of x have several axes, such as batch and time, where those that are summed come after them.
    # Where types say how rows lie over a mesh, they lie in parts already.
    in_parts = of_x[0] > 1 and sharding is None and not jax.typeof(x).sharding.mesh.explicit_axes
    of_weights = _in_parts if in_parts else narrow
    return z, (narrow(dx, y, dimensions) + of_weights(x, dy, dimensions, precision=precision)).astype(z.dtype)


def _in_parts(x: Array, y: Array, dimensions: Any, precision: Any) -> Array:
    """The product of x and weights y as one for each part of the rows of x, which transposed are summed in float32."""
    ((of_x, of_y), _), rows = dimensions, len(x)
    parts = max(n for n in range(1, _MOST_PARTS + 1) if rows % n == 0)
    split = x.reshape(parts, rows // parts, *x.shape[1:])
    every = jnp.broadcast_to(y.astype(jnp.promote_types(y.dtype, jnp.float32)), (parts, *y.shape)).astype(y.dtype)
    contracted = tuple(i + 1 for i in of_x), tuple(i + 1 for i in of_y)
    z = jax.lax.dot_general(split, every, (contracted, ((0,), (0,))), precision=precision)
    return z.reshape(rows, *z.shape[2:])


class Linear(nnx.Linear):
    """`nnx.Linear` that multiplies in its dtype, and accumulates and adds the bias in at least float32."""

    def __call__(self, x: Array, factor: Array | None = None) -> Array:
        """Map (..., D) to (..., N), with a factor (D,) on x that is multiplied into the weights, which are fewer."""
        dtype = self.dtype or jnp.promote_types(x.dtype, self.kernel[...].dtype)
        kernel = self.kernel[...]
        if factor is not None:
            wide = jnp.promote_types(dtype, kernel.dtype)
            kernel = factor.astype(wide)[:, None] * kernel.astype(wide)
        x, kernel = x.astype(dtype), kernel.astype(dtype)
        if x.ndim > 2:  # of whole sequences, XLA would join all products of x, only to copy their results apart again
            x, kernel = jax.lax.optimization_barrier((x, kernel))
        y = accumulated(x, kernel, (((x.ndim - 1,), (0,)), ((), ())), None)
        return y if self.bias is None else y + self.bias[...]


def linear(inputs: int, outputs: int, *, dtype: DTypeLike | None, rngs: nnx.Rngs, **kwargs: Any) -> Linear:
    """See `Linear`."""
    return Linear(inputs, outputs, dtype=product_dtype(dtype), rngs=rngs, **kwargs)


def accumulated(x: Array, y: Array, dimension_numbers: Any, dtype: jnp.dtype | None) -> Array:
    """A `product` in `dtype`, or in that of x and y promoted if None, accumulated in at least float32."""
    dtype = dtype or jnp.promote_types(x.dtype, y.dtype)
    return product(x.astype(dtype), y.astype(dtype), dimension_numbers, None, jnp.promote_types(dtype, jnp.float32))


def complex_in(x: Array, b: Array, dtype: jnp.dtype | None) -> Array:
    """B x, complex (..., N), for a real x (..., D) and B stored as (D, 2, N), in one product."""
    return from_planes(accumulated(x, b, (((x.ndim - 1,), (0,)), ((), ())), dtype))


def real_out(h: Array, c: Array, dtype: jnp.dtype | None) -> Array:
    """Re(C h), (..., D), for a complex h (..., N) and C stored as (2, N, D)."""
    # The sign goes to the weights, which are fewer.
    parts = planes(h).reshape(*h.shape[:-1], 2 * h.shape[-1])
    weights = (c * jnp.array([[[1]], [[-1]]], c.dtype)).reshape(parts.shape[-1], c.shape[-1])
    return accumulated(parts, weights, (((parts.ndim - 1,), (0,)), ((), ())), dtype)
