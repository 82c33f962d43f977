"""AdamW that reads from the modules which parameters want a learning rate of their own or no weight decay.

Beside it: `sparsified`, which uses of every gradient only its largest numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from mru.cells._base import StateParam
from mru.training import alignment

if TYPE_CHECKING:
    from mru.training.config import Config


def of(config: Config, lr: Any) -> optax.GradientTransformation:
    """The optimiser of a run, with this learning rate at its peak in place of its own; it may be traced."""
    o = config.optimizer
    return adamw(
        rate(config, lr),
        weight_decay=o.weight_decay,
        state_lr_factor=o.state_lr_factor,
        clip=o.clip,
        b1=o.b1,
        b2=o.b2,
        keep=o.keep or (alignment.KEEP if config.train.feedback == "alignment" else 1.0),
    )


def rate(config: Config, lr: Any) -> optax.Schedule:
    """The learning rate of each step of a run, with this one at its peak in place of its own; it may be traced."""
    o, steps = config.optimizer, config.train.steps
    warmup = o.warmup_steps if o.warmup_steps is not None else min(round(o.warmup * steps), steps - 1)
    # These two are `optax.warmup_cosine_decay_schedule`, which compares its peak with 0, and so refuses a traced one.
    rise = optax.linear_schedule(lr * 0.01, lr, warmup)
    return optax.join_schedules([rise, optax.cosine_decay_schedule(lr, steps - warmup, o.final)], [warmup])


def adamw(
    learning_rate: optax.ScalarOrSchedule,
    *,
    weight_decay: float = 0.01,
    state_lr_factor: float = 1.0,
    clip: float | None = 1.0,
    b1: float = 0.9,
    b2: float = 0.999,
    keep: float = 1.0,
) -> optax.GradientTransformation:
    """AdamW for a state of `nnx.Param`s, or in `nnx.Optimizer`: three groups, read off the parameters themselves.

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
        keep: Share of each gradient that is used, see `sparsified`; first of all, before it is clipped.

    Raises:
        ValueError: `keep` is not above 0 and at most 1.
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

    def init(params: Any) -> Any:
        return optax.partition(groups, jax.tree.map(group, params, is_leaf=_is_whole)).init(params)

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        # `nnx.Optimizer` gives bare arrays here, so what kind they are is read off the state: each group has moments
        # for its own parameters.
        moments = [optax.tree_utils.tree_get(state.inner_states[name], "mu") for name in groups]
        labels = jax.tree.map(
            lambda *of_groups: list(groups)[[isinstance(x, optax.MaskedNode) for x in of_groups].index(False)],
            *moments,
            is_leaf=_is_whole,
        )
        return optax.partition(groups, labels).update(updates, state, params)

    by_group = optax.GradientTransformation(init, update)
    before = [] if keep == 1 else [sparsified(keep)]
    before += [] if clip is None else [optax.clip_by_global_norm(clip)]
    return optax.chain(*before, by_group) if before else by_group


def _is_whole(x: Any) -> bool:
    """If it is one parameter, or stands for one."""
    return isinstance(x, (nnx.Variable, optax.MaskedNode))


def sparsified(keep: float) -> optax.GradientTransformation:
    """Of the gradient of each parameter the largest numbers, and zeros in place of the others.

    Of n numbers max(1, round(keep * n)) are kept, the first of them where several are of the same size. M2RU (arXiv
    2512.17299) keeps 43 %, to write fewer of the memristors of a crossbar, which wear out.

    Args:
        keep: The share, above 0 and at most 1.

    Raises:
        ValueError: It is not.
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep must be above 0 and at most 1, got {keep!r}")

    def sparse(gradient: Any) -> Any:
        flat = gradient.ravel()
        _, largest = jax.lax.top_k(jnp.abs(flat), max(1, round(keep * flat.size)))
        return jnp.zeros_like(flat).at[largest].set(flat[largest]).reshape(gradient.shape)

    return optax.stateless(lambda updates, params: jax.tree.map(sparse, updates))
