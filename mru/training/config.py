"""What a config may say, and reading one from a YAML file and the command line.

Cells and tasks are named by their registry names, never by import path: a config can not run code.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import math
import pathlib
import re
import types
import typing
from typing import Any, Literal

import yaml
from flax import nnx
from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser
from jsonargparse.typing import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

import mru
import tasks
from mru.cells import Ramp


class UserError(Exception):
    """A mistake of the user's, told in one line; exit code 2."""


# What an option of a cell may be. No field below has a class or `Any` for its type: for a class jsonargparse imports,
# and for `Any` it also calls, whatever a mapping in the config names as its `class_path`.
Scalar = bool | int | float | str | None
Plain = Scalar | list[Scalar]


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
    options: dict[str, dict[str, Plain]] = dataclasses.field(default_factory=dict)
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
        schedules: Ramps of the scalars that cells leave to a schedule, by their names, each with start, end, begin and
            finish. Evaluation, selection and early stopping begin once those of the model's cells have arrived.
    """

    steps: PositiveInt = 1000
    batch_size: PositiveInt = 32
    seed: NonNegativeInt = 0
    eval_every: PositiveInt = 200
    log_every: PositiveInt = 50
    steps_per_dispatch: PositiveInt | None = None
    patience: PositiveInt | None = None
    schedules: dict[str, dict[str, float]] = dataclasses.field(
        default_factory=lambda: {"epsilon": dataclasses.asdict(Ramp())}
    )

    @property
    def ramps(self) -> dict[str, Ramp]:
        """`schedules`, each as what computes its value."""
        return {name: Ramp(**fields) for name, fields in self.schedules.items()}

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
        seq: Devices that share the time axis of every sequence.
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
    kind, content = _task(argv)
    parser = ArgumentParser(
        prog="train.py",
        description="Train a sequence model from a config file, and report how it does.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file; later arguments override it.")
    parser.add_argument("--workdir", type=str, default=None, help="Folder of the run; runs/ and the config's name.")
    sections = {"task": kind, **SECTIONS}
    hints: dict[str, Any] = {"workdir": str, "task.name": str}
    for section, holder in sections.items():
        title = (holder.__doc__ or "").partition("\n")[0].rstrip(".")
        group = parser.add_argument_group(f"{section}: {title}" if title else section)
        if section == "task":
            group.add_argument("--task.name", type=str, default=kind.name, help=f"One of {', '.join(tasks.names())}.")
        found = typing.get_type_hints(holder)
        for field in dataclasses.fields(holder):
            name = f"{section}.{field.name}"
            hints[name] = found[field.name]
            value = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
            default = {"required": True} if value is dataclasses.MISSING else {"default": value}
            group.add_argument(f"--{name}", type=hints[name], help=_help(holder, field.name), **default)
    try:
        given = parser.parse_args(argv).as_dict()
    except ArgumentError as error:
        raise UserError(_explain(str(error), hints, argv, content)) from None
    for name, hint in hints.items():
        section, _, field = name.partition(".")
        # A null in a file passes for any type.
        if field and given[section][field] is None and type(None) not in typing.get_args(hint):
            raise UserError(f"{name} = null, allowed: {_allowed(hint)}")
    for name, fields in given["train"]["schedules"].items():
        _known(f"train.schedules.{name}", fields, [f.name for f in dataclasses.fields(Ramp)])
        given["train"]["schedules"][name] = dataclasses.asdict(Ramp(**fields))
    if given["workdir"] is None:
        config = str(given["config"][0]) if given["config"] else f"configs/{kind.name}.yaml"
        relative = pathlib.PurePath(config).with_suffix("").parts
        after = relative[relative.index("configs") + 1 :] if "configs" in relative else relative[-1:]
        given["workdir"] = str(pathlib.PurePath("runs", *after))
    elif not given["workdir"]:
        raise UserError("workdir = '', allowed: a folder")
    del given["task"]["name"]
    try:
        held = {section: holder(**given[section]) for section, holder in sections.items()}
    except ValueError as error:
        raise UserError(str(error)) from None
    config = Config(**held, workdir=pathlib.Path(given["workdir"]))
    _check(config)
    return config


class _Loader(yaml.SafeLoader):
    """YAML in which no key is given twice; by itself the last one would win."""

    def construct_mapping(self, node, deep=False):
        names = [key.value for key, _ in node.value]
        for name in names:
            if names.count(name) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{name} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _task(argv: list[str]) -> tuple[type[tasks.Task], dict[str, Any]]:
    """The task named on the command line, or else in the config file, and what that file holds.

    The parser is made of the task's options, so it has to be known first.
    """
    peek = argparse.ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
    peek.add_argument("--config")
    peek.add_argument("--task.name", dest="name")
    try:
        known, _ = peek.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise UserError(str(error)) from None
    name, content = known.name, {}
    if known.config is not None:
        try:
            content = yaml.load(pathlib.Path(known.config).read_text(), _Loader)
        except OSError as error:
            raise UserError(f"--config {known.config}: {error.strerror}") from None
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise UserError(f"--config {known.config} is not YAML: {error}") from None
        if not isinstance(content, dict):
            raise UserError(f"--config {known.config} must hold a mapping with keys such as task and model")
        for section in ("task", *SECTIONS):
            if not isinstance(content.get(section, {}), dict):
                raise UserError(f"{section} = {content[section]!r}, allowed: a mapping of its fields to their values")
        if "config" in content:
            raise UserError(
                f"config = {content['config']} in {known.config}, allowed: --config on the command line only"
            )
        name = name or content.get("task", {}).get("name")
    if name is None and not {"-h", "--help"} & set(argv):
        raise UserError(f"task.name is missing, allowed: {', '.join(tasks.names())}")
    try:
        return tasks.get(name or "digits"), content
    except ValueError as error:
        raise UserError(str(error)) from None


def _help(holder: type, field: str) -> str:
    """What the docstring of a class, or of one that it inherits from, says of a field."""
    for kind in holder.__mro__:
        found = re.search(rf"^ +{field}: (.+?)(?=\n +\w+: |\n\n|\Z)", kind.__doc__ or "", re.MULTILINE | re.DOTALL)
        if found:
            return " ".join(found[1].split()).replace("%", "%%")
    return ""


def _allowed(hint: Any) -> str:
    """A type in words."""
    words = {
        PositiveInt: "an integer > 0",
        NonNegativeInt: "an integer >= 0",
        PositiveFloat: "a number > 0",
        NonNegativeFloat: "a number >= 0",
        int: "an integer",
        float: "a number",
        bool: "true or false",
        str: "a text",
        type(None): "null",
        Plain: "plain values",
    }
    if hint in words:
        return words[hint]
    arguments = [a for a in typing.get_args(hint) if a is not Ellipsis]
    match typing.get_origin(hint):
        case typing.Literal:
            return ", ".join(map(str, arguments))
        case types.UnionType | typing.Union:
            return " or ".join(map(_allowed, arguments))
        case origin if origin is dict:
            return f"a mapping of names to {_allowed(arguments[1])}"
        case origin if origin in (list, tuple):
            return f"[{_allowed(arguments[0])}, ...]"
    return str(hint)


def _given(name: str, argv: list[str], content: dict[str, Any]) -> str:
    """NAME = VALUE as it was given, for a dotted name or what is in it, on the command line or else in the file."""
    for number in reversed(range(len(argv))):
        option, equals, value = argv[number].partition("=")
        if option == f"--{name}" or option.startswith(f"--{name}."):
            return f"{option[2:]} = {value if equals else ' '.join(argv[number + 1 : number + 2])}"
    found: Any = content
    for part in name.split("."):
        if not isinstance(found, dict) or part not in found:
            return name
        found = found[part]
    return f"{name} = {found}"


def _explain(message: str, hints: dict[str, Any], argv: list[str], content: dict[str, Any]) -> str:
    """jsonargparse's message in our words: the field, what was given, what is allowed."""
    wrong = re.match(r'Parser key "([\w.]+)"', message)
    if wrong and wrong[1] in hints:
        return f"{_given(wrong[1], argv, content)}, allowed: {_allowed(hints[wrong[1]])}"
    unknown = re.match(r"unrecognized arguments: (?:--)?([^\s=]+)|Option '([^']+)' is not accepted", message)
    if unknown:
        name = unknown[1] or unknown[2]
        section = name.partition(".")[0]
        near = [field for field in hints if field.startswith(f"{section}.")]
        allowed = near or ["task", *SECTIONS, "workdir"]
        return f"{_given(name, argv, content)} is not a field, allowed: {', '.join(allowed)}"
    return message


def _known(where: str, given: dict[str, Any], allowed: list[str]) -> None:
    for name, value in given.items():
        if name not in allowed:
            raise UserError(f"{where}.{name} = {value} is not a field, allowed: {', '.join(allowed)}")


def _check(config: Config) -> None:
    """Combinations that can not work, before anything is compiled."""
    model, optimizer, train, mesh = config.model, config.optimizer, config.train, config.mesh

    def require(valid: bool, field: str, value: Any, allowed: str) -> None:
        if not valid:
            raise UserError(f"{field} = {value}, allowed: {allowed}")

    for section in SECTIONS:
        for field, value in dataclasses.asdict(getattr(config, section)).items():
            require(
                not isinstance(value, float) or math.isfinite(value), f"{section}.{field}", value, "a finite number"
            )
    require(train.seed < 2**32, "train.seed", train.seed, "below 2^32, as JAX keeps no more of it")
    require(
        train.eval_every <= train.steps, "train.eval_every", train.eval_every, f"at most train.steps = {train.steps}"
    )
    for field in ("steps", "eval_every"):
        value, k = getattr(train, field), train.dispatch
        require(value % k == 0, "train.steps_per_dispatch", k, f"a divisor of train.{field} = {value}")
    for name, ramp in train.ramps.items():
        valid = 0 <= ramp.begin <= ramp.finish <= 1 and math.isfinite(ramp.start) and math.isfinite(ramp.end)
        fields = train.schedules[name]
        require(valid, f"train.schedules.{name}", fields, "0 <= begin <= finish <= 1, and a finite start and end")
    for field in ("warmup", "final", "b1", "b2"):
        value = getattr(optimizer, field)
        require(
            value <= 1 and (field[0] != "b" or value < 1), f"optimizer.{field}", value, "from 0 to 1, b1 and b2 below"
        )
    require(model.dropout < 1, "model.dropout", model.dropout, "at least 0 and below 1")
    require(model.positions % 2 == 0, "model.positions", model.positions, "an even number")
    require(mesh.seq >= 1, "mesh.seq", mesh.seq, "at least 1")
    length = config.task.length
    require(length % mesh.seq == 0, "mesh.seq", mesh.seq, f"a divisor of the {length} steps of {config.task.name}")
    require(mesh.model >= 1, "mesh.model", mesh.model, "at least 1")
    require(mesh.data == -1 or mesh.data >= 1, "mesh.data", mesh.data, "at least 1, or -1 for all devices left")
    distributed = dataclasses.asdict(config.distributed)
    for field, value in distributed.items():
        alike = (value is None) == all(v is None for v in distributed.values())
        require(alike, f"distributed.{field}", value, "a value, as the three fields are given together or not at all")
    if config.distributed.coordinator_address is not None:
        address, number = config.distributed.coordinator_address, config.distributed.process_id
        require(re.fullmatch(r".+:\d+", address) is not None, "distributed.coordinator_address", address, "HOST:PORT")
        count = config.distributed.num_processes
        require(number < count, "distributed.process_id", number, f"below distributed.num_processes = {count}")
    pooling = model.pooling or config.task.pooling
    same = (pooling == "none") == (config.task.pooling == "none")
    require(
        same, "model.pooling", pooling, f"like {config.task.pooling}, as {config.task.name} has that kind of target"
    )
    streams = not (model.bidirectional and config.task.retention)
    require(streams, "model.bidirectional", True, "false, or task.retention = []: that curve is streamed step by step")
    require(model.blocks != [], "model.cells", model.cells, "at least one name")
    used = [name for block in model.blocks for name in block.split("+")]
    for name in used:
        require(name in mru.cells.names(), "model.cells", name or "''", f"names of {', '.join(mru.cells.names())}")
    _known("model.options", model.options, used)
    for name, options in model.options.items():
        signature = inspect.signature(mru.cells.get(name).__init__).parameters.values()
        own = [p.name for p in signature if p.kind == p.KEYWORD_ONLY and p.name not in ("method", "dtype", "rngs")]
        _known(f"model.options.{name}", options, own)
    try:
        built = nnx.eval_shape(lambda: mru.SequenceModel(**model_arguments(config), rngs=nnx.Rngs(0)))
    except (ValueError, TypeError, ArithmeticError) as error:
        options = f" with options {model.options}" if model.options else ""
        raise UserError(f"model{options}: {error}") from None
    moved = {str(path[-1]) for path, _ in nnx.to_flat_state(nnx.state(built, mru.cells.Scheduled))}
    for name, fields in train.schedules.items():  # epsilon is there by default
        allowed = sorted(moved | {"epsilon"})
        require(name in allowed, f"train.schedules.{name}", fields, f"a schedule of {', '.join(allowed)}")
    held = config.workdir / "config.yaml"
    if held.is_file():
        try:
            before = yaml.safe_load(held.read_text())
        except (OSError, ValueError, yaml.YAMLError):
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
