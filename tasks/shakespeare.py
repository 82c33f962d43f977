"""Tiny Shakespeare: the next character, at every step.

Source: Karpathy, "The unreasonable effectiveness of recurrent neural networks", 2015; the split is that of
tensorflow-datasets: 90 % train, then 5 % validation and 5 % test.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array

from tasks._datasets.text import CHARACTERS
from tasks._recorded import Recorded
from tasks.base import accuracy, cross_entropy

_STARTS = {"train": 0, "validation": 1003854, "test": 1059624}
_END = 1115394


@dataclass(frozen=True)
class Shakespeare(Recorded, name="shakespeare"):
    """Tokens are places in the 65 `characters`; the target of a step is the token of the next one.

    An example is a row of windows of 256 characters, packed end to end, with a `reset` where each starts: no window
    knows of another. In training a window starts anywhere, and each start is visited once an epoch; in evaluation
    windows do not overlap. What is left of a split behind its last full row is not read: less than a
    row, and with the defaults at most 1 %.

    Attributes:
        window: Characters of a window.
        windows: Windows of a row; T is their product.
    """

    window: int = 256
    windows: int = 4

    vocabulary: ClassVar[int] = len(CHARACTERS)
    outputs: ClassVar[int] = len(CHARACTERS)
    pooling: ClassVar[str] = "none"
    metric: ClassVar[str] = "bits_per_character"
    goal: ClassVar[str] = "min"
    chance: ClassVar[float] = 4.77  # entropy of the frequencies of characters
    dataset: ClassVar[str] = "tinyshakespeare"
    time_axes: ClassVar[Mapping[str, int]] = {"inputs": 1, "targets": 1, "reset": 1}
    characters: ClassVar[str] = CHARACTERS

    def _validate(self) -> None:
        super()._validate()
        self._require_integer("window", 1)
        self._require_integer("windows", 1)
        shortest = _END - _STARTS["test"]
        self._require("windows", self.length < shortest, f"a row of window * windows < {shortest:,} characters")

    @property
    def length(self) -> int:
        """Time steps T of a row."""
        return self.window * self.windows

    @property
    def sizes(self) -> dict[str, int]:
        """Number of rows of each split."""
        return {
            "train": (_STARTS["validation"] - self.window) // self.windows,
            "validation": (_STARTS["test"] - _STARTS["validation"] - 1) // self.length,
            "test": (_END - _STARTS["test"] - 1) // self.length,
        }

    def _examples(self, split: str, indices: np.ndarray) -> dict[str, np.ndarray]:
        number = np.arange(self.windows)
        if split == "train":  # windows of a row are from far apart
            starts = indices[:, None] + number * self.sizes["train"]
        else:
            starts = _STARTS[split] + indices[:, None] * self.length + number * self.window
        text = self.arrays["tokens"][starts[..., None] + np.arange(self.window + 1)].astype(np.int32)
        reset = np.zeros((len(indices), self.windows, self.window), bool)
        reset[..., 0] = True
        arrays = {"inputs": text[..., :-1], "targets": text[..., 1:], "reset": reset}
        return {name: x.reshape(len(indices), self.length) for name, x in arrays.items()}

    def loss(self, outputs: Array, batch: dict[str, Array]) -> Array:
        """Cross-entropy in nats, float32 `(B,)`, of logits `(B, T, 65)` against tokens `(B, T)`, mean over steps."""
        return cross_entropy(outputs, batch["targets"]).mean(-1)

    def metrics(self, outputs: Array, batch: dict[str, Array]) -> dict[str, Array]:
        """`bits_per_character`, the loss in bits, and `accuracy`, the fraction of right steps, float32 `(B,)`."""
        bits = self.loss(outputs, batch) / jnp.log(2.0)
        return {"bits_per_character": bits, "accuracy": accuracy(outputs, batch["targets"]).mean(-1)}
