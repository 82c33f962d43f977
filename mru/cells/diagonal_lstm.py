"""An LSTM whose recurrent weights are diagonal."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from mru.cells._base import StateParam, as_rngs
from mru.cells._linear import linear
from mru.cells._recurrent import RecurrentCell

Pair = tuple[Array, Array]


class DiagonalLSTM(RecurrentCell, name="diagonal_lstm"):
    """c_t = f * c_{t-1} + i * g, h_t = o * tanh(c_t), y = W_o h + b_o, each channel by itself; the state is (c, h).

    i, f, o = sigma(W x + b + u * h_{t-1}) and g = tanh(W x + b + u * h_{t-1}), each with its own W, b and u: an LSTM of
    diagonal recurrence. The weights u start uniform on [-1, 1], and b of f at 1, which holds more than it forgets from
    the start: our choices, as our sources do not say.

    The Jacobian of a step has a 2x2 block a channel: `method="newton"` solves it in parallel, "parallel_backward" its
    gradients.

    Sources: Hochreiter, Schmidhuber 1997, doi 10.1162/neco.1997.9.8.1735; of the diagonal weights, ParaRNN,
    arXiv 2510.21450.
    """

    jacobian = "pairwise"

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
        self.input = linear(features, 4 * state_size, bias_init=_hold, dtype=dtype, rngs=rngs)
        self.recurrent = StateParam(jax.random.uniform(rngs.params(), (4, state_size), jnp.float32, minval=-1))
        self.out = linear(state_size, features, dtype=dtype, rngs=rngs)

    def initial_state(self, batch_shape: tuple[int, ...] = ()) -> Pair:
        """Zeros (*batch_shape, N), twice."""
        shape = (*batch_shape, self.state_size)
        return jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.float32)

    def prepare(self, x: Array) -> Array:
        """What i, f, g and o get of the input, (..., 4 N)."""
        return self.input(x)

    def update(self, x: Array, h: Pair) -> Pair:
        """See the class."""
        c, hidden = h
        parts = zip(jnp.split(x, 4, -1), self.recurrent[...], strict=True)
        i, f, g, o = (part + u * hidden for part, u in parts)
        c = nnx.sigmoid(f) * c + nnx.sigmoid(i) * jnp.tanh(g)
        return c, nnx.sigmoid(o) * jnp.tanh(c)

    def bound(self, steps: int) -> tuple[float, float]:
        """i g of each step for c; o tanh(c) for h."""
        return float(steps), 1.0

    def readout(self, h: Pair, x: Array) -> Array:
        """W_o h + b_o."""
        return self.out(h[1])


def _hold(key: Array, shape: tuple[int, ...], dtype: DTypeLike, **_: Any) -> Array:
    """The biases of i, f, g and o."""
    return jnp.repeat(jnp.array([0, 1, 0, 0], dtype), shape[0] // 4)
