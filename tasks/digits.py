"""Digits: the 1,797 real handwritten digits of 8x8 pixels that come with scikit-learn, one pixel a step.

Source: the test part of Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI 1998, CC BY 4.0.
"""

import functools
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jax import Array

from mru.training.shuffle import permutation
from tasks.base import Task, accuracy, cross_entropy

_TEST = 359  # 20 % of 1,797
_VALIDATION = 143  # 10 % of the rest
_SPLIT_KEY = 1797  # a constant: the split is part of the task


@functools.cache
def _load() -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 `(1797, 64)` from 0 to 16 and classes int32 `(1797,)`, in the order of the splits."""
    from sklearn.datasets import load_digits

    bundle = load_digits()
    order = permutation(len(bundle.target), _SPLIT_KEY)  # the file is sorted by writer
    return bundle.data[order].astype(np.uint8), bundle.target[order].astype(np.int32)


@dataclass(frozen=True)
class Digits(Task, name="digits"):
    """Ten classes, T = 64 pixels from 0 (paper) to 1 (ink); 1,295 training, 143 validation and 359 test examples.

    Attributes:
        permutation_seed: Seed of the one fixed order of the pixels; null for the order of reading, row by row.
    """

    permutation_seed: int | None = 0

    length: ClassVar[int] = 64
    features: ClassVar[int] = 1
    outputs: ClassVar[int] = 10
    pooling: ClassVar[str] = "mean"
    metric: ClassVar[str] = "accuracy"
    goal: ClassVar[str] = "max"
    chance: ClassVar[float] = 0.1

    def _validate(self) -> None:
        super()._validate()
        if self.permutation_seed is not None:
            self._require_integer("permutation_seed", 0, bits=63)

    @property
    def sizes(self) -> dict[str, int]:
        """Number of examples of each split."""
        return {"train": 1797 - _VALIDATION - _TEST, "validation": _VALIDATION, "test": _TEST}

    @property
    def order(self) -> np.ndarray:
        """Pixel shown at each step, int `(64,)`: step t shows pixel `order[t]` of the image read row by row."""
        if self.permutation_seed is None:
            return np.arange(self.length)
        return permutation(self.length, self.permutation_seed)

    def _examples(self, split: str, indices: np.ndarray) -> dict[str, np.ndarray]:
        pixels, classes = _load()
        sizes = self.sizes
        start = {"train": 0, "validation": sizes["train"], "test": sizes["train"] + sizes["validation"]}[split]
        inputs = pixels[start + indices][:, self.order].astype(np.float32) / 16
        return {"inputs": inputs[..., None], "targets": classes[start + indices]}

    def loss(self, outputs: Array, batch: dict[str, Array]) -> Array:
        """Cross-entropy in nats, float32 `(B,)`, of logits `(B, 10)` against classes `(B,)`."""
        return cross_entropy(outputs, batch["targets"])

    def metrics(self, outputs: Array, batch: dict[str, Array]) -> dict[str, Array]:
        """`accuracy`, float32 `(B,)`: 1 where the class is right."""
        return {"accuracy": accuracy(outputs, batch["targets"])}
