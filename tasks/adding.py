"""Adding: the sum of the two numbers that are marked.

Source: Hochreiter, Schmidhuber 1997, "Long short-term memory"; the places as in Arjovsky et al. 2016, arXiv 1511.06464.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array

from tasks.base import Generated


@dataclass(frozen=True)
class Adding(Generated, name="adding"):
    """Two channels over T steps, float32 (n, T, 2): a number U(0, 1) at every step, and a mark, 1 or 0.

    One step of the first half (the smaller one, if T is odd) and one of the second are marked, each uniform in its
    half. The target, float32 (n, 1), is the sum of the two marked numbers, asked for at the last step. The metric is
    the squared error; chance is 1/6, the variance of the sum.

    Attributes:
        length: Time steps T.
    """

    length: int = 200
    retention: tuple[int, ...] = (200, 2000, 20000, 200000)

    features: ClassVar[int] = 2
    outputs: ClassVar[int] = 1
    pooling: ClassVar[str] = "last"
    metric: ClassVar[str] = "mse"
    goal: ClassVar[str] = "min"
    chance: ClassVar[float] = 1 / 6
    retention_option: ClassVar[str] = "length"
    retention_axis: ClassVar[str] = "sequence length T"

    def _validate(self) -> None:
        super()._validate()
        self._require_integer("length", 2)

    def _examples(self, split: str, indices: np.ndarray) -> dict[str, np.ndarray]:
        values = np.empty((len(indices), self.length), np.float32)
        draws, half = np.empty((len(indices), 2)), self.length // 2
        for row, draw, stream in zip(values, draws, self._streams(split, indices)):
            stream.random(dtype=np.float32, out=row)
            stream.random(out=draw)
        where = (draws * (half, self.length - half)).astype(np.int64)
        where[:, 1] += half
        inputs = np.zeros((*values.shape, 2), np.float32)
        inputs[..., 0] = values
        np.put_along_axis(inputs[..., 1], where, np.float32(1), 1)
        return {"inputs": inputs, "targets": np.take_along_axis(values, where, 1).sum(1, keepdims=True)}

    def loss(self, outputs: Array, batch: dict[str, Array]) -> Array:
        """Squared error, float32 `(B,)`, of outputs `(B, 1)` against targets `(B, 1)`."""
        return jnp.mean(jnp.square(outputs.astype(jnp.float32) - batch["targets"]), -1)

    def metrics(self, outputs: Array, batch: dict[str, Array]) -> dict[str, Array]:
        """`mse`, float32 `(B,)`: the loss."""
        return {"mse": self.loss(outputs, batch)}
