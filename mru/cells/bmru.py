"""BMRU, the bistable memory recurrent unit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from mru.cells.base import Ramp, ScanCell, Scheduled, linear
from mru.operators import Relay


class BMRU(ScanCell, name="bmru"):
    """c = W_c x + b_c, beta = |W_b x + b_b|, z = H(|c| - beta), h_t = sgn(c) if z else h_{t-1}, y = W_o(alpha h) + b_o.

    A band of inputs |c| < beta holds; outside it the unit jumps to sgn(c): a non-ideal relay with two states, each of
    which it keeps bit for bit for any number of steps. For training `epsilon` leaks the state through a write,
    h_t = z (sgn(c) + epsilon h_{t-1}) + (1 - z) h_{t-1}, since every write otherwise cuts the gradient through time; a
    schedule takes it from 1 to 0, where the cell is an exact `Latch`.

    Source: De Geeter, Lambrechts, Ernst, Drion 2026, arXiv 2601.09495. The paper's own schedule is not known to us.
    """

    def __init__(self, features, state_size, *, learn_initial_state=True, method="auto", dtype=None, rngs):
        """Initialise.

        Args:
            features: D.
            state_size: N.
            learn_initial_state: Learn it, drawn from {-1, +1}, instead of starting at zero.
            method: Method of `mru.scan`.
            dtype: Dtype of the matrix products; that of the inputs and parameters, promoted, if None.
            rngs: Source of the initial parameters.
        """
        start = jax.random.rademacher(rngs.params(), (state_size,), jnp.float32)
        super().__init__(features, state_size, learn_initial_state=learn_initial_state, start=start, method=method)
        self.candidate = linear(features, state_size, dtype=dtype, rngs=rngs)
        self.threshold = linear(features, state_size, dtype=dtype, bias_init=nnx.initializers.ones, rngs=rngs)
        self.alpha = nnx.Param(jnp.ones(state_size))
        self.out = linear(state_size, features, dtype=dtype, rngs=rngs)
        self.epsilon = Scheduled(jnp.zeros(()), ramp=Ramp(1.0, 0.0, 0.2, 0.6))
        self.width = Scheduled(jnp.ones(()))

    def operator(self, x):
        """The relay and its leak."""
        return Relay(self.candidate(x), self.threshold(x), self.epsilon[...], self.width[...])

    def readout(self, h, x):
        """W_o (alpha h) + b_o."""
        return self.out(self.alpha[...] * h)
