"""A GRU whose recurrent weights are diagonal."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from mru.cells._base import StateParam, as_rngs
from mru.cells._linear import linear
from mru.cells._recurrent import RecurrentCell


class DiagonalGRU(RecurrentCell, name="diagonal_gru"):
    """h_t = (1 - z) * n + z * h_{t-1}, y = W_o h + b_o, each channel by itself: a GRU of diagonal recurrence.

    r = sigma(W_r x + b_r + u_r * h_{t-1}), z = sigma(W_z x + b_z + u_z * h_{t-1}), n = tanh(W_n x + b_n + r * u_n *
    h_{t-1}): the equations of Flax's GRU. A channel is bistable where r * u_n is large enough. The weights u start
    uniform on [-1, 1]: our choice, as our sources do not say.

    Its Jacobian is diagonal: `method="newton"` solves it in parallel, "parallel_backward" its gradients.

    Sources: Cho et al. 2014, arXiv 1406.1078; of the diagonal weights, ParaRNN, arXiv 2510.21450.
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
        super().__init__(features, state_size, method=method)
        rngs = as_rngs(rngs)
        self.input = linear(features, 3 * state_size, dtype=dtype, rngs=rngs)
        self.recurrent = StateParam(jax.random.uniform(rngs.params(), (3, state_size), jnp.float32, minval=-1))
        self.out = linear(state_size, features, dtype=dtype, rngs=rngs)

    def prepare(self, x: Array) -> Array:
        """What r, z and n get of the input, (..., 3 N)."""
        return self.input(x)

    def update(self, x: Array, h: Array) -> Array:
        """See the class."""
        r, z, n = jnp.split(x, 3, -1)
        u_r, u_z, u_n = self.recurrent[...]
        r, z = nnx.sigmoid(r + u_r * h), nnx.sigmoid(z + u_z * h)
        return (1 - z) * jnp.tanh(n + r * u_n * h) + z * h

    def bound(self, steps: int) -> float:
        """A mean with a tanh."""
        return 1.0

    def readout(self, h: Array, x: Array) -> Array:
        """W_o h + b_o."""
        return self.out(h)
