"""What the word problems of groups of permutations share."""

import functools
import itertools
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tasks._per_step import PerStep


@dataclass(frozen=True)
class Word(PerStep):
    """Elements x_t of S_n, uniform; the target at every step is the product x_t ... x_2 x_1: first x_1, x_t last.

    Token and class g are the same element: the g-th permutation of (0, ..., n - 1) in lexicographic order, from the
    identity on, which sends i to its i-th entry. A subclass says `symbols`, the n.

    Attributes:
        length: Time steps T.
    """

    length: int = 64
    retention: tuple[int, ...] = (64, 640, 4096, 65536)

    symbols: ClassVar[int]
    retention_option: ClassVar[str] = "length"
    retention_axis: ClassVar[str] = "sequence length T"

    def _validate(self) -> None:
        super()._validate()
        self._require_integer("length", 1)

    @property
    def vocabulary(self) -> int:
        """Elements of the group, n!."""
        return math.factorial(self.symbols)

    @property
    def outputs(self) -> int:
        """One class for each element."""
        return self.vocabulary

    def _examples(self, split: str, indices: np.ndarray) -> dict[str, np.ndarray]:
        inputs = np.empty((len(indices), self.length), np.int32)
        for row, stream in zip(inputs, self._streams(split, indices)):
            row[:] = stream.integers(0, self.vocabulary, self.length, dtype=np.int16)
        products, table, span = inputs.copy(), multiplication(self.symbols), 1
        # Each product covers `span` elements, and twice as many after it takes in the one so far before it.
        while span < self.length:
            products[:, span:] = table[products[:, span:], products[:, :-span]]
            span *= 2
        return {"inputs": inputs, "targets": products}


@functools.cache
def multiplication(symbols: int) -> np.ndarray:
    """The element a b, that is b and then a, for each pair of elements of S_n, int16 `(n!, n!)` indexed `[a, b]`."""
    elements = np.array(list(itertools.permutations(range(symbols))))
    products = elements[:, elements]  # [a, b, i] = a(b(i))
    digits = symbols ** np.arange(symbols)[::-1]  # as a number, each is larger than the one before
    return np.searchsorted(elements @ digits, products @ digits).astype(np.int16)
