"""Pathfinder: are two dots the ends of one dashed curve, or of two?

Source: Linsley et al., "Learning long-range spatial dependencies with horizontal gated recurrent units", 2018, arXiv
1805.08315, after the curve tracing of Houtkamp and Roelfsema, 2010; as sequences of pixels: Tay et al., "Long Range
Arena", 2020, arXiv 2011.04006. The generator is our own.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jax import Array

from tasks import _pathfinder
from tasks.base import Task, accuracy, cross_entropy


@dataclass(frozen=True)
class _Images(Task):
    """What all images share; a subclass says their `resolution`, the side in pixels."""

    resolution: ClassVar[int]
    features: ClassVar[int] = 1
    outputs: ClassVar[int] = 2
    pooling: ClassVar[str] = "mean"
    metric: ClassVar[str] = "accuracy"
    goal: ClassVar[str] = "max"
    chance: ClassVar[float] = 0.5

    @property
    def length(self) -> int:
        """Pixels of an image, T."""
        return self.resolution**2

    @property
    def sizes(self) -> dict[str, int]:
        """Number of examples of each split."""
        return {"train": 160000, "validation": 20000, "test": 20000}

    def _examples(self, split: str, indices: np.ndarray) -> dict[str, np.ndarray]:
        made = _pathfinder.generate(self.seed, self.resolution, split, indices)
        inputs = made["inputs"].reshape(len(indices), self.length, 1).astype(np.float32)
        inputs *= np.float32(1 / 127.5)
        inputs -= np.float32(1)
        return {"inputs": inputs, "targets": made["targets"].astype(np.int32)}

    def loss(self, outputs: Array, batch: dict[str, Array]) -> Array:
        """Cross-entropy in nats, float32 `(B,)`, of logits `(B, 2)` against classes `(B,)`."""
        return cross_entropy(outputs, batch["targets"])

    def metrics(self, outputs: Array, batch: dict[str, Array]) -> dict[str, Array]:
        """`accuracy`, float32 `(B,)`: 1 where the class is right."""
        return {"accuracy": accuracy(outputs, batch["targets"])}


@dataclass(frozen=True)
class Pathfinder(_Images, name="pathfinder"):
    """Grey images of 32 x 32 pixels or larger, row by row, in [-1, 1]; class 1 if one curve joins the two dots, else 0.

    Each image has two long curves of 14 dashes, and short ones of 4, as many as find room, at most 8. They bend
    smoothly and at random, stay within the image, and neither cross nor come near each other or themselves. The dots
    are both ends of one long curve, or one end of each. The class is drawn with equal probability and decides nothing
    but that: the curves do not depend on it, and the dots are about as far apart as they would be in the other class.

    Attributes:
        resolution: Side of the image in pixels, 32, 64 or 128; T is its square.
    """

    resolution: int = 32

    def _validate(self) -> None:
        super()._validate()
        valid = isinstance(self.resolution, int) and self.resolution in _pathfinder.DRAWINGS
        self._require("resolution", valid, ", ".join(map(str, _pathfinder.DRAWINGS)))


@dataclass(frozen=True)
class PathX(_Images, name="path_x"):
    """Pathfinder at 128 x 128 pixels: T = 16,384, otherwise as `pathfinder`."""

    resolution: ClassVar[int] = 128
