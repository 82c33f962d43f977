"""One step after the other, in place: one pass over memory, O(T) depth.

The loop reads each step where it lies, (..., T, N) with the channels innermost, and writes the state into its place in
the result. `jax.lax.scan` over the steps would first lay out every operand with the time axis outermost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from mru.engine.adjoint import decoded, encoded, field_cotangents, is_coded, time_of, widen
from mru.operators import Operator, Play, lowered


def _at(tree: Any, t: Array | int) -> Any:
    """Step `t` of a tree of arrays (..., T, N); what has fewer axes than two is constant in time."""
    return jax.tree.map(lambda x: x if x.ndim < 2 else jax.lax.dynamic_index_in_dim(x, t, x.ndim - 2, False), tree)


def _put(x: Array, value: Array, t: Array) -> Array:
    return jax.lax.dynamic_update_index_in_dim(x, value, t, x.ndim - 2)


def _prepared(op: Operator, dtype: Any) -> Operator:
    """The gates of a `Play` cost a softplus, which is faster for all steps at once; those of a `Relay` a comparison."""
    return lowered(widen(op, dtype)) if isinstance(op, Play) else op


def states(
    op: Operator, h0: Array, reset: Array | None, reset_state: Array | None, reverse: bool, keep: bool
) -> tuple[Array, Array | None]:
    """Every state, and what is kept; see `mru.engine.front`."""
    time = time_of(op)
    op = _prepared(op, h0.dtype)
    flags = None if reset is None else reset[..., None]

    def body(i, carry):
        h, out = carry
        t = time - 1 - i if reverse else i
        if flags is not None:
            h = jnp.where(_at(flags, t), reset_state, h)
        h = widen(_at(op, t), h.dtype).apply(h)
        return h, _put(out, h, t)

    out = jnp.zeros_like(jnp.broadcast_to(h0[..., None, :], (*h0.shape[:-1], time, h0.shape[-1])))
    # Two steps a round save up to a quarter of the time of small steps; complex ones lose as much.
    h = jax.lax.fori_loop(0, time, body, (h0, out), unroll=1 if jnp.iscomplexobj(h0) else 2)[1]
    return h, encoded(h, h0, reset_state) if keep and is_coded(op) else None


def pullback(
    op: Operator, h0: Array, reset: Array | None, reset_state: Array | None, reverse: bool, h: Array, g: Array
) -> tuple[Operator, Array, Array | None]:
    """The cotangents of (op, h0, reset_state); see `mru.engine.front`."""
    time = time_of(op)
    maps, raised = op, lambda bar: (bar,)
    if isinstance(op, Play):
        maps, raised = jax.vjp(lambda op: _prepared(op, g.dtype), op)
    flags = None if reset is None else reset[..., None]

    def body(i, carry):
        incoming, to_reset, bars = carry
        bars = dict(bars)
        t = i if reverse else time - 1 - i
        before = decoded(_at(h, jnp.clip(t + 1 if reverse else t - 1, 0, time - 1)), h0, reset_state)
        before = jnp.where(i == time - 1, h0, before)
        flag = None if flags is None else _at(flags, t)
        if flag is not None:
            before = jnp.where(flag, reset_state, before)
        total = _at(g, t) + incoming
        now = widen(_at(maps, t), g.dtype)
        for name, x in field_cotangents(now, before, total).items():
            bars[name] = bars[name] + x if bars[name].ndim < 2 else _put(bars[name], x.astype(bars[name].dtype), t)
        incoming = now.jacobian(before) * total
        if flag is not None:
            to_reset = to_reset + jnp.where(flag, incoming, 0)
            incoming = jnp.where(flag, 0, incoming)
        return incoming, to_reset, bars

    zero = jnp.zeros_like(h0)
    first = widen(_at(maps, 0), g.dtype)
    fields = {name: getattr(maps, name) for name in jax.eval_shape(lambda: field_cotangents(first, zero, zero))}
    # The sum over time, of what is constant in it, is not rounded until its end.
    bars = {name: jnp.zeros_like(x, dtype=g.dtype if x.ndim < 2 else x.dtype) for name, x in fields.items()}
    start = zero, None if reset is None else zero, bars
    incoming, to_reset, bars = jax.lax.fori_loop(0, time, body, start)
    bars = {name: bars[name].astype(x.dtype) for name, x in fields.items()}
    (op_bar,) = raised(type(maps)(**{name: bars.get(name) for name in vars(maps)}))
    return op_bar, incoming, to_reset


def composed(
    build: Callable[..., Operator], arrays: Any, cut: Array | None, reverse: bool
) -> tuple[Operator, Array | None]:
    """The composition of all maps, (..., N), and whether one of them was at a cut; see `mru.engine.sharded`."""
    time = time_of(arrays)
    first = time - 1 if reverse else 0
    flags = None if cut is None else cut[..., None]

    def body(i, carry):
        earlier, seen = carry
        t = time - 1 - i if reverse else i
        now = build(_at(arrays, t))
        joined = now.compose(earlier)
        if flags is None:
            return joined, seen
        flag = _at(flags, t)
        # A constant coefficient stays as it is: after a cut nobody reads it.
        joined = jax.tree.map(lambda x, y: y if x.ndim < flag.ndim else jnp.where(flag, x, y), now, joined)
        return joined, seen | flag

    start = build(_at(arrays, first)), None if flags is None else _at(flags, first)
    return jax.lax.fori_loop(1, time, body, start)
