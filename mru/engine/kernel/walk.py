"""The kernel: programs that walk through steps with what they carry in registers.

One sequence of T steps and N channels, here with two blocks, two chunks and tiles of four steps:

                     channels ->
                     block 0         block 1
              +---------------+---------------+
     time  c  |  tile 0: steps 0 1 2 3        |   A program owns one block of one chunk of one sequence, and walks
      |    h  +---------------+---------------+   through its tiles: it loads all steps of a tile, then takes them
      v    u  |  tile 1: steps 4 5 6 7        |   one after the other. What it carries from one step to the next
           n  +===============+===============+   never leaves its registers.
           k  |  tile 2 ...                   |
           1  |                               |   In a reverse walk step 0 is the last one in time.
              +---------------+---------------+
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl

from mru.engine.kernel.backend import triton
from mru.engine.kernel.plan import Grid, Plan, on_cuda
from mru.operators.base import select

# (carry, what a step reads, what all steps read) -> (carry, results)
Step = Callable[[Any, Any, Any], tuple[Any, Any]]


@dataclasses.dataclass(frozen=True)
class Reads:
    """What a walk reads.

    Attributes:
        moving: Tree of (B, T, N), or (B, T, 1) for what all channels share; (N,) or () for what is constant in time.
        fixed: Tree of (B, N), the same for all steps.
        ahead: Trees x (B, T, N) and last (B, N), or None: a step then reads a pair, of the rows of `moving` and that of
            `x` one step further on, which at the end is `last`.
    """

    moving: Any
    fixed: Any
    ahead: tuple[Any, Any] | None = None

    def of_a_step(self) -> tuple[Any, Any]:
        """What a step reads and what all steps read, abstract."""

        def row(x: Array) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(x.shape[-1:] if x.ndim else (), x.dtype)

        moving, fixed, ahead = jax.tree.map(row, (self.moving, self.fixed, self.ahead))
        return moving if ahead is None else (moving, ahead[0]), fixed


def walk(
    step: Step,
    reads: Reads,
    carry: Any,
    outs: Any,
    reverse: bool,
    plan: Plan,
    *,
    reaches: Callable[[Any], Array] | None = None,
) -> tuple[Any, Any]:
    """Go through the steps of every chunk: the carries after them, (B, C, N), and what each step results in, (B, T, N).

    Args:
        step: (carry, what the step reads, what all read) -> (carry, results), on rows of channels.
        reads: What they read.
        carry: Tree of (B, C, N), what each chunk starts from; or a function of the channels of a program that makes it.
        outs: Shapes and dtypes of the results.
        reverse: Go from the last step to the first.
        plan: With C chunks.
        reaches: If given, go through each chunk from its end to its start, and no further than to where this is false
            of the carry in all channels.
    """
    arrays = [x for x in jax.tree.leaves((reads.moving, reads.ahead)) if x.ndim == 3]
    batch, time, channels = max((x.shape for x in arrays), key=lambda shape: shape[-1])
    bytes_of_a_step = sum(x.dtype.itemsize for x in arrays if x.shape[-1] == channels)
    grid = Grid.of(plan, time, channels, bytes_of_a_step)

    def lay(x: Array) -> Array:
        return x[..., 0] if x.ndim == 3 and x.shape[-1] < channels else jnp.broadcast_to(x, x.shape or (channels,))

    given = None if callable(carry) else carry
    made = jax.eval_shape(lambda: carry(grid.lanes)) if callable(carry) else carry
    carries = jax.tree.map(lambda x: jax.ShapeDtypeStruct((batch, grid.chunks, channels), x.dtype), made)
    inputs, tree = jax.tree.flatten((jax.tree.map(lay, reads.moving), reads.fixed, given, reads.ahead))
    results, results_tree = jax.tree.flatten((carries, outs))
    varies = jax.typeof(max(inputs, key=jnp.ndim)).manual_axis_type  # inside a `shard_map`; all do alike
    results = [jax.ShapeDtypeStruct(x.shape, x.dtype, manual_axis_type=varies) for x in results]

    def kernel(*refs: Any) -> None:
        moving, fixed, given, ahead = jax.tree.unflatten(tree, refs[: len(inputs)])
        carry_out, outs = jax.tree.unflatten(results_tree, refs[len(inputs) :])
        program = _Program(grid, reverse, step, Reads(moving, fixed, ahead), outs)
        program.run(carry if callable(carry) else given, carry_out, reaches)

    found = pl.pallas_call(
        kernel,
        out_shape=results,
        grid=(batch * grid.blocks, grid.chunks),
        compiler_params=triton.CompilerParams(num_warps=1, num_stages=1),
        interpret=not on_cuda(),
        name="mru_scan",
    )(*inputs)
    return jax.tree.unflatten(results_tree, found)


class _Program:
    """One program of the kernel: the block, chunk and sequence that it owns, and how it goes through them."""

    def __init__(self, grid: Grid, reverse: bool, step: Step, refs: Reads, outs: Any):
        self.grid, self.reverse, self.step, self.outs = grid, reverse, step, jax.tree.leaves(outs)
        # Those that run side by side read side by side, and only the first axis of a grid may exceed 65,535.
        (self.sequence, block), self.chunk = divmod(pl.program_id(0), grid.blocks), pl.program_id(1)
        self.columns = block * grid.lanes + jnp.arange(grid.lanes)
        self.inside = None if grid.channels % grid.lanes == 0 else self.columns < grid.channels
        self.moving, self.structure = jax.tree.flatten(refs.moving)
        self.constants = [self.load(ref) if len(ref.shape) == 1 else None for ref in self.moving]
        self.fixed = jax.tree.map(lambda ref: self.load(ref, self.sequence), refs.fixed)
        self.ahead = refs.ahead and (refs.ahead[0], self.rows(refs.ahead[1], self.sequence))

    def load(self, ref: Any, *at: Any) -> Array:
        """The channels of this program at a place of an array."""
        if len(ref.shape) == len(at):  # one for all channels
            return triton.load(ref.at[at])
        other = None if self.inside is None else jnp.zeros((), ref.dtype)
        return triton.load(ref.at[(*at, self.columns)], mask=self.inside, other=other)

    def rows(self, refs: Any, *at: Any) -> Any:
        """The same of a tree of arrays."""
        return jax.tree.map(lambda ref: self.load(ref, *at), refs)

    def store(self, refs: list[Any], values: Any, *at: Any, mask: Array | None) -> None:
        """Write a tree of rows to a place of as many arrays."""
        for ref, value in zip(refs, jax.tree.leaves(values), strict=True):
            triton.store(ref.at[(*at, self.columns)], value.astype(ref.dtype), mask=mask)

    def time_of(self, number: Array) -> Array:
        """The place in time of a step of the walk."""
        last = self.grid.time - 1
        return jnp.clip(last - number if self.reverse else number, 0, last)

    def read(self, number: Array) -> Any:
        """What a step reads."""
        pairs = zip(self.moving, self.constants, strict=True)
        t = self.time_of(number)
        now = jax.tree.unflatten(
            self.structure, [self.load(ref, self.sequence, t) if c is None else c for ref, c in pairs]
        )
        if self.ahead is None:
            return now
        further, last = self.ahead
        at_end = number >= self.grid.time - 1
        return now, select(at_end, last, self.rows(further, self.sequence, self.time_of(number + 1)))

    def tile(self, i: Any, carry: Any, backwards: bool) -> Any:
        """Take the steps of a tile, in order or from its end to its start."""
        numbers = [i * self.grid.tile + u for u in range(self.grid.tile)]
        if backwards:
            numbers.reverse()
        # All are read before the first is used: this is what keeps many loads under way.
        for number, now in list(zip(numbers, map(self.read, numbers), strict=True)):
            after, found = self.step(carry, now, self.fixed)
            carry = after if self.grid.whole else select(number < self.grid.time, after, carry)
            if self.outs:
                self.store(self.outs, found, self.sequence, self.time_of(number), mask=self.mask(number))
        return carry

    def mask(self, number: Array) -> Array | None:
        """Which channels exist, at a step that may lie behind the end."""
        if self.grid.whole:
            return self.inside
        exists = jnp.broadcast_to(number < self.grid.time, (self.grid.lanes,))
        return exists if self.inside is None else self.inside & exists

    def run(self, start: Any, carry_out: Any, reaches: Callable[[Any], Array] | None) -> None:
        """Go through this chunk from `start`, arrays or a function that makes rows, and write the last carry."""
        carry = start(self.grid.lanes) if callable(start) else self.rows(start, self.sequence, self.chunk)
        begin, end = self.grid.first_tile(self.chunk), self.grid.first_tile(self.chunk + 1)
        if reaches is None:
            carry = jax.lax.fori_loop(begin, end, lambda i, carry: self.tile(i, carry, False), carry)
        else:

            def goes_on(state: Any) -> Array:
                where = reaches(state[1]) if self.inside is None else reaches(state[1]) & self.inside
                return (state[0] >= begin) & (jnp.max(where.astype(jnp.int32)) > 0)

            _, carry = jax.lax.while_loop(
                goes_on, lambda state: (state[0] - 1, self.tile(*state, True)), (end - 1, carry)
            )
        self.store(jax.tree.leaves(carry_out), carry, self.sequence, self.chunk, mask=self.inside)
