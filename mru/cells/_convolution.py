"""A short causal convolution of each channel by itself: what S6 has inside, and a block may have before its cells.

Shapes: `...` any leading batch axes, T time, E channels, K steps that the convolution sees, the present one included.
"""

from __future__ import annotations

import functools
import operator

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from mru.cells._base import in_precision_of, resets


def recent(v: Array, seen: Array, reset: Array | None) -> list[Array]:
    """The last K values at each step, the oldest first: arrays (..., T, E), zero where a sequence started since.

    Args:
        v: (..., T, E).
        seen: Those before the first step, (..., K - 1, E).
        reset: (..., T), or None.
    """
    time, count = v.shape[-2], seen.shape[-2]
    all_ = jnp.concatenate([seen, v.astype(seen.dtype)], -2)
    found = [all_[..., k : k + time, :] for k in range(count + 1)]
    if reset is None:
        return found
    since = jnp.zeros_like(reset)
    for distance in range(1, count + 1):
        since |= jnp.pad(reset, [(0, 0)] * (reset.ndim - 1) + [(distance - 1, 0)])[..., :time]
        found[count - distance] = jnp.where(since[..., None], 0, found[count - distance])
    return found


def last_of(recent: list[Array]) -> Array:
    """What the convolution has seen after the last step, (..., K - 1, E), given what `recent` found."""
    return jnp.stack([v[..., -1, :] for v in recent[1:]], -2)


def recent_of_step(v: Array, seen: Array) -> tuple[list[Array], Array]:
    """The last K values (..., E) at one step, the oldest first, and what has been seen after it.

    Args:
        v: (..., E).
        seen: (..., K - 1, E).
    """
    found = jnp.concatenate([seen, v[..., None, :].astype(seen.dtype)], -2)
    return [found[..., k, :] for k in range(found.shape[-2])], found[..., 1:, :]


def convolved(recent: list[Array], taps: Array, bias: Array) -> Array:
    """The values that a convolution sees, weighted by its taps (K, E), the oldest first, and a bias (E,)."""
    return functools.reduce(operator.add, (tap * v for tap, v in zip(taps, recent, strict=True))) + bias


def uniform_taps(steps: int, channels: int, rngs: nnx.Rngs) -> Array:
    """Taps (K, E) as they start, uniform in +-1 / sqrt(K)."""
    return jax.random.uniform(rngs.params(), (steps, channels), jnp.float32, -(steps**-0.5), steps**-0.5)


def check_steps_seen(steps: int, *, none: bool = False) -> None:
    """Require that a convolution can see so many steps.

    Args:
        steps: K.
        none: Whether 0 stands for no convolution.

    Raises:
        ValueError: They are no integer of at least 2.
    """
    if not hasattr(steps, "__index__") or (operator.index(steps) < 2 and not (none and steps == 0)):
        raise ValueError(f"conv must be {'0, or ' if none else ''}an integer of at least 2, got {steps!r}")


class CausalConvolution(nnx.Module):
    """y_t = b + sum over k < K of w_k x_{t-k}, each channel by itself; it does not reach over a reset.

    The state is the last K - 1 inputs, float32, zeros before the first step. The taps start as those of S6, uniform in
    +-1 / sqrt(K), and the bias as 0.
    """

    def __init__(self, channels: int, steps: int, *, rngs: nnx.Rngs):
        """Initialise.

        Args:
            channels: E.
            steps: K, at least 2.
            rngs: Source of the initial parameters.
        """
        self.taps = nnx.Param(uniform_taps(steps, channels, rngs))
        self.bias = nnx.Param(jnp.zeros(channels, jnp.float32))

    def initial_state(self, batch_shape: tuple[int, ...] = ()) -> Array:
        """Zeros (*batch_shape, K - 1, E)."""
        steps, channels = self.taps[...].shape
        return jnp.zeros((*batch_shape, steps - 1, channels), jnp.float32)

    def __call__(self, x: Array, state: Array | None = None, reset: Array | None = None) -> tuple[Array, Array]:
        """Run over a whole sequence, or the next chunk of one.

        Args:
            x: (..., T, E).
            state: (..., K - 1, E), what came before; None for nothing.
            reset: Boolean (..., T), true where a new sequence starts.

        Returns:
            (..., T, E), and the state after the last step.
        """
        seen = in_precision_of(x, self.initial_state(x.shape[:-2]) if state is None else state)
        found = recent(x, seen, None if reset is None else resets(reset, x))
        return convolved(found, self.taps[...], self.bias[...]).astype(x.dtype), last_of(found)

    def step(self, x: Array, state: Array) -> tuple[Array, Array]:
        """One step: (..., E) and the state -> (..., E) and the state."""
        found, seen = recent_of_step(x, in_precision_of(x, state))
        return convolved(found, self.taps[...], self.bias[...]).astype(x.dtype), seen
