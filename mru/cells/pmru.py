"""PMRU, the play memory recurrent unit."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from mru.cells._base import as_rngs
from mru.cells._linear import linear
from mru.cells._scan import ScanCell
from mru.operators import Operator, Play


class PMRU(ScanCell, name="pmru"):
    """c = W_c x + b_c, r = softplus(W_r x + b_r), h_t = clip(h_{t-1}, c - r, c + r), y = W_o (alpha h) + b_o.

    The play (backlash) operator of hysteresis theory (Prandtl-Ishlinskii), where the relay of the BMRU is Preisach's:
    every value inside the band is an equilibrium, so the state is one of a continuum, and is held bit for bit. The
    derivative is exact almost everywhere: 1 through a hold, 0 through a clamp, which passes it to the bound. It needs
    neither surrogate nor schedule. The update is the limit of its own inner dynamics, the gradient flow on the
    distance of h to [c - r, c + r].

    Source: this project.
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
        self.centre = linear(features, state_size, dtype=dtype, rngs=rngs)
        self.radius = linear(features, state_size, dtype=dtype, bias_init=nnx.initializers.ones, rngs=rngs)
        self.alpha = nnx.Param(jnp.ones(state_size, jnp.float32))
        self.out = linear(state_size, features, dtype=dtype, rngs=rngs)

    def operator(self, x: Array) -> Operator:
        """h -> clip(h, c - r, c + r)."""
        return Play(self.centre(x), self.radius(x))

    def readout(self, h: Array, x: Array) -> Array:
        """W_o (alpha h) + b_o."""
        return self.out(h, self.alpha[...])
