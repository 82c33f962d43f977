"""A recurrence of any update, h_t = f(u_t, h_{t-1}), run one step after the other."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from mru.operators.base import State, select

Update = Callable[[Any, State], State]


def loop(update: Update, inputs: Any, h0: State, reset: Array | None, reset_state: State | None, axis: int) -> State:
    """Every state, (..., T, N). The backward pass keeps them, and recomputes what is inside of a step.

    Args:
        update: (u_t, h_{t-1}) -> h_t, which must return the dtypes that it is given.
        inputs: Arrays with time on `axis`.
        h0: State before the first step, without time.
        reset: Boolean (..., T), true where the state before a step is `reset_state`; None for nowhere.
        reset_state: State like `h0`; None where `reset` is.
        axis: Axis of time, which is the number of batch axes.
    """

    @functools.partial(jax.checkpoint, prevent_cse=False)  # `lax.scan` lets nothing be shared between the passes
    def one(h: State, now: tuple[Any, Array | None]) -> tuple[State, State]:
        u, first = now
        # To select lets no NaN through, in values and gradients; to multiply would.
        h = update(u, select(first, reset_state, h))
        return h, h

    steps = jax.tree.map(lambda x: jnp.moveaxis(x, axis, 0), (inputs, reset))
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, axis), jax.lax.scan(one, h0, steps)[1])
