"""Pathfinder: are two dots the ends of one dashed curve, or of two?

Source: Linsley et al., "Learning long-range spatial dependencies with horizontal gated recurrent units", 2018, arXiv
1805.08315, after the curve tracing of Houtkamp and Roelfsema, 2010; as sequences of pixels: Tay et al., "Long Range
Arena", 2020, arXiv 2011.04006. The generator is our own.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tasks import _pathfinder
from tasks._computed import Computed


@dataclass(frozen=True)
class _Images(Computed):
    """What all images share; a subclass says their `resolution`, the side in pixels."""

    resolution: ClassVar[int]
    features: ClassVar[int] = 1
    outputs: ClassVar[int] = 2
    pooling: ClassVar[str] = "mean"
    chance: ClassVar[float] = 0.5

    @property
    def length(self) -> int:
        """Pixels of an image, T."""
        return self.resolution**2

    @property
    def sizes(self) -> dict[str, int]:
        """Number of examples of each split."""
        return _pathfinder.SIZES

    @property
    def _set(self) -> str:
        return f"pathfinder_{self.resolution}"

    def _generate(self, split: str, indices: np.ndarray) -> dict[str, np.ndarray]:
        return _pathfinder.generate(self.seed, self.resolution, split, indices)

    def _examples(self, split: str, indices: np.ndarray) -> dict[str, np.ndarray]:
        made = self._made(split, indices)
        inputs = made["inputs"].reshape(len(indices), self.length, 1).astype(np.float32)
        inputs *= np.float32(1 / 127.5)
        inputs -= np.float32(1)
        return {"inputs": inputs, "targets": made["targets"].astype(np.int32)}


@dataclass(frozen=True)
class Pathfinder(_Images, name="pathfinder"):
    """Grey images of 32 x 32 pixels or larger, row by row, in [-1, 1]; class 1 if one curve joins the two dots, else 0.

    Each image has two long curves of 14 dashes, and short ones of 4, as many as find room, at most 8. They bend
    smoothly and at random, stay within the image, and neither cross nor come near each other or themselves. The dots
    are both ends of one long curve, or one end of each. Both classes are equally likely. The class decides only
    where the dots are: the curves do not depend on it, and the dots are about as far apart as in the other class.

    Computing an image takes 2 or 3 ms, which is slow; `python -m tasks.prepare pathfinder_32` (or 64, 128) does it once
    for all.

    Attributes:
        resolution: Side of the image in pixels, 32, 64 or 128; T is its square.
    """

    resolution: int = 32

    dataset: ClassVar[str] = "pathfinder_32"

    def _validate(self) -> None:
        super()._validate()
        valid = isinstance(self.resolution, int) and self.resolution in _pathfinder.DRAWINGS
        self._require("resolution", valid, ", ".join(map(str, _pathfinder.DRAWINGS)))


@dataclass(frozen=True)
class PathX(_Images, name="path_x"):
    """Pathfinder at 128 x 128 pixels: T = 16,384, otherwise as `pathfinder`."""

    resolution: ClassVar[int] = 128
    dataset: ClassVar[str] = "pathfinder_128"
