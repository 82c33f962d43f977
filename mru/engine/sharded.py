"""A scan whose time axis lies spread over the devices of a mesh axis.

Each device composes its own maps, all of them gather these compositions (one per device: what is communicated does not
grow with T) and apply those before their own to the initial state. From there each scans what it holds. The backward
pass does the same with the maps of the adjoint, in the other direction.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from mru.engine.adjoint import states_before, widen
from mru.operators import Affine, Operator, lowered

Composed = Callable[..., tuple[Operator, Array | None]]


def first_state(
    composed: Composed,
    op: Operator,
    h0: Array,
    reset: Array | None,
    reset_state: Array | None,
    reverse: bool,
    axis: str,
) -> Array:
    """The state that this device's part of the sequence starts from, (..., N).

    Args:
        composed: The method's composition of maps.
        op: This device's part, like `reset`.
        h0: State before the whole sequence, (..., N).
        reset: (..., T), or None.
        reset_state: (..., N), or None.
        reverse: Direction of the scan.
        axis: Name of the mesh axis.
    """

    def build(arrays):
        op, flags = arrays
        op = lowered(widen(op, h0.dtype))
        if flags is None:
            return op
        return op.fold(reset_state if op.constant().ndim == h0.ndim else reset_state[..., None, :], flags)

    composition, cut = composed(build, (op, _flags(reset)), reset, reverse)
    return _incoming(composition, cut, h0, reverse, axis)


def first_cotangent(
    composed: Composed,
    op: Operator,
    h0: Array,
    reset: Array | None,
    reset_state: Array | None,
    reverse: bool,
    h: Array,
    g: Array,
    axis: str,
) -> Array:
    """What the steps on later devices add to the cotangent `g` of this device's last state, (..., N)."""

    def build(arrays):
        # What a step hands to the one before it: J (g + what comes in), and nothing where a sequence starts.
        op, before, g, flags = arrays
        jacobian = widen(op, g.dtype).jacobian(before)
        return Affine(jacobian, jacobian * g if flags is None else jnp.where(flags, 0, jacobian * g))

    before = states_before(h, h0, reset, reset_state, reverse)
    composition, cut = composed(build, (op, before, g, _flags(reset)), reset, not reverse)
    return _incoming(composition, cut, jnp.zeros_like(h0), not reverse, axis)


def _flags(reset: Array | None) -> Array | None:
    return None if reset is None else reset[..., None]


def _incoming(composition: Operator, cut: Array | None, start: Array, reverse: bool, axis: str) -> Array:
    """`start` taken through the compositions of all devices before this one."""
    leaves, tree = jax.tree.flatten(composition)
    leaves += [jnp.zeros_like(start) if cut is None else cut]
    packed = jnp.stack([jnp.zeros_like(start) + x for x in leaves])
    everyone = jax.lax.all_gather(packed, axis)

    def apply(state, maps):
        composition = tree.unflatten(list(maps[:-1]))
        return jnp.where(maps[-1] != 0, composition.constant(), composition.apply(state)), state

    _, starts = jax.lax.scan(apply, start, everyone, reverse=reverse)
    return starts[jax.lax.axis_index(axis)]
