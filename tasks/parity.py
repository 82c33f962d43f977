"""Parity: whether the number of ones so far is odd.

The smallest state-tracking task: an automaton of two states, each 1 a flip. A linear recurrence whose eigenvalues are
all positive can not keep it at every length. Source: Merrill, Petty, Sabharwal 2024, "The illusion of state in
state-space models", arXiv 2404.08819; Grazzi et al. 2024, arXiv 2411.12537.
"""

from dataclasses import dataclass
from typing import ClassVar

from tasks._running_sum import RunningSum


@dataclass(frozen=True)
class Parity(RunningSum, name="parity"):
    """Bits x_t, fair coins, as tokens; the target at every step is (x_1 + ... + x_t) mod 2.

    Inputs and targets are int32 (n, T). The metric is the accuracy over all steps; chance is 1/2.
    """

    modulus: ClassVar[int] = 2
    vocabulary: ClassVar[int] = 2
