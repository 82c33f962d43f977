"""MiRU-1, the minion recurrent unit with a reset gate."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from mru.cells._base import as_rngs
from mru.cells._miru import Minion, square


class MiRU1(Minion, name="miru1"):
    """h_t = lambda h_{t-1} + (1 - lambda) c, c = tanh(W x + U (r * h_{t-1}) + b), y = W_o h + b_o: a GRU of one gate.

    r = sigma(W_r x + U_r h_{t-1} + b_r), as a GRU has it: our reading, as our source gives the gate no equation. The
    update coefficient lambda is one fixed number. U and U_r start orthogonal: our choice. The Jacobian is dense.

    Source: Zyarah, Kudithipudi 2025, arXiv 2503.06175.
    """

    def __init__(
        self,
        features: int,
        state_size: int,
        *,
        update_coefficient: float = 0.5,
        method: str = "auto",
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs | int,
    ):
        """Initialise.

        Args:
            features: D.
            state_size: N.
            update_coefficient: lambda, in [0, 1].
            method: "auto", "sequential" or "newton"; see `RecurrentCell`.
            dtype: Dtype of the matrix products; that of the inputs and parameters, promoted, if None.
            rngs: Source of the initial parameters, or a seed.
        """
        rngs = as_rngs(rngs)
        super().__init__(
            features,
            state_size,
            gates=1,
            update_coefficient=update_coefficient,
            method=method,
            dtype=dtype,
            rngs=rngs,
        )
        self.gate = square(state_size, dtype, rngs)

    def update(self, x: Array, h: Array) -> Array:
        """See the class."""
        u, r = jnp.split(x, 2, -1)
        return self.mixed(u, nnx.sigmoid(r + self.gate(h)), h)
