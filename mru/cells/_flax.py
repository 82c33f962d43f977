"""Flax's own recurrent cells behind our interface."""

from __future__ import annotations

from typing import Any

from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from mru.cells._base import as_rngs
from mru.cells._linear import linear, product_dtype
from mru.cells._recurrent import RecurrentCell
from mru.operators.base import State


class FlaxCell(RecurrentCell):
    """A cell of `flax.nnx` with a linear readout, y = W_o h + b_o.

    It computes as Flax does: in `dtype`, gates included, or where that is None in the dtype of inputs and parameters.
    The state between two steps is float32. Its Jacobian is dense: with `method="newton"` the diagonal of it is taken.
    """

    def __init__(
        self,
        kind: type[Any],
        features: int,
        state_size: int,
        *,
        method: str,
        dtype: DTypeLike | None,
        rngs: nnx.Rngs | int,
    ):
        super().__init__(features, state_size, method=method)
        rngs = as_rngs(rngs)
        self.cell = kind(features, state_size, dtype=product_dtype(dtype), rngs=rngs)
        self.out = linear(state_size, features, dtype=dtype, rngs=rngs)

    def update(self, x: Array, h: State) -> State:
        """The state that Flax's cell goes to."""
        return self.cell(h, x)[0]

    def readout(self, h: Any, x: Array) -> Array:
        """W_o h + b_o."""
        return self.out(h)
