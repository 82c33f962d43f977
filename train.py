"""Train a sequence model from a config file, resume it, and report how it does.

    python train.py --config configs/quickstart.yaml [--workdir runs/x] [--train.steps 500] [--model.cells bmru,lru] ...

One loop for every task and cell: select on validation, report test once. The same command continues a stopped run.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import math
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import yaml
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser
from jsonargparse.typing import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

import mru
import mru.checkpoint
import tasks
from tasks.pipeline import evaluation_batches, train_batches

# ---------------------------------------------------------------------------------------------------------- config


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
    parser = ArgumentParser(prog="train.py", description=__doc__, exit_on_error=False)
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

    require(train.eval_every <= train.steps, "train.eval_every", train.eval_every, f"at most train.steps = {train.steps}")
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
    require(same, "model.pooling", pooling, f"like {config.task.pooling}, as {config.task.name} has that kind of target")
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
            not changed, "workdir", config.workdir, f"a new folder, or settings as in that run; it has {'; '.join(changed)}"
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


# ------------------------------------------------------------------------------------------- devices and state


def start_processes(config: DistributedConfig) -> None:
    """Join JAX's distributed runtime where the config or a cluster's environment says that there are more processes."""
    if config.coordinator_address is not None:
        jax.distributed.initialize(config.coordinator_address, config.num_processes, config.process_id)
    elif any(int(os.environ.get(name, 1)) > 1 for name in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")) or (
        "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")
    ):
        jax.distributed.initialize()


def make_mesh(config: MeshConfig, batch_size: int) -> Mesh:
    """The mesh (data, model) over all devices."""
    count = jax.device_count()
    data = count // config.model if config.data == -1 else config.data
    if data * config.model != count or jax.local_device_count() % config.model:
        raise UserError(
            f"mesh = data {config.data} x model {config.model}, allowed: a product of {count}, the number of devices, "
            f"and model a divisor of the {jax.local_device_count()} of each process"
        )
    if batch_size % data:
        raise UserError(f"train.batch_size = {batch_size}, allowed: a multiple of the {data} devices on mesh axis data")
    return jax.make_mesh((data, config.model), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)


def shard_parameters(mesh: Mesh, tree: Any) -> Any:
    """Shardings of a tree of arrays: the last axis of every matrix over mesh axis `model` where it divides."""
    size = mesh.shape["model"]

    def sharding(x):
        split = size > 1 and x.ndim >= 2 and x.shape[-1] % size == 0
        return NamedSharding(mesh, P(*[None] * (x.ndim - 1), "model") if split else P())

    return jax.tree.map(sharding, tree)


def set_schedules(rest: nnx.State, schedules: dict[str, Ramp], step: jax.Array, steps: int) -> nnx.State:
    """The state that is not parameters, with each scheduled scalar at its value of this step."""

    def move(path, variable):
        name = path[-1]
        if isinstance(variable, mru.cells.Scheduled) and name in schedules:
            return variable.replace(jnp.asarray(schedules[name](step, steps), variable[...].dtype))
        return variable

    return nnx.from_flat_state([(path, move(path, leaf)) for path, leaf in nnx.to_flat_state(rest)])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """What a step changes.

    Attributes:
        params: Parameters.
        rest: Other variables of the model, such as scheduled scalars.
        optimizer: State of the optimiser.
        step: Steps done, int32.
    """

    params: nnx.State
    rest: nnx.State
    optimizer: optax.OptState
    step: jax.Array


class Trainer:
    """The compiled functions of a run: initialisation, train steps, evaluation."""

    def __init__(self, config: Config, mesh: Mesh):
        self.config, self.mesh, self.task = config, mesh, config.task
        self.graphdef: nnx.GraphDef
        o, steps = config.optimizer, config.train.steps
        rate = optax.warmup_cosine_decay_schedule(
            o.lr * 0.01, o.lr, min(round(o.warmup * steps), steps - 1), steps, o.lr * o.final
        )
        self.transform = mru.adamw(
            rate,
            weight_decay=o.weight_decay,
            state_lr_factor=o.state_lr_factor,
            clip=o.clip,
            b1=o.b1,
            b2=o.b2,
        )
        self.key = jax.random.key(config.train.seed)
        abstract = nnx.eval_shape(self._model)
        self.graphdef, params, rest = nnx.split(abstract, nnx.Param, ...)
        self.parameters = sum(math.prod(x.shape) for x in jax.tree.leaves(params))
        moved = {path[-1] for path, leaf in nnx.to_flat_state(rest) if isinstance(leaf, mru.cells.Scheduled)}
        ramps = [ramp for name, ramp in config.train.schedules.items() if name in moved]
        # Until a scheduled scalar has arrived the model is not the one that will be used: nothing is selected.
        self.settled = max((ramp.arrival(steps) for ramp in ramps), default=0)
        self.shardings = shard_parameters(mesh, jax.eval_shape(self._initial))
        self.replicated = NamedSharding(mesh, P())

    def _model(self) -> mru.SequenceModel:
        return mru.SequenceModel(**model_arguments(self.config), rngs=nnx.Rngs(self.config.train.seed))

    def _initial(self) -> TrainState:
        _, params, rest = nnx.split(self._model(), nnx.Param, ...)
        rest = set_schedules(rest, self.config.train.schedules, jnp.zeros((), jnp.int32), self.config.train.steps)
        return TrainState(params, rest, self.transform.init(params), jnp.zeros((), jnp.int32))

    def initial(self) -> TrainState:
        """The state before the first step, on the mesh."""
        return jax.jit(self._initial, out_shardings=self.shardings)()

    def _step(self, state: TrainState, batch: dict[str, jax.Array]) -> tuple[TrainState, dict[str, jax.Array]]:
        train = self.config.train
        rest = set_schedules(state.rest, train.schedules, state.step, train.steps)
        key = jax.random.fold_in(self.key, state.step)

        def loss_of(params):
            rngs = nnx.Rngs(dropout=key)  # made here, as it counts what it is asked for
            model = nnx.merge(self.graphdef, params, rest)
            outputs, _ = model(batch["inputs"], lengths=batch.get("lengths"), rngs=rngs)
            metrics = {name: x.mean() for name, x in self.task.metrics(outputs, batch).items()}
            return self.task.loss(outputs, batch).mean(), metrics

        (loss, metrics), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        updates, optimizer = self.transform.update(gradient, state.optimizer, state.params)
        metrics = metrics | {"loss": loss, "gradient_norm": optax.global_norm(gradient)}
        rest = set_schedules(state.rest, train.schedules, state.step + 1, train.steps)
        return TrainState(optax.apply_updates(state.params, updates), rest, optimizer, state.step + 1), metrics

    def compile(self, state: TrainState, batch: dict[str, jax.Array]) -> Any:
        """Several train steps in one call, batches (K, B, ...): the state after them and the metrics of each, (K,)."""
        many = jax.jit(
            lambda state, batches: jax.lax.scan(self._step, state, batches),
            donate_argnums=0,
            out_shardings=(self.shardings, self.replicated),
        )
        return many.lower(state, batch).compile()

    def place(self, batch: dict[str, np.ndarray], axis: int) -> dict[str, jax.Array]:
        """A batch on the mesh, its batch axis split over `data`; each process gives its own part."""
        sharding = NamedSharding(self.mesh, P(*[None] * axis, "data"))
        return {name: jax.make_array_from_process_local_data(sharding, x) for name, x in batch.items()}

    @functools.cached_property
    def _sums(self) -> Any:
        def sums(params, rest, batch):
            outputs, _ = nnx.merge(self.graphdef, params, rest)(batch["inputs"], lengths=batch.get("lengths"))
            return self._weighted(self.task, outputs, batch)

        return jax.jit(sums, out_shardings=self.replicated)

    @staticmethod
    def _weighted(task, outputs, batch):
        values = task.metrics(outputs, batch) | {"loss": task.loss(outputs, batch)}
        return {name: (x * batch["weight"]).sum() for name, x in values.items()} | {"weight": batch["weight"].sum()}

    def evaluate(self, state: TrainState, split: str) -> dict[str, float]:
        """Mean loss and metrics over a split."""
        batches = evaluation_batches(
            self.task,
            split,
            batch_size=self.config.train.batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        return mean([self._sums(state.params, state.rest, self.place(batch, 0)) for batch in batches])

    @functools.cached_property
    def _chunk(self) -> Any:
        return jax.jit(
            lambda params, rest, x, state: nnx.merge(self.graphdef, params, rest)(x, state), out_shardings=self.replicated
        )

    def evaluate_at(self, state: TrainState, task: tasks.Task, stop: Stop) -> dict[str, float]:
        """Test metrics at another length, streamed: chunks of the sequence with the state carried between them.

        The number of examples falls with the length, so that every point takes about the same time.
        """
        chunk, rows, budget = 4000, 16, 2**24
        count = max(rows, min(task.sizes["test"], budget // task.length))
        sums = []
        for batch in evaluation_batches(task, "test", batch_size=rows, count=count, prefetch=1):
            outputs, carried = [], nnx.merge(self.graphdef, state.params, state.rest).initial_state((rows,))
            x, first = batch["inputs"], task.length % chunk
            bounds = [0, *([first] if first else []), *range(first + chunk, task.length + 1, chunk)]
            for begin, end in zip(bounds, bounds[1:], strict=False):
                output, carried = self._chunk(state.params, state.rest, x[:, begin:end], carried)
                outputs = [*outputs, output] if task.pooling == "none" else [output]
                stop.check()
            sums.append(self._weighted(task, jnp.concatenate(outputs, 1) if len(outputs) > 1 else outputs[0], batch))
        return mean(sums)


def mean(sums: list[dict[str, jax.Array]]) -> dict[str, float]:
    """Weighted means, in float64, of what the batches summed up."""
    total = {name: sum(float(x[name]) for x in jax.device_get(sums)) for name in sums[0]}
    weight = total.pop("weight")
    return {name: value / weight for name, value in total.items()}


# ------------------------------------------------------------------------------------------------------- the run


class Stopped(Exception):
    """SIGTERM or SIGINT came in."""


class Stop:
    """Remembers a SIGTERM or SIGINT, so that the loop can end where nothing is half done."""

    def __init__(self):
        self.signal: str | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)

    def _receive(self, number, frame):
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number).name

    def requested(self, step: int) -> bool:
        """Whether to stop after this step; all processes answer alike."""
        if jax.process_count() > 1:
            from jax.experimental.multihost_utils import reached_preemption_sync_point

            return reached_preemption_sync_point(step)
        return self.signal is not None

    def check(self) -> None:
        """Raise `Stopped` if a signal has come, where a single process can stop at once."""
        if jax.process_count() == 1 and self.signal is not None:
            raise Stopped


class Log:
    """metrics.jsonl, TensorBoard events and the progress bar, written by process 0."""

    def __init__(self, workdir: pathlib.Path, start: int, steps: int, metric: str):
        from tensorboardX import SummaryWriter
        from tqdm import tqdm

        self.active, self.metric, self.path = jax.process_index() == 0, metric, workdir / "metrics.jsonl"
        self.waiting: list[tuple[int, dict[str, jax.Array]]] = []
        self.window: list[dict[str, np.ndarray]] = []
        self.shown: dict[str, str] = {}
        if not self.active:
            return
        # What was logged after the checkpoint that the run goes on from will be logged again.
        write(self.path, "".join(json.dumps(line) + "\n" for line in read_log(self.path) if line["step"] <= start))
        self.events = SummaryWriter(str(workdir), purge_step=start + 1 if start else None)
        interval = 0.5 if sys.stderr.isatty() else 10
        self.bar = tqdm(total=steps, initial=start, unit="step", mininterval=interval, dynamic_ncols=True)

    def train(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Take the metrics of the steps up to `step`, which the device may still be computing."""
        self.waiting.append((step, metrics))

    def fetch(self, keep: int) -> None:
        """Fetch all metrics but the newest `keep`, for which the device would have to be waited for.

        Raises:
            FloatingPointError: The loss was not finite; the argument is the step.
        """
        while len(self.waiting) > keep:
            step, metrics = self.waiting.pop(0)
            values = {name: np.atleast_1d(x) for name, x in jax.device_get(metrics).items()}
            bad = np.flatnonzero(~np.isfinite(values["loss"]))
            if bad.size:
                raise FloatingPointError(step - len(values["loss"]) + int(bad[0]) + 1)
            self.window.append(values)
            self.shown |= {name: f"{values[name].mean():.4g}" for name in ("loss", self.metric)}
            if self.active:
                self.bar.set_postfix(self.shown, refresh=False)
                self.bar.update(step - self.bar.n)

    def flush(self, step: int, **extra: float) -> None:
        """Write the means since the last line."""
        if self.window:
            means = {name: float(np.concatenate([w[name] for w in self.window]).mean()) for name in self.window[0]}
            self.window = []
            self.line(step, "train", means | extra)

    def line(self, step: int, split: str, values: dict[str, float]) -> None:
        """One line, of one split."""
        if split == "validation":
            self.shown |= {f"val_{self.metric}": f"{values[self.metric]:.4g}"}
        if not self.active:
            return
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, "split": split, **values}) + "\n")
        for name, value in values.items():
            self.events.add_scalar(f"{split}/{name}", value, step)

    def close(self) -> None:
        """Close the progress bar and the events."""
        if self.active:
            self.bar.close()
            self.events.close()


def read_log(path: pathlib.Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, without one that a kill cut short."""
    lines = []
    for text in path.read_text().splitlines() if path.is_file() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def write(path: pathlib.Path, text: str) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)


def named_leaves(tree: Any) -> dict[str, jax.Array]:
    """The leaves of any tree by their paths."""
    return {jax.tree_util.keystr(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}


class Checkpoints:
    """Saving a `TrainState` with its progress, and getting it back."""

    def __init__(self, config: Config):
        task = config.task
        self.about = {"model": model_arguments(config), "task": config.resolved["task"]}
        self.manager = mru.checkpoint.manager(config.workdir, task.metric, task.goal)
        self.damaged = config.workdir / "damaged"

    def save(self, state: TrainState, step: int, progress: dict[str, Any], metrics: dict[str, float] | None) -> None:
        """Save, in the background."""
        import orbax.checkpoint as ocp

        # The next step donates these buffers, so what is written in the background must be copies.
        state = jax.tree.map(jnp.copy, state)
        model = mru.checkpoint.flatten(state.params) | mru.checkpoint.flatten(state.rest)
        items = ocp.args.Composite(
            model=ocp.args.StandardSave(model),
            train=ocp.args.StandardSave(named_leaves(state.optimizer)),
            about=ocp.args.JsonSave(self.about | {"progress": progress}),
        )
        self.manager.save(step, args=items, metrics=metrics)

    def restore(self, like: TrainState, step: int) -> tuple[TrainState, dict[str, Any]]:
        """The state and progress of a step, with the shardings of `like`."""
        import orbax.checkpoint as ocp

        model = mru.checkpoint.flatten(like.params) | mru.checkpoint.flatten(like.rest)
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, (model, named_leaves(like.optimizer)))
        items = ocp.args.Composite(
            model=ocp.args.StandardRestore(target[0]),
            train=ocp.args.StandardRestore(target[1]),
            about=ocp.args.JsonRestore(),
        )
        found = self.manager.restore(step, args=items)
        optimizer = jax.tree.unflatten(jax.tree.structure(like.optimizer), [found["train"][k] for k in target[1]])
        count = jax.device_put(jnp.asarray(step, jnp.int32), like.step.sharding)
        params = mru.checkpoint.unflatten(like.params, found["model"])
        state = TrainState(params, mru.checkpoint.unflatten(like.rest, found["model"]), optimizer, count)
        return state, found["about"]["progress"]

    def newest(self, like: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest checkpoint that can be read, or None if there are none; damaged ones are moved aside.

        Raises:
            UserError: There are checkpoints, and none of them can be read.
        """
        steps = sorted(self.manager.all_steps(), reverse=True)
        for step in steps:
            try:
                return self.restore(like, step)
            except Exception as error:  # whatever a damaged file makes of the reader
                reason = " ".join(str(error).split())[:200]
                say(f"warning: checkpoint {step} is damaged ({reason}); moved to {self.damaged}")
                if jax.process_index() == 0:
                    self.damaged.mkdir(exist_ok=True)
                    (self.manager.directory / str(step)).rename(self.damaged / f"{step}-{time.time_ns()}")
                self.manager.reload()
        if steps:
            raise UserError(f"none of the checkpoints {steps} could be read; {self.damaged} keeps them. Start again?")
        return None


def say(message: str) -> None:
    """A line for people, from process 0."""
    if jax.process_index() == 0:
        print(message, file=sys.stderr, flush=True)


def run(config: Config, argv: list[str]) -> int:
    """Train, or go on training, and report; the exit code."""
    began = time.perf_counter()
    stop = Stop()
    start_processes(config.distributed)
    mesh = make_mesh(config.mesh, config.train.batch_size)
    try:
        config.task.examples("train", np.zeros(1, np.int64))
    except tasks.MissingData as error:
        raise UserError(str(error)) from None
    try:
        config.workdir.mkdir(parents=True, exist_ok=True)
        if jax.process_index() == 0:
            write(config.workdir / "config.yaml", yaml.safe_dump(config.resolved, sort_keys=False))
    except OSError as error:
        raise UserError(f"workdir = {config.workdir}, allowed: a folder that can be written; {error.strerror}") from None

    trainer = Trainer(config, mesh)
    state = trainer.initial()
    checkpoints = Checkpoints(config)
    progress = {"best": None, "best_step": None, "since_best": 0, "train_seconds": 0.0, "wall_seconds": 0.0}
    if (found := checkpoints.newest(state)) is not None:
        state, progress = found
    start = int(state.step)
    say(
        f"{config.task.name} with {', '.join(config.model.blocks)}: {trainer.parameters:,} parameters, "
        f"{jax.device_count()} x {jax.devices()[0].device_kind}, {config.workdir}"
        + (f", resumed at step {start}" if start else "")
    )
    try:
        state, progress, compile_seconds = train_loop(config, trainer, state, progress, checkpoints, stop, began)
        report(config, trainer, state, progress, checkpoints, stop, compile_seconds, began, argv)
    except Stopped:
        checkpoints.manager.wait_until_finished()
        say(f"stopped by {stop.signal or 'a signal'}; saved. Run the same command to go on.")
    except FloatingPointError as error:
        checkpoints.manager.wait_until_finished()
        last = checkpoints.manager.latest_step()
        good = "there is no checkpoint before it" if last is None else f"last good checkpoint: {checkpoints.manager.directory / str(last)}"
        say(f"error: the loss is not finite at step {error}; {good}. Lower optimizer.lr or optimizer.clip.")
        return 1
    finally:
        checkpoints.manager.close()
    return 0


def train_loop(
    config: Config,
    trainer: Trainer,
    state: TrainState,
    progress: dict[str, Any],
    checkpoints: Checkpoints,
    stop: Stop,
    began: float,
) -> tuple[TrainState, dict[str, Any], float]:
    """Train from `state` to the last step or an early stop; the state, the progress and the seconds of compilation."""
    train, task = config.train, config.task
    step = int(state.step)
    if step >= train.steps or finished_early(config, progress):
        return state, progress, 0.0
    batches = train_batches(
        task,
        batch_size=train.batch_size,
        seed=train.seed,
        start_step=step,
        steps_per_batch=train.dispatch,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    log = Log(config.workdir, step, train.steps, task.metric)
    first = trainer.place(next(batches), 1)
    clock = time.perf_counter()
    compiled = trainer.compile(state, first)
    compile_seconds = time.perf_counter() - clock
    clock, before, earlier = time.perf_counter(), progress["train_seconds"], progress["wall_seconds"]
    pause = 0.0
    try:
        for batch in _prepend(first, (trainer.place(batch, 1) for batch in batches)):
            state, metrics = compiled(state, batch)
            step += train.dispatch
            log.train(step, metrics)
            log.fetch(keep=1)
            evaluating = step % train.eval_every == 0 or step == train.steps
            stopping = stop.requested(step)
            if step // train.log_every != (step - train.dispatch) // train.log_every and not evaluating:
                log.flush(step)
            if not (evaluating or stopping):
                continue
            log.fetch(keep=0)
            now = time.perf_counter()
            progress = progress | {
                "train_seconds": before + now - clock - pause,
                "wall_seconds": earlier + now - began,
            }
            values = None
            if evaluating:
                log.flush(step)
            if evaluating and step >= trainer.settled:
                values = trainer.evaluate(state, "validation")
                log.line(step, "validation", values)
                progress = progress | selected(task, progress, values[task.metric], step)
            checkpoints.save(state, step, progress, values)
            pause += time.perf_counter() - now
            if stopping:
                raise Stopped
            if step == train.steps or finished_early(config, progress):
                return state, progress, compile_seconds
    finally:
        log.close()
        batches.close()
    raise AssertionError("the stream of batches has no end")


def _prepend(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest


def selected(task: tasks.Task, progress: dict[str, Any], value: float, step: int) -> dict[str, Any]:
    """How a validation metric changes the progress. Of equal values the latest is the best, as in `mru.checkpoint`."""
    best = progress["best"]
    if best is None or (value <= best if task.goal == "min" else value >= best):
        return {"best": value, "best_step": step, "since_best": 0}
    return {"since_best": progress["since_best"] + 1}


def finished_early(config: Config, progress: dict[str, Any]) -> bool:
    """Whether patience has run out."""
    return config.train.patience is not None and progress["since_best"] >= config.train.patience


# ---------------------------------------------------------------------------------------------------- the report


def report(
    config: Config,
    trainer: Trainer,
    state: TrainState,
    progress: dict[str, Any],
    checkpoints: Checkpoints,
    stop: Stop,
    compile_seconds: float,
    began: float,
    argv: list[str],
) -> None:
    """Test metrics of the best checkpoint, retention curve, summary.json and plots."""
    task, steps = config.task, int(state.step)
    if (config.workdir / "summary.json").is_file():
        say(f"{config.workdir} is complete: summary.json is there. Give another --workdir for a new run.")
        return
    trained = time.perf_counter()
    best_step = progress["best_step"]
    last = [line for line in read_log(config.workdir / "metrics.jsonl") if line["split"] == "validation"][-1:]
    checkpoints.manager.wait_until_finished()
    best, _ = checkpoints.restore(state, best_step)
    evaluated = {split: trainer.evaluate(best, split) for split in ("validation", "test")}
    say(f"best step {best_step}: " + ", ".join(f"{s} {task.metric} {v[task.metric]:.4g}" for s, v in evaluated.items()))
    retention: dict[str, dict[str, float]] = {}
    for length in task.retention:
        retention[str(length)] = trainer.evaluate_at(best, task.at(length), stop)
        say(f"{task.retention_axis} {length:>9,}: test {task.metric} {retention[str(length)][task.metric]:.4g}")
    if jax.process_index() != 0:
        return
    wall = progress["wall_seconds"] + time.perf_counter() - (trained if progress["wall_seconds"] else began)
    summary = {
        "task": config.resolved["task"],
        "cells": config.model.blocks,
        "parameters": trainer.parameters,
        "steps": steps,
        "best_step": best_step,
        "seed": config.train.seed,
        "metric": task.metric,
        "chance": task.chance,
        **evaluated,
        "last_validation": {k: v for k, v in last[0].items() if k not in ("step", "split")} if last else None,
        "retention": {length: values[task.metric] for length, values in retention.items()},
        "seconds": {"wall": round(wall, 2), "compile": round(compile_seconds, 2)},
        "steps_per_second": round(steps / progress["train_seconds"], 2),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "versions": versions(),
        "command": shlex.join(["python", "train.py", *argv]),
        "commit": commit(),
    }
    plot(config, read_log(config.workdir / "metrics.jsonl"), summary)
    write(config.workdir / "summary.json", json.dumps(summary, indent=2) + "\n")
    say(f"{wall:.0f} s; {config.workdir / 'summary.json'} and {config.workdir / 'plots'} are written")


def versions() -> dict[str, str]:
    """Versions of what the figures depend on."""
    import importlib.metadata

    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in ("mru-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def commit() -> str | None:
    """The git commit of this file's tree, marked if the tree has changes; None outside a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(
            command, cwd=pathlib.Path(__file__).parent, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def plot(config: Config, log: list[dict[str, Any]], summary: dict[str, Any]) -> None:
    """Learning and retention curves, as PNG files in WORKDIR/plots."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    task, folder = config.task, config.workdir / "plots"
    folder.mkdir(exist_ok=True)
    title = f"{task.name}: {', '.join(config.model.blocks)}"
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for axis, name in zip(axes, ("loss", task.metric), strict=True):
        for split, style in (("train", {"alpha": 0.7}), ("validation", {"marker": ".", "color": "black"})):
            points = [(line["step"], line[name]) for line in log if line["split"] == split]
            if points:
                axis.plot(*zip(*points, strict=True), label=split, **style)
        axis.set(xlabel="step", ylabel=name)
    axes[1].axhline(task.chance, color="grey", linestyle=":", label="chance")
    axes[1].plot(summary["best_step"], summary["test"][task.metric], "r*", label="test, at the best step")
    axes[1].legend(fontsize=8)
    if task.goal == "min":
        for axis in axes:
            axis.set_yscale("log" if task.metric == "mse" else "linear")
    figure.suptitle(title)
    figure.savefig(folder / "learning.png", dpi=120)
    plt.close(figure)
    if not summary["retention"]:
        return
    figure, axis = plt.subplots(figsize=(5, 3.4), layout="constrained")
    axis.plot([int(n) for n in summary["retention"]], list(summary["retention"].values()), "o-", label="test")
    axis.axhline(task.chance, color="grey", linestyle=":", label="chance")
    axis.set(xscale="log", xlabel=task.retention_axis, ylabel=task.metric, title=title)
    axis.set_yscale("log" if task.metric == "mse" else "linear")
    axis.legend()
    figure.savefig(folder / "retention.png", dpi=120)
    plt.close(figure)


def main(argv: list[str] | None = None) -> int:
    """The command line; the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        return run(parse(argv), argv)
    except UserError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
