"""A cell whose state update is any function of the state, run one step after the other.

Shapes: `...` any leading batch axes, T time, D features of the model, N state channels.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import Array

from mru.cells._base import Cell, in_precision_of, named, resets
from mru.operators.base import State


class RecurrentCell(Cell):
    """A cell whose state update is any function: declare `update`, `readout` and, if it is not zero, `initial_state`.

    The steps run one after the other. The backward pass is exact; it keeps the states and recomputes what is inside a
    step.
    """

    def __init__(self, features: int, state_size: int):
        """Record the sizes.

        Args:
            features: D.
            state_size: N.

        Raises:
            ValueError: A size is not an integer of at least 1.
        """
        self._set_sizes(features, state_size)

    def update(self, x: Array, h: State) -> State:
        """The state after a step, given its input (..., D) and the state before it.

        It must have the structure and shapes of the state before; it is given the dtypes of that.
        """
        raise NotImplementedError

    def readout(self, h: State, x: Array) -> Array:
        """The outputs (..., D), given the state after a step and its input.

        The steps of a sequence come at once: the inputs are then (..., T, D), and every array of `h` has T there too.
        """
        raise NotImplementedError

    def initial_state(self, batch_shape: tuple[int, ...] = ()) -> State:
        """The state before the first step: zeros (*batch_shape, N)."""
        return jnp.zeros((*batch_shape, self.state_size), jnp.float32)

    def __call__(
        self,
        x: Array,
        state: State | None = None,
        reset: Array | None = None,
        *,
        capture: dict[str, Array] | None = None,
    ) -> tuple[Array, State]:
        """See `Cell.__call__`."""
        self._check(x, time=True)
        axis = x.ndim - 2
        state = in_precision_of(x, self._carried(state, x.shape[:-2]))
        start = in_precision_of(x, self.initial_state(x.shape[:-2]))

        @functools.partial(jax.checkpoint, prevent_cse=False)  # `lax.scan` lets nothing be shared between the passes
        def one(h: State, now: tuple[Array, Array | None]) -> tuple[State, State]:
            x, first = now
            if first is not None:
                h = jax.tree.map(functools.partial(_select, first), start, h)
            h = self._update(x, h)
            return h, h

        steps = jnp.moveaxis(x, axis, 0), None if reset is None else jnp.moveaxis(resets(reset, x), axis, 0)
        state, h = jax.lax.scan(one, state, steps)
        h = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, axis), h)
        if capture is not None:
            capture.update(named("state", h))
        return self.readout(h, x).astype(x.dtype), state

    def step(self, x: Array, state: State | None = None) -> tuple[Array, State]:
        """See `Cell.step`."""
        self._check(x, time=False)
        state = self._update(x, in_precision_of(x, self._carried(state, x.shape[:-1])))
        return self.readout(state, x).astype(x.dtype), state

    def _update(self, x: Array, h: State) -> State:
        new = self.update(x, h)
        expected, given = (jax.tree.map(jnp.shape, tree) for tree in (h, new))
        if expected != given:
            raise ValueError(
                f"{type(self).__name__}.update must return a state like the one it is given, of shapes {expected}, "
                f"got {given}"
            )
        return jax.tree.map(lambda old, new: jnp.asarray(new, old.dtype), h, new)


def _select(first: Array, start: Array, h: Array) -> Array:
    """`start` where a sequence starts. To select lets no NaN through, in values and gradients; to multiply would."""
    return jnp.where(first.reshape(first.shape + (1,) * (h.ndim - first.ndim)), start, h)
