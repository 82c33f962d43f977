"""O(log T) depth: maps are composed in pairs, pairs of pairs, and so on, and the states are found on the way back.

Going up the tree composes maps; coming down from it applies them to states. So all maps of a level share what is
constant in time, and any state that an operator can be applied to will do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from mru.engine.composition import Composition, alone, joined
from mru.engine.steps import (
    assembled,
    at,
    backward_step,
    decoded,
    handed_back,
    one_step,
    part,
    previous,
    states_before,
    time_axis,
    time_of,
    varies,
    widen,
)
from mru.operators import Operator
from mru.operators.base import State, select


def states(
    op: Operator, h0: State, reset: Array | None, reset_state: State | None, reverse: bool, keep: bool
) -> tuple[State, Array | None]:
    """Every state, and what is kept; see `mru.engine.front`."""
    h = every_state(widen(op, op.dtype).lower(), h0, reset, reset_state, reverse)
    axis = time_axis(op)
    return h, op.encode(h, *one_step((h0, reset_state), axis)) if keep and op.coded else None


def every_state(
    op: Operator, h0: State, reset: Array | None, reset_state: State | None, reverse: bool
) -> State:  # fmt: skip
    """Every state; JAX can differentiate it in every mode."""
    axis = time_axis(op)
    if reverse:
        leaves, tree = jax.tree.flatten(op)
        op = jax.tree.unflatten(
            tree, [jnp.flip(x, axis) if moves else x for x, moves in zip(leaves, varies(op), strict=True)]
        )
        reset = None if reset is None else jnp.flip(reset, axis)
    start, reset_state = one_step((h0, reset_state), axis)

    def level(steps: Composition) -> State:
        time = time_of(steps.op)
        if time == 1:
            return steps.apply(start, reset_state)
        even, odd = _some(steps, slice(0, None, 2), axis), _some(steps, slice(1, None, 2), axis)
        after_odd = level(joined(_some(even, slice(time // 2), axis), odd, reset_state))
        earlier = at(after_odd, slice((time - 1) // 2), axis)
        before_even = jax.tree.map(lambda x, rest: jnp.concatenate([x, rest], axis), start, earlier)
        after_even = even.apply(before_even, reset_state)
        return jax.tree.map(lambda x, y: _woven(x, y, axis), after_even, after_odd)

    h = level(alone(op, reset, reset_state))
    return jax.tree.map(lambda x: jnp.flip(x, axis), h) if reverse else h


def _some(steps: Composition, where: slice, axis: int) -> Composition:
    return Composition(part(steps.op, where, axis), *at((steps.value, steps.reset), where, axis))


def _woven(even: Array, odd: Array, axis: int) -> Array:
    """What is at even and at odd steps, in order of time."""
    half = odd.shape[axis]
    pairs = jnp.stack([at(even, slice(half), axis), odd], axis + 1)
    woven = pairs.reshape(*odd.shape[:axis], 2 * half, *odd.shape[axis + 1 :])
    return woven if even.shape[axis] == half else jnp.concatenate([woven, at(even, slice(half, None), axis)], axis)


def pullback(
    op: Operator, h0: State, reset: Array | None, reset_state: State | None, reverse: bool, h: Any, g: State
) -> tuple[Operator, State, State | None]:
    """The cotangents of (op, h0, reset_state); see `mru.engine.front`."""
    if not op.says_derivative():
        return _derived(op, h0, reset, reset_state, reverse, g)
    axis, wide = time_axis(op), widen(op, op.dtype)
    h = decoded(op, h, h0, reset_state, axis)
    before = states_before(h, h0, reset, reset_state, axis, reverse)
    # What step t + 1 hands to step t, unless a sequence starts there: a scan of the adjoint, in the other direction.
    zero = jax.tree.map(jnp.zeros_like, h0)
    starts = None
    if reset is not None:
        starts = previous(reset, jnp.zeros_like(at(reset, 0, axis)), axis, not reverse)
    handed = previous(
        every_state(handed_back(wide, before, g), zero, starts, zero, not reverse), zero, axis, not reverse
    )
    if starts is not None:
        handed = select(starts, jax.tree.map(jnp.zeros_like, handed), handed)
    g = jax.tree.map(jnp.add, g, handed)
    bars, incoming, to_reset = backward_step(wide, before, g, reset)
    first = at(incoming, -1 if reverse else 0, axis)
    return assembled(op, bars), first, jax.tree.map(lambda x: x.sum(axis), to_reset)


def _derived(
    op: Operator, h0: State, reset: Array | None, reset_state: State | None, reverse: bool, g: State
) -> tuple[Operator, State, State | None]:
    """The same for an operator that says nothing of its derivative: by JAX, through the compositions."""
    leaves, tree = jax.tree.flatten(op)
    inexact = [jnp.issubdtype(x.dtype, jnp.inexact) for x in leaves]

    def run(differentiable: list[Array], h0: State, reset_state: State | None) -> State:
        given = iter(differentiable)
        whole = jax.tree.unflatten(tree, [next(given) if i else x for i, x in zip(inexact, leaves, strict=True)])
        return every_state(widen(whole, op.dtype).lower(), h0, reset, reset_state, reverse)

    bars, *others = jax.vjp(run, [x for i, x in zip(inexact, leaves, strict=True) if i], h0, reset_state)[1](g)
    given = iter(bars)
    return assembled(op, [next(given) if i else None for i in inexact]), *others


def composed(
    build: Callable[..., Operator],
    op: Operator,
    others: Any,
    reset: Array | None,
    reset_state: State | None,
    reverse: bool,
) -> Composition:
    """All maps as one; see `mru.engine.sharded`."""
    axis = time_axis(op)
    reset_state = one_step(reset_state, axis)

    def level(steps: Composition) -> Composition:
        time = time_of(steps.op)
        if time == 1:
            return steps
        if time % 2:  # the first step joins at the end: all pairs then share the coefficient, where it is constant
            first, rest = (slice(-1, None), slice(-1)) if reverse else (slice(1), slice(1, None))
            return joined(_some(steps, first, axis), level(_some(steps, rest, axis)), reset_state)
        even, odd = _some(steps, slice(0, None, 2), axis), _some(steps, slice(1, None, 2), axis)
        return level(joined(odd, even, reset_state) if reverse else joined(even, odd, reset_state))

    whole = level(alone(build(op, others), reset, reset_state))
    return Composition(part(whole.op, 0, axis), *at((whole.value, whole.reset), 0, axis))
