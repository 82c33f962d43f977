"""What tasks share that ask for a class at every step, or at some of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array

from tasks.base import Generated, accuracy, cross_entropy

# The target of a step that does not count.
NOT_ASKED = -1


@dataclass(frozen=True)
class PerStep(Generated):
    """Targets int32 (n, T), `NOT_ASKED` where a step does not count. The metric is the accuracy of the steps that do.

    A subclass sets `outputs`, its number of classes, and `retention_option`, and names the axis of its curve.
    """

    pooling: ClassVar[str] = "none"
    metric: ClassVar[str] = "accuracy"
    goal: ClassVar[str] = "max"
    time_axes: ClassVar[Mapping[str, int]] = {"inputs": 1, "targets": 1}

    @property
    def chance(self) -> float:
        """Accuracy of a guess."""
        return 1 / self.outputs

    def counted(self, batch: dict[str, Array]) -> Array:
        """Number of steps that count, int32 `(B,)`."""
        return _asked(batch).sum(-1)

    def loss(self, outputs: Array, batch: dict[str, Array]) -> Array:
        """Cross-entropy in nats, float32 `(B,)`, of logits `(B, T, classes)`, mean over the steps that count."""
        targets = jnp.asarray(batch["targets"])
        return _mean(cross_entropy(outputs, jnp.maximum(targets, 0)), batch)

    def metrics(self, outputs: Array, batch: dict[str, Array]) -> dict[str, Array]:
        """`accuracy`, float32 `(B,)`: the fraction of right answers among the steps that count."""
        return {"accuracy": _mean(accuracy(outputs, batch["targets"]), batch)}


def _asked(batch: dict[str, Array]) -> Array:
    return jnp.asarray(batch["targets"]) != NOT_ASKED


def _mean(values: Array, batch: dict[str, Array]) -> Array:
    """Mean over the steps that count, 0 where none does."""
    asked = _asked(batch)
    return jnp.where(asked, values, 0).sum(-1) / jnp.maximum(asked.sum(-1), 1)


def distinct(stream: np.random.Generator, count: int, limit: int) -> np.ndarray:
    """So many different integers of [0, limit), every set equally likely, in rising order, int64 `(count,)`."""
    return np.sort(stream.choice(limit, count, replace=False, shuffle=False))
