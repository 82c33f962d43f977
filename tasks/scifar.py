"""CIFAR-10 as sequences of pixels: in colour (scifar) and in grey, as in Long Range Arena (image).

Source: Krizhevsky, "Learning multiple layers of features from tiny images", 2009; as grey sequences: Tay et al., "Long
Range Arena", 2020, arXiv 2011.04006.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import numpy as np
from jax import Array

from tasks._augmentation import Images


@dataclass(frozen=True)
class SequentialCIFAR10(Images, name="scifar"):
    """Ten classes, T = 1,024 pixels of three normalised colours, row by row; validation is the last 10 % of train.

    Attributes:
        flip: In training each image has left and right exchanged with probability 1/2.
    """

    flip: bool = False

    length: ClassVar[int] = 1024
    features: ClassVar[int] = 3
    outputs: ClassVar[int] = 10
    pooling: ClassVar[str] = "mean"
    chance: ClassVar[float] = 0.1
    dataset: ClassVar[str] = "cifar10"

    # Of all training pixels, by colour.
    mean: ClassVar[tuple[float, ...]] = (0.4914, 0.4822, 0.4465)
    deviation: ClassVar[tuple[float, ...]] = (0.2470, 0.2435, 0.2616)

    @property
    def sizes(self) -> dict[str, int]:
        """Number of examples of each split."""
        return {"train": 45000, "validation": 5000, "test": 10000}

    def _examples(self, split: str, indices: np.ndarray) -> dict[str, np.ndarray]:
        part, rows = self._rows(split, indices)
        pixels = self._channels(self.arrays[f"{part}_images"][rows].reshape(-1, self.length, 3).astype(np.float32))
        # As rows of T * features numbers: NumPy is slow along an axis of three.
        rows_of = pixels.reshape(len(indices), self.length * self.features)
        rows_of -= np.tile(255 * np.float32(self.mean), self.length)
        rows_of *= np.tile(1 / (255 * np.float32(self.deviation)), self.length)
        return {"inputs": pixels, "targets": self.arrays[f"{part}_labels"][rows].astype(np.int32)}

    def _is_mirrored(self, key: Array, n: int) -> Array | None:
        return jax.random.bernoulli(key, shape=(n,)) if self.flip else None

    def _channels(self, colours: np.ndarray) -> np.ndarray:
        """The input's channels, float32 `(n, T, features)`, from red, green and blue, 0 to 255."""
        return colours


@dataclass(frozen=True)
class GreyCIFAR10(SequentialCIFAR10, name="image"):
    """Ten classes, T = 1,024 normalised grey pixels, row by row: 0.299 red + 0.587 green + 0.114 blue (ITU-R BT.601).

    Long Range Arena rounds grey to one of 256 tokens; here it is a number. Validation is the last 10 % of train.
    """

    features: ClassVar[int] = 1
    mean: ClassVar[tuple[float, ...]] = (0.4809,)
    deviation: ClassVar[tuple[float, ...]] = (0.2392,)

    def _channels(self, colours: np.ndarray) -> np.ndarray:
        return colours @ np.float32([[0.299], [0.587], [0.114]])
