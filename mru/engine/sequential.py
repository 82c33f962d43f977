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

from mru.engine.composition import Composition, alone, joined
from mru.engine.planes import from_planes, planes
from mru.engine.steps import assembled, at, backward_step, decoded, part, put, time_axis, time_of, varies, widen
from mru.operators import Affine, Operator
from mru.operators.base import State, select


def states(
    op: Operator, h0: State, reset: Array | None, reset_state: State | None, reverse: bool, keep: bool
) -> tuple[State, Array | None]:
    """Every state, and what is kept; see `mru.engine.front`."""
    if _turns(op, h0, reset):
        return _turned(op, h0, reverse), None
    kept = op
    axis, time = time_axis(op), time_of(op)
    if op.says("before_loop"):
        op = widen(op, op.dtype).before_loop()

    def body(i: Array, carry: Any) -> Any:
        h, out = carry
        t = time - 1 - i if reverse else i
        if reset is not None:
            h = select(at(reset, t, axis), reset_state, h)
        now = widen(part(op, t, axis), op.dtype).apply(h)
        h = jax.tree.map(lambda x, like: x.astype(like.dtype), now, h)
        return h, put(out, h, t, axis)

    out = jax.tree.map(lambda x: _for_all_steps(x, axis, time), h0)
    h = jax.lax.fori_loop(0, time, body, (h0, out), unroll=_steps_a_round(h0))[1]
    if not (keep and kept.coded):
        return h, None
    start = jax.tree.map(lambda x: jnp.expand_dims(x, axis), (h0, reset_state))
    return h, kept.encode(h, *start)


_MANY = 128  # Numbers of a state: of fewer the loop of complex numbers is as fast, and compiles faster.


def _for_all_steps(x: Array, axis: int, time: int) -> Array:
    return jnp.zeros_like(jnp.broadcast_to(jnp.expand_dims(x, axis), (*x.shape[:axis], time, *x.shape[axis:])))


def _steps_a_round(state: State) -> int:
    """How many steps of the loop are written out in a round, which was measured with affine maps.

    Two save up to a quarter of the time; but they take twice as long where a state is a few vector registers, and up to
    half as long again where it is complex and large.
    """
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))  # bytes
    if not isinstance(size, int):  # a batch of any size, as `jax.export` may have it
        return 1
    complex_ = any(jnp.iscomplexobj(x) for x in jax.tree.leaves(state))
    return 1 if size <= 128 or (complex_ and size > 1024) else 2


def pullback(
    op: Operator, h0: State, reset: Array | None, reset_state: State | None, reverse: bool, h: Any, g: State
) -> tuple[Operator, State, State | None]:
    """The cotangents of (op, h0, reset_state); see `mru.engine.front`."""
    if _turns(op, h0, reset):
        return *_turned_back(op, h0, reverse, h, g), None
    axis, time, dtype, given = time_axis(op), time_of(op), op.dtype, op
    raised: Callable[[Operator], Any] = lambda bar: (bar,)  # noqa: E731
    if op.says("before_loop"):
        op, raised = jax.vjp(lambda op: widen(op, dtype).before_loop(), op)
    varied = varies(op)
    batch = jax.tree.leaves(h0)[0].shape[:axis]

    def maps(t: Array | int) -> Operator:
        """Those of a step. What is constant in time is given to each sequence of the batch: its cotangents are then
        summed over these once, behind the loop, and not in each step."""
        leaves, tree = jax.tree.flatten(widen(part(op, t, axis), dtype))
        whole = zip(leaves, op.leaves_and_forms(), varied, strict=True)
        wide = [x if v or form.scalar else jnp.broadcast_to(x, (*batch, *x.shape)) for x, (_, form), v in whole]
        return jax.tree.unflatten(tree, wide)

    def body(i: Array, carry: Any) -> Any:
        incoming, to_reset, bars = carry
        t = i if reverse else time - 1 - i
        before = decoded(given, at(h, jnp.clip(t + 1 if reverse else t - 1, 0, time - 1), axis), h0, reset_state)
        before = jax.tree.map(lambda x, start: jnp.where(i == time - 1, start, x), before, h0)
        reset_now = None if reset is None else at(reset, t, axis)
        before = select(reset_now, reset_state, before)
        total = jax.tree.map(jnp.add, at(g, t, axis), incoming)
        found, incoming, back = backward_step(maps(t), before, total, reset_now)
        if reset_now is not None:
            to_reset = jax.tree.map(jnp.add, to_reset, back)
        bars = [
            None if x is None else put(sums, x, t, axis) if moves else sums + x
            for sums, x, moves in zip(bars, found, varied, strict=True)
        ]
        return incoming, to_reset, bars

    zero = jax.tree.map(jnp.zeros_like, h0)
    # What is found in a step says the types of the sums, over a mesh too; it is not computed here.
    wanted, *_ = backward_step(maps(0), zero, zero, None)
    # The sum over time, of what is constant in it, is not rounded until its end.
    bars = [
        None if bar is None else jnp.zeros_like(x if moves else bar)
        for x, bar, moves in zip(jax.tree.leaves(op), wanted, varied, strict=True)
    ]
    start = zero, None if reset is None else zero, bars
    # Two steps a round save up to a third of the time of real affine maps; relays take up to twice as long with them.
    unroll = 2 if isinstance(op, Affine) and not jnp.issubdtype(dtype, jnp.complexfloating) else 1
    incoming, to_reset, bars = jax.lax.fori_loop(0, time, body, start, unroll=unroll)
    bars = [x if x is None or moves else x.sum(range(axis)) for x, moves in zip(bars, varied, strict=True)]
    return raised(assembled(op, bars))[0], incoming, to_reset


def _turns(op: Operator, h0: State, reset: Array | None) -> bool:
    """If these are maps of many complex channels, with a coefficient that is constant in time: those of an LRU."""
    if type(op) is not Affine or reset is not None:
        return False
    return op.a.ndim == 1 and jnp.iscomplexobj(op.a) and jnp.iscomplexobj(op.b) and jnp.size(h0) > _MANY


def _turned(op: Any, h0: Array, reverse: bool) -> Array:
    """Every state of h_t = a h_{t-1} + b_t, for complex a (N,) and b (..., T, N), written over b.

    The numbers are real here, in planes (..., T, 2, N). A product before the scan gives them so, and one after it takes
    them so: XLA then leaves out what happens in between.
    """
    axis, time = time_axis(op), time_of(op)
    a, b = op.a.astype(h0.dtype), op.b.astype(h0.dtype)
    same, other = jnp.stack([a.real, a.real]), jnp.stack([-a.imag, a.imag])

    def body(i: Array, carry: Any) -> Any:
        h, out = carry
        t = time - 1 - i if reverse else i
        h = same * h + other * jnp.flip(h, -2) + at(out, t, axis)
        return h, put(out, h, t, axis)

    _, out = jax.lax.fori_loop(0, time, body, (planes(h0), planes(b)))
    return from_planes(out)


def _turned_back(op: Any, h0: Array, reverse: bool, h: Array, g: Array) -> tuple[Operator, Array]:
    """The cotangents of (op, h0), for the same maps: what goes back is a scan of them, too."""
    axis = time_axis(op)
    a = op.a.astype(h0.dtype)
    # Of conjugates, as JAX negates imaginary parts both of what comes from products behind the scan and of what goes
    # to those before it: XLA has fewer negations to make then.
    total = _turned(Affine(a.conj(), g.conj()), jnp.zeros_like(h0), not reverse).conj()
    first, later, before = slice(1), slice(1, None), slice(-1)
    if reverse:
        first, later, before = slice(-1, None), slice(-1), slice(1, None)
    at_first = at(total, first, axis).squeeze(axis)
    of_a = (at(total, later, axis) * at(h, before, axis)).sum(range(axis + 1)) + (at_first * h0).sum(range(axis))
    return assembled(op, [of_a, total]), a * at_first


def composed(
    build: Callable[..., Operator],
    op: Operator,
    others: Any,
    reset: Array | None,
    reset_state: State | None,
    reverse: bool,
) -> Composition:
    """All maps as one; see `mru.engine.sharded`."""
    axis, time = time_axis(op), time_of(op)

    def step(i: Array | int) -> Composition:
        t = time - 1 - i if reverse else i
        now = build(part(op, t, axis), at(others, t, axis))
        return alone(now, None if reset is None else at(reset, t, axis), reset_state)

    return jax.lax.fori_loop(1, time, lambda i, earlier: joined(earlier, step(i), reset_state), step(0))
