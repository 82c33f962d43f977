"""alpha-CMRU, the relaxed cumulative memory recurrent unit."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from mru.cells._base import as_rngs
from mru.cells._linear import linear
from mru.cells.cmru import CMRU
from mru.operators import Operator, Relay, Switch
from mru.operators.surrogate import sign


class AlphaCMRU(CMRU, name="alpha_cmru"):
    """The CMRU with increments of any size: h_t = h_{t-1} + z sgn(c) alpha_t, alpha_t = W_a x + b_a, y = W_o h + b_o.

    This is our reading of the relaxed cell of Brandoit, Fyon, Ernst, Drion 2026 (arXiv 2605.11855): its published
    equation is not known to us. b_a starts at 1, where the cell is the CMRU.
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
        """See `CMRU`."""
        rngs = as_rngs(rngs)
        super().__init__(
            features, state_size, learn_initial_state=learn_initial_state, method=method, dtype=dtype, rngs=rngs
        )
        del self.alpha
        self.increment_size = linear(features, state_size, dtype=dtype, bias_init=nnx.initializers.ones, rngs=rngs)

    def operator(self, x: Array) -> Operator:
        """h -> h + z sgn(c) alpha_t."""
        candidate, width = self.candidate(x), self.width[...]
        direction = Relay(candidate, self.threshold(x), width=width).write * sign(candidate, width)
        return Switch(jnp.ones(self.state_size, jnp.float32), direction * self.increment_size(x))

    def readout(self, h: Array, x: Array) -> Array:
        """W_o h + b_o."""
        return self.out(h)
