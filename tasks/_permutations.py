"""What the word problems of groups of permutations share."""

import functools
import itertools
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tasks._automaton import Automaton


@dataclass(frozen=True)
class Word(Automaton):
    """Elements x_t of S_n, uniform; the target at every step is the product x_t ... x_2 x_1: first x_1, x_t last.

    Token and class g are the same element: the g-th permutation of (0, ..., n - 1) in lexicographic order, from the
    identity on, which sends i to its i-th entry. A subclass says `symbols`, the n.
    """

    symbols: ClassVar[int]

    @property
    def vocabulary(self) -> int:
        """Elements of the group, n!."""
        return math.factorial(self.symbols)

    @property
    def outputs(self) -> int:
        """One class for each element."""
        return self.vocabulary

    def _states(self, inputs: np.ndarray) -> np.ndarray:
        products, table, span = inputs.copy(), multiplication(self.symbols).astype(np.int32).reshape(-1), 1
        # Each product covers `span` elements, and twice as many after it takes in the one so far before it.
        while span < self.length:
            # One index into the flat table: NumPy takes more than twice as long for two.
            products[:, span:] = table.take(products[:, span:] * self.vocabulary + products[:, :-span])
            span *= 2
        return products


@functools.cache
def multiplication(symbols: int) -> np.ndarray:
    """The element a b, that is b and then a, for each pair of elements of S_n, int16 `(n!, n!)` indexed `[a, b]`."""
    elements = np.array(list(itertools.permutations(range(symbols))))
    products = elements[:, elements]  # [a, b, i] = a(b(i))
    digits = symbols ** np.arange(symbols)[::-1]  # as a number, each is larger than the one before
    return np.searchsorted(elements @ digits, products @ digits).astype(np.int16)
