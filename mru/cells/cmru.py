"""CMRU, the cumulative memory recurrent unit."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from mru.cells._base import Scheduled, as_rngs
from mru.cells._linear import linear
from mru.cells._scan import ScanCell
from mru.operators import Operator, Relay


class CMRU(ScanCell, name="cmru"):
    """c = W_c x + b_c, beta = |W_b x + b_b|, z = H(|c| - beta), h_t = h_{t-1} + z sgn(c), y = W_o (alpha h) + b_o.

    The BMRU whose leak stays at 1: a ladder of states, each held exactly (whole numbers below 2^24 are exact in
    float32), and a gradient through time of exactly 1.

    Source: Brandoit, Fyon, Ernst, Drion 2026, arXiv 2605.11855.
    """

    def __init__(
        self,
        features: int,
        state_size: int,
        *,
        learn_initial_state: bool = False,
        method: str = "auto",
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs | int,
    ):
        """Initialise.

        Args:
            features: D.
            state_size: N.
            learn_initial_state: Learn it, from zero.
            method: Method of `mru.scan`.
            dtype: Dtype of the matrix products; that of the inputs and parameters, promoted, if None.
            rngs: Source of the initial parameters, or a seed.
        """
        rngs = as_rngs(rngs)
        super().__init__(features, state_size, learn_initial_state=learn_initial_state, method=method)
        self.candidate = linear(features, state_size, dtype=dtype, rngs=rngs)
        self.threshold = linear(features, state_size, dtype=dtype, bias_init=nnx.initializers.ones, rngs=rngs)
        self.alpha = nnx.Param(jnp.ones(state_size, jnp.float32))
        self.out = linear(state_size, features, dtype=dtype, rngs=rngs)
        self.width = Scheduled(1.0)

    def operator(self, x: Array) -> Operator:
        """The relay whose leak is 1: h -> h + z sgn(c)."""
        return Relay(self.candidate(x), self.threshold(x), 1.0, self.width[...])

    def readout(self, h: Array, x: Array) -> Array:
        """W_o (alpha h) + b_o."""
        return self.out(h, self.alpha[...])
