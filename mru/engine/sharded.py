"""A scan whose time axis lies spread over the devices of a mesh axis.

Each device composes its own maps, all of them gather these compositions (one per device: what is communicated does not
grow with T) and apply those before their own to the initial state. From there each scans what it holds. The backward
pass does the same with the maps of the adjoint, in the other direction.

A method's `composed(build, op, others, reset, reset_state, reverse)` is the `Composition` of the maps
`build(op, others)` of all steps; `others` are arrays that have a time axis.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from mru.engine.composition import Composition
from mru.engine.steps import handed_back, states_before, time_axis, varies, widen
from mru.operators import Operator
from mru.operators.base import State, select

Composed = Callable[..., Composition]
Pullback = Callable[..., tuple[Operator, State, State | None]]


def first_state(
    composed: Composed,
    op: Operator,
    h0: State,
    reset: Array | None,
    reset_state: State | None,
    reverse: bool,
    axis_name: str,
) -> State:
    """The state that this device's part of the sequence starts from, (..., N).

    Args:
        composed: The method's composition of maps.
        op: This device's part, like `reset`.
        h0: State before the whole sequence, (..., N).
        reset: (..., T), or None.
        reset_state: (..., N), or None.
        reverse: Direction of the scan.
        axis_name: Mesh axis.
    """
    dtype = op.dtype
    composition = composed(lambda op, _: widen(op, dtype).lower(), op, (), reset, reset_state, reverse)
    return _incoming(composition, h0, reset_state, reverse, axis_name)


def first_cotangent(
    composed: Composed,
    pullback: Pullback,
    op: Operator,
    h0: State,
    reset: Array | None,
    reset_state: State | None,
    reverse: bool,
    h: State,
    g: State,
    axis_name: str,
) -> State:
    """What the steps on later devices add to the cotangent `g` of this device's last state, (..., N).

    Args:
        composed: The method's composition of maps.
        pullback: The method's backward pass.
        op: This device's part, like `reset`, `h` and `g`.
        h0: State that this device's part starts from, (..., N).
        reset: (..., T), or None.
        reset_state: (..., N), or None.
        reverse: Direction of the scan.
        h: States, (..., T, N).
        g: Their cotangents, (..., T, N).
        axis_name: Mesh axis.
    """
    zero, dtype = jax.tree.map(jnp.zeros_like, h0), op.dtype
    if not op.says_derivative():
        return _derived(composed, pullback, op, h0, reset, reset_state, reverse, h, g, axis_name)

    def build(op: Operator, others: Any) -> Operator:
        # What a step hands to the one before it, and nothing where a sequence starts.
        before, g, reset = others
        maps = handed_back(widen(op, dtype), before, g)
        leaves, tree = jax.tree.flatten(maps)
        if reset is None:
            return maps
        pairs = zip(leaves, varies(maps), strict=True)
        return jax.tree.unflatten(tree, [select(reset, jnp.zeros_like(x), x) if moves else x for x, moves in pairs])

    before = states_before(h, h0, reset, reset_state, time_axis(op), reverse)
    composition = composed(build, op, (before, g, reset), reset, zero, not reverse)
    return _incoming(composition, zero, zero, not reverse, axis_name)


def _derived(
    composed: Composed,
    pullback: Pullback,
    op: Operator,
    h0: State,
    reset: Array | None,
    reset_state: State | None,
    reverse: bool,
    h: State,
    g: State,
    axis_name: str,
) -> State:
    """The same for an operator that says nothing of its derivative: through each device's composition of maps.

    A device's own cotangents reach its start by one backward pass, and what comes in from later devices by the
    derivative of its composition.
    """
    dtype = op.dtype
    whole = composed(lambda op, _: widen(op, dtype).lower(), op, (), reset, reset_state, reverse)
    own = pullback(op, h0, reset, reset_state, reverse, h, g)[1]
    everyone = jax.lax.all_gather((whole, h0, own), axis_name)

    def back(incoming: State, device: Any) -> tuple[State, State]:
        whole, start, own = device
        (through,) = jax.vjp(lambda h: whole.apply(h, reset_state), start)[1](incoming)
        return jax.tree.map(jnp.add, own, through), incoming

    _, incoming = jax.lax.scan(back, jax.tree.map(jnp.zeros_like, h0), everyone, reverse=not reverse)
    return jax.tree.map(lambda x: x[jax.lax.axis_index(axis_name)], incoming)


def _incoming(
    composition: Composition, start: State, reset_state: State | None, reverse: bool, axis_name: str
) -> State:
    """`start` taken through the compositions of all devices before this one."""
    everyone, unpacked = _gathered(composition, start, axis_name)

    def apply(state: State, device: Any) -> tuple[State, State]:
        return unpacked(device).apply(state, reset_state), state

    _, starts = jax.lax.scan(apply, start, everyone, reverse=reverse)
    return jax.tree.map(lambda x: x[jax.lax.axis_index(axis_name)], starts)


def _gathered(composition: Composition, like: State, axis_name: str) -> tuple[Any, Callable[[Any], Composition]]:
    """The compositions of all devices, and how to read one of them.

    Where all its arrays are like the state, a composition travels as one array: the value at a reset in the place of
    an array of the map, which is not read there.
    """
    leaves, tree = jax.tree.flatten(composition.op)
    host = [
        i for i, x in enumerate(leaves) if isinstance(like, Array) and (x.shape, x.dtype) == (like.shape, like.dtype)
    ]
    fits = host and all(jnp.issubdtype(x.dtype, jnp.inexact) and x.ndim <= like.ndim for x in leaves)
    if not fits:
        return jax.lax.all_gather(composition, axis_name), lambda device: device
    resets = []
    if composition.reset is not None:
        leaves[host[0]] = select(composition.reset, composition.value, leaves[host[0]])
        resets = [select(composition.reset, jnp.ones_like(like), jnp.zeros_like(like))]

    def unpacked(packed: Array) -> Composition:
        op = jax.tree.unflatten(tree, list(packed[: len(leaves)]))
        return Composition(op, packed[host[0]], packed[-1] != 0) if resets else Composition(op)

    packed = jnp.stack([*(jnp.zeros_like(like) + x for x in leaves), *resets])
    return jax.lax.all_gather(packed, axis_name), unpacked
