"""What tasks on images and signals share: training examples that are changed a little, at random, in each step.

It is done on the device and in training alone (`mru.training.Task.augmented`).
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tasks._recorded import Recorded

_SHIFT, _GAIN, _NOISE, _DOWN, _RIGHT, _FLIP = range(6)  # each draw has a key of its own, whatever else is drawn


@dataclass(frozen=True)
class Signals(Recorded):
    """Signals, float32 (n, T, features). In training each example is shifted, then scaled, then noise is added.

    Attributes:
        shift: In training each signal is moved by up to so many steps, earlier or later; what comes in is 0.
        gain: In training each signal is multiplied by a number drawn from [1 - gain, 1 + gain].
        noise: In training N(0, noise^2) is added to each number, in the units of the inputs; padding stays 0.
    """

    shift: int = 0
    gain: float = 0.0
    noise: float = 0.0

    def _validate(self) -> None:
        super()._validate()
        self._require_integer("shift", 0)
        self._require("shift", self.shift < self.length, f"an integer >= 0, below the {self.length} steps")
        self._require("gain", 0 <= self.gain < 1, "a number >= 0 and below 1")
        self._require("noise", 0 <= self.noise <= np.finfo(np.float32).max, "a finite number >= 0 of 32 bits")

    def augmented(self, batch: dict[str, Array], key: Array) -> dict[str, Array]:
        """Moved, scaled and noisy signals; `lengths`, if there are any, move with them, and are at least 1."""
        x, lengths = batch["inputs"], batch.get("lengths")
        if self.shift:
            steps = _draw(key, _SHIFT, len(x), self.shift)
            x = delayed(x, steps)
            if lengths is not None:
                lengths = jnp.clip(lengths + steps, 1, x.shape[1])
        if self.gain:
            factors = jax.random.uniform(jax.random.fold_in(key, _GAIN), len(x), x.dtype, 1 - self.gain, 1 + self.gain)
            x = x * factors[:, None, None]
        if self.noise:
            added = self.noise * jax.random.normal(jax.random.fold_in(key, _NOISE), x.shape, x.dtype)
            if lengths is not None:
                is_real = jnp.arange(x.shape[1]) < lengths[:, None]
                added = jnp.where(is_real[..., None], added, 0)
            x = x + added
        return batch | {"inputs": x} | ({} if lengths is None else {"lengths": lengths})


@dataclass(frozen=True)
class Images(Recorded):
    """Square images, a pixel a step, float32 (n, T, features).

    A subclass sets `mean` and `deviation` of what the pixels, from 0 to 1, are normalised by.

    Attributes:
        shift: In training each image is moved by up to so many pixels, up or down and left or right; what comes in is
            black.
    """

    shift: int = 0

    mean: ClassVar[tuple[float, ...]]
    deviation: ClassVar[tuple[float, ...]]

    def _validate(self) -> None:
        super()._validate()
        self._require_integer("shift", 0)
        self._require("shift", self.shift < self._side, f"an integer >= 0, below the {self._side} pixels of a side")

    @property
    def _side(self) -> int:
        return math.isqrt(self.length)

    @property
    def order(self) -> np.ndarray:
        """Pixel shown at each step, int `(T,)`: step t shows pixel `order[t]` of the image read row by row."""
        return np.arange(self.length)

    def _is_mirrored(self, key: Array, n: int) -> Array | None:
        """Which of n images are to be mirrored, bool `(n,)`; None if none ever is."""
        return None

    def augmented(self, batch: dict[str, Array], key: Array) -> dict[str, Array]:
        """Images that are mirrored and then moved, before their pixels are put into the task's order."""
        x = batch["inputs"]
        mirrored = self._is_mirrored(jax.random.fold_in(key, _FLIP), len(x))
        if mirrored is None and not self.shift:
            return batch
        down, right = (_draw(key, number, len(x), self.shift) for number in (_DOWN, _RIGHT))
        black = -np.float32(self.mean) / np.float32(self.deviation)
        return batch | {"inputs": moved(x, self.order, down, right, mirrored, black)}


def _draw(key: Array, number: int, n: int, most: int) -> Array:
    """Integers of [-most, most], int32 `(n,)`."""
    return jax.random.randint(jax.random.fold_in(key, number), n, -most, most + 1)


def delayed(x: Array, steps: Array) -> Array:
    """Sequences `(B, T, D)`, each later by `steps` `(B,)`, or earlier where that is negative; what comes in is 0."""
    time = x.shape[1]
    source = jnp.arange(time) - steps[:, None]
    is_inside = (source >= 0) & (source < time)
    found = jnp.take_along_axis(x, jnp.clip(source, 0, time - 1)[..., None], 1)
    return jnp.where(is_inside[..., None], found, 0)


def moved(x: Array, order: np.ndarray, down: Array, right: Array, mirrored: Array | None, fill: np.ndarray) -> Array:
    """Square images, pixel by pixel `(B, T, D)`, mirrored and then moved.

    Args:
        x: The images.
        order: Pixel that each step shows, read row by row, int `(T,)`.
        down: Pixels by which each moves down, int `(B,)`.
        right: Pixels by which each moves right, int `(B,)`.
        mirrored: Which of them have left and right exchanged, bool `(B,)`; None for none.
        fill: What the pixels that come in are, `(D,)` or a number.
    """
    side = math.isqrt(len(order))
    row, column = (place - by[:, None] for place, by in zip(np.divmod(order, side), (down, right)))
    is_inside = (row >= 0) & (row < side) & (column >= 0) & (column < side)
    if mirrored is not None:
        column = jnp.where(mirrored[:, None], side - 1 - column, column)
    shown_at = jnp.asarray(np.argsort(order))  # the step that shows a pixel
    source = shown_at[jnp.where(is_inside, row * side + column, 0)]
    return jnp.where(is_inside[..., None], jnp.take_along_axis(x, source[..., None], 1), fill)
