"""A forward and a backward cell over the same sequence."""

from __future__ import annotations

from typing import NoReturn

import jax.numpy as jnp
from jax import Array

from mru.cells._base import Cell
from mru.operators.base import State


class Bidirectional(Cell):
    """Two cells with a joint readout, y_t = forward(x)_t + backward(x reversed)_{T-1-t}.

    The sum of the two readouts equals one readout of the concatenated states. Being acausal it has no `step`, and the
    state that it takes and returns is the forward cell's alone; the backward cell starts from its initial state at the
    end of each sequence. `Cell.bidirectional` builds it, or what a class has in its place.
    """

    def __init__(self, forward: Cell, backward: Cell):
        """Join two cells.

        Args:
            forward: Runs from the first step to the last.
            backward: Runs from the last step to the first.

        Raises:
            ValueError: Their features differ.
        """
        if forward.features != backward.features:
            raise ValueError(
                f"both directions must have the same features, got {forward.features} and {backward.features}"
            )
        self.forward = forward
        self.backward = backward
        self.features = forward.features
        self.state_size = forward.state_size

    def initial_state(self, batch_shape: tuple[int, ...] = ()) -> State:
        """The forward cell's initial state."""
        return self.forward.initial_state(batch_shape)

    def __call__(
        self,
        x: Array,
        state: State | None = None,
        reset: Array | None = None,
        *,
        capture: dict[str, Array] | None = None,
    ) -> tuple[Array, State]:
        """See `Cell.__call__`; `reset` marks first steps, whichever the direction."""
        x = self._checked(x, time=True)
        inner: tuple[dict[str, Array], dict[str, Array]] = {}, {}
        found = (None, None) if capture is None else inner
        y, state = self.forward(x, state, reset, capture=found[0])
        last = None if reset is None else jnp.flip(ends(reset), -1)
        z, _ = self.backward(jnp.flip(x, -2), None, last, capture=found[1])
        if capture is not None:
            time = x.ndim - 2
            capture.update({f"forward/{k}": v for k, v in inner[0].items()})
            capture.update({f"backward/{k}": jnp.flip(v, time) for k, v in inner[1].items()})
        return y + jnp.flip(z, -2), state

    def step(self, x: Array, state: State | None = None) -> NoReturn:
        """Not available.

        Raises:
            ValueError: Always: the backward half of a step needs the steps after it.
        """
        raise ValueError("a bidirectional cell cannot run step by step: its output needs the steps still to come")


def ends(reset: Array) -> Array:
    """Where the sequences end that start where `reset` is true: before a first step. Backwards they start there."""
    return jnp.roll(jnp.asarray(reset), -1, -1)
