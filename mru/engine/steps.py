"""The arrays of an operator and of states, step by step, and the backward step that all methods share.

Axes are counted from the front: batch axes, then time, then those of the channels. What is constant in time has
neither batch nor time axes.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from mru.operators import Affine, Operator
from mru.operators.base import State, select


def time_axis(op: Operator) -> int:
    """The axis of time, which is the number of batch axes."""
    return next(x.ndim - 1 - form.axes for x, form in op.leaves_and_forms() if x.ndim > form.axes and not form.scalar)


def time_of(op: Operator) -> int:
    """T."""
    return next(
        x.shape[x.ndim - 1 - form.axes]
        for x, form in op.leaves_and_forms()
        if x.ndim > form.axes and not form.scalar
    )  # fmt: skip


def part(op: Operator, where: slice | Array | int, axis: int) -> Operator:
    """Some steps of an operator: a slice of them, or one of them without its time axis."""
    leaves, tree = jax.tree.flatten(op)
    pairs = zip(leaves, varies(op), strict=True)
    return jax.tree.unflatten(tree, [_part(x, where, axis) if varied else x for x, varied in pairs])


def at(tree: Any, where: slice | Array | int, axis: int) -> Any:
    """Some steps of a tree of arrays that all have a time axis."""
    return jax.tree.map(lambda x: _part(x, where, axis), tree)


def _part(x: Array, where: slice | Array | int, axis: int) -> Array:
    if isinstance(where, slice):
        return x[(slice(None),) * axis + (where,)]
    return jax.lax.dynamic_index_in_dim(x, where, axis, False)


def put(tree: Any, values: Any, t: Array, axis: int) -> Any:
    """A tree of arrays with one of their steps replaced."""
    return jax.tree.map(lambda x, v: jax.lax.dynamic_update_index_in_dim(x, v.astype(x.dtype), t, axis), tree, values)


def one_step(tree: State, axis: int) -> State:
    """States (..., N) as those of a single step, (..., 1, N)."""
    return jax.tree.map(lambda x: jnp.expand_dims(x, axis), tree)


def widen(op: Operator, dtype: Any) -> Operator:
    """The operator with its floating-point fields in `dtype`, those that are real in its real part's."""
    real = jnp.finfo(dtype).dtype

    def wide(x: Array) -> Array:
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            return x
        return x.astype(dtype if jnp.iscomplexobj(x) else real)

    return jax.tree.map(wide, op)


def previous(tree: State, first: State, axis: int, reverse: bool) -> State:
    """States one step earlier in the direction of the scan, after `first`."""

    def shift(x: Array, start: Array) -> Array:
        start = jnp.broadcast_to(jnp.expand_dims(start, axis), (*x.shape[:axis], 1, *x.shape[axis + 1 :]))
        rest = _part(x, slice(1, None) if reverse else slice(-1), axis)
        return jnp.concatenate([rest, start] if reverse else [start, rest], axis)

    return jax.tree.map(shift, tree, first)


def states_before(
    h: State, h0: State, reset: Array | None, reset_state: State | None, axis: int, reverse: bool
) -> State:
    """The state that each step starts from, (..., T, N)."""
    before = previous(h, h0, axis, reverse)
    return before if reset is None else select(reset, one_step(reset_state, axis), before)


def decoded(op: Operator, kept: State, h0: State, reset_state: State | None, axis: int | None = None) -> State:
    """The states of which `kept` was kept: they themselves, or the operator's code of them.

    Args:
        op: Operator.
        kept: Of one step, or of all if `axis` is given.
        h0: (..., N).
        reset_state: (..., N), or None.
        axis: Axis of time.
    """
    if not op.coded:
        return kept
    if axis is not None:
        h0, reset_state = one_step((h0, reset_state), axis)
    return op.decode(kept, h0, reset_state)


def backward_step(
    op: Operator, before: State, g: State, reset: Array | None
) -> tuple[list[Array | None], State, State | None]:
    """What one step makes of the cotangent of the state after it; or all steps, where everything is given for all.

    Args:
        op: The maps, in the precision of the states.
        before: The states before, those that a reset put there included.
        g: Cotangent of the states after, what comes back through later steps included.
        reset: Where `before` is the reset state.

    Returns:
        The cotangents of the operator's arrays, None for one that has none; and what goes back from the state before
        the step: to the step before it, and to the reset state (None without `reset`).
    """
    if op.says_derivative():
        bars, incoming = field_cotangents(op, before, g), transposed(op, before, g)
    else:
        bars, incoming = _derived(op, before, g)
    if reset is None:
        return bars, incoming, None
    zero = jax.tree.map(jnp.zeros_like, incoming)
    return bars, select(reset, zero, incoming), select(reset, incoming, zero)


def transposed(op: Operator, before: State, g: State) -> State:
    """J^T g, for the Jacobian J of each step at the state before it."""
    if op.says("adjoint"):
        return op.adjoint(before, jax.tree.map(jnp.zeros_like, g)).apply(g)
    return op.jacobian(before) * g


def handed_back(op: Operator, before: State, g: State) -> Operator:
    """What each step hands to the step before it, as maps of what is handed to it: r -> J^T (g + r)."""
    through = transposed(op, before, g)
    return op.adjoint(before, through) if op.says("adjoint") else Affine(op.jacobian(before), through)


def field_cotangents(op: Operator, before: State, g: State) -> list[Array | None]:
    """The cotangents of an operator's arrays, as its `cotangent` says; None for one that has none."""
    bar = op.cotangent(before, g) if op.says("cotangent") else assembled(op, _derived(op, before, g)[0])
    found: list[Array | None] = []
    for value, bars in zip(vars(op).values(), vars(bar).values(), strict=True):
        count = len(jax.tree.leaves(value))
        found += [None] * count if bars is None else jax.tree.leaves(bars, is_leaf=lambda x: x is None)
    return found


def _derived(op: Operator, before: State, g: State) -> tuple[list[Array | None], State]:
    """The same, and the cotangent of the states before, from `apply`."""
    leaves, tree = jax.tree.flatten(op)
    inexact = [
        jnp.issubdtype(x.dtype, jnp.inexact) and not form.scalar for x, form in op.leaves_and_forms()
    ]  # fmt: skip

    def apply(differentiable: list[Array], h: State) -> State:
        given = iter(differentiable)
        return jax.tree.unflatten(tree, [next(given) if i else x for i, x in zip(inexact, leaves, strict=True)]).apply(
            h
        )

    after, pull = jax.vjp(apply, [x for i, x in zip(inexact, leaves, strict=True) if i], before)
    bars, incoming = pull(jax.tree.map(lambda x, like: x.astype(like.dtype), g, after))
    given = iter(bars)
    return [next(given) if i else None for i in inexact], incoming


def assembled(op: Operator, bars: list[Array | None]) -> Operator:
    """The cotangent of an operator from those of its arrays; None stands for zero."""
    leaves, tree = jax.tree.flatten(op)
    pairs = zip(leaves, bars, strict=True)
    return jax.tree.unflatten(tree, [None if bar is None else bar.astype(x.dtype) for x, bar in pairs])


def varies(op: Operator) -> list[bool]:
    """For each of its arrays: if it has a value for every step."""
    return [x.ndim > form.axes and not form.scalar for x, form in op.leaves_and_forms()]
