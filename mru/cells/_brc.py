"""What the bistable cells BRC and nBRC share: all but how the state reaches the two gates."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from mru.cells._linear import linear
from mru.cells._recurrent import RecurrentCell


class Bistable(RecurrentCell):
    """h_t = c * h_{t-1} + (1 - c) * tanh(U x + a * h_{t-1}), with a = 1 + tanh(U_a x + .) and c = sigma(U_c x + .)."""

    def __init__(self, features: int, state_size: int, *, method: str, dtype: DTypeLike | None, rngs: nnx.Rngs):
        super().__init__(features, state_size, method=method)
        self.input = linear(features, 3 * state_size, dtype=dtype, rngs=rngs)
        self.out = linear(state_size, features, dtype=dtype, rngs=rngs)

    def feedback(self, h: Array) -> tuple[Array, Array]:
        """What the state adds in the gates a and c, each (..., N)."""
        raise NotImplementedError

    def prepare(self, x: Array) -> Array:
        """U x, U_a x and U_c x, (..., 3 N)."""
        return self.input(x)

    def update(self, x: Array, h: Array) -> Array:
        """See the class."""
        u, a, c = jnp.split(x, 3, -1)
        to_a, to_c = self.feedback(h)
        a, c = 1 + jnp.tanh(a + to_a), nnx.sigmoid(c + to_c)
        return c * h + (1 - c) * jnp.tanh(u + a * h)

    def bound(self, steps: int) -> float:
        """A mean with a tanh."""
        return 1.0

    def readout(self, h: Array, x: Array) -> Array:
        """W_o h + b_o."""
        return self.out(h)
