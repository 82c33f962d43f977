"""What the backward passes of all methods share: the states before each step, and the cotangents they make."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from mru.operators import Operator, Relay


def widen(op: Operator, dtype: Any) -> Operator:
    """The operator with its floating-point fields in `dtype`, those that are real in its real part's."""
    real = jnp.finfo(dtype).dtype
    return jax.tree.map(lambda x: x if x.dtype == bool else x.astype(dtype if jnp.iscomplexobj(x) else real), op)


def time_of(op: Operator) -> int:
    """T; fields of fewer axes than two are constant in time."""
    return max(x.shape[-2] for x in jax.tree.leaves(op) if x.ndim >= 2)


def previous(x: Array, first: Array, reverse: bool) -> Array:
    """`x` (..., T, N) one step earlier in the direction of the scan, after `first` (..., N)."""
    first = jnp.broadcast_to(first[..., None, :], (*x.shape[:-2], 1, x.shape[-1]))
    return jnp.concatenate([x[..., 1:, :], first] if reverse else [first, x[..., :-1, :]], -2)


def states_before(h: Array, h0: Array, reset: Array | None, reset_state: Array | None, reverse: bool) -> Array:
    """The state that each step starts from, (..., T, N)."""
    before = previous(h, h0, reverse)
    if reset is None or reset_state is None:
        return before
    return jnp.where(reset[..., None], reset_state[..., None, :], before)


def is_coded(op: Operator) -> bool:
    """If the backward pass keeps the states as `encoded`."""
    return isinstance(op, Relay) and op.leak is None


def encoded(h: Array, h0: Array, reset_state: Array | None) -> Array:
    """The states of a relay that never leaks, as int8: what was written (-1 or 1), 0 for `h0`, 2 for `reset_state`."""
    h0, reset_state = _for_steps_of(h, h0, reset_state)
    if reset_state is None:
        start = jnp.zeros_like(h)
    else:
        # A NaN is never equal to itself; of two that are alike the first is meant.
        start = jnp.where((h == h0) | (jnp.isnan(h) & jnp.isnan(h0)), 0, 2).astype(h.dtype)
    return jnp.where(jnp.abs(h) == 1, h, start).astype(jnp.int8)


def decoded(h: Array, h0: Array, reset_state: Array | None) -> Array:
    """The states that were `encoded`; others as they are."""
    if h.dtype != jnp.int8:
        return h
    h0, reset_state = _for_steps_of(h, h0, reset_state)
    start = h0 if reset_state is None else jnp.where(h == 0, h0, reset_state)
    return jnp.where(jnp.abs(h) == 1, h.astype(h0.dtype), start)


def _for_steps_of(h, *states):
    """States (..., N) against `h`, which is one step (..., N) or all (..., T, N)."""
    return [x if x is None or x.ndim == h.ndim else x[..., None, :] for x in states]


def field_cotangents(op: Operator, before: Array, g: Array) -> dict[str, Array]:
    """The cotangents of the fields that have one, by name."""
    return {name: x for name, x in vars(op.cotangent(before, g)).items() if x is not None}


def cotangents(
    op: Operator, before: Array, g: Array, reset: Array | None, reverse: bool
) -> tuple[Operator, Array, Array | None]:
    """The cotangents of (op, h0, reset_state), given the states before each step and the cotangents of those after it.

    Args:
        op: Operator.
        before: (..., T, N).
        g: (..., T, N), all that depends on a state through later ones included.
        reset: (..., T), or None.
        reverse: Direction of the scan.
    """
    first = slice(-1, None) if reverse else slice(1)
    wide = widen(op, g.dtype)
    # A cotangent that is None stands for zero, as JAX has it for a boolean field.
    op_bar = jax.tree.map(lambda x, bar: None if bar is None else bar.astype(x.dtype), op, wide.cotangent(before, g))
    incoming = wide.jacobian(before) * g
    if reset is None:
        return op_bar, incoming[..., first, :][..., 0, :], None
    flags = reset[..., None]
    h0_bar = jnp.where(flags, 0, incoming)[..., first, :][..., 0, :]
    return op_bar, h0_bar, jnp.where(flags, incoming, 0).sum(-2)
