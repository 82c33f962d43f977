"""Where the sequences of a batch start and end, and all that follows from it: positions, masks, resets, lengths."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike


def concrete(x: ArrayLike) -> np.ndarray | None:
    """The values of an array, or None where they can not be read: inside `jit`, or on another process."""
    if isinstance(x, jax.core.Tracer) or not getattr(x, "is_fully_addressable", True):
        return None
    return np.asarray(x)


@dataclasses.dataclass(frozen=True)
class Segments:
    """The sequences that T steps hold: one or several after each other (`reset`), padded at the end (`lengths`).

    Attributes:
        position: Steps since the sequence of each step started, int32 (..., T).
        first: The step at which the last sequence starts, int32 (...); -1 if it started before these T steps.
        lengths: Number of real steps, int (...); None if all T are real.
        reset: Where cells start anew, bool (..., T); None for nowhere.
    """

    position: Array
    first: Array
    lengths: Array | None
    reset: Array | None

    @classmethod
    def of(
        cls,
        carried: Array,
        time: int,
        *,
        reset: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        bidirectional: bool = False,
    ) -> Segments:
        """The sequences of T steps.

        Args:
            carried: Steps that the sequence carried in already has, int32 (...).
            time: T.
            reset: Boolean (..., T), true where a new sequence starts.
            lengths: Number of real steps, int (...), from 1 to T. Inside `jit`, where the values can not be read, one
                outside is taken as the nearest of them.
            bidirectional: Cells read the steps in both directions, so that the padding would come first.

        Raises:
            ValueError: A shape, a dtype or a length does not fit; the message gives the expected and the given one.
        """
        lengths = None if lengths is None else _checked_lengths(lengths, carried.shape, time)
        reset = None if reset is None else _checked_reset(reset, (*carried.shape, time))
        steps = jnp.arange(time, dtype=jnp.int32)
        if reset is not None and lengths is not None:
            reset = reset & (steps < lengths[..., None])  # in the padding nothing starts
        first, position = _positions(steps, carried, reset)
        if lengths is not None and bidirectional:
            # Padding becomes a sequence of its own, which the backward cells leave behind.
            padding = steps == lengths[..., None]
            reset = padding if reset is None else reset | padding
        return cls(position, first, lengths, reset)

    @property
    def in_last(self) -> Array:
        """Which steps are real ones of the last sequence, bool (..., T)."""
        begun = self._steps >= self.first[..., None]
        return begun if self.lengths is None else begun & (self._steps < self.lengths[..., None])

    @property
    def real(self) -> Array | None:
        """Which steps are no padding, bool (..., T); None if all are real."""
        return None if self.lengths is None else self._steps < self.lengths[..., None]

    @property
    def length_of_last(self) -> Array:
        """Real steps of the last sequence, with those carried in, int (...)."""
        if self.lengths is None:
            return self.position[..., -1] + 1
        return self.lengths - jnp.maximum(self.first, 0)

    def last_real(self, x: Array) -> Array:
        """The last real step of each sequence: (..., T, D) -> (..., D)."""
        if self.lengths is None:
            return x[..., -1, :]
        return jnp.take_along_axis(x, self.lengths[..., None, None] - 1, -2)[..., 0, :]

    def blank_padding(self, x: Array) -> Array:
        """Inputs with zeros for padding: tokens (..., T) or features (..., T, D).

        A NaN in the padding times a cotangent of zero would be a NaN in a gradient.
        """
        if (real := self.real) is None:
            return x
        return jnp.where(real if x.ndim == real.ndim else real[..., None], x, 0)

    @property
    def _steps(self) -> Array:
        return jnp.arange(self.position.shape[-1], dtype=jnp.int32)


def _checked_lengths(lengths: ArrayLike, batch_shape: tuple[int, ...], time: int) -> Array:
    values = concrete(lengths)
    lengths = jnp.asarray(lengths)
    if lengths.shape != batch_shape or not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise ValueError(f"lengths must be int {batch_shape}, got {lengths.dtype} {lengths.shape}")
    if values is not None and values.size and not 1 <= values.min() <= values.max() <= time:
        raise ValueError(f"lengths must be from 1 to T = {time}, got {values.min()} to {values.max()}")
    return jnp.clip(lengths, 1, time)


def _checked_reset(reset: ArrayLike, shape: tuple[int, ...]) -> Array:
    reset = jnp.asarray(reset)
    if reset.dtype != bool or reset.shape != shape:
        raise ValueError(f"reset must be bool {shape}, got {reset.dtype} {reset.shape}")
    return reset


def _positions(steps: Array, carried: Array, reset: Array | None) -> tuple[Array, Array]:
    """First step of the last sequence (...), -1 if it was carried in, and the steps since each one's start (..., T)."""
    if reset is None:
        return jnp.full(carried.shape, -1), carried[..., None] + steps
    latest = jax.lax.cummax(jnp.where(reset, steps, -1), axis=reset.ndim - 1)
    return latest[..., -1], jnp.where(latest < 0, carried[..., None] + steps, steps - latest)
