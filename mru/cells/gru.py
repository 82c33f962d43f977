"""The GRU of Flax."""

from __future__ import annotations

from flax import nnx
from jax.typing import DTypeLike

from mru.cells._flax import FlaxCell


class GRU(FlaxCell, name="gru"):
    """h_t = (1 - z) * n + z * h_{t-1}, y = W_o h + b_o: `nnx.GRUCell`.

    r = sigma(W_r x + b_r + U_r h_{t-1}), z = sigma(W_z x + b_z + U_z h_{t-1}), n = tanh(W_n x + b_n + r * (U_n
    h_{t-1})).

    Source: Cho et al. 2014, arXiv 1406.1078.
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
        super().__init__(nnx.GRUCell, features, state_size, method=method, dtype=dtype, rngs=rngs)
