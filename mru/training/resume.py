"""Train states to and from checkpoints: saving, going on from the newest, starting from another run's parameters."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils

from mru.model import SequenceModel
from mru.training import checkpoint
from mru.training.checkpoint import Damaged, Writer
from mru.training.config import Config, model_arguments
from mru.training.files import move_aside
from mru.training.finite import all_finite
from mru.training.load import chosen
from mru.training.messages import RunFailed, UserError, say
from mru.training.progress import Progress
from mru.training.trainer import TrainState
from mru.training.workdir import DATA_PLACES, MAY_CHANGE, mark_first

# What a run has learned, which another one can start from: parameters, and what goes with them.
LEARNED = nnx.Any(nnx.Param, nnx.BatchStat)


def save(writer: Writer, config: Config, state: TrainState, progress: Progress) -> None:
    """Save a train state, in the background; the first one of a run is written when this returns.

    Raises:
        RunFailed: A number in it is not finite.
        OSError: It can not be written.
    """
    step, held = int(state.step), {item: checkpoint.on_host(x) for item, x in arrays(state).items()}
    require_finite(step, held)
    about: dict[str, Any] = {"model": model_arguments(config), "config": config.resolved}
    about |= {"data_version": _data_version(config), "progress": dataclasses.asdict(progress)}
    first = not checkpoint.steps(config.workdir)
    writer.save(step, **held, about=about, best=progress.best_step)
    if first:
        writer.wait()
        if jax.process_index() == 0:
            mark_first(config.workdir, step)


def require_finite(step: int, held: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Require that the arrays of a step are finite, given as the two items of its checkpoint.

    Raises:
        RunFailed: One is not; the message names it.
    """
    if bad := [name for item in held.values() for name, x in item.items() if not all_finite(x)]:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise RunFailed(f"{bad[0]}{more} of the model and its optimiser are not finite at step {step}")


def restore(config: Config, like: TrainState, step: int) -> tuple[TrainState, Progress]:
    """The train state of a step, with the shardings of `like`, and its progress.

    Raises:
        Damaged: The checkpoint can not be read, or is not what was written.
        ValueError: It is of another version or model, or of other data.
    """
    about, target = checkpoint.about(config.workdir, step), arrays(like)
    if not all(isinstance(about.get(name), dict) for name in ("model", "progress")):
        raise Damaged(f"checkpoint {step} lacks its model or progress")
    fixed = {name: x for name, x in model_arguments(config).items() if f"model.{name}" not in MAY_CHANGE}
    held = _defaults() | about["model"]
    if fixed != {name: held.get(name) for name in fixed}:
        raise ValueError(f"checkpoint {step} is of another model, {about['model']}")
    _require_data(config, about, step)
    found = checkpoint.restore(config.workdir, step, **target)
    try:  # format 1 was saved whatever it was
        require_finite(step, {item: checkpoint.on_host(x) for item, x in found.items()})
    except RunFailed as error:
        raise Damaged(str(error)) from None
    leaves = [found["train"][name] for name in target["train"]]
    rest = jax.tree.unflatten(jax.tree.structure((like.optimizer, like.step)), leaves)
    params, others = (checkpoint.unflatten(x, found["model"]) for x in (like.params, like.rest))
    return TrainState(params, others, *rest), Progress.from_json(about["progress"])


def _require_data(config: Config, about: dict[str, Any], step: int) -> None:
    """Refuse other data than a checkpoint was trained on; of those that nothing identifies, those of another place."""
    name, identity = config.task.name, about.get("data_version")
    if identity is not None and identity != _data_version(config):
        raise ValueError(f"checkpoint {step} is of other data of task {name}: put these back, or start anew")
    if identity is None and "config" in about:
        before, now = about["config"].get("task", {}), config.resolved["task"]
        for option in (place.removeprefix("task.") for place in DATA_PLACES):
            if before.get(option) != now.get(option):
                raise ValueError(
                    f"checkpoint {step} does not say what its data of task {name} were, so they must lie "
                    f"where they did: task.{option} = {before.get(option)}"
                )


def _data_version(config: Config) -> str | None:
    return getattr(config.task, "data_version", None)  # a task of an earlier version of `Task` has none


def _defaults() -> dict[str, Any]:
    """What a model is where a checkpoint does not say: an argument that a version did not have is its default."""
    arguments = inspect.signature(SequenceModel.__init__).parameters.values()
    return {x.name: x.default for x in arguments if x.default is not x.empty}


def arrays(state: TrainState) -> dict[str, dict[str, jax.Array]]:
    """The arrays of a train state by name, in the two items `model` and `train` of a checkpoint."""
    leaves = jax.tree_util.tree_leaves_with_path((state.optimizer, state.step))
    return {
        "model": checkpoint.flatten(state.params) | checkpoint.flatten(state.rest),
        "train": {jax.tree_util.keystr(path): x for path, x in leaves},
    }


def newest(config: Config, like: TrainState) -> tuple[TrainState, Progress] | None:
    """The newest checkpoint that can be read, or None if there are none; damaged ones after it are moved aside.

    Raises:
        UserError: There are checkpoints, and none of them can be read, or they are of another model or version. None
            is moved then.
    """
    workdir, damaged = config.workdir, {}
    steps = checkpoint.steps(workdir)
    for step in reversed(steps):
        try:
            found = restore(config, like, step)
            break
        except Damaged as error:
            damaged[step] = checkpoint.reason(error)
        except ValueError as error:
            raise UserError(f"workdir = {workdir}: {error}") from None
    else:
        if not steps:
            return None
        raise UserError(
            f"workdir = {workdir}: none of its checkpoints {steps} can be read ({damaged[steps[-1]]}); nothing was "
            "changed: put back a copy of them, or start over in another folder"
        )
    for number, why in damaged.items():
        if jax.process_index() == 0:
            move_aside(workdir, workdir / "checkpoints" / str(number))
        say(f"warning: checkpoint {number} is damaged, moved to {workdir / 'damaged'}; going on from {step} ({why})")
    if damaged and jax.process_count() > 1:
        multihost_utils.sync_global_devices("damaged checkpoints moved")
    return found


@contextlib.contextmanager
def _source(workdir: str) -> Iterator[tuple[int, nnx.State[Any, Any]]]:
    """The step of a run to start from, and what its model holds, without the arrays."""
    try:
        step = chosen(workdir)
        about = checkpoint.about(workdir, step)
        yield step, nnx.state(nnx.eval_shape(lambda: SequenceModel(**about["model"], rngs=nnx.Rngs(0))))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"init_from = {workdir}: {error}") from None


def check_source(config: Config) -> None:
    """Whether this config's run can start from the parameters of the run in `init_from`; nothing is compiled.

    Raises:
        UserError: There is no such run, or its parameters are others; the message names them.
    """
    if config.init_from is None:
        return

    def shapes(state: nnx.State[Any, Any]) -> dict[str, tuple[int, ...]]:
        return {name: x.shape for name, x in checkpoint.flatten(nnx.filter_state(state, LEARNED)).items()}

    wanted = shapes(nnx.state(nnx.eval_shape(lambda: config.make_model(nnx.Rngs(0)))))
    with _source(config.init_from) as (_, state):
        found = shapes(state)
    differ = [
        f"{name} {found.get(name, 'missing')} there, {wanted.get(name, 'missing')} here"
        for name in sorted({*wanted, *found})
        if wanted.get(name) != found.get(name)
    ]
    if differ:
        more = f"; and {len(differ) - 8} more" if len(differ) > 8 else ""
        raise UserError(
            f"init_from = {config.init_from}, allowed: a run of the same model; {'; '.join(differ[:8])}{more}"
        )


def started_from(workdir: str, state: TrainState) -> TrainState:
    """`state` with the parameters of another run, and the running statistics that it has of them.

    They are those of its best checkpoint, as `mru.load` takes it.
    """
    statistics = nnx.filter_state(state.rest, nnx.BatchStat)
    wanted = checkpoint.flatten(state.params) | checkpoint.flatten(statistics)
    rest = state.step.sharding
    with _source(workdir) as (step, held):
        like = {
            name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=wanted[name].sharding if name in wanted else rest)
            for name, x in checkpoint.flatten(held).items()
        }
        found = checkpoint.restore(workdir, step, model=like)
    params, statistics = (checkpoint.unflatten(x, found["model"]) for x in (state.params, statistics))
    return dataclasses.replace(state, params=params, rest=nnx.merge_state(state.rest, statistics))


@functools.cache
def quiet_abandoned_files() -> None:
    """When a file of a checkpoint can not be read or written, Orbax closes the event loop of the others.

    What these say of it, in stack traces, is no news.
    """
    report = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if not (isinstance(unraisable.exc_value, RuntimeError) and str(unraisable.exc_value) == "Event loop is closed"):
            report(unraisable)

    sys.unraisablehook = hook
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
