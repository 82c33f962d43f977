"""The walks that a scan takes, forward and backward, and how their chunks get to know what they start from.

Where batch and channels are too few to fill a chip, the time axis is divided into chunks. Maps that are constant now
and then are composed in a walk of their own: each chunk into one map, from its far end towards its near one until
nothing before can reach through, then a walk over these maps gives what each chunk starts from, and then all chunks are
walked at once. Others would be read twice that way: their programs look back at those before them instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from mru.engine.kernel.complexes import Complex, is_complex, split
from mru.engine.kernel.look_back import compose, follow, identity
from mru.engine.kernel.plan import Plan, plan
from mru.engine.kernel.program import Reads, Step
from mru.engine.kernel.walk import Build, walk
from mru.engine.steps import backward_step, decoded, field_cotangents, time_of, varies, widen
from mru.operators import Affine, Operator
from mru.operators.base import select


def states(
    op: Operator, h0: Array, reset: Array | None, reset_state: Array | None, reverse: bool, keep: bool
) -> tuple[Array, Array | None]:
    """Every state, and what is kept; see `mru.engine.front`."""
    keep = keep and op.coded
    shape, time, real, given = h0.shape, time_of(op), h0.real.dtype, op
    h0, reset_state = _rows(h0), _rows(reset_state)

    def wide(maps: Operator) -> Any:
        return widen(maps, real).in_kernel()

    def build(now: Any, fixed: Any) -> Any:
        maps, reset_now = now
        maps = wide(maps).lower()
        return maps if reset_now is None else maps.fold(fixed[0], reset_now)

    def step(carry: Any, now: Any, fixed: Any) -> tuple[Any, Any]:
        (h, nothing), (maps, reset_now), (reset_state, start) = carry, now, fixed
        h = wide(maps).apply(select(reset_now, reset_state, h))
        return (h, nothing), (h, given.encode(h, start, reset_state) if keep else None)

    reads = Reads(
        _sequences((op, None if reset is None else reset[..., None]), shape), (reset_state, h0 if keep else None)
    )
    of_steps = h0.shape[0], time, h0.shape[1]
    outs = jax.ShapeDtypeStruct(of_steps, h0.dtype), jax.ShapeDtypeStruct(of_steps, jnp.int8) if keep else None
    *_, (h, code) = _walked(build, step, reads, h0, lambda h: (h, ()), outs, reverse, plan(h0, time, op))
    return jax.tree.map(lambda x: x.reshape(*shape[:-1], time, shape[-1]), (h, code))


def pullback(
    op: Operator, h0: Array, reset: Array | None, reset_state: Array | None, reverse: bool, h: Array, g: Array
) -> tuple[Operator, Array, Array | None]:
    """The cotangents of (op, h0, reset_state); see `mru.engine.front`."""
    shape, time, real, given = h0.shape, time_of(op), h0.real.dtype, op
    fields = _Fields(op, real, h0)
    moving = _sequences((op, None if reset is None else reset[..., None], g), shape)
    h, h0, reset_state = _sequences(h, shape), _rows(h0), _rows(reset_state)

    def parts(now: Any, fixed: Any) -> tuple[Any, Any, Any, Any]:
        ((maps, reset_now, g), before), (reset_state, start) = now, fixed
        before = decoded(given, before, start, reset_state)
        return widen(maps, real), reset_now, g, select(reset_now, reset_state, before)

    def build(now: Any, fixed: Any) -> Affine:
        maps, reset_now, g, before = parts(now, fixed)
        jacobian = maps.jacobian(before)
        through = jacobian * g
        jacobian = jax.tree.map(lambda x, y: jnp.broadcast_to(x, y.shape), jacobian, through)
        adjoint = Affine(jacobian, through)
        return select(reset_now, jax.tree.map(jnp.zeros_like, adjoint), adjoint)

    def step(carry: Any, now: Any, fixed: Any) -> tuple[Any, Any]:
        incoming, (to_reset, sums) = carry
        maps, reset_now, g, before = parts(now, fixed)
        bars, incoming, back = backward_step(maps, before, g + incoming, reset_now)
        if reset_now is not None:
            to_reset = to_reset + back
        bars = fields.grouped(bars)
        sums = [x + bar for x, bar in zip(sums, fields.of_constants(bars), strict=True)]
        return (incoming, (to_reset, sums)), fields.of_steps(bars)

    last = jnp.zeros_like(h0, dtype=h.dtype) if given.coded else h0
    reads = Reads(moving, (reset_state, h0 if given.coded else None), (h, last))
    outs = [
        jax.ShapeDtypeStruct((math.prod(shape[:-1]), time, shape[-1]), x.dtype) for x in fields.of_steps(fields.leaves)
    ]

    def begin(incoming: Any) -> Any:
        zeros = jax.tree.map(jnp.zeros_like, incoming)
        real = jax.tree.leaves(zeros)[0]
        sums = [Complex(real, real) if is_complex(x) else real for x in fields.of_constants(fields.leaves)]
        return incoming, (None if reset is None else zeros, sums)

    back, (to_reset, sums), results = _walked(
        build, step, reads, jnp.zeros_like(h0), begin, outs, not reverse, plan(h0, time, op)
    )
    to_reset = None if to_reset is None else to_reset.sum(1).reshape(shape)
    return fields.assembled(results, sums), back.reshape(shape), to_reset


class _Fields:
    """Which arrays of an operator have a cotangent, and which of these are constant in time."""

    def __init__(self, op: Operator, real: Any, start: Any):
        self.leaves, self.tree = jax.tree.flatten(op)
        self.varies = varies(op)

        def row(x: Array) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(x.shape[-1:] if x.ndim else (), x.dtype)

        maps, state = jax.tree.map(row, split((jax.eval_shape(lambda: op), start)))
        found = jax.eval_shape(lambda maps, x: field_cotangents(widen(maps, real), x, x), maps, state)
        self.wanted = [bar is not None for bar in self.grouped(found)]

    def grouped(self, bars: list[Any]) -> list[Any]:
        """Of a list with two real numbers for each complex one, a list with one for each array of the operator."""
        rest = iter(bars)

        def both(real: Any, imag: Any) -> Complex | None:
            return None if real is None else Complex(real, imag)

        return [both(next(rest), next(rest)) if is_complex(x) else next(rest) for x in self.leaves]

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


def _walked(
    build: Build,
    step: Step,
    reads: Reads,
    start: Any,
    begin: Callable[[Any], tuple[Any, Any]],
    outs: Any,
    reverse: bool,
    divided: Plan,
) -> tuple[Any, Any, Any]:
    """Go through all steps: the state after them, the sums of each chunk, and what each step results in; see `walk`.

    Args:
        build: (what a step reads, what all read) -> the maps of a step: they are constant where a new sequence starts.
        step: As for `walk`.
        reads: What they read.
        start: Tree of (B, N), what the first chunk starts from.
        begin: The state that a chunk starts from -> its first carry.
        outs: Shapes and dtypes of the results.
        reverse: Direction of the walk.
        divided: How it is divided.
    """
    if divided.looks_back:
        return walk(step, reads, start, outs, reverse, divided, begin=begin, build=build)
    starts = _starts(build, reads, start, divided, reverse)
    ends, *rest = walk(step, reads, starts, outs, reverse, divided, begin=begin)
    return ends[:, -1], *rest


def _starts(build: Build, reads: Reads, start: Any, divided: Plan, reverse: bool) -> Any:
    """What each chunk of a walk starts from, (B, C, N), given what the first does, (B, N)."""
    firsts = jax.tree.map(lambda x: x[:, None], start)
    if divided.chunks == 1:
        return firsts
    kind = jax.eval_shape(build, *reads.of_a_step())

    def begin(_: None) -> tuple[Any, tuple[()]]:
        return identity(kind, (divided.lanes,)), ()

    def earlier(carry: Any, now: Any, fixed: Any) -> tuple[Any, tuple[()]]:
        return (compose(carry[0], build(now, fixed)), ()), ()

    def onward(carry: Any, maps: Any, _: Any) -> tuple[Any, Any]:
        return (follow(maps, carry[0]), ()), carry[0]

    maps, *_ = walk(earlier, reads, None, (), reverse, divided, begin=begin, reaches=lambda maps: maps.reaches())
    like = jax.tree.leaves(maps)[0]
    outs = jax.tree.map(lambda x: jax.ShapeDtypeStruct(like.shape, x.dtype), start)
    *_, starts = walk(onward, Reads(maps, None), firsts, outs, False, Plan(32, 256))
    return starts
