"""ListOps: the value of a long nested expression.

Source: Nangia and Bowman, "ListOps: A diagnostic dataset for latent tree learning", 2018, arXiv 1804.06028; in the long
form of Tay et al., "Long Range Arena", 2020, arXiv 2011.04006. The generator is our own.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tasks import _listops
from tasks._computed import Computed


@dataclass(frozen=True)
class ListOps(Computed, name="listops"):
    """Nested operators on digits, as `MAX 4 MIN 2 3 ] SM 1 9 ] ]`; the target is the value, one of 10 classes.

    Operators are MIN, MAX, MED (the median, truncated to an integer) and SM (the sum modulo 10), each of 2 to 10
    arguments. A node of the tree is an operator with probability 1 / 4 and else a digit; the root is an operator, and
    at the tenth level all are digits. Trees are drawn until the expression has 501 to 1,999 tokens, 1,035 on average.

    A token is 0 for padding, 1 + d for the digit d, 11 to 14 for MIN, MAX, MED, SM, and 15 for the bracket that closes
    an operator. Brackets that open would say no more than the operator after them, and are left out. Expressions are
    padded to T = 2,000 and `lengths` are given. The most frequent class, 0, is the value of about 17 %.

    Computing one takes about 0.3 ms; `python -m tasks.prepare listops` does it once for all.
    """

    length: ClassVar[int] = _listops.LENGTH
    vocabulary: ClassVar[int] = _listops.VOCABULARY
    outputs: ClassVar[int] = 10
    pooling: ClassVar[str] = "mean"
    chance: ClassVar[float] = 0.17
    dataset: ClassVar[str] = "listops"

    @property
    def sizes(self) -> dict[str, int]:
        """Number of examples of each split."""
        return _listops.SIZES

    def _generate(self, split: str, indices: np.ndarray) -> dict[str, np.ndarray]:
        return _listops.generate(self.seed, split, indices)

    def example_lengths(self, split: str, indices: np.ndarray) -> np.ndarray:
        """Real steps of examples, int `(n,)`; slow if they were not prepared."""
        arrays = self.arrays
        return self._made(split, indices)["lengths"] if arrays is None else arrays[f"{split}_lengths"][indices]

    def _examples(self, split: str, indices: np.ndarray) -> dict[str, np.ndarray]:
        return {name: array.astype(np.int32) for name, array in self._made(split, indices).items()}
