"""What a chunk starts from, found in the pass that goes through its steps: decoupled look-back.

A program publishes the composition of its own steps' maps. Then it looks back at those before it, the nearest first,
and composes what they published with what it has, until it meets one that has published the state after its steps as
well. From there it knows its own start, and publishes the state after its own steps before it takes them. So nothing
that a step reads is read twice. Programs are started in the order of their numbers, the chunk being the last axis of
the grid: those before a waiting one run, or have ended. As in Merrill and Garland, "Single-pass parallel prefix scan
with decoupled look-back", 2016.

A word that is published says itself that it is there: before, it is `_EMPTY`, which no published number is.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from mru.engine.kernel.complexes import Complex, joined
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
    """Where programs publish: for each chunk one word for each number of its maps, and of the state after it.

    Attributes:
        maps: The kind of the maps, abstract rows.
        state: That of the state.
    """

    maps: Any
    state: Any

    @property
    def words(self) -> int:
        """Words of the maps, before those of the state."""
        return len(jax.tree.leaves(self.maps))

    def blank(self, batch: int, chunks: int, channels: int) -> Array:
        """With nothing on it."""
        words = self.words + len(jax.tree.leaves(self.state))
        return jnp.full((batch, chunks, words, channels), _EMPTY, jnp.int32)

    def states(self, published: Array) -> Any:
        """The states after all chunks, (B, C, N)."""
        leaves, tree = jax.tree.flatten(self.state)
        found = [_number(published[:, :, self.words + k], like.dtype) for k, like in enumerate(leaves)]
        return joined(jax.tree.unflatten(tree, found))

    def unit(self, shape: tuple[int, ...]) -> Any:
        """Maps that leave the state as it is."""
        return identity(self.maps, shape)

    def starts(self, program: Program, published: Any, maps: Any, unit: Any, first: Any) -> Any:
        """The states that the parts of a program's chunk start from, (parts, lanes).

        Args:
            program: That takes several tiles side by side.
            published: The board.
            maps: The maps of its parts, each of all their steps; numbers (parts, lanes).
            unit: Maps that leave the state as it is, (1, lanes).
            first: The state that the first chunk starts from, (1, lanes).
        """
        parts = range(program.grid.parts)
        of_parts = [jax.tree.map(lambda x, p=p: _row(program, x, p), maps) for p in parts]
        whole = of_parts[0]
        for later in of_parts[1:]:
            whole = compose(later, whole)
        _publish(program, published, whole, 0)
        state = self._before(program, published, unit, first)
        start = jax.tree.map(lambda x: jnp.broadcast_to(x, program.rows_shape), state)
        for p, of_part in enumerate(of_parts):
            start = select(program.part == p, state, start)
            state = follow(of_part, state)
        _publish(program, published, state, self.words)
        return start

    def _before(self, program: Program, published: Any, unit: Any, first: Any) -> Any:
        """The state before the chunk of a program, (1, lanes)."""
        parts = program.grid.parts
        like, tree = jax.tree.flatten((unit, first))

        def seen(nearest: Array) -> tuple[list[Array], Array]:
            """What as many chunks as there are parts have published, the nearest first, and which have: bits."""
            chunk = nearest - program.part
            at = program.sequence, jnp.maximum(chunk, 0)
            found = [program.load(published, *at, k, volatile=True) for k in range(len(like))]
            there = [jnp.min((x != _EMPTY).astype(jnp.int32), 1) for x in found]
            maps, state = _all(there[: self.words]), _all(there[self.words :])
            state = jnp.maximum(state, (chunk < 0).astype(jnp.int32)[:, 0])
            return found, jnp.sum((maps + state * 2**parts) << jnp.arange(parts))

        def nearest_state(known: Array) -> Array:
            """The place of the nearest chunk whose state is known; the number of all if none is."""
            place = jnp.int32(parts)
            for p in reversed(range(parts)):
                place = jnp.where((known >> (parts + p)) & 1 == 1, p, place)
            return place

        def waits(known: Array) -> Array:
            """If something is not known that is nearer than that."""
            needed = (1 << nearest_state(known)) - 1
            return known & needed != needed

        def look(carry: Any) -> Any:
            nearest, maps, _, _ = carry
            found, known = jax.lax.while_loop(lambda now: waits(now[1]), lambda _: seen(nearest), seen(nearest))
            place = nearest_state(known)
            theirs, states = jax.tree.unflatten(tree, [_number(x, y.dtype) for x, y in zip(found, like, strict=True)])
            for p in range(parts):
                earlier = jax.tree.map(lambda x, p=p: _row(program, x, p), theirs)
                maps = select(p < place, compose(maps, earlier), maps)
            states = select(nearest - program.part < 0, first, states)
            state = jax.tree.map(lambda x: _row(program, x, place), states)
            return nearest - parts, maps, state, place < parts

        carry = program.chunk - 1, unit, first, jnp.bool_(False)
        _, maps, state, _ = jax.lax.while_loop(lambda carry: jnp.logical_not(carry[-1]), look, carry)
        return follow(maps, state)


def _all(there: list[Array]) -> Array:
    found = there[0]
    for x in there[1:]:
        found = jnp.minimum(found, x)
    return found


def _row(program: Program, x: Array, place: Any) -> Array:
    """One row of an array (parts, lanes), for all parts."""
    if x.dtype == jnp.bool_:
        return _row(program, x.astype(jnp.int32), place) != 0
    return jnp.sum(jnp.where(program.part == place, x, 0), 0)[None]


def _publish(program: Program, board: Any, tree: Any, first: int) -> None:
    """Write a row of numbers on the board, from some word on."""
    for k, x in enumerate(jax.tree.leaves(tree), first):
        program.store([board], _word(x), program.sequence, program.chunk, k, mask=program.inside)


def _word(x: Array) -> Array:
    if x.dtype == jnp.bool_:
        return x.astype(jnp.int32)
    word = jax.lax.bitcast_convert_type(x, jnp.int32)
    return jnp.where(word == _EMPTY, _NAN, word)


def _number(word: Array, dtype: Any) -> Array:
    return word != 0 if dtype == jnp.bool_ else jax.lax.bitcast_convert_type(word, dtype)
