"""Text, as in Long Range Arena: is a film review good or bad, read byte by byte.

Source: Maas et al., "Learning word vectors for sentiment analysis", 2011; as bytes: Tay et al., "Long Range Arena",
2020, arXiv 2011.04006.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tasks._datasets.base import lengths_of, padded
from tasks._recorded import Recorded


@dataclass(frozen=True)
class Text(Recorded, name="text"):
    """Two classes (0 bad, 1 good) of reviews in UTF-8: token 0 is padding, token b + 1 the byte b.

    Long Range Arena takes validation from test; here it is the last 10 % of train.

    Attributes:
        length: Time steps T; of longer reviews the first T bytes are read, shorter ones are padded behind.
    """

    length: int = 4096

    vocabulary: ClassVar[int] = 257
    outputs: ClassVar[int] = 2
    pooling: ClassVar[str] = "mean"
    chance: ClassVar[float] = 0.5
    dataset: ClassVar[str] = "imdb"

    def _validate(self) -> None:
        super()._validate()
        self._require_integer("length", 1)

    @property
    def sizes(self) -> dict[str, int]:
        """Number of examples of each split."""
        return {"train": 22500, "validation": 2500, "test": 25000}

    def example_lengths(self, split: str, indices: np.ndarray) -> np.ndarray:
        """Real steps of examples, int `(n,)`."""
        part, rows = self._rows(split, indices)
        return lengths_of(self.arrays[f"{part}_starts"], rows, self.length)

    def _examples(self, split: str, indices: np.ndarray) -> dict[str, np.ndarray]:
        part, rows = self._rows(split, indices)
        arrays = self.arrays
        read, lengths = padded(arrays[f"{part}_bytes"], arrays[f"{part}_starts"], rows, self.length)
        tokens = read.astype(np.int32) + 1
        tokens[np.arange(self.length) >= lengths[:, None]] = 0
        return {"inputs": tokens, "lengths": lengths, "targets": arrays[f"{part}_labels"][rows].astype(np.int32)}
