"""Selective copy: repeat the few symbols that stood among many blanks.

Where the symbols stand is new in each example, so that a filter that is fixed in time does not find them. Source: Gu,
Dao 2023, "Mamba", arXiv 2312.00752, section 4.1.1; Jing et al. 2019, arXiv 1706.02761.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tasks._per_step import NOT_ASKED, PerStep, distinct, integers


@dataclass(frozen=True)
class SelectiveCopy(PerStep, name="selective_copy"):
    """Data symbols at random places among blanks, then as many markers, at which the symbols are asked for in order.

    Tokens, int32 (n, T): the data symbols from 0 on, then the blank, then the marker; T = places + count. Targets are
    int32 (n, T), -1 before the markers, where no step counts. The metric is the accuracy at the markers; chance is one
    over the alphabet.

    Attributes:
        places: Steps before the markers.
        count: Data symbols in an example, at different places; repeats of a symbol are allowed.
        alphabet: Number of data symbols there are.
    """

    places: int = 4096
    count: int = 16
    alphabet: int = 16
    retention: tuple[int, ...] = (4096, 40960, 409600)

    retention_option: ClassVar[str] = "places"
    retention_axis: ClassVar[str] = "steps before the markers"

    def _validate(self) -> None:
        super()._validate()
        self._require_integer("count", 1)
        self._require_integer("alphabet", 2, bits=15)
        self._require_integer("places", self.count)

    @property
    def length(self) -> int:
        """Time steps T: places and markers."""
        return self.places + self.count

    @property
    def vocabulary(self) -> int:
        """Data symbols, blank and marker."""
        return self.alphabet + 2

    @property
    def outputs(self) -> int:
        """One class for each data symbol."""
        return self.alphabet

    def _examples(self, split: str, indices: np.ndarray) -> dict[str, np.ndarray]:
        draws = self._uniform(split, indices, 2 * self.count)
        where = distinct(draws[:, : self.count], self.places)
        symbols = integers(draws[:, self.count :], self.alphabet)
        inputs = np.full((len(indices), self.length), self.alphabet, np.int32)
        np.put_along_axis(inputs, where, symbols, 1)
        inputs[:, self.places :] = self.alphabet + 1
        targets = np.full(inputs.shape, NOT_ASKED, np.int32)
        targets[:, self.places :] = symbols
        return {"inputs": inputs, "targets": targets}
