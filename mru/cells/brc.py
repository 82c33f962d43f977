"""BRC, the bistable recurrent cell."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from mru.cells._base import StateParam, as_rngs
from mru.cells._brc import Bistable


class BRC(Bistable, name="brc"):
    """h_t = c * h_{t-1} + (1 - c) * tanh(U x + a * h_{t-1}), y = W_o h + b_o, each channel by itself.

    The gates are a = 1 + tanh(U_a x + w_a * h_{t-1}) in (0, 2) and c = sigma(U_c x + w_c * h_{t-1}). A channel is
    bistable while a > 1. w_a and w_c start at 1. Each of the three products of the input has a bias, from zero: our
    reading.

    Its Jacobian is diagonal: `method="newton"` solves it in parallel, "parallel_backward" its gradients.

    Source: Vecoven, Ernst, Drion 2021, arXiv 2006.05252.
    """

    jacobian = "diagonal"

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
            method: "auto", "sequential", "newton" or "parallel_backward"; see `RecurrentCell`.
            dtype: Dtype of the matrix products; that of the inputs and parameters, promoted, if None.
            rngs: Source of the initial parameters, or a seed.
        """
        super().__init__(features, state_size, method=method, dtype=dtype, rngs=as_rngs(rngs))
        self.gain = StateParam(jnp.ones(state_size, jnp.float32))
        self.gate = StateParam(jnp.ones(state_size, jnp.float32))

    def feedback(self, h: Array) -> tuple[Array, Array]:
        """w_a * h and w_c * h."""
        return self.gain[...] * h, self.gate[...] * h
