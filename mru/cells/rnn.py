"""The tanh RNN of Flax."""

from __future__ import annotations

from flax import nnx
from jax.typing import DTypeLike

from mru.cells._flax import FlaxCell


class RNN(FlaxCell, name="rnn"):
    """h_t = tanh(W x + b + U h_{t-1}), y = W_o h + b_o: `nnx.SimpleCell`, U orthogonal at the start.

    Source: Elman 1990, doi 10.1207/s15516709cog1402_1.
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
        super().__init__(nnx.SimpleCell, features, state_size, method=method, dtype=dtype, rngs=rngs)
