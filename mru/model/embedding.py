"""The embedding of tokens, with a gradient that is fast on GPUs."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from mru.cells._linear import in_parts
from mru.engine.kernel import on_cuda

_MOST_IN_PRODUCT = 512  # tokens of a vocabulary: of more the one-hot vectors are more than additions cost


class Embedding(nnx.Embed):
    """`nnx.Embed`, which reads the rows first and casts them to its dtype then.

    The gradient of the table sums, for each token, the cotangents of all steps that have it. In this order they are
    summed in the dtype of the table, float32, by additions that a GPU makes in its memory. It has none of bfloat16
    there, and a row that many steps share would be read, added to and written back by one step after the other.

    In a dtype of 16 bits, with a small vocabulary, a GPU is faster at a product with one-hot vectors.
    """

    def __call__(self, tokens: Array) -> Array:  # type: ignore[override]
        """The rows (..., D) of int tokens (...); NaN for a token behind the end of the vocabulary."""
        table, dtype = self.embedding[...], self.dtype
        narrow = jnp.dtype(dtype).itemsize == 2 and jnp.ndim(tokens) > 1
        if narrow and len(table) <= _MOST_IN_PRODUCT and on_cuda():
            return _rows(table, jnp.asarray(tokens), dtype)
        return _read(table, tokens, dtype)


def _read(table: Array, tokens: Array, dtype: DTypeLike | None) -> Array:
    return jnp.take(table, tokens, axis=0).astype(dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _rows(table: Array, tokens: Array, dtype: DTypeLike) -> Array:
    """The rows of tokens (B, ..., T), with a derivative that is a product in `dtype`."""
    return _read(table, tokens, dtype)


@_rows.defjvp
def _rows_jvp(dtype: DTypeLike, primals: tuple[Array, Array], tangents: tuple[Array, Any]) -> tuple[Array, Array]:
    (table, tokens), (of_table, _) = primals, tangents
    # As in reading, -1 is the last token; one behind the end has no derivative.
    hot = jax.nn.one_hot(jnp.where(tokens < 0, tokens + len(table), tokens), len(table), dtype=dtype)
    return _read(table, tokens, dtype), in_parts(hot, of_table, (((hot.ndim - 1,), (0,)), ((), ())), dtype=dtype)
