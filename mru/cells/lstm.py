"""The LSTM of Flax."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from mru.cells._flax import FlaxCell


class LSTM(FlaxCell, name="lstm"):
    """c_t = f * c_{t-1} + i * g, h_t = o * tanh(c_t), y = W_o h + b_o: `nnx.OptimizedLSTMCell`; the state is (c, h).

    i, f, o = sigma(W x + b + U h_{t-1}) and g = tanh(W x + b + U h_{t-1}), each with its own W, b and U.

    Source: Hochreiter, Schmidhuber 1997, doi 10.1162/neco.1997.9.8.1735.
    """

    def __init__(
        self,
        features: int,
        state_size: int,
        *,
        method: str = "auto",
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs | int,
    ):
        """Initialise.

        Args:
            features: D.
            state_size: N.
            method: "auto", "sequential" or "newton"; see `RecurrentCell`.
            dtype: Dtype of the computation; that of the inputs and parameters, promoted, if None.
            rngs: Source of the initial parameters, or a seed.
        """
        super().__init__(nnx.OptimizedLSTMCell, features, state_size, method=method, dtype=dtype, rngs=rngs)

    def initial_state(self, batch_shape: tuple[int, ...] = ()) -> tuple[Array, Array]:
        """Zeros (*batch_shape, N), twice."""
        shape = (*batch_shape, self.state_size)
        return jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.float32)

    def readout(self, h: Any, x: Array) -> Array:
        """W_o h + b_o."""
        return self.out(h[1])
