"""What counting modulo k and parity share: an automaton whose k states go round."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tasks._per_step import PerStep


@dataclass(frozen=True)
class RunningSum(PerStep):
    """Digits x_t, uniform in {0, ..., vocabulary - 1}; the target at every step is (x_1 + ... + x_t) mod k.

    A subclass says `modulus`, the k, and `vocabulary`.

    Attributes:
        length: Time steps T.
    """

    length: int = 64
    retention: tuple[int, ...] = (64, 640, 4096, 65536)

    retention_option: ClassVar[str] = "length"
    retention_axis: ClassVar[str] = "sequence length T"

    def _validate(self) -> None:
        super()._validate()
        self._require_integer("length", 1)

    @property
    def outputs(self) -> int:
        """k classes."""
        return self.modulus

    def _examples(self, split: str, indices: np.ndarray) -> dict[str, np.ndarray]:
        inputs = np.empty((len(indices), self.length), np.int32)
        for row, stream in zip(inputs, self._streams(split, indices)):
            row[:] = stream.integers(0, self.vocabulary, self.length, dtype=np.int16)
        sums = np.cumsum(inputs, 1, dtype=np.int64)
        return {"inputs": inputs, "targets": (sums % self.modulus).astype(np.int32)}
