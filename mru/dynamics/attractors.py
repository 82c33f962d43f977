"""The number of attractors that a batch of sequences brings a cell to."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from mru.cells import Cell
from mru.dynamics._cells import compiled, flat, run_on


def attractors(cell: Cell, x: Array, *, steps: int = 10_000, tolerance: float = 1e-3) -> float:
    """Number of different attractors that a batch reaches: 1 of a monostable cell, at most one a sequence.

    After its sequence each cell runs on without input, until only what it keeps for good is left. Two ends closer than
    `tolerance` are the same attractor, and each end counts as one over the number of ends near it.

    Divided by the size of the batch it is the measure VAA (variability amongst attractors) of Lambrechts, De Geeter,
    Vecoven, Ernst, Drion 2023, "Warming up recurrent neural networks to maximise reachable multistability greatly
    improves learning", as we read it: where they stop and what is near is our choice.

    Args:
        cell: Cell.
        x: Sequences, (B, T, D).
        steps: Steps without input. A state that fades must have had time to: with |a| = 0.999, as some channels of an
            LRU have, 10,000 steps leave 5e-5 of it.
        tolerance: Euclidean distance, relative to the larger of 1 and the largest norm of an end.

    Raises:
        ValueError: The sequences are no batch.
    """
    if x.ndim != 3:
        raise ValueError(f"attractors are counted over a batch of sequences (B, T, {cell.features}), got {x.shape}")
    return float(_attractors(cell, x, tolerance, steps=steps))


@compiled("steps")
def _attractors(cell: Cell, x: Array, tolerance: Array, *, steps: int) -> Array:
    _, state = cell(x)
    ends = flat(run_on(cell, jnp.zeros_like(x[:, 0]), state, steps), 1)
    distance = jnp.sqrt(jnp.sum(jnp.abs(ends[:, None] - ends) ** 2, -1))
    scale = jnp.maximum(1, jnp.sqrt(jnp.sum(jnp.abs(ends) ** 2, -1)).max())
    return jnp.sum(1 / jnp.sum(distance <= tolerance * scale, 1))
