"""ListOps: the value of a long nested expression.

Source: Nangia and Bowman, "ListOps: A diagnostic dataset for latent tree learning", 2018, arXiv 1804.06028; in the long
form of Tay et al., "Long Range Arena", 2020, arXiv 2011.04006. The generator is our own.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jax import Array

from tasks import _listops
from tasks.base import Task, accuracy, cross_entropy


@dataclass(frozen=True)
class ListOps(Task, name="listops"):
    """Nested operators on digits, as `MAX 4 MIN 2 3 ] SM 1 9 ] ]`; the target is the value, one of 10 classes.

    Operators are MIN, MAX, MED (the median, truncated to an integer) and SM (the sum modulo 10), each of 2 to 10
    arguments. A node of the tree is an operator with probability 1 / 4 and else a digit; the root is an operator, and
    at the tenth level all are digits. Trees are drawn until the expression has 501 to 1,999 tokens, 1,035 on average.

    A token is 0 for padding, 1 + d for the digit d, 11 to 14 for MIN, MAX, MED, SM, and 15 for the bracket that closes
    an operator. Brackets that open would say no more than the operator after them, and are left out. Expressions are
    padded to T = 2,000 and `lengths` are given. The most frequent class, 0, is the value of about 17 %.
    """

    length: ClassVar[int] = _listops.LENGTH
    vocabulary: ClassVar[int] = _listops.VOCABULARY
    outputs: ClassVar[int] = 10
    pooling: ClassVar[str] = "mean"
    metric: ClassVar[str] = "accuracy"
    goal: ClassVar[str] = "max"
    chance: ClassVar[float] = 0.17

    @property
    def sizes(self) -> dict[str, int]:
        """Number of examples of each split."""
        return {"train": 96000, "validation": 2000, "test": 2000}

    def _examples(self, split: str, indices: np.ndarray) -> dict[str, np.ndarray]:
        made = _listops.generate(self.seed, split, indices)
        return {name: array.astype(np.int32) for name, array in made.items()}

    def loss(self, outputs: Array, batch: dict[str, Array]) -> Array:
        """Cross-entropy in nats, float32 `(B,)`, of logits `(B, 10)` against classes `(B,)`."""
        return cross_entropy(outputs, batch["targets"])

    def metrics(self, outputs: Array, batch: dict[str, Array]) -> dict[str, Array]:
        """`accuracy`, float32 `(B,)`: 1 where the value is right."""
        return {"accuracy": accuracy(outputs, batch["targets"])}
