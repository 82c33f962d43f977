"""The embedding of tokens, with a gradient that is fast on GPUs."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax import Array


class Embedding(nnx.Embed):
    """`nnx.Embed`, which reads the rows first and casts them to its dtype then.

    The gradient of the table sums, for each token, the cotangents of all steps that have it. In this order they are
    summed in the dtype of the table, float32, by additions that a GPU makes in its memory. It has none of bfloat16
    there, and a row that many steps share would be read, added to and written back by one step after the other.
    """

    def __call__(self, tokens: Array) -> Array:  # type: ignore[override]
        """The rows (..., D) of int tokens (...); NaN for a token behind the end of the vocabulary."""
        return jnp.take(self.embedding[...], tokens, axis=0).astype(self.dtype)
