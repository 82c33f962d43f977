"""Equilibria under a constant input: how many of them a cell gets into, where, and how they answer a disturbance."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from mru.cells import Cell, State
from mru.dynamics._cells import advance, compiled, differentiable, flat, histories, run_on


class Equilibria(NamedTuple):
    """Where a cell ends under a constant input, from many starts.

    Attributes:
        states: Where each start ended, (S, N).
        number: How many different values each channel ended at, int (N,).
        whole: How many different states there are, all channels together.
        radius: Spectral radius of the step's Jacobian at each end, (S,): below 1 a small disturbance fades, at 1 it
            stays (a continuum of equilibria, a latch), above 1 it grows.
        converged: Whether each end still moves by less than the tolerance in a step, bool (S,).
    """

    states: np.ndarray
    number: np.ndarray
    whole: int
    radius: np.ndarray
    converged: np.ndarray


def equilibria(
    cell: Cell,
    x: Array,
    *,
    starts: int = 64,
    steps: int = 10_000,
    scale: float = 2.0,
    tolerance: float = 1e-5,
    seed: int = 0,
) -> Equilibria:
    """Run a cell on under a constant input, from states that random inputs have brought it to.

    Only what can be reached is found, and nothing that repels.

    Args:
        cell: Cell.
        x: The constant input, (D,).
        starts: S, histories of 200 random inputs each.
        steps: Steps with the constant input.
        scale: Standard deviation of the random inputs.
        tolerance: Values of a channel that differ by no more, relative to the larger of 1 and the largest of them,
            count as one.
        seed: Of the random inputs.

    Raises:
        ValueError: The input is not (D,), or there is no start.
    """
    if jnp.shape(x) != (cell.features,):
        raise ValueError(f"x must be a constant input ({cell.features},), got {jnp.shape(x)}")
    if starts < 1:
        raise ValueError(f"starts must be at least 1, got {starts}")
    found = _ends(cell, jnp.asarray(x), scale, starts=starts, steps=steps, seed=seed)
    held, moved, jacobians = map(np.asarray, found)
    near = tolerance * np.maximum(1, np.abs(held).max(0))
    radius = np.abs(np.linalg.eigvals(jacobians.astype(np.float64))).max(-1)
    number = np.array([_distinct(held[:, [n]], near[[n]]) for n in range(held.shape[1])])
    return Equilibria(held, number, _distinct(held, near), radius, (moved <= near).all(-1))


@compiled("starts", "steps", "seed")
def _ends(cell: Cell, x: Array, scale: Array, *, starts: int, steps: int, seed: int) -> tuple[Array, Array, Array]:
    repeated = jnp.broadcast_to(x, (starts, *x.shape))
    end = run_on(cell, repeated, histories(cell, (starts,), scale, seed), steps)
    after, held = (flat(differentiable(h)[0], 1) for h in (advance(cell, repeated, end), end))
    return held, jnp.abs(after - held), jax.vmap(lambda h: _jacobian(cell, x, h))(end)


def _jacobian(cell: Cell, x: Array, h: State) -> Array:
    """The Jacobian of a step, (M, M) with M real channels; a complex channel counts as two."""
    arrays, whole = differentiable(h)
    parts = [(x.real, x.imag) if jnp.iscomplexobj(x) else (x,) for x in arrays]

    def step(parts: list[tuple[Array, ...]]) -> list[tuple[Array, ...]]:
        after = advance(cell, x, whole([jax.lax.complex(*p) if len(p) == 2 else p[0] for p in parts]))
        return [(x.real, x.imag) if jnp.iscomplexobj(x) else (x,) for x in differentiable(after)[0]]

    sizes = [p.size for p in jax.tree.leaves(parts)]
    blocks = jax.tree.leaves(jax.jacfwd(step)(parts))
    rows = [
        jnp.concatenate([blocks[i * len(sizes) + j].reshape(rows, columns) for j, columns in enumerate(sizes)], 1)
        for i, rows in enumerate(sizes)
    ]
    return jnp.concatenate(rows)


def _distinct(points: np.ndarray, near: np.ndarray) -> int:
    """Number of points of which none is within `near` of another, in every coordinate; the first of each is kept."""
    left, count = np.asarray(points), 0
    while len(left):
        left = left[(np.abs(left - left[0]) > near).any(-1)]
        count += 1
    return count
