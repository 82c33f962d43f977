"""The walks that a scan takes: forward and backward, each with one before it that finds what its chunks start from.

Where batch and channels are too few to fill a chip, the time axis is divided into chunks: each is composed into one
map, from its far end towards its near one until nothing before can reach through, then a walk over these maps gives
what each chunk starts from, and then all chunks are walked at once.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from mru.engine.kernel.complexes import Complex, split, unsplit
from mru.engine.kernel.plan import Plan, plan
from mru.engine.kernel.walk import Reads, walk
from mru.engine.steps import backward_step, decoded, field_cotangents, time_of, varies, widen
from mru.operators import Affine, Operator
from mru.operators.base import select


def states(
    op: Operator, h0: Array, reset: Array | None, reset_state: Array | None, reverse: bool, keep: bool
) -> tuple[Array, Array | None]:
    """Every state, and what is kept; see `mru.engine.front`."""
    keep = keep and op.coded
    shape, time, real, given = h0.shape, time_of(op), h0.real.dtype, op
    op, h0, reset_state = split((op, h0, reset_state))
    h0, reset_state = _rows(h0), _rows(reset_state)

    def wide(maps: Operator) -> Any:
        return widen(maps, real).in_kernel()

    def build(now: Any, fixed: Any) -> Any:
        maps, reset_now = now
        maps = wide(maps).lower()
        return maps if reset_now is None else maps.fold(fixed[0], reset_now)

    def step(h: Any, now: Any, fixed: Any) -> tuple[Any, Any]:
        (maps, reset_now), (restart, start) = now, fixed
        h = wide(maps).apply(select(reset_now, restart, h))
        return h, (h, given.encode(h, start, restart) if keep else None)

    reads = Reads(
        _sequences((op, None if reset is None else reset[..., None]), shape), (reset_state, h0 if keep else None)
    )
    divided = plan(h0, time, op)
    starts = _starts(build, reads, h0, divided, reverse)
    h = jax.tree.map(lambda x: jax.ShapeDtypeStruct((x.shape[0], time, x.shape[1]), x.dtype), h0)
    outs = h, jax.ShapeDtypeStruct(jax.tree.leaves(h)[0].shape, jnp.int8) if keep else None
    _, (h, code) = walk(step, reads, starts, outs, reverse, divided)
    return jax.tree.map(lambda x: x.reshape(*shape[:-1], time, shape[-1]), (unsplit(h), code))


def pullback(
    op: Operator, h0: Array, reset: Array | None, reset_state: Array | None, reverse: bool, h: Array, g: Array
) -> tuple[Operator, Array, Array | None]:
    """The cotangents of (op, h0, reset_state); see `mru.engine.front`."""
    shape, time, real, given = h0.shape, time_of(op), h0.real.dtype, op
    op, h0, reset_state, h, g = split((op, h0, reset_state, h, g))
    fields = _Fields(op, real, h0)
    moving = _sequences((op, None if reset is None else reset[..., None], g), shape)
    h, h0, reset_state = _sequences(h, shape), _rows(h0), _rows(reset_state)

    def parts(now: Any, fixed: Any) -> tuple[Any, Any, Any, Any]:
        ((maps, reset_now, g), before), (restart, start) = now, fixed
        before = decoded(given, before, start, restart)
        return widen(maps, real), reset_now, g, select(reset_now, restart, before)

    def build(now: Any, fixed: Any) -> Affine:
        maps, reset_now, g, before = parts(now, fixed)
        jacobian = maps.jacobian(before)
        through = jacobian * g
        jacobian = jax.tree.map(lambda x, y: jnp.broadcast_to(x, y.shape), jacobian, through)
        adjoint = Affine(jacobian, through)
        return select(reset_now, jax.tree.map(jnp.zeros_like, adjoint), adjoint)

    def step(carry: Any, now: Any, fixed: Any) -> tuple[Any, Any]:
        incoming, to_reset, sums = carry
        maps, reset_now, g, before = parts(now, fixed)
        bars, incoming, back = backward_step(maps, before, g + incoming, reset_now)
        if reset_now is not None:
            to_reset = to_reset + back
        sums = [x + bar for x, bar in zip(sums, fields.of_constants(bars), strict=True)]
        return (incoming, to_reset, sums), fields.of_steps(bars)

    nothing = jax.tree.map(jnp.zeros_like, h0)
    last = jnp.zeros_like(h0, dtype=h.dtype) if given.coded else h0
    reads = Reads(moving, (reset_state, h0 if given.coded else None), (h, last))
    divided = plan(h0, time, op)
    incoming = _starts(build, reads, nothing, divided, not reverse)
    zeros = jax.tree.map(jnp.zeros_like, incoming)
    sums = [jax.tree.leaves(zeros)[0] for _ in fields.of_constants(fields.leaves)]
    outs = [
        jax.ShapeDtypeStruct((math.prod(shape[:-1]), time, shape[-1]), x.dtype) for x in fields.of_steps(fields.leaves)
    ]
    carry = incoming, None if reset is None else zeros, sums
    (through, to_reset, sums), results = walk(step, reads, carry, outs, not reverse, divided)
    back, to_reset = unsplit((through, to_reset))
    op_bar = unsplit(fields.assembled(results, sums))
    return op_bar, back[:, -1].reshape(shape), None if to_reset is None else to_reset.sum(1).reshape(shape)


class _Fields:
    """Which arrays of an operator have a cotangent, and which of these are constant in time."""

    def __init__(self, op: Operator, real: Any, start: Any):
        self.leaves, self.tree = jax.tree.flatten(op)
        self.varies = varies(op)

        def row(x: Array) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(x.shape[-1:] if x.ndim else (), x.dtype)

        maps, state = jax.tree.map(row, (jax.eval_shape(lambda: widen(op, real)), start))
        self.wanted = [bar is not None for bar in jax.eval_shape(field_cotangents, maps, state, state)]

    def of_steps(self, leaves: list[Any]) -> list[Any]:
        """Of as many things as the operator has arrays, those of arrays with a value and a cotangent for every step."""
        return [x for x, moves, wanted in zip(leaves, self.varies, self.wanted, strict=True) if moves and wanted]

    def of_constants(self, leaves: list[Any]) -> list[Any]:
        """Those of arrays that are constant in time and have a cotangent."""
        return [x for x, moves, wanted in zip(leaves, self.varies, self.wanted, strict=True) if not moves and wanted]

    def assembled(self, steps: list[Array], sums: list[Array]) -> Any:
        """The cotangent of the operator, given those of all steps (B, T, N) and the sums of chunks (B, C, N)."""
        of_steps, of_constants = iter(steps), iter(sums)

        def one(x: Array, moves: bool, wanted: bool) -> Array | None:
            if not wanted:
                return None
            return next(of_steps).reshape(x.shape) if moves else next(of_constants).sum((0, 1)).astype(x.dtype)

        return jax.tree.unflatten(self.tree, list(map(one, self.leaves, self.varies, self.wanted)))


def _sequences(tree: Any, shape: tuple[int, ...]) -> Any:
    """Leaves (..., T, N) as (B, T, N), where `shape` is (..., N)."""
    return jax.tree.map(lambda x: x if x.ndim < 2 else x.reshape(math.prod(shape[:-1]), *x.shape[-2:]), tree)


def _rows(tree: Any) -> Any:
    """Leaves (..., N) as (B, N)."""
    return jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), tree)


def _identity(maps: Any, lanes: int) -> Any:
    """Rows of maps of this kind, abstract, that leave the state as it is."""

    def fill(like: Any, value: float) -> Any:
        if isinstance(like, Complex):
            return Complex(fill(like.real, value), fill(like.imag, 0))
        return jnp.full(lanes, value, like.dtype)

    return type(maps)(*map(fill, vars(maps).values(), maps.identity))


def _starts(build: Callable[..., Any], reads: Reads, start: Any, divided: Plan, reverse: bool) -> Any:
    """What each chunk of a walk starts from, (B, C, N), given what the first does, (B, N).

    Args:
        build: (what a step reads, what all read) -> the maps of a step: they are constant where a new sequence starts.
        reads: What the walk reads.
        start: Tree of (B, N).
        divided: With C chunks.
        reverse: Direction of the walk.
    """
    firsts = jax.tree.map(lambda x: x[:, None], start)
    if divided.chunks == 1:
        return firsts
    identity = functools.partial(_identity, jax.eval_shape(build, *reads.of_a_step()))

    def compose(later: Any, now: Any, fixed: Any) -> tuple[Any, tuple[()]]:
        # Selected, not multiplied by zero: a non-finite value before a reset must not reach past it.
        return select(later.reaches(), later.compose(build(now, fixed)), later), ()

    def follow(state: Any, maps: Any, _: Any) -> tuple[Any, Any]:
        return select(maps.reaches(), maps.apply(state), maps.constant()), state

    maps, _ = walk(compose, reads, identity, (), reverse, divided, reaches=lambda maps: maps.reaches())
    like = jax.tree.leaves(maps)[0]
    outs = jax.tree.map(lambda x: jax.ShapeDtypeStruct(like.shape, x.dtype), start)
    _, starts = walk(follow, Reads(maps, None), firsts, outs, False, Plan(32, 256))
    return starts
