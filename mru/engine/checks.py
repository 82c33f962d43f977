"""What `mru.scan` is given, checked and brought into one form."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from mru.engine.steps import time_axis, time_of, varies
from mru.operators import Operator
from mru.operators.base import Form, State, as_operator

_KINDS = {"b": jnp.bool_, "i": jnp.integer, "f": jnp.floating, "c": jnp.complexfloating}
_WORDS = {"f": "floating point", "c": "complex", "b": "boolean", "i": "integer"}


def operator(op: Any) -> Operator:
    """The operator with arrays of one batch and time shape (but those that are constant), and of fitting dtypes.

    Raises:
        ValueError: It is no operator, or its fields do not fit each other or what they may be.
    """
    name, missing = type(as_operator(op)).__name__, op.missing()
    if missing:
        raise ValueError(f"fields of {name} must be arrays, got None as {', '.join(missing)}")
    op = jax.tree.map(jnp.asarray, op)
    pairs = op.leaves_and_forms()
    for path, (x, form) in zip(_paths(op), pairs, strict=True):
        if form.scalar and x.ndim:
            raise ValueError(f"{path} of a {name} must be a scalar, got shape {x.shape}")
        if not any(jnp.issubdtype(x.dtype, _KINDS[kind]) for kind in form.kinds):
            real = "c" not in form.kinds and jnp.iscomplexobj(x)
            allowed = "real" if real else " or ".join(words for kind, words in _WORDS.items() if kind in form.kinds)
            raise ValueError(f"{path} of {name} must be {allowed}, got {_shapes(op)}")
    leading, channels = _shape(op, pairs)
    dtype = op.dtype
    complex_ = jnp.issubdtype(dtype, jnp.complexfloating)

    def canonical(x: Array, form: Form) -> Array:
        real = jnp.issubdtype(x.dtype, jnp.floating)
        if real and (form.scalar or x.weak_type):  # a Python number has the precision of what it is with
            x = x.astype(jnp.finfo(dtype).dtype)
        if form.scalar:
            return x
        if complex_ and form.kinds == "fc" and real:
            x = x.astype(dtype)  # a real field beside a complex one
        rest = channels if form.axes == 1 and not form.own_channels else x.shape[x.ndim - form.axes :]
        # A number or one a channel, of a field that is not said to be constant, is repeated.
        return jnp.broadcast_to(x, rest if form.constant and x.ndim == form.axes else (*leading, *rest))

    leaves = [canonical(x, form) for x, form in pairs]
    return jax.tree.unflatten(jax.tree.structure(op), leaves)


def _shape(op: Operator, pairs: list[tuple[Array, Form]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Batch axes and time; and the channels of the fields that have one axis of them."""
    name = type(op).__name__
    given = [(x, form) for x, form in pairs if not form.scalar]
    moving = [(x, form) for x, form in given if x.ndim > form.axes]
    try:
        leading = jnp.broadcast_shapes(*(x.shape[: x.ndim - form.axes] for x, form in moving))
        channels = jnp.broadcast_shapes(
            *(x.shape[-1:] for x, form in given if form.axes == 1 and not form.own_channels)
        )
    except ValueError:
        raise ValueError(f"fields of {name} must broadcast to (..., T, N), got {_shapes(op)}") from None
    short = [x for x, form in given if form.axes > 1 and x.ndim < form.axes]
    if not moving or short or leading[-1] < 1:
        raise ValueError(f"fields of {name} must have shape (..., T, N) with T >= 1, got {_shapes(op)}")
    return leading, channels


def _shapes(op: Operator) -> str:
    pairs = zip(_paths(op), op.leaves_and_forms(), strict=True)
    return ", ".join(f"{path} {x.dtype} {x.shape}" for path, (x, form) in pairs if not form.scalar)


def _paths(op: Operator) -> list[str]:
    """What each array is called, such as "a" or "force['y']"."""
    return [jax.tree_util.keystr(path).lstrip(".") for path, _ in jax.tree_util.tree_leaves_with_path(op)]


def state(x: State | None, like: State, name: str) -> State:
    """A state in the shapes and dtypes of `like`; its zeros if it is None.

    Raises:
        ValueError: It has another structure, shape, or kind of numbers.
    """
    if x is None:
        return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), like)
    given: Any = jax.tree.structure(x)
    if given != jax.tree.structure(like):
        expected = jax.tree.map(lambda s: s.shape, like)
        raise ValueError(f"{name} must be {expected}, got {jax.tree.map(jnp.shape, x)}")

    def one(x: Any, s: Any) -> Array:
        x = jnp.asarray(x)
        if jnp.iscomplexobj(x) and not jnp.issubdtype(s.dtype, jnp.complexfloating):
            raise ValueError(f"{name} must be real, as the fields are, got {x.dtype}")
        try:
            if s.shape and x.shape[-1:] != s.shape[-1:]:
                raise ValueError
            return jnp.broadcast_to(x, s.shape).astype(s.dtype)
        except ValueError:
            raise ValueError(f"{name} must have shape {s.shape}, got {x.shape}") from None

    return jax.tree.map(one, x, like)


def zero_state(op: Operator) -> State:
    """The state before the first step where none is given, abstract: batch axes, then those that the operator says."""
    axis = time_axis(op)
    batch = next(x for x, moves in zip(jax.tree.leaves(op), varies(op), strict=True) if moves).shape[:axis]
    leaves, tree = jax.tree.flatten(op)
    # By shapes alone: how the arrays lie over devices is not a matter of zeros.
    steps = [
        jax.ShapeDtypeStruct(x.shape[:axis] + x.shape[axis + moves :] if moves else x.shape, x.dtype)
        for x, moves in zip(leaves, varies(op), strict=True)
    ]
    found = jax.eval_shape(lambda op: op.zero_state(), jax.tree.unflatten(tree, steps))
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct((*batch, *s.shape[axis:]), s.dtype), found)


def reset(given: Any, op: Operator) -> Array:
    """Flags (..., T), of the operator's batch and time.

    Raises:
        ValueError: Their shape or dtype does not fit.
    """
    axis, time = time_axis(op), time_of(op)
    moving = next(x for x, moves in zip(jax.tree.leaves(op), varies(op), strict=True) if moves)
    given, expected = jnp.asarray(given), moving.shape[: axis + 1]
    refusal = f"reset must be bool {expected}, got {given.dtype} {given.shape}"
    if given.dtype != bool or given.ndim < 1 or given.shape[-1] != time:
        raise ValueError(refusal)
    try:
        return jnp.broadcast_to(given, expected)
    except ValueError:
        raise ValueError(refusal) from None
