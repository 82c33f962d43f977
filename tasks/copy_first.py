"""Copy first input: remember one real number for the whole sequence.

Source: Vecoven, Ernst and Drion, "A bio-inspired bistable recurrent cell allows for long-lasting memory", PLOS ONE
2021. There T is 5, 300 or 600; here any.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array

from tasks.base import Generated


@dataclass(frozen=True)
class CopyFirst(Generated, name="copy_first"):
    """x_t ~ N(0, 1) at T steps; the target at the last step is x_1.

    Attributes:
        length: Time steps T, the one to remember included.
    """

    length: int = 200
    retention: tuple[int, ...] = (200, 2000, 20000, 200000, 1000000)

    features: ClassVar[int] = 1
    outputs: ClassVar[int] = 1
    pooling: ClassVar[str] = "last"
    metric: ClassVar[str] = "mse"
    goal: ClassVar[str] = "min"
    chance: ClassVar[float] = 1.0  # the variance of x_1: the best constant answer is 0
    retention_option: ClassVar[str] = "length"
    retention_axis: ClassVar[str] = "sequence length T"

    def _validate(self) -> None:
        super()._validate()
        self._require_integer("length", 1)

    def _examples(self, split: str, indices: np.ndarray) -> dict[str, np.ndarray]:
        inputs = np.empty((len(indices), self.length, 1), np.float32)
        for row, stream in zip(inputs[..., 0], self._streams(split, indices)):
            stream.standard_normal(dtype=np.float32, out=row)
        return {"inputs": inputs, "targets": inputs[:, 0].copy()}

    def loss(self, outputs: Array, batch: dict[str, Array]) -> Array:
        """Squared error, float32 `(B,)`, of outputs `(B, 1)` against targets `(B, 1)`."""
        return jnp.mean(jnp.square(outputs.astype(jnp.float32) - batch["targets"]), -1)

    def metrics(self, outputs: Array, batch: dict[str, Array]) -> dict[str, Array]:
        """`mse`, float32 `(B,)`: the loss."""
        return {"mse": self.loss(outputs, batch)}
