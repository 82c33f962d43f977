"""The word problem of S3: the running product of permutations of three things.

S3 is the smallest group that is not commutative, and it is solvable. Source: Merrill, Petty, Sabharwal 2024, "The
illusion of state in state-space models", arXiv 2404.08819, of which this is the form with an answer at every step.
"""

from dataclasses import dataclass
from typing import ClassVar

from tasks._permutations import Word


@dataclass(frozen=True)
class WordS3(Word, name="word_s3"):
    """Tokens and classes are the 6 elements, int32 (n, T) both. The metric is the accuracy over all steps; chance 1/6.

    A product depends on the order of its elements: how often each of them came is not enough to know.
    """

    symbols: ClassVar[int] = 3
