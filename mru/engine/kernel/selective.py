"""The kernel of the selective scan: programs that walk through time with N states for each of their channels.

A program owns some channels (lanes) of one sequence. It holds their states in registers, as a block (N, lanes), goes
through time in chunks, and in the forward pass writes the outputs and the states before each chunk. The backward pass
takes the chunks from the last to the first. In each it computes the states of all steps again, which fit into registers
too, and then goes back through the steps. The cotangents of b and c are sums over all channels: each program writes the
sum over its own.

The arguments of both passes are described in `mru.engine.selective`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from mru.engine.kernel.plan import on_cuda
from mru.engine.selective_steps import Arguments, Maps, after, backward, chunk_of, divided, output, selected, widened

_STATES = 256  # of a program with one warp: 8 a thread, so that those of 16 steps fit into its registers
_MOST = 256  # states of a channel
# Steps whose operands are read before the first of them is taken: it keeps loads under way, and takes registers.
_AHEAD_FORWARD, _AHEAD_BACKWARD = 8, 4


def obstacle(given: Arguments) -> str | None:
    """Why the kernel can not run this, or None."""
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
        (maps, h0, restart), reset = refs
        y, last, kept = outs
        a, restart = program.block(maps.a).astype(dtype), program.of_sequence(restart)

        def chunk(i: Array, h: Array) -> Array:
            if keep:
                program.put_block(kept, h, program.sequence, i)
            for first in range(0, grid.chunk, _AHEAD_FORWARD):
                times = program.times(i, first, _AHEAD_FORWARD)
                for t, (now, starts, _) in list(zip(times, program.read(maps, reset, None, times, a), strict=True)):
                    h = after(now, selected(starts, restart, h))
                    program.put_lanes(y, output(now, h), t)
            return h

        h = jax.lax.fori_loop(0, grid.chunks, chunk, program.of_sequence(h0))
        program.put_block(last, h, program.sequence)

    return _call(walk, grid, (given, reset), (y, last, kept))


def pullback(given: Arguments, reset: Array | None, kept: Array, g: Array, g_last: Array) -> Arguments:
    """The cotangents of what was given."""
    grid, dtype = _Grid.of(given), given.h0.dtype
    maps, h0, restart = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), given)
    per_block = jax.ShapeDtypeStruct((grid.batch, grid.blocks, *maps.b.shape[1:]), dtype)
    outs = Arguments(Maps(maps.dt, h0, per_block, per_block, maps.x), h0, restart)

    def walk(program: _Program, refs: Any, outs: Arguments) -> None:
        (maps, _, restart), reset, kept, g, g_last = refs
        a, restart = program.block(maps.a).astype(dtype), program.of_sequence(restart)

        def again(i: Array) -> list[Array]:
            """The states before each step of a chunk."""
            h, found = program.block(kept, program.sequence, i), []
            for first in range(0, grid.chunk, _AHEAD_BACKWARD):
                times = program.times(i, first, _AHEAD_BACKWARD)
                for now, starts, _ in program.read(maps, reset, None, times, a):
                    found.append(selected(starts, restart, h))
                    h = after(now, found[-1])
            return found

        def back(t: Array, now: Any, h: Array, carry: Any) -> Any:
            (maps, starts, g), (incoming, a_bar, to_restart) = now, carry
            bars, through = backward(maps, h, g, incoming)
            program.put_lanes(outs.maps.dt, bars.dt, t)
            program.put_lanes(outs.maps.x, bars.x, t)
            program.put_sums(outs.maps.b, bars.b, t)
            program.put_sums(outs.maps.c, bars.c, t)
            incoming, restarted = divided(starts, through)
            return incoming, a_bar + bars.a, None if to_restart is None else to_restart + restarted

        def chunk(k: Array, carry: Any) -> Any:
            i = grid.chunks - 1 - k
            states = again(i)
            for first in reversed(range(0, grid.chunk, _AHEAD_BACKWARD)):
                times = program.times(i, first, _AHEAD_BACKWARD)
                found = list(zip(times, program.read(maps, reset, g, times, a), states[first:], strict=False))
                for t, now, h in reversed(found):
                    carry = back(t, now, h, carry)
            return carry

        incoming = program.of_sequence(g_last)
        zero = jnp.zeros_like(incoming)
        carry = incoming, zero, None if restart is None else zero
        incoming, a_bar, to_restart = jax.lax.fori_loop(0, grid.chunks, chunk, carry)
        program.put_block(outs.maps.a, a_bar, program.sequence)
        program.put_block(outs.h0, incoming, program.sequence)
        if to_restart is not None:
            program.put_block(outs.restart, to_restart, program.sequence)

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


class _Program:
    """One program of the kernel: the sequence and the channels that it owns, and how it reads and writes."""

    def __init__(self, grid: _Grid):
        self.grid = grid
        self.sequence, self.number = divmod(pl.program_id(0), grid.blocks)
        self.columns = self.number * grid.lanes + jnp.arange(grid.lanes)
        self.rows = jnp.arange(grid.rows)
        self.lane_exists = None if grid.channels % grid.lanes == 0 else self.columns < grid.channels
        self.row_exists = None if grid.rows == grid.states else self.rows < grid.states
        self.cell_exists = _both(_column(self.row_exists), _row(self.lane_exists))

    def times(self, chunk: Array, first: int, count: int) -> list[Array]:
        """The places in time of some steps of a chunk; of a chunk that is cut short they may lie behind the end."""
        return [chunk * self.grid.chunk + u for u in range(first, min(first + count, self.grid.chunk))]

    def block(self, ref: Any, *at: Any) -> Array:
        """The states of this program's channels, (N, lanes), at a place of an array."""
        return _load(ref.at[(*at, self.rows[:, None], self.columns[None, :])], self.cell_exists, ref.dtype)

    def of_sequence(self, ref: Any) -> Any:
        """The same of this program's sequence; None of None."""
        return None if ref is None else self.block(ref, self.sequence)

    def put_block(self, ref: Any, x: Array, *at: Any) -> None:
        """Write such states."""
        where = ref.at[(*at, self.rows[:, None], self.columns[None, :])]
        triton.store(where, x.astype(ref.dtype), mask=self.cell_exists)

    def read(self, maps: Any, reset: Any, g: Any, times: list[Array], a: Array) -> list[Any]:
        """The maps, the flag and the cotangent of some steps.

        Behind the end they are zeros, so that a step leaves the states as they are.
        """

        def lanes(ref: Any, t: Array) -> Array:
            mask = self._until_end(t, self.lane_exists, self.columns)
            return _load(ref.at[self.sequence, self._inside(t), self.columns], mask, ref.dtype)

        def states(ref: Any, t: Array) -> Array:
            mask = self._until_end(t, self.row_exists, self.rows)
            return _load(ref.at[self.sequence, self._inside(t), self.rows], mask, ref.dtype)

        def one(t: Array) -> Any:
            now = Maps(lanes(maps.dt, t), a, states(maps.b, t), states(maps.c, t), lanes(maps.x, t))
            starts = None if reset is None else triton.load(reset.at[self.sequence, self._inside(t)])
            if starts is not None and not self.grid.whole:
                starts &= t < self.grid.time
            return widened(now, a.dtype), starts, None if g is None else lanes(g, t).astype(a.dtype)

        return [one(t) for t in times]

    def put_lanes(self, ref: Any, x: Array, t: Array) -> None:
        """Write a row of channels of a step."""
        mask = self._until_end(t, self.lane_exists, self.columns)
        triton.store(ref.at[self.sequence, self._inside(t), self.columns], x.astype(ref.dtype), mask=mask)

    def put_sums(self, ref: Any, x: Array, t: Array) -> None:
        """Write the sums over this program's channels of a step."""
        mask = self._until_end(t, self.row_exists, self.rows)
        triton.store(ref.at[self.sequence, self.number, self._inside(t), self.rows], x.astype(ref.dtype), mask=mask)

    def _inside(self, t: Array) -> Array:
        return t if self.grid.whole else jnp.minimum(t, self.grid.time - 1)

    def _until_end(self, t: Array, exists: Array | None, like: Array) -> Array | None:
        return exists if self.grid.whole else _both(jnp.broadcast_to(t < self.grid.time, like.shape), exists)


def _load(ref: Any, mask: Array | None, dtype: Any) -> Array:
    return triton.load(ref, mask=mask, other=None if mask is None else jnp.zeros((), dtype))


def _both(x: Array | None, y: Array | None) -> Array | None:
    return y if x is None else x if y is None else x & y


def _column(x: Array | None) -> Array | None:
    return None if x is None else x[:, None]


def _row(x: Array | None) -> Array | None:
    return None if x is None else x[None, :]
