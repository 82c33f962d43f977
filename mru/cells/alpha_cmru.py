"""alpha-CMRU, the relaxed cumulative memory recurrent unit."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx

from mru.cells.base import linear
from mru.cells.cmru import CMRU
from mru.operators import Affine


class AlphaCMRU(CMRU, name="alpha_cmru"):
    """The CMRU with increments of any size: h_t = h_{t-1} + z sgn(c) alpha_t, alpha_t = W_a x + b_a, y = W_o h + b_o.

    This is our reading of the relaxed cell of Brandoit, Fyon, Ernst, Drion 2026 (arXiv 2605.11855): its published
    equation is not known to us. b_a starts at 1, where the cell is the CMRU.
    """

    def __init__(self, features, state_size, *, learn_initial_state=False, method="auto", dtype=None, rngs):
        """See `CMRU`."""
        super().__init__(
            features, state_size, learn_initial_state=learn_initial_state, method=method, dtype=dtype, rngs=rngs
        )
        del self.alpha
        self.increment_size = linear(features, state_size, dtype=dtype, bias_init=nnx.initializers.ones, rngs=rngs)

    def operator(self, x):
        """h -> h + z sgn(c) alpha_t."""
        increment = super().operator(x).lower().b
        return Affine(jnp.ones(self.state_size), increment * self.increment_size(x))

    def readout(self, h, x):
        """W_o h + b_o."""
        return self.out(h)
