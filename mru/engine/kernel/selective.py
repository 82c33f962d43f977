"""The kernel of the selective scan: programs that walk through time with N states for each of their channels.

A program owns some channels (lanes) of one sequence. It holds their states in registers, as a block (N, lanes), goes
through time in chunks, and in the forward pass writes the outputs and the states before each chunk. The backward pass
takes the chunks from the last to the first, and each in parts: it goes from the state before the chunk to the part,
computes the states of all its steps, which fit into registers too, and then goes back through them. The cotangents of b
and c are sums over all channels: each program writes the sum over its own.

The arguments of both passes are described in `mru.engine.selective`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl

from mru.engine.kernel import backend
from mru.engine.kernel.backend import triton
from mru.engine.kernel.plan import on_cuda
from mru.engine.selective_steps import Arguments, Maps, after, backward, chunk_of, divided, output, selected, widened

_STATES = 256  # of a program with one warp: 8 a thread
_PART = 8  # steps whose states are in registers at the same time
_MOST = 256  # states of a channel
_AHEAD = 4  # steps that are read before the first of them is taken, which keeps loads under way


def obstacle(given: Arguments) -> str | None:
    """Why the kernel can not run this, or None."""
    if (reason := backend.obstacle()) is not None:
        return reason
    grid = _Grid.of(given)
    if grid.states > _MOST:
        return f"it holds at most {_MOST} states a channel, and there are {grid.states}"
    size = max(given.maps.x.size, grid.batch * grid.states * max(grid.chunks * grid.channels, grid.blocks * grid.time))
    if size >= 2**31:
        return f"it counts elements in 32 bits, and an array has {size:,}"
    return None


def forward(given: Arguments, reset: Array | None, keep: bool) -> tuple[Array, Array, Array | None]:
    """Outputs, the last state, and what was kept."""
    grid, dtype = _Grid.of(given), given.h0.dtype
    y = jax.ShapeDtypeStruct(given.maps.x.shape, dtype)
    last = jax.ShapeDtypeStruct(given.h0.shape, dtype)
    kept = jax.ShapeDtypeStruct((grid.batch, grid.chunks, *given.h0.shape[1:]), dtype) if keep else None

    def walk(program: _Program, refs: Any, outs: Any) -> None:
        (maps, h0, reset_state), reset = refs
        y, last, kept = outs
        a, reset_state = program.block(maps.a).astype(dtype), program.of_sequence(reset_state)

        def part(number: Array, h: Array) -> Array:
            for now in program.steps(maps, a, reset, None, number * grid.part, grid.part):
                h = after(now.maps, selected(now.reset, reset_state, h))
                program.put_lanes(y, output(now.maps, h), now.time)
            return h

        def chunk(i: Array, h: Array) -> Array:
            if keep:
                program.put_block(kept, h, program.sequence, i)
            return _loop(i * grid.parts, (i + 1) * grid.parts, part, h)

        h = _loop(0, grid.chunks, chunk, program.of_sequence(h0))
        program.put_block(last, h, program.sequence)

    return _call(walk, grid, (given, reset), (y, last, kept))


def pullback(given: Arguments, reset: Array | None, kept: Array, g: Array, g_last: Array) -> Arguments:
    """The cotangents of what was given."""
    grid, dtype = _Grid.of(given), given.h0.dtype
    per_block: Any = jax.ShapeDtypeStruct((grid.batch, grid.blocks, *given.maps.b.shape[1:]), dtype)
    outs = given._replace(maps=given.maps._replace(a=given.h0, b=per_block, c=per_block))

    def walk(program: _Program, refs: Any, outs: Arguments) -> None:
        (maps, _, reset_state), reset, kept, g, g_last = refs
        a, reset_state = program.block(maps.a).astype(dtype), program.of_sequence(reset_state)

        def onward(first: Array, h: Array) -> list[Array]:
            """The states before each step of a part, and those after its last."""
            found = [h]
            for now in program.steps(maps, a, reset, None, first, grid.part):
                found[-1] = selected(now.reset, reset_state, found[-1])
                found.append(after(now.maps, found[-1]))
            return found

        def back(now: _Step, h: Array, carry: Any) -> Any:
            incoming, a_bar, to_reset_state = carry
            bars, through = backward(now.maps, h, now.g, incoming)
            program.put_lanes(outs.maps.dt, bars.dt, now.time)
            program.put_lanes(outs.maps.x, bars.x, now.time)
            program.put_sums(outs.maps.b, bars.b, now.time)
            program.put_sums(outs.maps.c, bars.c, now.time)
            incoming, to_reset_state = divided(now.reset, through, to_reset_state)
            return incoming, a_bar + bars.a, to_reset_state

        def part(k: Array, carry: Any) -> Any:
            number = grid.chunks * grid.parts - 1 - k
            i = jax.lax.div(number, jnp.int32(grid.parts))
            h, first = program.block(kept, program.sequence, i), i * grid.parts
            h = _loop(first, number, lambda j, h: onward(j * grid.part, h)[-1], h)
            begin = number * grid.part
            states = onward(begin, h)
            for now in program.steps(maps, a, reset, g, begin, grid.part, reverse=True):
                carry = back(now, states[now.place], carry)
            return carry

        incoming = program.of_sequence(g_last)
        zero = jnp.zeros_like(incoming)
        carry = incoming, zero, None if reset_state is None else zero
        incoming, a_bar, to_reset_state = _loop(0, grid.chunks * grid.parts, part, carry)
        program.put_block(outs.maps.a, a_bar, program.sequence)
        program.put_block(outs.h0, incoming, program.sequence)
        if to_reset_state is not None:
            program.put_block(outs.reset_state, to_reset_state, program.sequence)

    bars, *states = _call(walk, grid, (given, reset, kept, g, g_last), outs)
    return Arguments(bars._replace(a=bars.a.sum(0), b=bars.b.sum(1), c=bars.c.sum(1)), *states)


@dataclasses.dataclass(frozen=True)
class _Grid:
    """The sizes of a walk.

    Attributes:
        batch: B.
        time: T.
        channels: D.
        states: N.
        rows: N, up to a power of two.
        lanes: Channels of a program.
        chunk: Steps of a chunk.
    """

    batch: int
    time: int
    channels: int
    states: int
    rows: int
    lanes: int
    chunk: int

    @staticmethod
    def of(given: Arguments) -> _Grid:
        """The grid of a scan."""
        (batch, time, channels), states = given.maps.x.shape, given.maps.b.shape[-1]
        rows = pl.next_power_of_2(states)
        lanes = min(max(8, min(32, _STATES // rows)), pl.next_power_of_2(channels))
        return _Grid(batch, time, channels, states, rows, lanes, chunk_of(time))

    @property
    def part(self) -> int:
        """Steps of a part of a chunk."""
        # Of more steps in a row, interpreted, XLA takes long to compile the passes.
        return min(_PART if on_cuda() else 4, self.chunk)

    @property
    def parts(self) -> int:
        """Parts of a chunk."""
        return self.chunk // self.part

    @property
    def blocks(self) -> int:
        """Programs of a sequence."""
        return pl.cdiv(self.channels, self.lanes)

    @property
    def chunks(self) -> int:
        """Chunks of a sequence; the last may be cut short by its end."""
        return pl.cdiv(self.time, self.chunk)

    @property
    def whole(self) -> bool:
        """If the last chunk is not cut short."""
        return self.chunks * self.chunk == self.time


def _call(walk: Callable[..., None], grid: _Grid, given: Any, outs: Any) -> Any:
    """Run a walk in every program: what it writes, in the shapes and dtypes of `outs`."""
    inputs, tree = jax.tree.flatten(given)
    results, results_tree = jax.tree.flatten(outs)
    varies = jax.typeof(inputs[0]).manual_axis_type  # inside a `shard_map`; all do alike

    def kernel(*refs: Any) -> None:
        walk(
            _Program(grid),
            jax.tree.unflatten(tree, refs[: len(inputs)]),
            jax.tree.unflatten(results_tree, refs[len(inputs) :]),
        )

    found = pl.pallas_call(
        kernel,
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype, manual_axis_type=varies) for x in results],
        grid=(grid.batch * grid.blocks,),
        compiler_params=triton.CompilerParams(num_warps=max(1, grid.rows * grid.lanes // _STATES), num_stages=1),
        interpret=not on_cuda(),
        name="mru_selective_scan",
    )(*inputs)
    return jax.tree.unflatten(results_tree, found)


class _Step(NamedTuple):
    """What a step reads.

    Attributes:
        place: Its place in its part.
        time: Its place in the sequence.
        maps: Its maps.
        reset: If a sequence starts, or None.
        g: The cotangent of its output, or None.
    """

    place: int
    time: Array
    maps: Maps
    reset: Array | None
    g: Any


class _Program:
    """One program of the kernel: the sequence and the channels that it owns, and how it reads and writes."""

    def __init__(self, grid: _Grid):
        self.grid = grid
        self.sequence, self.number = divmod(pl.program_id(0), grid.blocks)
        self.columns = self.number * grid.lanes + jnp.arange(grid.lanes, dtype=jnp.int32)
        self.rows = jnp.arange(grid.rows, dtype=jnp.int32)
        self.lane_exists = None if grid.channels % grid.lanes == 0 else self.columns < grid.channels
        self.row_exists = None if grid.rows == grid.states else self.rows < grid.states
        self.cell_exists = _both(_column(self.row_exists), _row(self.lane_exists))

    def block(self, ref: Any, *at: Any) -> Array:
        """The states of this program's channels, (N, lanes), at a place of an array."""
        return _load(ref.at[(*at, self.rows[:, None], self.columns[None, :])], self.cell_exists)

    def of_sequence(self, ref: Any) -> Any:
        """The same of this program's sequence; None of None."""
        return None if ref is None else self.block(ref, self.sequence)

    def put_block(self, ref: Any, x: Array, *at: Any) -> None:
        """Write such states."""
        where = ref.at[(*at, self.rows[:, None], self.columns[None, :])]
        triton.store(where, x.astype(ref.dtype), mask=self.cell_exists)

    def steps(
        self, maps: Maps, a: Array, reset: Any, g: Any, first: Array, count: int, reverse: bool = False
    ) -> Iterator[_Step]:
        """What some steps read, several steps ahead.

        Args:
            maps: References, as are `reset` and `g`, which may be None.
            a: The block of this program.
            first: The first step.
            count: Number of steps.
            reverse: From the last to the first.
        """
        places = list(reversed(range(count)) if reverse else range(count))
        for begin in range(0, count, _AHEAD):
            yield from [self._step(maps, a, reset, g, first, place) for place in places[begin : begin + _AHEAD]]

    def _step(self, maps: Maps, a: Array, reset: Any, g: Any, first: Array, place: int) -> _Step:
        """What a step reads. Behind the end these are zeros, with which it leaves the states as they are."""
        t = first + place
        mask = self._until_end(t, self.columns, self.lane_exists)
        row_mask = self._until_end(t, self.rows, self.row_exists)
        t = t if self.grid.whole else jnp.minimum(t, self.grid.time - 1)

        def lanes(ref: Any) -> Array:
            return _load(ref.at[self.sequence, t, self.columns], mask)

        def states(ref: Any) -> Array:
            return _load(ref.at[self.sequence, t, self.rows], row_mask)

        now = widened(Maps(lanes(maps.dt), a, states(maps.b), states(maps.c), lanes(maps.x)), a.dtype)
        starts = None if reset is None else triton.load(reset.at[self.sequence, t]) & (first + place < self.grid.time)
        return _Step(place, first + place, now, starts, None if g is None else lanes(g))

    def put_lanes(self, ref: Any, x: Array, t: Array) -> None:
        """Write a row of channels of a step."""
        self._put(ref, x, t, self.columns, self.lane_exists, self.sequence)

    def put_sums(self, ref: Any, x: Array, t: Array) -> None:
        """Write the sums over this program's channels of a step."""
        self._put(ref, x, t, self.rows, self.row_exists, self.sequence, self.number)

    def _put(self, ref: Any, x: Array, t: Array, columns: Array, exists: Array | None, *at: Any) -> None:
        mask = self._until_end(t, columns, exists)
        t = t if self.grid.whole else jnp.minimum(t, self.grid.time - 1)
        triton.store(ref.at[(*at, t, columns)], x.astype(ref.dtype), mask=mask)

    def _until_end(self, t: Array, columns: Array, exists: Array | None) -> Array | None:
        """Which columns exist, at a step that may lie behind the end."""
        return exists if self.grid.whole else _both(jnp.broadcast_to(t < self.grid.time, columns.shape), exists)


def _loop(begin: Array | int, end: Array | int, body: Callable[[Array, Any], Any], carry: Any) -> Any:
    """A loop that counts in 32 bits, in x64 too."""
    return jax.lax.fori_loop(jnp.int32(begin), jnp.int32(end), body, carry)


def _load(ref: Any, mask: Array | None) -> Array:
    return triton.load(ref, mask=mask, other=None if mask is None else jnp.zeros((), ref.dtype))


def _both(x: Array | None, y: Array | None) -> Array | None:
    return y if x is None else x if y is None else x & y


def _column(x: Array | None) -> Array | None:
    return None if x is None else x[:, None]


def _row(x: Array | None) -> Array | None:
    return None if x is None else x[None, :]
