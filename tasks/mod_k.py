"""Count modulo k: the running sum of digits, of which an automaton of k states keeps track."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jax import Array

from tasks.base import Generated, accuracy, cross_entropy


@dataclass(frozen=True)
class ModK(Generated, name="mod_k"):
    """Digits x_t, uniform in {0, ..., digits - 1}; the target at every step is (x_1 + ... + x_t) mod k.

    With k = 2 and two digits it is parity. A wrong step is never forgiven: what is forgotten or miscounted makes all
    that follows wrong.

    Attributes:
        modulus: k, the number of states.
        digits: Number of values of the input; null for k.
        length: Time steps T.
    """

    modulus: int = 5
    digits: int | None = None
    length: int = 64
    retention: tuple[int, ...] = (64, 640, 4096)

    pooling: ClassVar[str] = "none"
    metric: ClassVar[str] = "accuracy"
    goal: ClassVar[str] = "max"
    retention_option: ClassVar[str] = "length"
    retention_axis: ClassVar[str] = "sequence length T"
    time_axes: ClassVar[Mapping[str, int]] = {"inputs": 1, "targets": 1}

    def _validate(self) -> None:
        super()._validate()
        self._require_integer("modulus", 2, bits=15)
        self._require_integer("length", 1)
        if self.digits is not None:
            self._require_integer("digits", 2, bits=15)

    @property
    def vocabulary(self) -> int:
        """Number of values of the input."""
        return self.modulus if self.digits is None else self.digits

    @property
    def outputs(self) -> int:
        """k classes."""
        return self.modulus

    @property
    def chance(self) -> float:
        """Accuracy of a guess."""
        return 1 / self.modulus

    def _examples(self, split: str, indices: np.ndarray) -> dict[str, np.ndarray]:
        inputs = np.empty((len(indices), self.length), np.int32)
        for row, stream in zip(inputs, self._streams(split, indices)):
            row[:] = stream.integers(0, self.vocabulary, self.length, dtype=np.int16)
        sums = np.cumsum(inputs, 1, dtype=np.int64)
        return {"inputs": inputs, "targets": (sums % self.modulus).astype(np.int32)}

    def loss(self, outputs: Array, batch: dict[str, Array]) -> Array:
        """Cross-entropy in nats, float32 `(B,)`, of logits `(B, T, k)` against classes `(B, T)`, mean over steps."""
        return cross_entropy(outputs, batch["targets"]).mean(-1)

    def metrics(self, outputs: Array, batch: dict[str, Array]) -> dict[str, Array]:
        """`accuracy`, float32 `(B,)`: the fraction of steps that are right."""
        return {"accuracy": accuracy(outputs, batch["targets"]).mean(-1)}
