"""What tasks on a prepared data set share."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jax import Array

from tasks._datasets import SETS
from tasks.base import Task, accuracy, cross_entropy


@dataclass(frozen=True)
class Recorded(Task):
    """A task on a data set that `python -m tasks.prepare` puts in the data directory; its examples have classes.

    A subclass sets `dataset`, one of `SETS`. Where the set has no part `validation`, that is the last 10 % of `train`,
    whose order is random.

    Attributes:
        data_dir: The data directory; null for $TFDS_DATA_DIR or else ~/tensorflow_datasets.
    """

    data_dir: str | None = None

    metric: ClassVar[str] = "accuracy"
    goal: ClassVar[str] = "max"

    @property
    def data_version(self) -> str | None:
        """Name and version of the set, where checksums say that its examples are the same everywhere."""
        return SETS[self.dataset].identity

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The prepared arrays, mapped into memory.

        Raises:
            MissingData: They have not been prepared.
        """
        return SETS[self.dataset].load(self.data_dir, self.name)

    def _rows(self, split: str, indices: np.ndarray) -> tuple[str, np.ndarray]:
        """Part of the set and rows of it that are examples of a split, of which validation is the tail of train."""
        if split == "validation":
            return "train", indices + self.sizes["train"]
        return split, indices

    def loss(self, outputs: Array, batch: dict[str, Array]) -> Array:
        """Cross-entropy in nats, float32 `(B,)`, of logits `(B, classes)` against classes `(B,)`."""
        return cross_entropy(outputs, batch["targets"])

    def metrics(self, outputs: Array, batch: dict[str, Array]) -> dict[str, Array]:
        """`accuracy`, float32 `(B,)`: 1 where the class is right."""
        return {"accuracy": accuracy(outputs, batch["targets"])}
