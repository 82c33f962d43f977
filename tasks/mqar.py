"""Multi-query associative recall: pairs of key and value, then each key again, whose value is asked for.

Source: Arora et al. 2023, "Zoology: measuring and improving recall in efficient language models", arXiv 2312.04927.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tasks._per_step import NOT_ASKED, PerStep, distinct, integers


@dataclass(frozen=True)
class MQAR(PerStep, name="mqar"):
    """K pairs of a key and its value, then each key once more among random tokens; the value is the target there.

    Keys are different tokens of the lower half of the vocabulary, values any of the upper half. Our reading of the
    power law: the T - 2K steps after the pairs are slots g = 1, 2, ... of two steps, a query is the first step of its
    slot, and the slots of the keys, from the first key on, are drawn one after the other without replacement with
    probabilities in proportion to g^(power - 1). All other steps after the pairs are uniform over the vocabulary, so
    that a key may come up by chance: it is no query, and does not count.

    Tokens and targets are int32 (n, T), targets -1 where no query is. The metric is the accuracy at the queries; chance
    is 2 over the vocabulary.

    Attributes:
        length: Time steps T, an even number of at least 4K.
        pairs: K, the number of keys.
        vocabulary: Number of tokens, an even number of at least 2K.
        power: a of the power law; 1 is uniform, and near 0 a query tends to come soon.
    """

    length: int = 512
    pairs: int = 64
    vocabulary: int = 8192
    power: float = 0.01
    retention: tuple[int, ...] = (512, 1024, 2048, 4096)

    retention_option: ClassVar[str] = "length"
    retention_axis: ClassVar[str] = "sequence length T"

    def _validate(self) -> None:
        super()._validate()
        self._require_integer("pairs", 1, bits=20)
        for option, least in (("length", 4 * self.pairs), ("vocabulary", 2 * self.pairs)):
            self._require_integer(option, least)
            self._require(option, getattr(self, option) % 2 == 0, "an even number")
        self._require("power", math.isfinite(self.power) and 0 <= self.power <= 10, "a number from 0 to 10")

    @property
    def outputs(self) -> int:
        """Every token is a class."""
        return self.vocabulary

    @property
    def chance(self) -> float:
        """Accuracy of a guess among the values."""
        return 2 / self.vocabulary

    def _examples(self, split: str, indices: np.ndarray) -> dict[str, np.ndarray]:
        context, half = 2 * self.pairs, self.vocabulary // 2
        slots = (self.length - context) // 2
        sizes = (self.pairs, self.pairs, self.pairs, slots, self.length - context)
        draws = np.split(self._uniform(split, indices, sum(sizes)), np.cumsum(sizes)[:-1], 1)
        keys = np.take_along_axis(distinct(draws[0], half).astype(np.int32), np.argsort(draws[1], 1), 1)
        values = half + integers(draws[2], half)
        inputs = np.empty((len(indices), self.length), np.int32)
        inputs[:, :context:2], inputs[:, 1:context:2] = keys, values
        inputs[:, context:] = integers(draws[4], self.vocabulary)
        # Of independent clocks, each of which rings at the rate of its slot, the first K to ring are such a draw.
        times = -np.log1p(-draws[3]) * np.arange(1, slots + 1) ** (1 - self.power)
        where = context + 2 * np.argsort(times, 1)[:, : self.pairs]
        np.put_along_axis(inputs, where, keys, 1)
        targets = np.full(inputs.shape, NOT_ASKED, np.int32)
        np.put_along_axis(targets, where, values, 1)
        return {"inputs": inputs, "targets": targets}
