"""Spoken digits from raw audio, one sample of 8 kHz a step.

Source: Jakobovski et al., Free Spoken Digit Dataset, version 1.0.10: six speakers, 50 recordings of each digit.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tasks._augmentation import Signals
from tasks._datasets.base import lengths_of, padded


@dataclass(frozen=True)
class SpokenDigits(Signals, name="fsdd"):
    """Ten classes, T = 8,192 samples (1.024 s), padded behind, in units of the deviation of all of train.

    Test is the official one, the recordings 0 to 4 of each digit and speaker; validation is the last 10 % of the rest,
    which is in a random order. Of the few longer clips the first T samples are heard.

    Attributes:
        length: Time steps T.
    """

    length: int = 8192

    features: ClassVar[int] = 1
    outputs: ClassVar[int] = 10
    pooling: ClassVar[str] = "mean"
    chance: ClassVar[float] = 0.1
    dataset: ClassVar[str] = "fsdd"

    # Root of the mean square of all training samples, of which 32,768 is the largest there can be.
    deviation: ClassVar[float] = 1995.0

    def _validate(self) -> None:
        self._require_integer("length", 1)
        super()._validate()

    @property
    def sizes(self) -> dict[str, int]:
        """Number of examples of each split."""
        return {"train": 2430, "validation": 270, "test": 300}

    def example_lengths(self, split: str, indices: np.ndarray) -> np.ndarray:
        """Real steps of examples, int `(n,)`."""
        part, rows = self._rows(split, indices)
        return lengths_of(self.arrays[f"{part}_starts"], rows, self.length)

    def _examples(self, split: str, indices: np.ndarray) -> dict[str, np.ndarray]:
        part, rows = self._rows(split, indices)
        arrays = self.arrays
        samples, lengths = padded(arrays[f"{part}_samples"], arrays[f"{part}_starts"], rows, self.length)
        inputs = samples[..., None] * np.float32(1 / self.deviation)
        return {"inputs": inputs, "lengths": lengths, "targets": arrays[f"{part}_labels"][rows].astype(np.int32)}
