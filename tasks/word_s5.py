"""The word problem of S5: the running product of permutations of five things.

S5 is the smallest symmetric group that is not solvable, which makes its word problem complete for the class NC1
(Barrington 1989). With numbers of a precision logarithmic in the length, no fixed number of layers of a Transformer or
of a diagonal state-space model solves it at every length, unless TC0 = NC1. Source: Merrill, Petty, Sabharwal 2024,
"The illusion of state in state-space models", arXiv 2404.08819, of which this is the form with an answer at every step.
"""

from dataclasses import dataclass
from typing import ClassVar

from tasks._permutations import Word


@dataclass(frozen=True)
class WordS5(Word, name="word_s5"):
    """Tokens and classes are the 120 elements, int32 (n, T) both. The metric is the accuracy over all steps.

    Chance is 1/120.
    """

    symbols: ClassVar[int] = 5
