"""RG-LRU, the real-gated linear recurrent unit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from mru.cells._base import StateParam, as_rngs
from mru.cells._linear import linear
from mru.cells._scan import ScanCell
from mru.operators import Affine, Operator

# Largest derivative of the square root, which has it from 1 - a^2 = 2.5e-7 down.
LARGEST_SLOPE = 1000.0


class RGLRU(ScanCell, name="rg_lru"):
    """h_t = a h_{t-1} + sqrt(1 - a^2) (i * u), y = W_o h + b_o, with a = exp(-8 softplus(L) r) in (0, 1).

    r = sigma(W_r x + b_r) is the recurrence gate, i = sigma(W_i x + b_i) the input gate, u = W_u x + b_u the input: the
    less r, the longer a channel holds and the less it takes in. L starts so that a at r = 1, the shortest memory of a
    channel, is uniform in [0.9, 0.999].

    Where a rounds to 1, r having gone to zero, the derivative of sqrt(1 - a^2) is infinite times zero. That of the
    square root is therefore bounded by 1000; the values stay as they are.

    Our reading: in the source the unit is as wide as its input and takes that as u. Here N and D may differ, and a
    linear layer stands before; the gates read x itself. The causal convolution and the second, gated branch that
    surround the unit in the source's block are not part of it.

    Source: De et al. 2024, arXiv 2402.19427.
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
        self.recurrence_gate = linear(features, state_size, dtype=dtype, rngs=rngs)
        self.input_gate = linear(features, state_size, dtype=dtype, rngs=rngs)
        self.input = linear(features, state_size, dtype=dtype, rngs=rngs)
        a = jax.random.uniform(rngs.params(), (state_size,), jnp.float32, minval=0.9, maxval=0.999)
        self.rate = StateParam(jnp.log(jnp.expm1(-jnp.log(a) / 8)))  # softplus(rate) = -log(a) / 8
        self.out = linear(state_size, features, dtype=dtype, rngs=rngs)

    def operator(self, x: Array) -> Operator:
        """h -> a h + sqrt(1 - a^2) (i * u)."""
        dtype = jnp.promote_types(x.dtype, jnp.float32)
        r = nnx.sigmoid(self.recurrence_gate(x).astype(dtype))
        log_a = -8 * nnx.softplus(self.rate[...].astype(dtype)) * r
        scale = bounded_sqrt(-jnp.expm1(2 * log_a))  # 1 - a^2, also where a is close to 1
        return Affine(jnp.exp(log_a), scale * nnx.sigmoid(self.input_gate(x)) * self.input(x))

    def readout(self, h: Array, x: Array) -> Array:
        """W_o h + b_o."""
        return self.out(h)


@jax.custom_jvp
def bounded_sqrt(x: Array) -> Array:
    """The square root of x >= 0, whose derivative is 1 / (2 sqrt(x)) but at most `LARGEST_SLOPE`."""
    return jnp.sqrt(x)


@bounded_sqrt.defjvp
def _bounded_sqrt_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (tangent,) = primals, tangents
    slope = 0.5 / jnp.sqrt(jnp.maximum(x, (0.5 / LARGEST_SLOPE) ** 2))
    return bounded_sqrt(x), slope * tangent
