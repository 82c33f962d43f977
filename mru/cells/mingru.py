"""minGRU, the gated recurrent unit whose gates depend on the input alone."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from mru.cells._base import as_rngs
from mru.cells._linear import linear
from mru.cells._scan import ScanCell
from mru.operators import Affine, Operator


class MinGRU(ScanCell, name="mingru"):
    """z = sigma(W_z x + b_z), h_t = (1 - z) h_{t-1} + z h~, h~ = g(W_h x + b_h), y = W_o h + b_o.

    g(u) = u + 1/2 for u >= 0 and sigma(u) below, which keeps the state positive, as in the source's log-space form;
    or g(u) = u.

    Source: Feng et al. 2024, arXiv 2410.01201.
    """

    def __init__(
        self,
        features: int,
        state_size: int,
        *,
        linear_candidate: bool = False,
        learn_initial_state: bool = False,
        method: str = "auto",
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs | int,
    ):
        """Initialise.

        Args:
            features: D.
            state_size: N.
            linear_candidate: g(u) = u.
            learn_initial_state: Learn it, from zero.
            method: Method of `mru.scan`.
            dtype: Dtype of the matrix products; that of the inputs and parameters, promoted, if None.
            rngs: Source of the initial parameters, or a seed.
        """
        rngs = as_rngs(rngs)
        super().__init__(features, state_size, learn_initial_state=learn_initial_state, method=method)
        self.gate = linear(features, state_size, dtype=dtype, rngs=rngs)
        self.candidate = linear(features, state_size, dtype=dtype, rngs=rngs)
        self.linear_candidate = linear_candidate
        self.out = linear(state_size, features, dtype=dtype, rngs=rngs)

    def operator(self, x: Array) -> Operator:
        """h -> (1 - z) h + z h~."""
        z, u = nnx.sigmoid(self.gate(x)), self.candidate(x)
        candidate = u if self.linear_candidate else jnp.where(u >= 0, u + 0.5, nnx.sigmoid(u))
        return Affine(1 - z, z * candidate)

    def readout(self, h: Array, x: Array) -> Array:
        """W_o h + b_o."""
        return self.out(h)
