"""Refuses forward-mode derivatives in one line that says what to do.

A custom VJP has no forward mode, of which JAX would only say that it can not differentiate "a custom_vjp function".
Reverse mode begins as forward mode does: a tangent is passed on, to be transposed. So the refusal is an identity of
tangents that can be transposed, but never computed.
"""

from __future__ import annotations

import functools
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


def _refuse(*_: Any, who: str, instead: str) -> NoReturn:
    raise TypeError(f"{who}: forward-mode derivatives (jax.jvp, jax.linearize, jax.jacfwd, jax.hessian) need {instead}")


_tangent = Primitive("mru_reverse_only_tangent")
_tangent.def_impl(_refuse)
_tangent.def_abstract_eval(lambda x, **_: x)
ad.deflinear2(_tangent, lambda cotangent, *_, **__: [cotangent])
batching.defvectorized(_tangent)
mlir.register_lowering(_tangent, _refuse)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _reverse_only(x: Any, who: str, instead: str) -> Any:
    return x


@_reverse_only.defjvp
def _jvp(who: str, instead: str, primals: Any, tangents: Any) -> Any:
    # The identity again, for derivatives of derivatives.
    return _reverse_only(primals[0], who, instead), _tangent.bind(tangents[0], who=who, instead=instead)


def reverse_only(tree: Any, who: str, instead: str) -> Any:
    """The tree, of which forward-mode derivatives are refused.

    Args:
        tree: Arrays.
        who: What has none of them, for the message.
        instead: What they need.

    Raises:
        TypeError: When such a derivative is computed, or compiled.
    """

    def one(x: Any) -> Any:
        return _reverse_only(x, who, instead) if jnp.issubdtype(x.dtype, jnp.inexact) else x

    return jax.tree.map(one, tree)
