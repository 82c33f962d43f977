"""What MiRU-1 and MiRU-2 share: all but the factor of the state inside the candidate."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from mru.cells._linear import linear
from mru.cells._recurrent import RecurrentCell


class Minion(RecurrentCell):
    """h_t = lambda h_{t-1} + (1 - lambda) tanh(W x + U (r * h_{t-1}) + b), with r given by the subclass."""

    alignable = True

    def __init__(
        self,
        features: int,
        state_size: int,
        *,
        gates: int,
        update_coefficient: float,
        method: str,
        dtype: DTypeLike | None,
        rngs: nnx.Rngs,
    ):
        super().__init__(features, state_size, method=method)
        coefficient("update_coefficient", update_coefficient)
        self.update_coefficient = update_coefficient
        self.input = linear(features, (1 + gates) * state_size, dtype=dtype, rngs=rngs)
        self.recurrent = square(state_size, dtype, rngs)
        self.out = linear(state_size, features, dtype=dtype, rngs=rngs)

    def prepare(self, x: Array) -> Array:
        """W x + b, and what gates get of the input."""
        return self.input(x)

    def mixed(self, u: Array, factor: Array | float, h: Array) -> Array:
        """The state after a step, given W x + b and r."""
        kept = self.update_coefficient
        return kept * h + (1 - kept) * jnp.tanh(u + self.recurrent(factor * h))

    def bound(self, steps: int) -> float:
        """A mean with a tanh."""
        return 1.0

    def readout(self, h: Array, x: Array) -> Array:
        """W_o h + b_o."""
        return self.out(h)


def square(size: int, dtype: DTypeLike | None, rngs: nnx.Rngs) -> nnx.Linear:
    """A recurrent matrix, orthogonal at the start."""
    start = nnx.initializers.orthogonal()
    return linear(size, size, use_bias=False, kernel_init=start, dtype=dtype, rngs=rngs)


def coefficient(name: str, value: float) -> None:
    """Refuse what is not in [0, 1].

    Raises:
        ValueError: It is not.
    """
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {value!r}")
