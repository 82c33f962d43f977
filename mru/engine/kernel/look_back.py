"""What a chunk starts from, found in the pass that goes through its steps: decoupled look-back.

A program publishes the composition of its own steps' maps. Then it composes what the chunks before it have published,
back to where their group of chunks begins, and waits for the state that the group starts from: the last
program of each group publishes that of the next one. So nothing that a step reads is read twice, and what is composed
with what does not depend on which program is the faster one. Programs are started in the order of their numbers, the
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

from mru.engine.kernel.complexes import Complex
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
    """Where programs publish, one word for each number: the maps of each chunk, and the state before each group.

    Attributes:
        maps: The kind of the maps, abstract rows.
        state: That of the state.
        group: Chunks of a group.
    """

    maps: Any
    state: Any
    group: int

    def blank(self, batch: int, chunks: int, channels: int) -> tuple[Array, Array]:
        """With nothing on it: for maps, and for states. The last of these is the state after all chunks."""
        groups = pl.cdiv(chunks, self.group)

        def empty(count: int, tree: Any) -> Array:
            return jnp.full((batch, count, len(jax.tree.leaves(tree)), channels), _EMPTY, jnp.int32)

        return empty(chunks, self.maps), empty(groups + 1, self.state)

    def last(self, published: tuple[Array, Array]) -> Any:
        """The state after all chunks, (B, N)."""
        leaves, tree = jax.tree.flatten(self.state)
        found = [_number(published[1][:, -1, k], like.dtype) for k, like in enumerate(leaves)]
        return jax.tree.unflatten(tree, found)

    def starts(self, program: Program, published: tuple[Any, Any], maps: Callable[[], Any], first: Any) -> Any:
        """The states that the parts of a program's chunk start from, (parts, lanes).

        Args:
            program: That takes several tiles side by side.
            published: The board.
            maps: () -> the maps of its parts, each of all their steps; numbers (parts, lanes).
            first: The state that the first chunk starts from, (1, lanes).
        """
        on_maps, on_states = published
        group, place = program.chunk // self.group, program.chunk % self.group
        of_group = _Asked(program, on_states, [group], self.state)  # while the own maps are composed
        of_parts = _rows(program, maps())
        _publish(program, on_maps, _composed(of_parts), program.chunk, program.inside)
        before = self._before(program, on_maps, place)
        (found,) = of_group.answers(needed=group > 0)
        state = follow(before, select(group == 0, first, found))
        start = jax.tree.map(lambda x: jnp.broadcast_to(x, program.rows_shape), state)
        for p, of_part in enumerate(of_parts):
            start = select(program.part == p, state, start)
            state = follow(of_part, state)
        is_last = (place == self.group - 1) | (program.chunk == program.grid.chunks - 1)
        inside = jnp.broadcast_to(is_last, program.columns.shape)
        _publish(program, on_states, state, group + 1, inside if program.inside is None else inside & program.inside)
        return start

    def _before(self, program: Program, published: Any, place: Array) -> Any:
        """The maps of all chunks before this one in its group, (1, lanes), of which there are `place`."""
        each = self.group // program.grid.parts  # of them each part composes so many
        places = [program.part * each + i for i in range(each)]
        chunks = [jnp.maximum(program.chunk - place + jnp.minimum(one, place - 1), 0) for one in places]
        maps = identity(self.maps, program.rows_shape)
        answers = _Asked(program, published, chunks, self.maps).answers(needed=place > 0)
        for one, found in zip(places, answers, strict=True):
            maps = select(one < place, compose(found, maps), maps)
        return _composed(_rows(program, maps))


class _Asked:
    """What a program asks of one part of the board."""

    def __init__(self, program: Program, published: Any, places: list[Array], like: Any):
        """Ask for the trees, abstract `like`, that stand at some places, without waiting for them."""
        self.leaves, self.tree = jax.tree.flatten(like)
        self.count = len(places)

        def ask() -> list[Array]:
            numbers = itertools.product(places, range(len(self.leaves)))
            return [program.load(published, program.sequence, place, k, volatile=True) for place, k in numbers]

        self.ask, self.words = ask, ask()

    def answers(self, needed: Array) -> list[Any]:
        """The trees, once all words of them are there, if they are needed at all."""

        def waits(words: Any) -> Array:
            missing = functools.reduce(jnp.logical_or, (x == _EMPTY for x in words))
            # Reduced axis by axis, which all versions of Pallas can lower.
            return needed & (jnp.max(jnp.max(missing.astype(jnp.int32), 1)) > 0)

        words = iter(jax.lax.while_loop(waits, lambda _: self.ask(), self.words))
        of_one = [[_number(next(words), x.dtype) for x in self.leaves] for _ in range(self.count)]
        return [jax.tree.unflatten(self.tree, numbers) for numbers in of_one]


def _composed(maps: list[Any]) -> Any:
    """Maps one after the other as one."""
    return functools.reduce(lambda earlier, later: compose(later, earlier), maps)


def _rows(program: Program, tree: Any) -> list[Any]:
    """Each row of a tree of numbers (parts, lanes), for all parts."""
    return [jax.tree.map(lambda x, p=p: _row(program, x, p), tree) for p in range(program.grid.parts)]


def _row(program: Program, x: Array, place: Any) -> Array:
    """One row of an array (parts, lanes), for all parts."""
    if x.dtype == jnp.bool_:
        return _row(program, x.astype(jnp.int32), place) != 0
    return jnp.sum(jnp.where(program.part == place, x, 0), 0)[None]


def _publish(program: Program, board: Any, tree: Any, place: Array, mask: Array | None) -> None:
    """Write a row of numbers on the board."""
    for k, x in enumerate(jax.tree.leaves(tree)):
        program.store([board], _word(x), program.sequence, place, k, mask=mask)


def _word(x: Array) -> Array:
    if x.dtype == jnp.bool_:
        return x.astype(jnp.int32)
    word = jax.lax.bitcast_convert_type(x, jnp.int32)
    return jnp.where(word == _EMPTY, _NAN, word)


def _number(word: Array, dtype: Any) -> Array:
    return word != 0 if dtype == jnp.bool_ else jax.lax.bitcast_convert_type(word, dtype)
