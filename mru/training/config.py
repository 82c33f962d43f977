"""A whole config: its sections together, and the rules across them.

Cells and tasks are named by their registry names, never by import path: a config can not run code.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import typing
from typing import Any

from flax import nnx

from mru.model import SequenceModel
from mru.training import alignment, estimate, multistability, schedules
from mru.training.lines import short
from mru.training.sections import (
    SECTIONS,
    DistributedConfig,
    MeshConfig,
    ModelConfig,
    MultistabilityConfig,
    OptimizerConfig,
    TrainConfig,
    WeightsConfig,
)
from mru.training.task import Task


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that defines a run.

    Attributes:
        task: What is learned: data, loss, metrics.
        model: The layers; this and what follows up to `distributed` are the sections of a config, see `sections`.
        optimizer: Learning rate and what goes with it.
        train: Steps, batches, evaluations, seed.
        weights: How many bits parameters have in training.
        multistability: What cells learn before the first step.
        mesh: How devices share the work.
        distributed: Several processes.
        workdir: Folder of the run.
        init_from: Folder of another run whose parameters this one starts with; None to draw them.
    """

    task: Task
    model: ModelConfig
    optimizer: OptimizerConfig
    train: TrainConfig
    weights: WeightsConfig
    multistability: MultistabilityConfig
    mesh: MeshConfig
    distributed: DistributedConfig
    workdir: pathlib.Path
    init_from: str | None = None

    @property
    def resolved(self) -> dict[str, Any]:
        """All of it as plain data, as it is written to config.yaml."""
        sections = {name: dataclasses.asdict(getattr(self, name)) for name in SECTIONS}
        sections["model"]["cells"] = self.model.blocks
        task = {"name": self.task.name} | dataclasses.asdict(typing.cast(Any, self.task))
        places = {"workdir": str(self.workdir), "init_from": self.init_from}
        # Through JSON, so that what is compared with a file has lists for tuples.
        return json.loads(json.dumps({"task": task, **sections, **places}))

    def make_model(self, rngs: nnx.Rngs) -> SequenceModel:
        """The model, with parameters drawn anew."""
        return SequenceModel(**model_arguments(self), rngs=rngs)


def checked(config: Config) -> Config:
    """The config with its schedules complete, once the rules across its sections hold; nothing is compiled.

    Raises:
        ValueError: A rule does not hold, or such a model can not be built.
        UserError: There is not enough memory to build it.
    """
    model, task, mesh = config.model, config.task, config.mesh
    pooling = model.pooling or task.pooling
    for steps in (task.length, *(task.at(length).length for length in task.retention)):
        if steps >= 2**31:
            raise ValueError(f"task = {task.name} of {steps:,} steps, allowed: below 2^31, as JAX counts in int32")
    for split, size in task.sizes.items():
        if size < 1:
            raise ValueError(f"task = {task.name} with {size} {split} examples, allowed: one or more in each split")
    if task.length % mesh.seq:
        raise ValueError(f"mesh.seq = {mesh.seq}, allowed: a divisor of the {task.length} steps of {task.name}")
    if (pooling == "none") != (task.pooling == "none"):
        raise ValueError(
            f"model.pooling = {pooling}, allowed: like {task.pooling}, as {task.name} has that kind of target"
        )
    if model.bidirectional and task.retention:
        raise ValueError(
            "model.bidirectional = True, allowed: false, or task.retention = []: that curve is streamed step by step"
        )
    if mesh.seq > 1 and config.train.buckets > 1:
        raise ValueError(f"train.buckets = {config.train.buckets}, allowed: 1 where mesh.seq is above 1")
    rise = config.optimizer.warmup_steps
    if rise is not None and rise >= config.train.steps:
        raise ValueError(f"optimizer.warmup_steps = {rise}, allowed: below train.steps = {config.train.steps}, or null")
    try:
        estimate.check_cells(config)
        built = nnx.eval_shape(lambda: config.make_model(nnx.Rngs(0)))
    except (ValueError, TypeError, ArithmeticError, MemoryError) as error:
        options = f" with options {short(model.options)}" if model.options else ""
        raise ValueError(f"model{options}: {error}") from None
    if config.multistability.steps and not multistability.suited(built):
        names = ", ".join(dict.fromkeys(model.names))
        raise ValueError(
            f"multistability.steps = {config.multistability.steps}, allowed: 0, as cells {names} "
            "are no nonlinear recurrences: what holds does so by construction, and an affine map has one equilibrium"
        )
    if config.train.feedback == "alignment":
        alignment.require(built)
    complete = schedules.complete(nnx.state(built), config.train.schedules)
    return dataclasses.replace(config, train=dataclasses.replace(config.train, schedules=complete))


def model_arguments(config: Config) -> dict[str, Any]:
    """The arguments of `mru.SequenceModel`, as plain data: they are kept with each checkpoint."""
    task, model = config.task, config.model
    arguments = dataclasses.asdict(model) | {"cells": model.blocks, "pooling": model.pooling or task.pooling}
    arguments["dtype"] = None if model.dtype == "float32" else model.dtype
    return {"inputs": task.features, "vocabulary": task.vocabulary, "outputs": task.outputs} | arguments
