"""What tasks share that ask for the state of an automaton, whose input is uniform, at every step."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tasks._per_step import PerStep


@dataclass(frozen=True)
class Automaton(PerStep):
    """Tokens x_t, uniform in {0, ..., vocabulary - 1}; the target at every step is the state after x_1, ..., x_t.

    A subclass says `vocabulary`, `outputs`, the number of states, and `_states`.

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

    def _states(self, inputs: np.ndarray) -> np.ndarray:
        """The state after each token, of int32 `(n, T)` tokens, int32 `(n, T)`."""
        raise NotImplementedError

    def _examples(self, split: str, indices: np.ndarray) -> dict[str, np.ndarray]:
        inputs = np.empty((len(indices), self.length), np.int32)
        for row, stream in zip(inputs, self._streams(split, indices)):
            row[:] = stream.integers(0, self.vocabulary, self.length, dtype=np.int16)
        return {"inputs": inputs, "targets": self._states(inputs)}
