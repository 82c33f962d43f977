"""What a chunk starts from, found in the pass that goes through its steps: decoupled look-back.

A program publishes the composition of its own steps' maps. Then it composes what the chunks before it have published,
back to where their group of chunks begins, with what whole groups have, back to where their era of groups begins, and
waits for the state that the era starts from: the last program of each group publishes the maps of the group, and that
of each era the state of the next one. So nothing that a step reads is read twice, and what is composed with what does
not depend on which program is the faster one. Programs are started in the order of their numbers, the
chunk being the last axis of the grid: those before a waiting one run, or have ended. After Merrill and Garland,
"Single-pass parallel prefix scan with decoupled look-back", 2016, whose programs look back as far as they must.

A word that is published says itself that it is there: before, it is `_EMPTY`, which no published number is.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl

from mru.engine.kernel.complexes import Complex, joined
from mru.engine.kernel.plan import Grid
from mru.engine.kernel.program import Program
from mru.operators.base import select

_EMPTY = -1  # as a float32 it is a NaN, and NaNs are published as another one
_NAN = 0x7FC00000


def compose(later: Any, earlier: Any) -> Any:
    """The map `later . earlier`."""
    # Selected, not multiplied by zero: a non-finite value before a reset must not reach past it.
    return select(later.reaches(), later.compose(earlier), later)


def follow(maps: Any, state: Any) -> Any:
    """The state after maps, given the state before them."""
    return select(maps.reaches(), maps.apply(state), maps.constant())


def identity(maps: Any, shape: tuple[int, ...]) -> Any:
    """Maps of this kind, abstract, that leave the state as it is."""

    def fill(like: Any, value: float) -> Any:
        if isinstance(like, Complex):
            return Complex(fill(like.real, value), fill(like.imag, 0))
        return jnp.full(shape, value, like.dtype)

    return type(maps)(*map(fill, vars(maps).values(), maps.identity))


@dataclasses.dataclass(frozen=True)
class Board:
    """Where programs publish, one word for each number.

    It has rows for the maps of each chunk, then for those of each group, then for the state before each era and that
    after the last.

    Attributes:
        maps: The kind of the maps, abstract rows.
        state: That of the state.
        grid: Chunks, and how they are put together.
    """

    maps: Any
    state: Any
    grid: Grid

    def blank(self, batch: int) -> Array:
        """With nothing on it, (B, rows, N)."""
        chunks, groups, eras = self._counts()
        rows = (chunks + groups) * _size(self.maps) + (eras + 1) * _size(self.state)
        return jnp.full((batch, rows, self.grid.channels), _EMPTY, jnp.int32)

    def _counts(self) -> tuple[int, int, int]:
        """Chunks, groups and eras."""
        chunks, plan = self.grid.chunks, self.grid.plan
        return chunks, pl.cdiv(chunks, plan.group), pl.cdiv(chunks, plan.group * plan.era)

    def last(self, published: Array) -> Any:
        """The state after all chunks, (B, N)."""
        leaves, tree = jax.tree.flatten(self.state)
        rows = [published[:, k - len(leaves)] for k in range(len(leaves))]
        numbers = [_number(row, like.dtype) for row, like in zip(rows, leaves, strict=True)]
        return joined(jax.tree.unflatten(tree, numbers))

    def starts(self, program: Program, published: Any, maps: Callable[[], Any], first: Any) -> tuple[Any, Array]:
        """The states that the parts of a program's chunk start from, (parts, lanes), and 0 that is known only then.

        Args:
            program: That looks back.
            published: The board.
            maps: () -> the maps of its parts, each of all their steps as one; numbers (parts, lanes).
            first: The state that the first chunk starts from, (1, lanes).
        """
        plan, (chunks, groups, _) = self.grid.plan, self._counts()
        on_chunks = _Section(program, published, 0, self.maps)
        on_groups = _Section(program, published, chunks * _size(self.maps), self.maps)
        on_eras = _Section(program, published, (chunks + groups) * _size(self.maps), self.state)
        group, of_group = divmod(program.chunk, plan.group)  # which group, and which chunk of it
        era, of_era = divmod(group, plan.era)
        # While the own maps are composed:
        asked_for_state = on_eras.ask([era])
        asked_for_groups = on_groups.ask_before(group, of_era, plan.era) if plan.era > 1 else None
        of_parts = _rows(program, maps())
        own = _composed(of_parts)
        on_chunks.publish(own, program.chunk)
        before = on_chunks.before(of_group, on_chunks.ask_before(program.chunk, of_group, plan.group))
        ends_group, ends = of_group == plan.group - 1, program.chunk == chunks - 1
        if asked_for_groups is not None:
            on_groups.publish(compose(own, before), group, ends_group)
            before = compose(before, on_groups.before(of_era, asked_for_groups))
        (found,) = on_eras.answers(asked_for_state, needed=era > 0)
        zero = ((_bits(jax.tree.leaves(found)[0]) == _EMPTY) & (era > 0)).astype(jnp.int32)  # what was waited for came
        state = follow(before, select(era == 0, first, found))
        on_eras.publish(follow(own, state), era + 1, ends_group & (of_era == plan.era - 1) | ends)
        start = jax.tree.map(lambda x: jnp.broadcast_to(x, program.rows_shape), state)
        for p, of_part in enumerate(of_parts[:-1], 1):
            state = follow(of_part, state)
            start = select(program.part >= p, state, start)
        return start, zero


class _Section:
    """Rows of the board for trees of one kind, so many for each."""

    def __init__(self, program: Program, published: Any, first: int, like: Any):
        self.program, self.published, self.first = program, published, first
        self.leaves, self.tree = jax.tree.flatten(like)

    def publish(self, tree: Any, place: Array, at: Array | None = None) -> None:
        """Write a tree at a place, where `at` is true."""
        mask = self.program.inside
        if at is not None:
            at = jnp.broadcast_to(at, self.program.columns.shape)
            mask = at if mask is None else at & mask
        for k, x in enumerate(jax.tree.leaves(tree)):
            self.program.store([self.published], _word(x), self.program.sequence, self._row(place, k), mask=mask)

    def _row(self, place: Array, k: int) -> Array:
        return self.first + place * len(self.leaves) + k

    def ask(self, places: list[Array]) -> tuple[Callable[[], list[Array]], list[Array]]:
        """Ask for the trees at some places, without waiting for them: how to ask again, and the words so far."""
        rows = [self._row(place, k) for place in places for k in range(len(self.leaves))]

        def ask() -> list[Array]:
            return [self.program.load(self.published, self.program.sequence, row, volatile=True) for row in rows]

        return ask, ask()

    def answers(self, asked: tuple[Callable[[], list[Array]], list[Array]], needed: Array) -> list[Any]:
        """The trees that were asked for, once all words of them are there, if they are needed at all."""
        ask, words = asked

        def waits(words: Any) -> Array:
            missing = functools.reduce(jnp.logical_or, (x == _EMPTY for x in words))
            # Reduced axis by axis, which all versions of Pallas can lower.
            return needed & (jnp.max(jnp.max(missing.astype(jnp.int32), 1)) > 0)

        words = jax.lax.while_loop(waits, lambda _: ask(), words)
        numbers = iter(_number(x, like.dtype) for x, like in zip(words, itertools.cycle(self.leaves)))
        count = len(words) // len(self.leaves)
        return [jax.tree.unflatten(self.tree, [next(numbers) for _ in self.leaves]) for _ in range(count)]

    def ask_before(self, place: Array, count: Array, most: int) -> Any:
        """Ask for the trees at the `count` places before one, fewer than `most`; each part for some of them."""
        each = pl.cdiv(most - 1, self.program.grid.plan.parts)
        numbers = [self.program.part * each + i for i in range(each)]
        # Where they are fewer than are asked for, the last of them is asked for again.
        return numbers, self.ask([jnp.maximum(place - jnp.maximum(count - number, 1), 0) for number in numbers])

    def before(self, count: Array, asked: Any) -> Any:
        """The maps that were asked for as one, (1, lanes)."""
        numbers, asked = asked
        maps = identity(jax.tree.unflatten(self.tree, self.leaves), self.program.rows_shape)
        for number, found in zip(numbers, self.answers(asked, needed=count > 0), strict=True):
            maps = select(number < count, compose(found, maps), maps)
        return _composed(_rows(self.program, maps))


def _composed(maps: list[Any]) -> Any:
    """Maps one after the other as one."""
    return functools.reduce(lambda earlier, later: compose(later, earlier), maps)


def _rows(program: Program, tree: Any) -> list[Any]:
    """Each row of a tree of numbers (parts, lanes), for all parts."""
    count = program.grid.plan.parts
    return [jax.tree.map(lambda x, p=p: _row(program, x, p), tree) for p in range(count)] if count > 1 else [tree]


def _row(program: Program, x: Array, place: Any) -> Array:
    """One row of an array (parts, lanes), for all parts."""
    if x.dtype == jnp.bool_:
        return _row(program, x.astype(jnp.int32), place) != 0
    return jnp.sum(jnp.where(program.part == place, x, 0), 0)[None]


def _size(tree: Any) -> int:
    """Rows of a tree."""
    return len(jax.tree.leaves(tree))


def _bits(x: Array) -> Array:
    return x.astype(jnp.int32) if x.dtype == jnp.bool_ else jax.lax.bitcast_convert_type(x, jnp.int32)


def _word(x: Array) -> Array:
    return jnp.where(_bits(x) == _EMPTY, _NAN, _bits(x))


def _number(word: Array, dtype: Any) -> Array:
    return word != 0 if dtype == jnp.bool_ else jax.lax.bitcast_convert_type(word, dtype)
