"""A task: data by index, loss, metrics."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from mru.training import ENDLESS, SPLITS, Task


@dataclass(frozen=True)
class Peak(Task, name="peak"):
    """x_t ~ N(0, 1) at T steps; the target at the last one is the largest of them.

    Attributes:
        length: Time steps T, an option that configs can set.
    """

    length: int = 24

    features = 1
    outputs = 1
    pooling = "last"
    metric = "mse"
    goal = "min"
    chance = 0.2  # about the variance of the largest of 24

    @property
    def sizes(self):
        """Number of examples of each split; an endless one is never repeated."""
        return {"train": ENDLESS, "validation": 200, "test": 200}

    def examples(self, split, indices):
        """`inputs` (n, T, 1) and `targets` (n, 1), a function of split and index alone; n may be 0."""
        inputs = np.empty((len(indices), self.length, 1), np.float32)
        for row, index in zip(inputs, indices):
            row[:] = np.random.default_rng((SPLITS.index(split), int(index))).normal(size=row.shape)
        return {"inputs": inputs, "targets": inputs.max(1)}

    def loss(self, outputs, batch):
        """Squared error (B,) of outputs (B, 1)."""
        return jnp.square(outputs - batch["targets"])[:, 0]

    def metrics(self, outputs, batch):
        """`mse`, (B,)."""
        return {"mse": self.loss(outputs, batch)}
