"""A forward and a backward cell over the same sequence."""

from __future__ import annotations

import jax.numpy as jnp

from mru.cells.base import Cell


class Bidirectional(Cell):
    """Two cells with a joint readout, y_t = forward(x)_t + backward(x reversed)_{T-1-t}.

    The sum of the two readouts equals one readout of the concatenated states. Being acausal it has no `step`, and the
    state that it takes and returns is the forward cell's alone; the backward cell starts from its initial state at the
    end of each sequence.
    """

    def __init__(self, forward: Cell, backward: Cell):
        if forward.features != backward.features:
            raise ValueError(
                f"both directions must have the same features, got {forward.features} and {backward.features}"
            )
        self.forward = forward
        self.backward = backward
        self.features = forward.features
        self.state_size = forward.state_size

    def initial_state(self, batch_shape=()):
        """The forward cell's initial state."""
        return self.forward.initial_state(batch_shape)

    def __call__(self, x, state=None, reset=None, *, capture=None):
        """See `Cell.__call__`; `reset` marks first steps, whichever the direction."""
        inner: tuple[dict, dict] | tuple[None, None] = (None, None) if capture is None else ({}, {})
        y, state = self.forward(x, state, reset, capture=inner[0])
        # Backwards a sequence starts at its last step: where the next step, forwards, is a first one.
        last = None if reset is None else jnp.flip(jnp.roll(reset, -1, -1), -1)
        z, _ = self.backward(jnp.flip(x, -2), None, last, capture=inner[1])
        if capture is not None:
            capture.update({f"forward/{k}": v for k, v in inner[0].items()})
            capture.update({f"backward/{k}": jnp.flip(v, -2) for k, v in inner[1].items()})
        return y + jnp.flip(z, -2), state

    def step(self, x, state):
        """Not available.

        Raises:
            ValueError: Always: the backward half of a step needs the steps after it.
        """
        raise ValueError("a bidirectional cell cannot run step by step: its output needs the steps still to come")
