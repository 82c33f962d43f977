"""DMU, the delayed memory unit."""

from __future__ import annotations

import operator

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from mru.cells._base import as_rngs
from mru.cells._linear import linear
from mru.cells._recurrent import RecurrentCell


class DMU(RecurrentCell, name="dmu"):
    """A tanh RNN with a delay line: a gate spreads each candidate over this step and the n - 1 to come.

    c_t = tanh(W x_t + U h_{t-1} + b), d_t = softmax(W_d x_t + U_d h_{t-1} + b_d) over the n delays,
    l_t[j] = l_{t-1}[j + 1] + d_t[j] c_t with nothing beyond the end of the line, h_t = l_t[0], y = W_o h + b_o.

    The state is the line l, (n, N): what is due now and in each of the next n - 1 steps. The source describes the delay
    line and the gate; these equations are our reading of it. U and U_d start orthogonal: our choice.

    Source: Sun et al. 2023, arXiv 2310.14982.
    """

    def __init__(
        self,
        features: int,
        state_size: int,
        *,
        delays: int = 8,
        method: str = "auto",
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs | int,
    ):
        """Initialise.

        Args:
            features: D.
            state_size: N.
            delays: n, at least 1.
            method: "auto" or "sequential"; see `RecurrentCell`.
            dtype: Dtype of the matrix products; that of the inputs and parameters, promoted, if None.
            rngs: Source of the initial parameters, or a seed.
        """
        super().__init__(features, state_size, method=method)
        if method == "newton":
            raise ValueError("DMU moves its state along a line, for which method 'newton' is no use: use 'sequential'")
        if not hasattr(delays, "__index__") or operator.index(delays) < 1:
            raise ValueError(f"delays must be an integer of at least 1, got {delays!r}")
        rngs = as_rngs(rngs)
        self.delays = operator.index(delays)
        start = nnx.initializers.orthogonal()
        self.input = linear(features, state_size + self.delays, dtype=dtype, rngs=rngs)
        self.recurrent = linear(
            state_size, state_size + self.delays, use_bias=False, kernel_init=start, dtype=dtype, rngs=rngs
        )
        self.out = linear(state_size, features, dtype=dtype, rngs=rngs)

    def initial_state(self, batch_shape: tuple[int, ...] = ()) -> Array:
        """An empty line, zeros (*batch_shape, n, N)."""
        return jnp.zeros((*batch_shape, self.delays, self.state_size), jnp.float32)

    def prepare(self, x: Array) -> Array:
        """W x + b and W_d x + b_d, (..., N + n)."""
        return self.input(x)

    def update(self, x: Array, h: Array) -> Array:
        """See the class."""
        candidate, gate = jnp.split(x + self.recurrent(h[..., 0, :]), [self.state_size], -1)
        moved = jnp.concatenate([h[..., 1:, :], jnp.zeros_like(h[..., :1, :])], -2)
        return moved + jax.nn.softmax(gate)[..., None] * jnp.tanh(candidate)[..., None, :]

    def readout(self, h: Array, x: Array) -> Array:
        """W_o h + b_o."""
        return self.out(h[..., 0, :])
