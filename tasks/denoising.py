"""Denoising: of a long sequence of random numbers, remember the five that are flagged.

Source: Vecoven, Ernst and Drion, "A bio-inspired bistable recurrent cell allows for long-lasting memory", PLOS ONE
2021. There T is 400, and the last 0 or 200 steps have no flag.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array

from tasks._per_step import distinct
from tasks.base import Generated


@dataclass(frozen=True)
class Denoising(Generated, name="denoising"):
    """Two channels over T steps, float32 (n, T, 2): a value N(0, 1) at every step, and a flag.

    The flag is 1 at five steps, any of the first T - N but the last step of all, where it is -1 to mark the end; it is
    0 elsewhere. The targets, float32 (n, 5), are the five flagged values in their order, all asked for at the last
    step. The metric is the mean squared error over the five; chance is 1.

    Attributes:
        length: Time steps T.
        forget: N, steps at the end in which nothing is flagged.
    """

    length: int = 400
    forget: int = 200
    retention: tuple[int, ...] = (400, 4000, 40000, 400000)

    features: ClassVar[int] = 2
    outputs: ClassVar[int] = 5
    pooling: ClassVar[str] = "last"
    metric: ClassVar[str] = "mse"
    goal: ClassVar[str] = "min"
    chance: ClassVar[float] = 1.0  # the variance of a value: the best constant answer is 0
    retention_option: ClassVar[str] = "length"
    retention_axis: ClassVar[str] = "sequence length T"

    def _validate(self) -> None:
        super()._validate()
        self._require_integer("forget", 0, bits=30)
        self._require_integer("length", self.outputs + max(self.forget, 1))

    def _examples(self, split: str, indices: np.ndarray) -> dict[str, np.ndarray]:
        values = np.empty((len(indices), self.length), np.float32)
        draws = np.empty((len(indices), self.outputs))
        for row, draw, stream in zip(values, draws, self._streams(split, indices)):
            stream.standard_normal(dtype=np.float32, out=row)
            stream.random(out=draw)
        where = distinct(draws, self.length - max(self.forget, 1))
        inputs = np.zeros((*values.shape, 2), np.float32)
        inputs[..., 0] = values
        np.put_along_axis(inputs[..., 1], where, np.float32(1), 1)
        inputs[:, -1, 1] = -1
        return {"inputs": inputs, "targets": np.take_along_axis(values, where, 1)}

    def loss(self, outputs: Array, batch: dict[str, Array]) -> Array:
        """Squared error, float32 `(B,)`, of outputs `(B, 5)` against targets `(B, 5)`, mean over the five."""
        return jnp.mean(jnp.square(outputs.astype(jnp.float32) - batch["targets"]), -1)

    def metrics(self, outputs: Array, batch: dict[str, Array]) -> dict[str, Array]:
        """`mse`, float32 `(B,)`: the loss."""
        return {"mse": self.loss(outputs, batch)}
