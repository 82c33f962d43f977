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
        inputs = self._tokens(split, indices)
        return {"inputs": inputs, "targets": self._states(inputs)}

    def _tokens(self, split: str, indices: np.ndarray) -> np.ndarray:
        """What `integers(0, vocabulary, T, dtype=int16)` of each stream gives, at a third of the time.

        It multiplies 16 random bits by the vocabulary, of which the upper half is the token. Where the lower half is
        below 2^16 modulo the vocabulary, as rarely happens, it draws again, so that all tokens are equally likely
        (Lemire 2019, arXiv 1805.10941).
        """
        bits = np.ascontiguousarray(self._words(split, indices, (self.length + 1) // 2)).view("<u2")
        products = bits[:, : self.length].astype(np.uint32) * np.uint32(self.vocabulary)
        tokens = (products >> 16).astype(np.int32)
        again = np.flatnonzero(((products & 0xFFFF) < 2**16 % self.vocabulary).any(1))
        for row, stream in zip(again, self._streams(split, indices[again])):
            tokens[row] = stream.integers(0, self.vocabulary, self.length, dtype=np.int16)
        return tokens
