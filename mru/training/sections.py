"""The sections of a config: one frozen dataclass each, which checks itself."""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
from typing import Any, ClassVar, Literal

import mru.cells
from mru.model.quantization import FEWEST, MOST
from mru.training.lines import among, short
from mru.training.section import (
    FLOAT32_MAX,
    NonNegativeFloat,
    NonNegativeInt,
    Plain,
    PositiveFloat,
    PositiveInt,
    Section,
)


@dataclasses.dataclass(frozen=True)
class ModelConfig(Section):
    """The model.

    Args:
        cells: One registry name a block, "lru+bmru" for two side by side; a list, or names joined by commas.
        width: Width D of the residual stream.
        state_size: State channels N of every cell.
        positions: Channels of sinusoidal positions concatenated to the input (even); 0 for none.
        expansion: Hidden width of each block's gated MLP as a multiple of the width; 0 for no MLP.
        dropout: Dropout rate on the residual branches.
        tied_dropout: Dropout drops a channel at all steps of a sequence or at none, as in S4 and S5.
        pooling: What the head reads; the task's own choice if null.
        bidirectional: Run every cell in both directions.
        norm: What the blocks normalise with; batch keeps running statistics for evaluation.
        prenorm: Each branch of a block normalises what it reads; if false, the sum with what it adds.
        final_norm: Normalise once more after the last block.
        activation: What follows the cells of a block, as S5 and LRU have it; GELU alone, or with a gate (GLU).
        conv: Steps that a causal convolution of each channel before the cells sees, from 2 to 64; 0 for none.
        options: Further arguments of cells by registry name, such as {s5: {discretization: bilinear}}.
        dtype: Precision (dtype) of the computation; parameters and states are float32 in any case.
        method: Method of mru.scan; of one kind of cell by its options, such as {brc: {method: newton}}.
        remat: Recompute blocks in the backward pass instead of storing what is inside them.
    """

    section: ClassVar[str] = "model"

    cells: list[str] | str = dataclasses.field(default_factory=lambda: ["lru", "pmru"])
    width: PositiveInt = 128
    state_size: PositiveInt = 128
    positions: NonNegativeInt = 0
    expansion: NonNegativeFloat = 2.0
    dropout: NonNegativeFloat = 0.0
    tied_dropout: bool = False
    pooling: Literal["mean", "last", "none"] | None = None
    bidirectional: bool = False
    norm: Literal["layer", "rms", "batch"] = "layer"
    prenorm: bool = True
    final_norm: bool = True
    activation: Literal["gelu", "half_glu1", "half_glu2", "full_glu"] | None = None
    conv: NonNegativeInt = 0
    options: dict[str, dict[str, Plain]] = dataclasses.field(default_factory=dict)
    dtype: Literal["float32", "bfloat16"] = "float32"
    method: Literal["auto", "sequential", "associative"] = "auto"
    remat: bool = False

    @property
    def blocks(self) -> list[str]:
        """`cells`, one name a block."""
        names = self.cells.split(",") if isinstance(self.cells, str) else self.cells
        return [name.strip() for name in names]

    @property
    def names(self) -> list[str]:
        """The registry names in the blocks, as often as they are used."""
        return [name.strip() for block in self.blocks for name in block.split("+")]

    def _check(self) -> None:
        self._require("dropout", self.dropout < 1, "at least 0 and below 1")
        self._require("positions", self.positions % 2 == 0, "an even number")
        self._require("conv", self.conv == 0 or 2 <= self.conv <= 64, "0, or from 2 to 64")
        self._require("cells", 1 <= len(self.names) <= 1000, "at least one name, and no more than 1,000")
        for name in self.names:
            if name not in mru.cells.names():
                raise ValueError(f"model.cells = {short(name) or repr('')}{among(name, mru.cells.names())}")
        _known("model.options", self.options, self.names)
        for name, options in self.options.items():
            _known(f"model.options.{name}", options, list(cell_options(mru.cells.get(name))))
            for option, value in options.items():
                for number in value if isinstance(value, list) else [value]:
                    if isinstance(number, float) and FLOAT32_MAX < abs(number) < math.inf:
                        raise ValueError(f"model.options.{name}.{option} = {number}, allowed: numbers of 32 bits")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig(Section):
    """AdamW with warm-up, cosine decay and clipping.

    Args:
        lr: Learning rate at its peak.
        weight_decay: Decoupled weight decay of the matrices.
        state_lr_factor: Learning rate of the parameters of state updates over that of the others.
        warmup: Fraction of the steps with linearly rising learning rate.
        warmup_steps: Steps of that rise, whatever train.steps is; if null, the fraction warmup of them.
        final: Learning rate at the end over its peak.
        clip: Largest global norm of the gradient.
        b1: Decay of the first moment.
        b2: Decay of the second moment.
        keep: Share of the numbers of each gradient that is used, the largest ones; if null, all of them, or 0.43 with
            train.feedback = alignment.
    """

    section: ClassVar[str] = "optimizer"

    lr: PositiveFloat = 3e-3
    weight_decay: NonNegativeFloat = 0.01
    state_lr_factor: PositiveFloat = 1.0
    warmup: NonNegativeFloat = 0.1
    warmup_steps: NonNegativeInt | None = None
    final: NonNegativeFloat = 0.01
    clip: PositiveFloat | None = 1.0
    b1: NonNegativeFloat = 0.9
    b2: NonNegativeFloat = 0.999
    keep: PositiveFloat | None = None

    def _check(self) -> None:
        self._require("keep", self.keep is None or self.keep <= 1, "above 0 and at most 1, or null")
        for field in ("warmup", "final"):
            self._require(field, getattr(self, field) <= 1, "from 0 to 1")
        for field in ("b1", "b2"):
            self._require(field, getattr(self, field) < 1, "at least 0 and below 1")


@dataclasses.dataclass(frozen=True)
class TrainConfig(Section):
    """The train loop.

    Args:
        steps: Optimiser steps.
        batch_size: Examples of a step, over all devices.
        seed: Seed of the parameters, the order of the examples and the dropout.
        eval_every: Steps between evaluations, each of which also saves a checkpoint; there is one at the end too.
        log_every: Steps that one line of metrics.jsonl averages.
        steps_per_dispatch: At most so many steps in one call of the device, of which evaluations must be multiples; if
            null 10, or 1 with several buckets.
        buckets: Lengths that batches are cut to, equal parts of the task's; if there are several, batches are of
            examples of like length, and less is padding. For tasks that pad, and one step a call of the device.
        deterministic: On a GPU, let equal commands give equal bits, which costs speed; on a CPU they do anyway.
        patience: Stop after so many evaluations without a better one; never if null.
        schedules: Changes to the ramps of the scalars that cells leave to a schedule, by their names: start, end,
            begin, finish. Evaluation, selection and early stopping begin once all have arrived.
        feedback: How the error reaches what a cell did at each step: by backpropagation through time, or by alignment,
            through a fixed random matrix, for cells that can learn so.
    """

    section: ClassVar[str] = "train"
    integer_bits: ClassVar[dict[str, int]] = {"seed": 32}

    steps: PositiveInt = 1000
    batch_size: PositiveInt = 32
    seed: NonNegativeInt = 0
    eval_every: PositiveInt = 200
    log_every: PositiveInt = 50
    steps_per_dispatch: PositiveInt | None = None
    buckets: PositiveInt = 1
    deterministic: bool = False
    patience: PositiveInt | None = None
    schedules: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    feedback: Literal["backpropagation", "alignment"] = "backpropagation"

    def _check(self) -> None:
        if self.buckets > 1:
            self._require("steps_per_dispatch", self.steps_per_dispatch in (None, 1), "1 or null with several buckets")

    def dispatch(self, start: int = 0) -> int:
        """Steps in one call of the device from step `start` on: every evaluation is at the end of one."""
        common = math.gcd(self.steps, min(self.eval_every, self.steps), start)
        divisors = (k for d in range(1, math.isqrt(common) + 1) if common % d == 0 for k in (d, common // d))
        return max(k for k in divisors if k <= (self.steps_per_dispatch or (1 if self.buckets > 1 else 10)))

    def evaluates(self, step: int) -> bool:
        """Whether there is an evaluation after this step."""
        return step % self.eval_every == 0 or step == self.steps


@dataclasses.dataclass(frozen=True)
class WeightsConfig(Section):
    """Matrices of few bits while training (`mru.quantized`); derivatives pass straight through to the full precision.

    Args:
        bits: Bits of every number of a matrix; null for full precision.
        noise: Standard deviation of what is written over the largest number of a matrix, drawn anew in each step of
            training; evaluation has none.
    """

    section: ClassVar[str] = "weights"

    bits: PositiveInt | None = None
    noise: NonNegativeFloat = 0.0

    def _check(self) -> None:
        self._require("bits", self.bits is None or FEWEST <= self.bits <= MOST, f"from {FEWEST} to {MOST}, or null")
        self._require("noise", self.bits is not None or self.noise == 0, "0 without weights.bits")


@dataclasses.dataclass(frozen=True)
class MultistabilityConfig(Section):
    """What nonlinear recurrences learn before the first step of a run: to reach many attractors (Lambrechts 2023).

    Args:
        steps: Gradient steps of each of them; 0 for none.
        lr: Learning rate of the first of these steps.
        rest: Steps without input after which the last of these steps compares the states.
    """

    section: ClassVar[str] = "multistability"

    steps: NonNegativeInt = 0
    lr: PositiveFloat = 1e-2
    rest: PositiveInt = 100


@dataclasses.dataclass(frozen=True)
class MeshConfig(Section):
    """The device mesh.

    Args:
        data: Devices that share a batch; -1 for all that are left.
        seq: Devices that share the time axis of every sequence.
        model: Devices that share the parameters.
    """

    section: ClassVar[str] = "mesh"

    data: int = -1
    seq: int = 1
    model: int = 1

    def _check(self) -> None:
        self._require("seq", self.seq >= 1, "at least 1")
        self._require("model", self.model >= 1, "at least 1")
        self._require("data", self.data == -1 or self.data >= 1, "at least 1, or -1 for all devices left")


@dataclasses.dataclass(frozen=True)
class DistributedConfig(Section):
    """Several processes; found by itself on SLURM, Open MPI and TPU pods.

    Args:
        coordinator_address: HOST:PORT of process 0.
        num_processes: Number of processes.
        process_id: Number of this process, from 0.
    """

    section: ClassVar[str] = "distributed"

    coordinator_address: str | None = None
    num_processes: PositiveInt | None = None
    process_id: NonNegativeInt | None = None

    def _check(self) -> None:
        address, count, number = self.coordinator_address, self.num_processes, self.process_id
        for field, value in dataclasses.asdict(self).items():
            alike = (value is None) == (address is None) == (count is None) == (number is None)
            self._require(field, alike, "a value, as the three fields are given together or not at all")
        if address is not None and count is not None and number is not None:
            self._require("coordinator_address", re.fullmatch(r".+:\d+", address) is not None, "HOST:PORT")
            self._require("process_id", number < count, f"below distributed.num_processes = {count}")


SECTIONS: dict[str, type[Section]] = {
    kind.section: kind
    for kind in (
        ModelConfig,
        OptimizerConfig,
        TrainConfig,
        WeightsConfig,
        MultistabilityConfig,
        MeshConfig,
        DistributedConfig,
    )
}


def cell_options(cell: type[mru.cells.Cell]) -> dict[str, inspect.Parameter]:
    """The arguments of a cell that `model.options` can set, by name."""
    own = inspect.signature(cell.__init__).parameters.values()
    return {p.name: p for p in own if p.kind == p.KEYWORD_ONLY and p.name not in ("dtype", "rngs")}


def _known(where: str, given: dict[str, Any], allowed: list[str]) -> None:
    for name, value in given.items():
        if name not in allowed:
            known = list(dict.fromkeys(allowed))
            raise ValueError(f"{where}.{short(name)} = {short(value)} is not a field{among(name, known)}")
