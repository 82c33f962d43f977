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
        return mean_asked(cross_entropy(outputs, jnp.maximum(targets, 0)), batch)

    def metrics(self, outputs: Array, batch: dict[str, Array]) -> dict[str, Array]:
        """`accuracy`, float32 `(B,)`: the fraction of right answers among the steps that count."""
        return {"accuracy": mean_asked(accuracy(outputs, batch["targets"]), batch)}


def _asked(batch: dict[str, Array]) -> Array:
    return jnp.asarray(batch["targets"]) != NOT_ASKED


def mean_asked(values: Array, batch: dict[str, Array]) -> Array:
    """Mean over the steps that count, 0 where none does."""
    asked = _asked(batch)
    return jnp.where(asked, values, 0).sum(-1) / jnp.maximum(asked.sum(-1), 1)


def distinct(draws: np.ndarray, limit: int) -> np.ndarray:
    """Different integers of [0, limit) in each row, every set of them equally likely, in rising order, int64 `(n, k)`.

    Floyd's method (Bentley and Floyd 1987, "A sample of brilliance"), for all rows at a time.

    Args:
        draws: Numbers U[0, 1), float64 `(n, k)`.
        limit: At least k.
    """
    count = draws.shape[1]
    found = np.empty(draws.shape, np.int64)
    for i, last in enumerate(range(limit - count, limit)):
        found[:, i] = integers(draws[:, i], last + 1)
        is_taken = (found[:, :i] == found[:, i, None]).any(1)
        found[is_taken, i] = last
    return np.sort(found, 1)


def integers(draws: np.ndarray, limit: int) -> np.ndarray:
    """Integers of [0, limit), below 2^31, from as many numbers U[0, 1) in float64."""
    return (draws * limit).astype(np.int32)
