"""LRU, the linear recurrent unit."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from mru.cells._base import StateParam, as_rngs
from mru.cells._linear import complex_in, product_dtype, real_out
from mru.cells._scan import ScanCell
from mru.operators import Affine, Operator


class LRU(ScanCell, name="lru"):
    """h_t = lambda h_{t-1} + gamma (B x_t), y = Re(C h) + d x, with complex lambda = exp(-exp(nu) + i exp(theta)).

    |lambda| < 1 for every nu: exp(nu) counts as at least 4 times the spacing of floating-point numbers at 1 (4.8e-7 in
    float32), below which the exponential would round to 1. At the start lambda is uniform on the ring r_min <= |lambda|
    <= r_max with phase in [0, max_phase], and gamma = sqrt(1 - |lambda|^2), learned by its logarithm. B and C are
    complex Gaussian with variance 1/(2D) and 1/N a part, d Gaussian. Complex parameters are stored as pairs of reals,
    which any optimiser can take.

    Public implementations start on the ring [0, 1]. Ours is [0.9, 0.999], the paper's choice for long sequences: of a
    full disc most channels forget within a few steps, and a long sequence is left to the few near its edge.

    Source: Orvieto et al. 2023, arXiv 2303.06349.
    """

    def __init__(
        self,
        features: int,
        state_size: int,
        *,
        r_min: float = 0.9,
        r_max: float = 0.999,
        max_phase: float = 6.28,
        learn_initial_state: bool = False,
        method: str = "auto",
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs | int,
    ):
        """Initialise.

        Args:
            features: D.
            state_size: N, complex channels.
            r_min: Smallest |lambda| at the start, in [0, r_max).
            r_max: Largest |lambda| at the start, at most 1.
            max_phase: Largest phase of lambda at the start, radians, positive.
            learn_initial_state: Learn it, from zero.
            method: Method of `mru.scan`.
            dtype: Dtype of the matrix products; that of the inputs and parameters, promoted, if None.
            rngs: Source of the initial parameters, or a seed.
        """
        if not 0 <= r_min < r_max <= 1:
            raise ValueError(f"LRU needs 0 <= r_min < r_max <= 1, got r_min {r_min} and r_max {r_max}")
        if not 0 < max_phase < math.inf:
            raise ValueError(f"LRU needs a positive, finite max_phase, got {max_phase}")
        super().__init__(
            features,
            state_size,
            learn_initial_state=learn_initial_state,
            state_dtype=jnp.complex64,
            method=method,
        )
        rngs = as_rngs(rngs)

        def uniform() -> Array:
            return jax.random.uniform(rngs.params(), (state_size,), jnp.float32, minval=1e-7)

        def normal(*shape: int) -> Array:
            return jax.random.normal(rngs.params(), shape, jnp.float32)

        # At the square of the largest |lambda| that float32 keeps below 1, nu and gamma are still finite.
        squared = jnp.minimum(uniform() * (r_max**2 - r_min**2) + r_min**2, 1 - 2 * _smallest_decay(jnp.float32))
        self.nu = StateParam(jnp.log(-0.5 * jnp.log(squared)))
        self.theta = StateParam(jnp.log(max_phase * uniform()))
        self.log_gamma = StateParam(0.5 * jnp.log1p(-squared))
        self.b = StateParam(normal(features, 2, state_size) / math.sqrt(2 * features))
        self.c = nnx.Param(normal(2, state_size, features) / math.sqrt(state_size))
        self.d = nnx.Param(normal(features))
        self.dtype = product_dtype(dtype)

    def eigenvalues(self, dtype: DTypeLike = jnp.float32) -> Array:
        """lambda, complex (N,), computed in a real dtype."""
        nu, theta = self.nu[...].astype(dtype), self.theta[...].astype(dtype)
        decay = jnp.maximum(jnp.exp(nu), _smallest_decay(dtype))
        return jnp.exp(jax.lax.complex(-decay, jnp.exp(theta)))

    def operator(self, x: Array) -> Operator:
        """h -> lambda h + gamma (B x), lambda constant in time."""
        dtype = jnp.promote_types(x.dtype, jnp.float32)
        b = self.b[...].astype(dtype) * jnp.exp(self.log_gamma[...].astype(dtype))
        return Affine(self.eigenvalues(dtype), complex_in(x, b, self.dtype))

    def readout(self, h: Array, x: Array) -> Array:
        """Re(C h) + d x."""
        return real_out(h, self.c[...], self.dtype).astype(x.dtype) + self.d[...].astype(x.dtype) * x


def _smallest_decay(dtype: DTypeLike) -> float:
    """The smallest -log |lambda| whose lambda, with the rounding of its two parts, stays inside of the unit circle."""
    return 4 * float(np.finfo(jnp.dtype(dtype)).eps)
