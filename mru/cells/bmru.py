"""BMRU, the bistable memory recurrent unit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from mru.cells._base import Ramp, Scheduled, as_rngs
from mru.cells._linear import linear
from mru.cells._scan import ScanCell
from mru.operators import Operator, Relay


class BMRU(ScanCell, name="bmru"):
    """c = W_c x + b_c, beta = |W_b x + b_b|, z = H(|c| - beta), h_t = sgn(c) if z else h_{t-1}, y = W_o(alpha h) + b_o.

    A band of inputs |c| < beta holds; outside it the unit jumps to sgn(c): a non-ideal relay with two states, each of
    which it keeps bit for bit for any number of steps. For training `epsilon` leaks the state through a write,
    h_t = z (sgn(c) + epsilon h_{t-1}) + (1 - z) h_{t-1}, since every write otherwise cuts the gradient through time; a
    schedule takes it from 1 to 0, where the cell is an exact `Latch`.

    Source: De Geeter, Lambrechts, Ernst, Drion 2026, arXiv 2601.09495. The paper's own schedule is not known to us.
    """

    def __init__(
        self,
        features: int,
        state_size: int,
        *,
        learn_initial_state: bool = True,
        method: str = "auto",
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs | int,
    ):
        """Initialise.

        Args:
            features: D.
            state_size: N.
            learn_initial_state: Learn it, drawn from {-1, +1}, instead of starting at zero.
            method: Method of `mru.scan`.
            dtype: Dtype of the matrix products; that of the inputs and parameters, promoted, if None.
            rngs: Source of the initial parameters, or a seed.
        """
        rngs = as_rngs(rngs)
        self._set_sizes(features, state_size)  # checks them
        up = jax.random.bernoulli(rngs.params(), jnp.float32(0.5), (state_size,))
        start = jnp.where(up, jnp.float32(1), jnp.float32(-1))
        super().__init__(features, state_size, learn_initial_state=learn_initial_state, start=start, method=method)
        self.candidate = linear(features, state_size, dtype=dtype, rngs=rngs)
        self.threshold = linear(features, state_size, dtype=dtype, bias_init=nnx.initializers.ones, rngs=rngs)
        self.alpha = nnx.Param(jnp.ones(state_size, jnp.float32))
        self.out = linear(state_size, features, dtype=dtype, rngs=rngs)
        self.epsilon = Scheduled(0.0, ramp=Ramp(start=1.0, end=0.0, begin=0.2, finish=0.6))
        self.width = Scheduled(1.0)

    def operator(self, x: Array) -> Operator:
        """The relay and its leak."""
        return Relay(self.candidate(x), self.threshold(x), self.epsilon[...], self.width[...])

    def readout(self, h: Array, x: Array) -> Array:
        """W_o (alpha h) + b_o."""
        return self.out(h, self.alpha[...])
