"""LRU, the linear recurrent unit."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx

from mru.cells.base import ScanCell, StateParam
from mru.operators import Affine


class LRU(ScanCell, name="lru"):
    """h_t = lambda h_{t-1} + gamma (B x_t), y = Re(C h) + d x, with complex lambda = exp(-exp(nu) + i exp(theta)).

    |lambda| < 1 for every nu. At the start lambda is uniform on the ring r_min <= |lambda| <= r_max with phase in [0,
    max_phase], and gamma = sqrt(1 - |lambda|^2), learned by its logarithm. B and C are complex Gaussian with variance
    1/(2D) and 1/N a part, d Gaussian. Complex parameters are stored as pairs of reals, which any optimiser can take.

    Source: Orvieto et al. 2023, arXiv 2303.06349.
    """

    def __init__(
        self,
        features,
        state_size,
        *,
        r_min=0.9,
        r_max=0.999,
        max_phase=6.28,
        learn_initial_state=False,
        method="auto",
        dtype=None,
        rngs,
    ):
        """Initialise.

        Args:
            features: D.
            state_size: N, complex channels.
            r_min: Smallest |lambda| at the start, in [0, r_max).
            r_max: Largest |lambda| at the start, below 1.
            max_phase: Largest phase of lambda at the start, radians.
            learn_initial_state: Learn it, from zero.
            method: Method of `mru.scan`.
            dtype: Dtype of the matrix products; that of the inputs and parameters, promoted, if None.
            rngs: Source of the initial parameters.
        """
        if not 0 <= r_min < r_max < 1:
            raise ValueError(f"LRU needs 0 <= r_min < r_max < 1, got r_min {r_min} and r_max {r_max}")
        super().__init__(
            features,
            state_size,
            learn_initial_state=learn_initial_state,
            state_dtype=jnp.complex64,
            method=method,
        )
        u = jax.random.uniform(rngs.params(), (state_size,), minval=1e-7)
        squared = u * (r_max**2 - r_min**2) + r_min**2
        self.nu = StateParam(jnp.log(-0.5 * jnp.log(squared)))
        self.theta = StateParam(jnp.log(max_phase * jax.random.uniform(rngs.params(), (state_size,), minval=1e-7)))
        self.log_gamma = StateParam(0.5 * jnp.log1p(-squared))
        self.b = StateParam(jax.random.normal(rngs.params(), (features, 2, state_size)) / math.sqrt(2 * features))
        self.c = nnx.Param(jax.random.normal(rngs.params(), (2, state_size, features)) / math.sqrt(state_size))
        self.d = nnx.Param(jax.random.normal(rngs.params(), (features,)))
        self.dtype = dtype

    def operator(self, x):
        """h -> lambda h + gamma (B x), lambda constant in time."""
        return Affine(
            jnp.exp(jax.lax.complex(-jnp.exp(self.nu[...]), jnp.exp(self.theta[...]))),
            complex_in(x, self.b[...] * jnp.exp(self.log_gamma[...]), self.dtype),
        )

    def readout(self, h, x):
        """Re(C h) + d x."""
        return real_out(h, self.c[...], self.dtype) + self.d[...] * x


def complex_in(x, b, dtype):
    """B x, complex (..., N), for a real x (..., D) and B stored as (D, 2, N): one product, accumulated in float32."""
    if dtype is not None:
        x, b = x.astype(dtype), b.astype(dtype)
    u = jnp.einsum("...d,dpn->...pn", x, b, preferred_element_type=jnp.promote_types(x.dtype, jnp.float32))
    return jax.lax.complex(u[..., 0, :], u[..., 1, :])


def real_out(h, c, dtype):
    """Re(C h), (..., D), for a complex h (..., N) and C stored as (2, N, D)."""
    parts = jnp.stack([h.real, -h.imag], -2)
    if dtype is not None:
        parts, c = parts.astype(dtype), c.astype(dtype)
    return jnp.einsum("...pn,pnd->...d", parts, c, preferred_element_type=jnp.promote_types(parts.dtype, jnp.float32))
