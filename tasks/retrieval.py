"""Retrieval, as in Long Range Arena: does one of two papers cite the other, read byte by byte.

Source: Radev et al., "The ACL Anthology Network corpus", 2013; as pairs of bytes: Tay et al., "Long Range Arena", 2020,
arXiv 2011.04006. The pairs are no longer public: who has a copy of lra_release.gz prepares them from its folder
lra_release/tsv_data, which has new_aan_pairs.train.tsv, new_aan_pairs.eval.tsv and new_aan_pairs.test.tsv.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mru.training import MissingData
from tasks._datasets.text import DOCUMENT
from tasks._recorded import Recorded

SEPARATOR = 257


@dataclass(frozen=True)
class Retrieval(Recorded, name="retrieval"):
    """Two classes (1 for a citation) of pairs of papers, which are read one after the other with token 257 between.

    Token 0 is padding, which stands behind the second paper only; token b + 1 is the byte b. As published, a model
    reads each paper by itself and a second network compares the two vectors; here one model reads both and has to
    remember the first, so that any sequence model does, and results do not compare exactly.

    Attributes:
        document: Of each paper the first so many bytes are read.
    """

    document: int = DOCUMENT

    vocabulary: ClassVar[int] = 258
    outputs: ClassVar[int] = 2
    pooling: ClassVar[str] = "mean"
    chance: ClassVar[float] = 0.5
    dataset: ClassVar[str] = "aan"

    def _validate(self) -> None:
        super()._validate()
        value = self.document
        valid = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= DOCUMENT
        self._require("document", valid, f"an integer from 1 to {DOCUMENT}")

    @property
    def length(self) -> int:
        """Time steps T of two whole papers and what is between them."""
        return 2 * self.document + 1

    @property
    def sizes(self) -> dict[str, int]:
        """Number of examples of each split: of what is prepared, or else as published."""
        try:
            return {part: len(self.arrays[f"{part}_labels"]) for part in ("train", "validation", "test")}
        except MissingData:
            return {"train": 147086, "validation": 18090, "test": 17437}

    def example_lengths(self, split: str, indices: np.ndarray) -> np.ndarray:
        """Real steps of examples, int `(n,)`."""
        pairs, starts = self.arrays[f"{split}_pairs"][indices], self.arrays["starts"]
        return np.minimum(starts[pairs + 1] - starts[pairs], self.document).sum(1) + 1

    def _examples(self, split: str, indices: np.ndarray) -> dict[str, np.ndarray]:
        arrays = self.arrays
        tokens = np.zeros((len(indices), self.length), np.int32)
        lengths = np.zeros(len(indices), np.int32)
        for i, pair in enumerate(arrays[f"{split}_pairs"][indices]):
            first, second = (self._paper(arrays, number) for number in pair)
            row = np.concatenate([first, [SEPARATOR], second])
            tokens[i, : len(row)], lengths[i] = row, len(row)
        return {"inputs": tokens, "lengths": lengths, "targets": arrays[f"{split}_labels"][indices].astype(np.int32)}

    def _paper(self, arrays: dict[str, np.ndarray], number: int) -> np.ndarray:
        start, end = arrays["starts"][number : number + 2]
        return arrays["documents"][start : min(end, start + self.document)].astype(np.int32) + 1
