"""Refuses forward-mode derivatives in one line that says what to do.

The custom VJP of a scan has no forward mode, of which JAX would only say that it can not differentiate "a custom_vjp
function". Reverse mode begins as forward mode does: a tangent is passed on, to be transposed. So the refusal is an
identity of tangents that can be transposed, but never computed.
"""

from __future__ import annotations

from typing import Any, NoReturn

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

_MESSAGE = (
    "mru.scan: forward-mode derivatives (jax.jvp, jax.linearize, jax.jacfwd, jax.hessian) need method='autodiff'; the "
    "other methods have reverse mode only"
)


def _refuse(*args: Any, **kwargs: Any) -> NoReturn:
    raise TypeError(_MESSAGE)


_tangent = Primitive("mru_scan_tangent")
_tangent.def_impl(_refuse)
_tangent.def_abstract_eval(lambda x: x)
ad.deflinear2(_tangent, lambda cotangent, _: [cotangent])
batching.defvectorized(_tangent)
mlir.register_lowering(_tangent, _refuse)


@jax.custom_jvp
def _reverse_only(x: Any) -> Any:
    return x


@_reverse_only.defjvp
def _jvp(primals: Any, tangents: Any) -> Any:
    return _reverse_only(primals[0]), _tangent.bind(tangents[0])  # again, for derivatives of derivatives


def reverse_only(tree: Any) -> Any:
    """The tree, of which forward-mode derivatives are refused.

    Raises:
        TypeError: When such a derivative is computed, or compiled.
    """
    return jax.tree.map(lambda x: _reverse_only(x) if jnp.issubdtype(x.dtype, jnp.inexact) else x, tree)
