"""MiRU-2, the minion recurrent unit without gates."""

from __future__ import annotations

from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from mru.cells._base import as_rngs
from mru.cells._miru import Minion, coefficient


class MiRU2(Minion, name="miru2"):
    """h_t = lambda h_{t-1} + (1 - lambda) c, c = tanh(W x + U (beta h_{t-1}) + b), y = W_o h + b_o: the cell of M2RU.

    lambda and beta are two fixed numbers in place of a GRU's gates. U starts orthogonal: our choice. The
    Jacobian is dense.

    Source: Zyarah, Kudithipudi 2025, arXiv 2503.06175; of M2RU, arXiv 2512.17299.
    """

    def __init__(
        self,
        features: int,
        state_size: int,
        *,
        update_coefficient: float = 0.5,
        reset_coefficient: float = 0.5,
        method: str = "auto",
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs | int,
    ):
        """Initialise.

        Args:
            features: D.
            state_size: N.
            update_coefficient: lambda, in [0, 1].
            reset_coefficient: beta, in [0, 1].
            method: "auto", "sequential" or "newton"; see `RecurrentCell`.
            dtype: Dtype of the matrix products; that of the inputs and parameters, promoted, if None.
            rngs: Source of the initial parameters, or a seed.
        """
        coefficient("reset_coefficient", reset_coefficient)
        super().__init__(
            features,
            state_size,
            gates=0,
            update_coefficient=update_coefficient,
            method=method,
            dtype=dtype,
            rngs=as_rngs(rngs),
        )
        self.reset_coefficient = reset_coefficient

    def update(self, x: Array, h: Array) -> Array:
        """See the class."""
        return self.mixed(x, self.reset_coefficient, h)
