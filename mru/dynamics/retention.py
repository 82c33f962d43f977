"""Retention: how long two states that were started apart stay apart under the same input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import SupportsIndex

import jax
import jax.numpy as jnp
from jax import Array

from mru.cells import Cell, State
from mru.dynamics._cells import compiled, flat, histories

CHUNK = 1000


def retention(
    cell: Cell, lengths: Sequence[int], *, noise: float = 0.0, pairs: int = 16, scale: float = 2.0, seed: int = 0
) -> Array:
    """Distance of two states under the same input, after so many steps.

    Each pair comes from two histories of random inputs. A cell that fades brings them together whatever they were; one
    with persistent memory keeps the distance as long as its input writes nothing. Memory does not grow with the length.

    Args:
        cell: Cell.
        lengths: Steps after which to measure, ascending, up to 2^31 - 1.
        noise: Standard deviation of the input that both get, white in time.
        pairs: P, number of pairs.
        scale: Standard deviation of the inputs of their histories.
        seed: Of both.

    Returns:
        Euclidean distances, (len(lengths), P).

    Raises:
        ValueError: There is no length, they are not ascending, or one is negative or no integer.
    """
    integers = all(isinstance(length, SupportsIndex) for length in lengths)
    if not len(lengths) or not integers or list(lengths) != sorted(set(lengths)) or lengths[0] < 0:
        raise ValueError(f"lengths must be ascending numbers of steps, got {list(lengths)}")
    key, before, found = jax.random.key(seed), 0, []
    state = _started(cell, scale, pairs=pairs, seed=seed + 1)
    for number, length in enumerate(lengths):
        steps = length - before
        state, distance = _onward(cell, state, jax.random.fold_in(key, number), noise, steps // CHUNK, steps % CHUNK)
        found.append(distance)
        before = length
    return jnp.stack(found)


@compiled("pairs", "seed")
def _started(cell: Cell, scale: Array, *, pairs: int, seed: int) -> State:
    return histories(cell, (pairs, 2), scale, seed)


@compiled()
def _onward(cell: Cell, state: State, key: Array, noise: Array, chunks: Array, rest: Array) -> tuple[State, Array]:
    """The pairs after `chunks` chunks and `rest` more steps, and their distances."""
    pairs = jax.tree.leaves(state)[0].shape[0]

    def inputs(number: Array, *time: int) -> Array:
        x = noise * jax.random.normal(jax.random.fold_in(key, number), (pairs, 1, *time, cell.features))
        return jnp.broadcast_to(x, (pairs, 2, *time, cell.features))

    state = jax.lax.fori_loop(0, chunks, lambda i, h: cell(inputs(i, CHUNK), h)[1], state)
    state = jax.lax.fori_loop(0, rest, lambda i, h: cell.step(inputs(chunks + i), h)[1], state)
    held = flat(state, 2)
    return state, jnp.sqrt(jnp.sum(jnp.abs(held[:, 0] - held[:, 1]) ** 2, -1))
