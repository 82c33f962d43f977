"""What diagonal state-space models in continuous time share: their steps at the start, and the zero-order hold."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array


def check_steps(name: str, step_min: float, step_max: float) -> None:
    """Check the range of steps at the start of a cell of that name.

    Raises:
        ValueError: It is empty, or not one of positive, finite numbers.
    """
    if not 0 < step_min <= step_max < math.inf:
        raise ValueError(
            f"{name} needs 0 < step_min <= step_max, both finite, got step_min {step_min} and step_max {step_max}"
        )


def log_steps(count: int, step_min: float, step_max: float, rngs: nnx.Rngs) -> Array:
    """Logarithms of steps, uniform between those of two, (count,)."""
    low, high = math.log(step_min), math.log(step_max)
    return jax.random.uniform(rngs.params(), (count,), jnp.float32, minval=low, maxval=high)


def zero_order_hold(lam: Array, dt: Array) -> tuple[Array, Array]:
    """a and s of h -> a h + s u, which is h' = lam h + u over a step dt with a constant u, exactly."""
    return jnp.exp(lam * dt), jnp.expm1(lam * dt) / lam
