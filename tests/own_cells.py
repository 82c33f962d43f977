"""Two cells that the library does not have, whose states are more than one array: they must do all that its own do.

Importing this file registers them, as "test_lstm" and "test_attention".
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from mru.cells import RecurrentCell, State
from mru.cells._base import as_rngs
from mru.cells._linear import linear


class LSTM(RecurrentCell, name="test_lstm"):
    """i, f, o = sigma(W x + U h), g = tanh(W x + U h), c = f c + i g, h = o tanh(c), y = W_o h; the state is (h, c)."""

    def __init__(
        self,
        features: int,
        state_size: int,
        *,
        method: str = "auto",
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs | int,
    ):
        super().__init__(features, state_size)
        rngs = as_rngs(rngs)
        self.input = linear(features, 4 * state_size, dtype=dtype, rngs=rngs)
        self.recurrent = linear(state_size, 4 * state_size, dtype=dtype, use_bias=False, rngs=rngs)
        self.out = linear(state_size, features, dtype=dtype, rngs=rngs)

    def initial_state(self, batch_shape: tuple[int, ...] = ()) -> State:
        shape = (*batch_shape, self.state_size)
        return jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.float32)

    def update(self, x: Array, h: State) -> State:
        hidden, cell = h
        i, f, o, g = jnp.split(self.input(x) + self.recurrent(hidden), 4, -1)
        cell = nnx.sigmoid(f) * cell + nnx.sigmoid(i) * jnp.tanh(g)
        return nnx.sigmoid(o) * jnp.tanh(cell), cell

    def readout(self, h: State, x: Array) -> Array:
        return self.out(h[0])


class CachedAttention(RecurrentCell, name="test_attention"):
    """Attention of one head to the last `max_length` steps: a ring of keys and values, and how many were written."""

    def __init__(
        self,
        features: int,
        state_size: int,
        *,
        max_length: int = 16,
        method: str = "auto",
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs | int,
    ):
        super().__init__(features, state_size)
        rngs = as_rngs(rngs)
        self.max_length = max_length
        self.query = linear(features, state_size, dtype=dtype, rngs=rngs)
        self.key = linear(features, state_size, dtype=dtype, use_bias=False, rngs=rngs)
        self.value = linear(features, state_size, dtype=dtype, rngs=rngs)
        self.out = linear(state_size, features, dtype=dtype, rngs=rngs)

    def initial_state(self, batch_shape: tuple[int, ...] = ()) -> State:
        shape = (*batch_shape, self.max_length, self.state_size)
        keys, values = jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.float32)
        return {"keys": keys, "values": values, "count": jnp.zeros(batch_shape, jnp.int32)}

    def update(self, x: Array, h: State) -> State:
        here = (jnp.arange(self.max_length) == (h["count"] % self.max_length)[..., None])[..., None]
        keys = jnp.where(here, self.key(x)[..., None, :], h["keys"])
        values = jnp.where(here, self.value(x)[..., None, :], h["values"])
        return {"keys": keys, "values": values, "count": h["count"] + 1}

    def readout(self, h: State, x: Array) -> Array:
        scores = jnp.einsum("...n,...ln->...l", self.query(x), h["keys"]) / self.state_size**0.5
        written = jnp.arange(self.max_length) < h["count"][..., None]
        weights = jax.nn.softmax(scores, where=written)
        return self.out(jnp.einsum("...l,...ln->...n", weights, h["values"]))
