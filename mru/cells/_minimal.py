"""What minGRU and minLSTM share: a candidate, gates that depend on the input alone, and a linear readout.

On log space: the source calls the form with the positive candidate "log-space", as it computes the states by
cumulative sums of logarithms, h_t = exp(A_t + logcumsumexp(log b - A)_t) with A_t = log a_1 + ... + log a_t. Without
logarithms that form divides by the product of all coefficients, which underflows within some hundred steps. A scan
divides by nothing. It multiplies and adds positive numbers, so that the relative error of a state stays small, and a
product that underflows belongs to what has been forgotten. The logarithms are worse: A_t grows with t, and so does its
rounding, which is the relative error of h_t; and the initial state has to be positive. So the states are computed in
one way here, by the scan, and what is kept of the source's form is its candidate.

Shapes: `...` any leading batch axes, T time, D features of the model, N state channels.
"""

from __future__ import annotations

from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from mru.cells._base import as_rngs
from mru.cells._linear import linear
from mru.cells._scan import ScanCell


class MinimalCell(ScanCell):
    """A cell with the candidate h~ = g(W_h x + b_h) and the readout y = W_o h + b_o; a subclass names its gates.

    g(u) = u + 1/2 for u >= 0 and sigma(u) below, which is positive; or g(u) = u.
    """

    gates: ClassVar[tuple[str, ...]]

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
        for name in self.gates:
            setattr(self, name, linear(features, state_size, dtype=dtype, rngs=rngs))
        self.candidate = linear(features, state_size, dtype=dtype, rngs=rngs)
        self.linear_candidate = linear_candidate
        self.out = linear(state_size, features, dtype=dtype, rngs=rngs)

    def new(self, x: Array) -> Array:
        """The candidates h~, (..., T, N)."""
        u = self.candidate(x)
        return u if self.linear_candidate else jnp.where(u >= 0, u + 0.5, nnx.sigmoid(u))

    def readout(self, h: Array, x: Array) -> Array:
        """W_o h + b_o."""
        return self.out(h)
