"""What a config may say, and reading one from a YAML file and the command line.

Cells and tasks are named by their registry names, never by import path: a config can not run code.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import pathlib
import re
from typing import Any, Literal

import jax
import jax.numpy as jnp
import yaml
from flax import nnx
from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser
from jsonargparse.typing import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

import mru
import tasks


class UserError(Exception):
    """A mistake of the user's, told in one line; exit code 2."""


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The model.

    Args:
        cells: One registry name a block, "lru+bmru" for two side by side; a list, or names joined by commas.
        width: Width D of the residual stream.
        state_size: State channels N of every cell.
        positions: Channels of sinusoidal positions concatenated to the input (even); 0 for none.
        expansion: Hidden width of each block's gated MLP as a multiple of the width; 0 for no MLP.
        dropout: Dropout rate on the residual branches.
        pooling: What the head reads; the task's own choice if null.
        bidirectional: Run every cell in both directions.
        options: Further arguments of cells by registry name, such as {s5: {discretization: bilinear}}.
        dtype: Dtype of the computation; parameters and states are float32 in any case.
        method: Method of mru.scan.
        remat: Recompute blocks in the backward pass instead of storing what is inside them.
    """

    cells: list[str] | str = dataclasses.field(default_factory=lambda: ["lru", "pmru"])
    width: PositiveInt = 128
    state_size: PositiveInt = 128
    positions: NonNegativeInt = 0
    expansion: NonNegativeFloat = 2.0
    dropout: NonNegativeFloat = 0.0
    pooling: Literal["mean", "last", "none"] | None = None
    bidirectional: bool = False
    options: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    dtype: Literal["float32", "bfloat16"] = "float32"
    method: Literal["auto", "sequential", "associative"] = "auto"
    remat: bool = False

    @property
    def blocks(self) -> list[str]:
        """`cells`, one name a block."""
        names = self.cells.split(",") if isinstance(self.cells, str) else self.cells
        return [name.strip() for name in names]


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with warm-up, cosine decay and clipping.

    Args:
        lr: Peak learning rate.
        weight_decay: Decoupled weight decay of the matrices.
        state_lr_factor: Learning rate of the parameters of state updates over that of the others.
        warmup: Fraction of the steps with linearly rising learning rate.
        final: Learning rate at the end over its peak.
        clip: Largest global norm of the gradient.
        b1: Decay of the first moment.
        b2: Decay of the second moment.
    """

    lr: PositiveFloat = 3e-3
    weight_decay: NonNegativeFloat = 0.01
    state_lr_factor: PositiveFloat = 1.0
    warmup: NonNegativeFloat = 0.1
    final: NonNegativeFloat = 0.01
    clip: PositiveFloat | None = 1.0
    b1: NonNegativeFloat = 0.9
    b2: NonNegativeFloat = 0.999


@dataclasses.dataclass(frozen=True)
class Ramp:
    """A scalar that goes linearly from `start` to `end` while training is between two fractions of its steps.

    Args:
        start: Value before.
        end: Value after.
        begin: Fraction of the steps at which it begins to move.
        finish: Fraction of the steps at which it has arrived.
    """

    start: float = 1.0
    end: float = 0.0
    begin: NonNegativeFloat = 0.2
    finish: NonNegativeFloat = 0.6

    def __call__(self, step: jax.Array, steps: int) -> jax.Array:
        """The value at a step, exactly `end` from the last step of the ramp on."""
        begin, finish = self.begin * steps, self.arrival(steps)
        return self.start + (self.end - self.start) * jnp.clip((step - begin) / max(finish - begin, 1e-9), 0, 1)

    def arrival(self, steps: int) -> int:
        """The first step with the value `end`."""
        return math.ceil(self.finish * steps)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The train loop.

    Args:
        steps: Optimiser steps.
        batch_size: Examples of a step, over all devices.
        seed: Seed of the parameters, the order of the examples and the dropout.
        eval_every: Steps between evaluations, each of which also saves a checkpoint.
        log_every: Steps that one line of metrics.jsonl averages.
        steps_per_dispatch: Steps in one call of the device; if null, up to 10 that divide what must divide.
        patience: Stop after so many evaluations without a better one; never if null.
        schedules: Ramps of the scalars that cells leave to a schedule, by their names. Evaluation, selection and early
            stopping begin once those of the model's cells have arrived.
    """

    steps: PositiveInt = 1000
    batch_size: PositiveInt = 32
    seed: NonNegativeInt = 0
    eval_every: PositiveInt = 200
    log_every: PositiveInt = 50
    steps_per_dispatch: PositiveInt | None = None
    patience: PositiveInt | None = None
    schedules: dict[str, Ramp] = dataclasses.field(default_factory=lambda: {"epsilon": Ramp()})

    @property
    def dispatch(self) -> int:
        """Steps in one call of the device; every boundary of the loop is one of theirs."""
        if self.steps_per_dispatch:
            return self.steps_per_dispatch
        common = math.gcd(self.steps, self.eval_every)
        return max(k for k in range(1, 11) if common % k == 0)


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """The device mesh.

    Args:
        data: Devices that share a batch; -1 for all that are left.
        seq: Devices that share the time axis: 1 for now.
        model: Devices that share the parameters.
    """

    data: int = -1
    seq: int = 1
    model: int = 1


@dataclasses.dataclass(frozen=True)
class DistributedConfig:
    """Several processes; found by itself on SLURM, Open MPI and TPU pods.

    Args:
        coordinator_address: HOST:PORT of process 0.
        num_processes: Number of processes.
        process_id: Number of this process, from 0.
    """

    coordinator_address: str | None = None
    num_processes: PositiveInt | None = None
    process_id: NonNegativeInt | None = None


SECTIONS = {
    "model": ModelConfig,
    "optimizer": OptimizerConfig,
    "train": TrainConfig,
    "mesh": MeshConfig,
    "distributed": DistributedConfig,
}
# What may differ when a run is resumed: where it runs, not what it computes.
PLACEMENT = ("workdir", "mesh", "distributed")


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that defines a run."""

    task: tasks.Task
    model: ModelConfig
    optimizer: OptimizerConfig
    train: TrainConfig
    mesh: MeshConfig
    distributed: DistributedConfig
    workdir: pathlib.Path

    @property
    def resolved(self) -> dict[str, Any]:
        """All of it as plain data, as it is written to config.yaml."""
        sections = {name: dataclasses.asdict(getattr(self, name)) for name in SECTIONS}
        sections["model"]["cells"] = self.model.blocks
        task = {"name": self.task.name} | dataclasses.asdict(self.task)
        # Through JSON, so that what is compared with a file has lists for tuples.
        return json.loads(json.dumps({"task": task, **sections, "workdir": str(self.workdir)}))


def parse(argv: list[str]) -> Config:
    """The config of a command line.

    Raises:
        UserError: Something in it does not fit.
    """
    kind = tasks.get(_task_name(argv))
    parser = ArgumentParser(
        prog="train.py",
        description="Train a sequence model from a config file, and report how it does.",
        exit_on_error=False,
    )
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file; later arguments override it.")
    parser.add_argument("--workdir", type=str, default=None, help="Folder of the run; runs/ and the config's name.")
    parser.add_argument("--task.name", type=str, default=kind.name, help=f"One of {', '.join(tasks.names())}.")
    parser.add_class_arguments(kind, "task")
    for name, section in SECTIONS.items():
        parser.add_class_arguments(section, name)
    try:
        found = parser.parse_args(argv)
    except ArgumentError as error:
        raise UserError(_explain(str(error), kind)) from None
    workdir = found.workdir
    if workdir is None:
        config = str(found.config[0]) if found.config else f"configs/{kind.name}.yaml"
        relative = pathlib.PurePath(config).with_suffix("").parts
        after = relative[relative.index("configs") + 1 :] if "configs" in relative else relative[-1:]
        workdir = str(pathlib.PurePath("runs", *after))
    del found.task.name
    try:
        values = parser.instantiate(found)
    except ValueError as error:
        raise UserError(str(error)) from None
    config = Config(values.task, *(values[name] for name in SECTIONS), workdir=pathlib.Path(workdir))
    _check(config)
    return config


def _task_name(argv: list[str]) -> str:
    """The task named on the command line, or else in the config file, whose options the parser is then made of."""
    peek = argparse.ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
    peek.add_argument("--config")
    peek.add_argument("--task.name", dest="name")
    try:
        known, _ = peek.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise UserError(str(error)) from None
    name = known.name
    if name is None and known.config is not None:
        try:
            content = yaml.safe_load(pathlib.Path(known.config).read_text())
        except OSError as error:
            raise UserError(f"--config {known.config}: {error.strerror}") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"--config {known.config} is not YAML: {error}") from None
        if not isinstance(content, dict):
            raise UserError(f"--config {known.config} must hold a mapping with keys such as task and model")
        task = content.get("task")
        name = task.get("name") if isinstance(task, dict) else None
    if name is None and not {"-h", "--help"} & set(argv):
        raise UserError(f"task.name is missing, allowed: {', '.join(tasks.names())}")
    try:
        tasks.get(name or "digits")
    except ValueError as error:
        raise UserError(str(error)) from None
    return name or "digits"


def _explain(message: str, kind: type[tasks.Task]) -> str:
    """jsonargparse's message, with the names that are allowed where an unknown one was given."""
    unknown = re.search(r"unrecognized arguments: --(\w+)|Group '(\w+)' does not accept|Key '(\w+)", message)
    if unknown:
        section = next(name for name in unknown.groups() if name)
        fields = ["name", *(f.name for f in dataclasses.fields(kind))] if section == "task" else (
            [f.name for f in dataclasses.fields(SECTIONS[section])] if section in SECTIONS else []
        )  # fmt: skip
        allowed = ", ".join(f"{section}.{f}" for f in fields) if fields else ", ".join(["task", *SECTIONS, "workdir"])
        message = f"{message}; allowed: {allowed}"
    return message


def _check(config: Config) -> None:
    """Combinations that can not work, before anything is compiled."""
    model, optimizer, train, mesh = config.model, config.optimizer, config.train, config.mesh

    def require(valid: bool, field: str, value: Any, allowed: str) -> None:
        if not valid:
            raise UserError(f"{field} = {value}, allowed: {allowed}")

    require(
        train.eval_every <= train.steps, "train.eval_every", train.eval_every, f"at most train.steps = {train.steps}"
    )
    for field in ("steps", "eval_every"):
        value, k = getattr(train, field), train.dispatch
        require(value % k == 0, "train.steps_per_dispatch", k, f"a divisor of train.{field} = {value}")
    for name, ramp in train.schedules.items():
        require(ramp.begin <= ramp.finish <= 1, f"train.schedules.{name}", ramp, "begin <= finish <= 1")
    for field in ("warmup", "final", "b1", "b2"):
        value = getattr(optimizer, field)
        require(0 <= value <= 1 and (field[0] != "b" or value < 1), f"optimizer.{field}", value, "between 0 and 1")
    require(mesh.seq == 1, "mesh.seq", mesh.seq, "1: the time axis can not be sharded yet")
    require(mesh.model >= 1, "mesh.model", mesh.model, "at least 1")
    require(mesh.data == -1 or mesh.data >= 1, "mesh.data", mesh.data, "at least 1, or -1 for all devices left")
    told = [v is not None for v in dataclasses.astuple(config.distributed)]
    require(all(told) or not any(told), "distributed", config.distributed, "all three fields, or none")
    pooling = model.pooling or config.task.pooling
    same = (pooling == "none") == (config.task.pooling == "none")
    require(
        same, "model.pooling", pooling, f"like {config.task.pooling}, as {config.task.name} has that kind of target"
    )
    try:
        nnx.eval_shape(lambda: mru.SequenceModel(**model_arguments(config), rngs=nnx.Rngs(0)))
    except ValueError as error:
        raise UserError(f"model: {error}") from None
    held = config.workdir / "config.yaml"
    if held.is_file():
        try:
            before = yaml.safe_load(held.read_text())
        except yaml.YAMLError:
            before = None
        changed = _differences(before, config.resolved) if isinstance(before, dict) else ["config.yaml, unreadable"]
        require(
            not changed,
            "workdir",
            config.workdir,
            f"a new folder, or settings as in that run; it has {'; '.join(changed)}",
        )
    elif config.workdir.exists() and not config.workdir.is_dir():
        raise UserError(f"workdir = {config.workdir}, allowed: a folder; this is a file")


def _differences(before: dict, now: dict, prefix: str = "") -> list[str]:
    changed = []
    for key in sorted({*before, *now} - set(PLACEMENT if not prefix else ())):
        a, b = before.get(key), now.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            changed += _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            changed.append(f"{prefix}{key} = {a} (now {b})")
    return changed


def model_arguments(config: Config) -> dict[str, Any]:
    """The arguments of `mru.SequenceModel`, as plain data: they are kept with each checkpoint."""
    task, model = config.task, config.model
    arguments = dataclasses.asdict(model) | {"cells": model.blocks, "pooling": model.pooling or task.pooling}
    arguments["dtype"] = None if model.dtype == "float32" else model.dtype
    return {"inputs": task.features, "vocabulary": task.vocabulary, "outputs": task.outputs} | arguments
