"""The one custom VJP behind every method but "autodiff"."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from mru.engine import associative, sharded
from mru.engine.methods import METHODS
from mru.engine.steps import (
    assembled,
    at,
    backward_step,
    decoded,
    one_step,
    states_before,
    time_axis,
    time_of,
    widen,
)
from mru.operators import Operator
from mru.operators.base import State, select


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _scan(
    method: str,
    reverse: bool,
    axis_name: str | None,
    keep: bool,
    op: Operator,
    h0: State,
    reset_state: State | None,
    reset: Array | None,
) -> tuple[State, Array | None]:
    h0 = _first(method, reverse, axis_name, op, h0, reset_state, reset)
    if time_of(op) == 1:  # a single step, as in streaming: nothing to compose
        return _only(op, h0, reset_state, reset), None
    return METHODS[method].states(op, h0, reset, reset_state, reverse, keep)


def _only(op: Operator, h0: State, reset_state: State | None, reset: Array | None) -> State:
    h0, reset_state = one_step((h0, reset_state), time_axis(op))
    h = widen(op, op.dtype).apply(select(reset, reset_state, h0))
    return jax.tree.map(lambda x, like: x.astype(like.dtype), h, h0)


def _first(
    method: str,
    reverse: bool,
    axis_name: str | None,
    op: Operator,
    h0: State,
    reset_state: State | None,
    reset: Array | None,
) -> State:
    """The state that what this device holds starts from."""
    if axis_name is None:
        return h0
    return sharded.first_state(METHODS[method].composed, op, h0, reset, reset_state, reverse, axis_name)


def _scan_forward(
    method: str, reverse: bool, axis_name: str | None, keep: bool, op: Operator, h0: State, reset_state: Any, reset: Any
) -> Any:
    h0 = _first(method, reverse, axis_name, op, h0, reset_state, reset)
    # By its own VJP again, for derivatives of higher order.
    h, code = _scan(method, reverse, None, True, op, h0, reset_state, reset)
    return (h, code if keep else None), (op, h0, reset_state, reset, h if code is None else code)


def _scan_backward(
    method: str, reverse: bool, axis_name: str | None, keep: bool, residuals: Any, cotangent: Any
) -> Any:
    op, h0, reset_state, reset, h = residuals
    g, axis = cotangent[0], time_axis(op)
    if axis_name is not None:
        run = METHODS[method]
        states = _decoded(op, h, h0, reset_state)
        later = sharded.first_cotangent(
            run.composed, run.pullback, op, h0, reset, reset_state, reverse, states, g, axis_name
        )
        last = (slice(None),) * axis + (0 if reverse else -1,)
        g = jax.tree.map(lambda x, more: x.at[last].add(more), g, later)
    op_bar, h0_bar, reset_bar = compiled_pullback(method, reverse, op, h0, reset_state, reset, h, g)
    if axis_name is not None:
        # Only the first device starts from h0; the others passed theirs on above.
        index, size = jax.lax.axis_index(axis_name), jax.lax.axis_size(axis_name)
        holds = index == (size - 1 if reverse else 0)
        h0_bar = jax.tree.map(lambda x: jnp.where(holds, x, 0), h0_bar)
    return op_bar, h0_bar, reset_bar, None


_scan.defvjp(_scan_forward, _scan_backward)
# Outside of any `jit`, a loop would be compiled again in every call.
compiled_scan = jax.jit(_scan, static_argnums=(0, 1, 2, 3), inline=True)


def _decoded(op: Operator, h: Any, h0: State, reset_state: State | None) -> State:
    """What was kept of a single step, or of several, as states."""
    return h if time_of(op) == 1 else decoded(op, h, h0, reset_state, time_axis(op))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _pullback(
    method: str, reverse: bool, op: Operator, h0: State, reset_state: Any, reset: Any, h: Any, g: State
) -> tuple[Operator, State, State | None]:
    if time_of(op) > 1:
        return METHODS[method].pullback(op, h0, reset, reset_state, reverse, h, g)
    axis = time_axis(op)
    before = states_before(h, h0, reset, reset_state, axis, reverse)
    bars, incoming, to_reset = backward_step(widen(op, op.dtype), before, g, reset)
    return assembled(op, bars), at(incoming, 0, axis), at(to_reset, 0, axis)


def _pullback_forward(method: str, reverse: bool, *args: Any) -> Any:
    return _pullback(method, reverse, *args), args


def _pullback_backward(method: str, reverse: bool, args: Any, g: Any) -> Any:
    """Derivatives of the second order and above: those of the associative form, which JAX can differentiate itself."""
    op, h0, reset_state, reset, h, h_bar = args

    def plain(op: Operator, h0: State, reset_state: Any, h: Any, h_bar: State) -> Any:
        return associative.pullback(op, h0, reset, reset_state, reverse, h, h_bar)

    *bars, h_bar, g_bar = jax.vjp(plain, op, h0, reset_state, h, h_bar)[1](g)
    return *bars, None, h_bar, g_bar


_pullback.defvjp(_pullback_forward, _pullback_backward)
compiled_pullback = jax.jit(_pullback, static_argnums=(0, 1), inline=True)


def differentiable(
    reverse: bool, axis_name: str | None, op: Operator, h0: State, reset_state: State | None, reset: Array | None
) -> State:
    """The associative form without the VJP, for JAX to differentiate in any mode."""
    h0 = _first("associative", reverse, axis_name, op, h0, reset_state, reset)
    return associative.every_state(widen(op, op.dtype).lower().for_autodiff(), h0, reset, reset_state, reverse)
