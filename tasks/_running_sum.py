"""What counting modulo k and parity share: an automaton whose k states go round."""

from dataclasses import dataclass

import numpy as np

from tasks._automaton import Automaton


@dataclass(frozen=True)
class RunningSum(Automaton):
    """Digits x_t, uniform in {0, ..., vocabulary - 1}; the target at every step is (x_1 + ... + x_t) mod k.

    A subclass says `modulus`, the k, and `vocabulary`.
    """

    @property
    def outputs(self) -> int:
        """k classes."""
        return self.modulus

    def _states(self, inputs: np.ndarray) -> np.ndarray:
        return (np.cumsum(inputs, 1, dtype=np.int64) % self.modulus).astype(np.int32)
