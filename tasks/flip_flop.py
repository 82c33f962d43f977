"""Flip-flop: a memory of one bit, written, read and left alone, in a language that never forgives a lapse.

Source: Liu et al. 2023, "Exposing attention glitches with flip-flop language modeling", arXiv 2306.00946.
`benchmarks/flip_flop.py` counts the errors of a trained run on dense, sparse and long sequences, as there.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jax import Array

from tasks._per_step import NOT_ASKED, PerStep, mean_asked
from tasks.base import accuracy

WRITE, READ, IGNORE, BIT = 0, 1, 2, 3  # BIT and BIT + 1 are the bits 0 and 1


@dataclass(frozen=True)
class FlipFlop(PerStep, name="flip_flop"):
    """Tokens {write, read, ignore, 0, 1}, int32 (n, T), in pairs of an instruction and a bit.

    An instruction is `ignore` with probability p_ignore, else `write` or `read` with equal probability; the first is
    `write`, the last `read`. The bit after `write` or `ignore` is a fair coin; that after `read` is the one last
    written, and it is the target at the step of the `read`: what comes next. Targets are int32 (n, T), -1 at all other
    steps, which do not count. The metric is the error rate of the reads of an example; chance is 1/2.

    Attributes:
        length: Tokens T, an even number.
        p_ignore: Probability of `ignore`. Published are 0.8 to train, 0.98 (sparse) and 0.1 (dense) to test.
    """

    length: int = 512
    p_ignore: float = 0.8
    retention: tuple[int, ...] = (512, 5120, 51200, 1000000)

    vocabulary: ClassVar[int] = 5
    outputs: ClassVar[int] = 2
    metric: ClassVar[str] = "error"
    goal: ClassVar[str] = "min"
    retention_option: ClassVar[str] = "length"
    retention_axis: ClassVar[str] = "sequence length T"

    def _validate(self) -> None:
        super()._validate()
        self._require_integer("length", 4)
        self._require("length", self.length % 2 == 0, "an even number, as tokens come in pairs")
        self._require("p_ignore", math.isfinite(self.p_ignore) and 0 <= self.p_ignore <= 1, "a number from 0 to 1")

    def _examples(self, split: str, indices: np.ndarray) -> dict[str, np.ndarray]:
        shape = len(indices), self.length // 2
        # Of the streams' bits, 32 for each instruction and 8 for each bit are used.
        words = self._words(split, indices, shape[1] + -(-shape[1] // 4))
        chances = (words[:, : shape[1]] >> 8).astype(np.float32) * np.float32(2**-24)
        bits = np.ascontiguousarray(words[:, shape[1] :]).view(np.int8)[:, : shape[1]] < 0
        instructions = np.where(chances < self.p_ignore, IGNORE, READ).astype(np.int8)
        instructions[chances >= (1 + self.p_ignore) / 2] = WRITE
        instructions[:, 0], instructions[:, -1] = WRITE, READ
        # The last `write` so far is the largest of the numbers 2 t + bit at writes.
        written = np.where(instructions == WRITE, 2 * np.arange(shape[1], dtype=np.int32) + bits, 0)
        read, memory = instructions == READ, np.maximum.accumulate(written, 1) & 1
        inputs = np.empty((*shape, 2), np.int32)
        inputs[..., 0], inputs[..., 1] = instructions, BIT + np.where(read, memory, bits)
        targets = np.full((*shape, 2), NOT_ASKED, np.int32)
        targets[..., 0] = np.where(read, memory, NOT_ASKED)
        flat = len(indices), self.length
        return {"inputs": inputs.reshape(flat), "targets": targets.reshape(flat)}

    def metrics(self, outputs: Array, batch: dict[str, Array]) -> dict[str, Array]:
        """`error`, float32 `(B,)`: the fraction of the reads that are wrong."""
        # Not 1 - accuracy, which a GPU that divides a number by itself does not make 0.
        return {"error": mean_asked(1 - accuracy(outputs, batch["targets"]), batch)}
