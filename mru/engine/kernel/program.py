"""One program of the kernel: what it owns, and how it reads and writes it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl

from mru.engine.kernel.backend import triton
from mru.engine.kernel.complexes import View, split
from mru.engine.kernel.plan import Grid
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

        moving, fixed, ahead = split(jax.tree.map(row, (self.moving, self.fixed, self.ahead)))
        return moving if ahead is None else (moving, ahead[0]), fixed


class Program:
    """The block, chunk and sequence that a program owns.

    Its rows are of shape (lanes,). Where it looks back they are (parts, lanes), one for each tile that it takes side by
    side, or (1, lanes) of what is the same for all of them.

    Attributes:
        sequence: Its sequence.
        chunk: Its chunk.
        part: Number of each part, (parts, 1), where it looks back.
        fixed: What all steps read.
    """

    def __init__(self, grid: Grid, reverse: bool, step: Step, refs: Reads, outs: Any):
        self.grid, self.reverse, self.step, self.outs = grid, reverse, step, jax.tree.leaves(outs)
        # Those that run side by side read side by side, and only the first axis of a grid may exceed 65,535.
        (self.sequence, block), self.chunk = divmod(pl.program_id(0), grid.blocks), pl.program_id(1)
        self.columns = block * grid.lanes + jnp.arange(grid.lanes)
        self.rows_shape: tuple[int, ...] = (grid.lanes,)
        if grid.plan.looks_back:
            self.rows_shape = (grid.plan.parts, grid.lanes)
            self.columns, self.part = self.columns[None], jnp.arange(grid.plan.parts)[:, None]
        self.inside = None if grid.channels % grid.lanes == 0 else self.columns < grid.channels
        self.moving, self.structure = jax.tree.flatten(refs.moving)
        self.constants = [self.load(ref) if len(ref.shape) == 1 else None for ref in self.moving]
        self.fixed = jax.tree.map(lambda ref: self.load(ref, self.sequence), refs.fixed)
        self.ahead = refs.ahead and (refs.ahead[0], self.rows(refs.ahead[1], self.sequence))

    def load(self, ref: Any, *at: Any, **how: Any) -> Array:
        """The channels of this program at a place of an array."""
        if len(ref.shape) == len(at):  # one for all channels
            return triton.load(ref.at[at], **how)
        ref, columns = self.lanes_in(ref)
        if self.inside is None:
            return triton.load(ref.at[(*at, columns)], **how)
        shape = jnp.broadcast_shapes(*map(jnp.shape, at), self.columns.shape)
        mask = jnp.broadcast_to(self.inside, shape)
        return triton.load(ref.at[(*at, columns)], mask=mask, other=jnp.zeros((), ref.dtype), **how)

    def lanes_in(self, ref: Any) -> tuple[Any, Array]:
        """Where the channels of this program lie in an array."""
        return (ref.pairs, 2 * self.columns + ref.offset) if isinstance(ref, View) else (ref, self.columns)

    def rows(self, refs: Any, *at: Any) -> Any:
        """The same of a tree of arrays."""
        return jax.tree.map(lambda ref: self.load(ref, *at), refs)

    def store(self, refs: list[Any], values: Any, *at: Any, mask: Array | None) -> None:
        """Write a tree of rows to a place of as many arrays."""
        shape = jnp.broadcast_shapes(*map(jnp.shape, at), self.columns.shape)
        mask = None if mask is None else jnp.broadcast_to(mask, shape)
        for ref, value in zip(refs, jax.tree.leaves(values), strict=True):
            value = jnp.broadcast_to(value.astype(ref.dtype), shape)
            ref, columns = self.lanes_in(ref)
            triton.store(ref.at[(*at, columns)], value, mask=mask)

    def put(self, refs: Any, values: Any, place: Any) -> None:
        """Write a tree of rows, one for each chunk or each of its parts."""
        self.store(jax.tree.leaves(refs), values, self.sequence, place, mask=self.inside)

    def time_of(self, number: Array, may_exceed: bool) -> Array:
        """The place in time of a step of the walk; of the last one if the number may exceed that, and does."""
        last = self.grid.time - 1
        number = jnp.minimum(number, last) if may_exceed else number
        return last - number if self.reverse else number

    def loads(self, i: Any) -> list[list[Array]]:
        """What each step of a tile reads of its own."""
        # All are read before the first is used: this is what keeps many loads under way.
        return [self._loads_of_step(number) for number in self._numbers(i)]

    def _loads_of_step(self, number: Array) -> list[Array]:
        t = self.time_of(number, not self.grid.whole)
        found = [
            self.load(ref, self.sequence, t) for ref, c in zip(self.moving, self.constants, strict=True) if c is None
        ]
        if self.ahead is None:
            return found
        return found + jax.tree.leaves(self.rows(self.ahead[0], self.sequence, self.time_of(number + 1, True)))

    def steps(self, i: Any, loads: list[list[Array]]) -> list[tuple[Array, Any]]:
        """The steps of a tile, in order: the number of each, and what it reads, given what it reads of its own."""
        return [(number, self._read(number, found)) for number, found in zip(self._numbers(i), loads, strict=True)]

    def _read(self, number: Array, loads: list[Array]) -> Any:
        rest = iter(loads)
        now = jax.tree.unflatten(self.structure, [next(rest) if c is None else c for c in self.constants])
        if self.ahead is None:
            return now
        further, last = self.ahead
        at_end = number >= self.grid.time - 1
        return now, select(at_end, last, jax.tree.unflatten(jax.tree.structure(further), list(rest)))

    def tile(self, i: Any) -> list[tuple[Array, Any]]:
        """Read a tile: its steps."""
        return self.steps(i, self.loads(i))

    def _numbers(self, i: Any) -> list[Array]:
        return [i * self.grid.tile + u for u in range(self.grid.tile)]

    def take(self, steps: list[tuple[Array, Any]], carry: Any, tile: Array | None = None) -> Any:
        """Take steps one after the other, and write what they result in: the carry after them.

        Args:
            steps: Those of a tile.
            carry: What is carried into the first of them.
            tile: The number of the tile, if places that are written to are to be computed from it anew. From the loads
                on they would else be kept, in as many registers as what was read.
        """
        places = [number for number, _ in steps] if tile is None else self._numbers(tile)
        for (number, now), place in zip(steps, places, strict=True):
            after, found = self.step(carry, now, self.fixed)
            carry = self.if_it_exists(number, after, carry)
            if self.outs:
                # Not clipped: interpreted, what lies behind the end would be written over the last step.
                place = self.if_it_exists(number, self.time_of(place, False), place)
                self.store(self.outs, found, self.sequence, place, mask=self.mask(number))
        return carry

    def if_it_exists(self, number: Array, after: Any, before: Any) -> Any:
        """What is after a step, or before it if it lies behind the end."""
        return after if self.grid.whole else select(number < self.grid.time, after, before)

    def mask(self, number: Array) -> Array | None:
        """Which channels exist, at a step that may lie behind the end."""
        if self.grid.whole:
            return self.inside
        exists = jnp.broadcast_to(number < self.grid.time, self.rows_shape)
        return exists if self.inside is None else self.inside & exists
