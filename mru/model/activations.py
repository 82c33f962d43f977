"""What may follow the cells of a block: GELU, with or without a gate, as S5 and LRU have it."""

from __future__ import annotations

import functools

import jax
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from mru.cells._linear import product

ACTIVATIONS = ("gelu", "half_glu1", "half_glu2", "full_glu")


class Activation(nnx.Module):
    """One of four functions of the summed outputs y of a block's cells, with u = gelu(y) and s the logistic function.

        gelu        u
        half_glu1   u * s(W u + b)
        half_glu2   y * s(W u + b)
        full_glu    (V u + c) * s(W u + b)

    The names are those of the code of S5 (arXiv 2208.04933), whose default is half_glu1. LRU (arXiv 2303.06349) has
    full_glu. As in that code, gelu is the tanh form, and where there is a gate, dropout is applied to u, wherever it
    stands.
    """

    def __init__(self, kind: str, width: int, *, dropout: nnx.Dropout, dtype: DTypeLike | None, rngs: nnx.Rngs):
        """Initialise.

        Args:
            kind: One of the four names.
            width: D.
            dropout: That on u, where there is a gate.
            dtype: Dtype of the computation.
            rngs: Source of the initial parameters.

        Raises:
            ValueError: There is none of this name.
        """
        if kind not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, or None, got {kind!r}")
        self.kind = kind
        layer = functools.partial(nnx.Linear, width, width, dtype=dtype, dot_general=product, rngs=rngs)
        gate, value = None if kind == "gelu" else layer(), layer() if kind == "full_glu" else None
        self.gate, self.value = nnx.data(gate), nnx.data(value)
        self.dropout = dropout

    def __call__(self, y: Array, rngs: nnx.Rngs | None = None) -> Array:
        """Map (..., D) to (..., D); with `rngs` (stream "dropout") there is dropout."""
        u = nnx.gelu(y)
        if self.gate is None:
            return u
        u = self.dropout(u, deterministic=rngs is None, rngs=rngs)
        gated = y if self.kind == "half_glu2" else u if self.value is None else self.value(u)
        return gated * jax.nn.sigmoid(self.gate(u))
