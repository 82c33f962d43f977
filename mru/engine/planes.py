"""Complex arrays (..., N) as real planes (..., 2, N): the real parts of all channels, then their imaginary parts.

JAX's derivatives of `real`, `imag` and `complex` negate a complex cotangent as a whole. XLA does not see through that,
and copies it on a CPU. Here both ways are primitives, of which each is the other's transpose, but for the sign of the
imaginary parts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


def planes(x: Array) -> Array:
    """Complex (..., N) as real (..., 2, N)."""
    return _planes.bind(x)


def from_planes(x: Array) -> Array:
    """Real (..., 2, N) as complex (..., N)."""
    return _from_planes.bind(x)


def _apart(x: Array) -> Array:
    return jnp.stack([x.real, x.imag], -2)


def _together(x: Array) -> Array:
    real, imag = jax.lax.split(x, (1, 1), x.ndim - 2)
    return jax.lax.complex(real.squeeze(-2), imag.squeeze(-2))


def _linear(name: str, computed: Callable[[Array], Array], transposed: Callable[[Array], Array]) -> Primitive:
    """A linear primitive that works on the last axes; those before them are axes of a batch."""
    primitive = Primitive(name)

    def batched(arrays: Any, axes: Any) -> Any:
        return primitive.bind(jnp.moveaxis(arrays[0], axes[0], 0)), 0

    primitive.def_impl(jax.jit(computed))
    primitive.def_abstract_eval(lambda x: jax.make_jaxpr(computed)(x).out_avals[0])
    ad.deflinear2(primitive, lambda bar, _: [transposed(bar)])
    batching.primitive_batchers[primitive] = batched
    mlir.register_lowering(primitive, mlir.lower_fun(computed, multiple_results=False))
    return primitive


_planes = _linear("mru_planes", _apart, lambda bar: from_planes(bar).conj())
_from_planes = _linear("mru_from_planes", _together, lambda bar: planes(bar.conj()))
