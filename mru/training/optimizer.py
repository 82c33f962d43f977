"""AdamW that reads from the modules which parameters want a learning rate of their own or no weight decay."""

from __future__ import annotations

from typing import Any

import jax
import optax
from flax import nnx

from mru.cells._base import StateParam


def adamw(
    learning_rate: optax.ScalarOrSchedule,
    *,
    weight_decay: float = 0.01,
    state_lr_factor: float = 1.0,
    clip: float | None = 1.0,
    b1: float = 0.9,
    b2: float = 0.999,
) -> optax.GradientTransformation:
    """AdamW for a state of `nnx.Param`s, in three groups read off the parameters themselves.

    A parameter declared as `StateParam` (of a state update: eigenvalues, steps, input matrices) has the learning rate
    times `state_lr_factor` and no weight decay; one of fewer than two axes (bias, scale) has no weight decay; any other
    is decayed.

    Args:
        learning_rate: Constant or schedule of the step.
        weight_decay: Decoupled weight decay.
        state_lr_factor: Learning rate of the `StateParam`s over that of the others.
        clip: Largest global norm of the gradient; None for no clipping.
        b1: Decay of the first moment.
        b2: Decay of the second moment.
    """

    def scaled(factor: float) -> optax.ScalarOrSchedule:
        return (lambda count: factor * learning_rate(count)) if callable(learning_rate) else factor * learning_rate

    def group(param: Any) -> str:
        if isinstance(param, StateParam):
            return "state"
        return "decayed" if param[...].ndim >= 2 else "plain"

    groups = {
        "decayed": optax.adamw(learning_rate, b1, b2, weight_decay=weight_decay),
        "plain": optax.adam(learning_rate, b1, b2),
        "state": optax.adam(scaled(state_lr_factor), b1, b2),
    }
    by_group = optax.partition(
        groups, lambda params: jax.tree.map(group, params, is_leaf=lambda x: isinstance(x, nnx.Variable))
    )
    return by_group if clip is None else optax.chain(optax.clip_by_global_norm(clip), by_group)
