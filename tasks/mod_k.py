"""Count modulo k: the running sum of digits, of which an automaton of k states keeps track."""

from dataclasses import dataclass

from tasks._running_sum import RunningSum


@dataclass(frozen=True)
class ModK(RunningSum, name="mod_k"):
    """Digits x_t, uniform in {0, ..., digits - 1}; the target at every step is (x_1 + ... + x_t) mod k.

    A wrong step is never forgiven: what is forgotten or miscounted makes all that follows wrong.

    Attributes:
        modulus: k, the number of states.
        digits: Number of values of the input; null for k.
    """

    modulus: int = 5
    digits: int | None = None

    def _validate(self) -> None:
        super()._validate()
        self._require_integer("modulus", 2, bits=15)
        if self.digits is not None:
            self._require_integer("digits", 2, bits=15)

    @property
    def vocabulary(self) -> int:
        """Number of values of the input."""
        return self.modulus if self.digits is None else self.digits
