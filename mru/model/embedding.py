"""The embedding of tokens, with a gradient that is fast on accelerators.

The gradient of a table's rows sums, for each token, the cotangents of all steps that have it. JAX does so by a scatter,
on GPUs by atomic additions that wait for each other: of a small vocabulary, where many steps share a row, that took
most of a training step. A product with the one-hot tokens sums without waiting. CPUs add one after the other anyway.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

# Beyond this the one-hot tokens take more time and memory than the scatter, of which fewer additions meet.
_LARGEST_PRODUCT = 1024


class Embedding(nnx.Embed):
    """`nnx.Embed`, of any vocabulary, with the gradient of `rows`."""

    def __call__(self, tokens: Array) -> Array:  # type: ignore[override]
        """The rows (..., D) of int tokens (...)."""
        (table,) = self.promote_dtype((self.embedding[...],), dtype=self.dtype, inexact=False)
        return rows(table, tokens)


@jax.custom_jvp
def rows(table: Array, tokens: Array) -> Array:
    """The rows (..., D) of a table (V, D) that int tokens (...) name; NaN behind its end.

    It has derivatives of both modes, and of any order.
    """
    return jnp.take(table, tokens, axis=0)


@rows.defjvp
def _jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    return rows(*primals), _linear(tangents[0], primals[1])


def _linear(table: Array, tokens: Array) -> Array:
    """`rows` in the form whose transpose is fast."""

    def taken(table: Array) -> Array:
        return jnp.take(table, tokens, axis=0, mode="fill", fill_value=0)

    def product(table: Array) -> Array:
        one_hot = jax.nn.one_hot(tokens, len(table), dtype=table.dtype)
        return jnp.matmul(one_hot, table, precision=jax.lax.Precision.HIGHEST)

    if len(table) > _LARGEST_PRODUCT:
        return taken(table)
    return jax.lax.platform_dependent(table, cpu=taken, default=product)
