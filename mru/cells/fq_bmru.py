"""FQ-BMRU, the first-quadrant bistable memory recurrent unit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from mru.cells._base import Scheduled, as_rngs
from mru.cells._linear import linear
from mru.cells._scan import ScanCell
from mru.operators import Operator, Switch
from mru.operators.surrogate import step


def _spread(rngs: nnx.Rngs, size: int, centre: float) -> Array:
    """`centre` with 20 % spread, uniform."""
    return centre * jax.random.uniform(rngs.params(), (size,), jnp.float32, minval=0.8, maxval=1.2)


class FQBMRU(ScanCell, name="fq_bmru"):
    """A Schmitt trigger with states {0, alpha} and thresholds 0 <= beta_lo < beta_hi = beta_lo + |delta| per channel.

    c = ReLU(W x + b), z_lo = H(beta_lo - c), z_hi = H(c - beta_hi), h_t = z_hi alpha + (1 - z_lo)(1 - z_hi) h_{t-1},
    y = W_o h + b_o: at or above beta_hi it writes alpha, at or below beta_lo it writes 0, between them it holds.

    The update runs as a `Switch`, an `Affine` with coefficient 0 or 1, which is exact in floating point. As a `Latch`
    it would have the same states, but not the derivative of this equation: where the unit holds, d h / d z_hi =
    alpha - h needs the value alpha that was not written. The source leaves the distribution of the 20 % spread at the
    start open; ours is uniform.

    Source: Fyon et al. 2026, arXiv 2605.15216.
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
        lecun = nnx.initializers.lecun_normal()
        self.candidate = linear(
            features,
            state_size,
            dtype=dtype,
            kernel_init=lambda *args: jnp.abs(lecun(*args)),
            bias_init=lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, 0.4, 0.6),
            rngs=rngs,
        )
        self.lower_threshold = nnx.Param(_spread(rngs, state_size, 0.15))
        self.gap = nnx.Param(_spread(rngs, state_size, 0.35))
        self.alpha = nnx.Param(jnp.ones(state_size, jnp.float32))
        self.out = linear(state_size, features, dtype=dtype, rngs=rngs)
        self.width = Scheduled(1.0)

    def operator(self, x: Array) -> Operator:
        """h -> z_hi alpha + (1 - z_lo)(1 - z_hi) h."""
        c = nnx.relu(self.candidate(x))
        lower = jnp.abs(self.lower_threshold[...])
        z_lo = step(lower - c, self.width[...])
        z_hi = step(c - (lower + jnp.abs(self.gap[...])), self.width[...])
        return Switch((1 - z_lo) * (1 - z_hi), z_hi * self.alpha[...])

    def readout(self, h: Array, x: Array) -> Array:
        """W_o h + b_o."""
        return self.out(h)
