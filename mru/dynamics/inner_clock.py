"""A cell's inner clock run to convergence between two steps: what makes a memory recurrent unit of a bistable cell."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from mru.cells import RecurrentCell, State


class InnerClock(RecurrentCell):
    """A cell whose update is that of another one, repeated under the same input until it does not move any more.

    Transients are thrown away, and what is left of the state is which equilibrium it sits in: the limit in which a
    bistable cell becomes a relay (De Geeter, Lambrechts, Ernst, Drion 2026, arXiv 2601.09495). It is for looking at:
    the loop has no reverse-mode derivative.
    """

    def __init__(self, cell: RecurrentCell, *, iterations: int = 1000, tolerance: float = 1e-6):
        """Wrap a cell.

        Args:
            cell: Declares `update`.
            iterations: Updates a step at most.
            tolerance: A state that an update moves by less, in every channel of the batch, has converged.
        """
        super().__init__(cell.features, cell.state_size)
        self.cell = cell
        self.iterations = iterations
        self.tolerance = tolerance

    def initial_state(self, batch_shape: tuple[int, ...] = ()) -> State:
        """The cell's own."""
        return self.cell.initial_state(batch_shape)

    def prepare(self, x: Array) -> Any:
        """The cell's own."""
        return self.cell.prepare(x)

    def update(self, x: Any, h: State) -> State:
        """The state that the cell's update has come to rest at."""

        def moves(carry: tuple[State, Array, Array]) -> Array:
            _, moved, count = carry
            return (moved > self.tolerance) & (count < self.iterations)

        def again(carry: tuple[State, Array, Array]) -> tuple[State, Array, Array]:
            h, _, count = carry
            new = jax.tree.map(lambda old, new: jnp.asarray(new, old.dtype), h, self.cell.update(x, h))
            changes = jax.tree.map(lambda old, new: jnp.abs(new - old).max(), h, new)
            return new, jnp.stack(jax.tree.leaves(changes)).max().astype(jnp.float32), count + 1

        return jax.lax.while_loop(moves, again, (h, jnp.float32(jnp.inf), jnp.int32(0)))[0]

    def readout(self, h: State, x: Array) -> Array:
        """The cell's own."""
        return self.cell.readout(h, x)
