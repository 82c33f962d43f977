"""S4D, a diagonal state-space model of each feature by itself."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from mru.cells._base import StateParam, as_rngs
from mru.cells._discretize import check_steps, log_steps, zero_order_hold
from mru.cells._linear import accumulated, product_dtype
from mru.cells._scan import ScanCell
from mru.operators import Affine, Operator


class S4D(ScanCell, name="s4d"):
    """Of each feature by itself: h' = A h + x, y = 2 Re(C h) + d x, with N complex modes and a zero-order hold.

    With a step dt per feature, h_t = exp(A dt) h_{t-1} + A^-1 (exp(A dt) - 1) x_t; B = 1, as C can take its place. The
    start is S4D-Lin: A_n = -1/2 + i pi n, the log of the step uniform between those of step_min and step_max, C complex
    normal. Features do not mix: that is left to what follows the cell, such as the gated MLP of a `SequenceBlock`.

    `state_size` is N for each feature: the carried state has D N complex channels, mode n of feature d at d N + n, and
    a scan over T steps holds T D N complex numbers, where the source's convolution holds T D. With N = 16 that is 32
    times the memory of the input.

    Our reading: every feature learns modes of its own, from the same start; the real part of A is learned by the
    logarithm of its negative, so that it stays negative; E|C|^2 = 1; d is normal.

    Source: Gu et al. 2022, arXiv 2206.11893.
    """

    def __init__(
        self,
        features: int,
        state_size: int,
        *,
        step_min: float = 0.001,
        step_max: float = 0.1,
        learn_initial_state: bool = False,
        method: str = "auto",
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs | int,
    ):
        """Initialise.

        Args:
            features: D.
            state_size: N, complex modes of each feature.
            step_min: Smallest step at the start.
            step_max: Largest step at the start.
            learn_initial_state: Learn it, from zero.
            method: Method of `mru.scan`.
            dtype: Dtype of the products of C and the state; that of the inputs and parameters, promoted, if None.
            rngs: Source of the initial parameters, or a seed.
        """
        check_steps("S4D", step_min, step_max)
        self._set_sizes(features, state_size)  # checks them
        super().__init__(
            features,
            state_size,
            learn_initial_state=learn_initial_state,
            state_dtype=jnp.complex64,
            channels=features * state_size,
            method=method,
        )
        rngs = as_rngs(rngs)
        shape = (features, state_size)
        self.log_decay = StateParam(jnp.full(shape, math.log(0.5), jnp.float32))
        self.frequency = StateParam(jnp.broadcast_to(math.pi * jnp.arange(state_size, dtype=jnp.float32), shape))
        self.log_step = StateParam(log_steps(features, step_min, step_max, rngs))
        self.c = nnx.Param(math.sqrt(0.5) * jax.random.normal(rngs.params(), (2, *shape), jnp.float32))
        self.d = nnx.Param(jax.random.normal(rngs.params(), (features,), jnp.float32))
        self.dtype = product_dtype(dtype)

    def discretize(self, dtype: DTypeLike = jnp.float32) -> tuple[Array, Array]:
        """The coefficient a and the input scale s of h -> a h + s x, both complex (D, N), computed in a real dtype."""
        decay, frequency = jnp.exp(self.log_decay[...].astype(dtype)), self.frequency[...].astype(dtype)
        dt = jnp.exp(self.log_step[...].astype(dtype))
        return zero_order_hold(jax.lax.complex(-decay, frequency), dt[:, None])

    def operator(self, x: Array) -> Operator:
        """h -> a h + s x for every mode of every feature, a constant in time."""
        dtype = jnp.promote_types(x.dtype, jnp.float32)
        a, scale = self.discretize(dtype)
        b = scale * x[..., None].astype(dtype)
        return Affine(a.reshape(self.channels), b.reshape(*x.shape[:-1], self.channels))

    def readout(self, h: Array, x: Array) -> Array:
        """2 Re(C h) + d x."""
        h = h.reshape(*h.shape[:-1], self.features, self.state_size)
        parts = jnp.stack([h.real, -h.imag])
        last = parts.ndim - 1
        summed, shared = ((0, last), (0, 2)), ((last - 1,), (1,))  # parts and modes; features
        y = jnp.moveaxis(accumulated(parts, self.c[...], (summed, shared), self.dtype), 0, -1)
        return 2 * y + self.d[...] * x
