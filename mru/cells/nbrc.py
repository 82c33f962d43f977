"""nBRC, the neuromodulated bistable recurrent cell."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from mru.cells._base import as_rngs
from mru.cells._brc import Bistable
from mru.cells._linear import linear


class NBRC(Bistable, name="nbrc"):
    """BRC whose gates see all channels: a = 1 + tanh(U_a x + W_a h_{t-1}), c = sigma(U_c x + W_c h_{t-1}).

    h_t = c * h_{t-1} + (1 - c) * tanh(U x + a * h_{t-1}), y = W_o h + b_o. W_a and W_c are full matrices. They start
    orthogonal, as recurrent matrices of Flax do: our choice, as our source does not say. Its Jacobian is dense: with
    `method="newton"` the diagonal of it is taken.

    Source: Vecoven, Ernst, Drion 2021, arXiv 2006.05252.
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
            dtype: Dtype of the matrix products; that of the inputs and parameters, promoted, if None.
            rngs: Source of the initial parameters, or a seed.
        """
        rngs = as_rngs(rngs)
        super().__init__(features, state_size, method=method, dtype=dtype, rngs=rngs)
        self.recurrent = linear(
            state_size,
            2 * state_size,
            use_bias=False,
            kernel_init=nnx.initializers.orthogonal(),
            dtype=dtype,
            rngs=rngs,
        )

    def feedback(self, h: Array) -> tuple[Array, Array]:
        """W_a h and W_c h."""
        to_a, to_c = jnp.split(self.recurrent(h), 2, -1)
        return to_a, to_c
