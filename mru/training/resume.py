"""Train states to and from checkpoints: saving, going on from the newest, starting from another run's parameters."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import pathlib
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

import jax
from flax import nnx
from jax.experimental import multihost_utils

from mru.model import SequenceModel
from mru.training import checkpoint
from mru.training.config import Config, model_arguments
from mru.training.messages import UserError, say
from mru.training.progress import Progress
from mru.training.trainer import TrainState


def save(checkpoints: Any, config: Config, state: TrainState, progress: Progress, metrics: Any) -> None:
    """Save a train state, in the background, ranked by its validation metrics if it has some."""
    about = {"model": model_arguments(config), "task": config.resolved["task"]}
    about |= {"progress": dataclasses.asdict(progress)}
    checkpoint.save(checkpoints, int(state.step), **arrays(state), about=about, metrics=metrics)


def restore(checkpoints: Any, like: TrainState, step: int) -> tuple[TrainState, Progress]:
    """The train state of a step, with the shardings of `like`, and its progress.

    Raises:
        UserError: The checkpoint is of another version.
        Exception: Whatever a damaged file makes of its reader.
    """
    quiet_abandoned_reads()
    target = arrays(like)
    found, about = checkpoint.restore(checkpoints, step, **target)
    leaves = [found["train"][name] for name in target["train"]]
    rest = jax.tree.unflatten(jax.tree.structure((like.optimizer, like.step)), leaves)
    params, others = (checkpoint.unflatten(x, found["model"]) for x in (like.params, like.rest))
    return TrainState(params, others, *rest), Progress.from_json(about["progress"])


def arrays(state: TrainState) -> dict[str, dict[str, jax.Array]]:
    """The arrays of a train state by name, in the two items `model` and `train` of a checkpoint."""
    leaves = jax.tree_util.tree_leaves_with_path((state.optimizer, state.step))
    return {
        "model": checkpoint.flatten(state.params) | checkpoint.flatten(state.rest),
        "train": {jax.tree_util.keystr(path): x for path, x in leaves},
    }


def newest(checkpoints: Any, like: TrainState, workdir: pathlib.Path) -> tuple[TrainState, Progress] | None:
    """The newest checkpoint that can be read, or None if there are none; damaged ones are moved aside.

    Raises:
        UserError: There are checkpoints, and none of them can be read.
    """
    steps, aside = sorted(checkpoints.all_steps(), reverse=True), workdir / "damaged"
    for step in steps:
        try:
            return restore(checkpoints, like, step)
        except UserError:
            raise
        except Exception as error:  # whatever a damaged file makes of its reader
            reason = " ".join(str(error).split())[:200]
            say(f"warning: checkpoint {step} is damaged, moved to {aside}; going on from the one before it ({reason})")
            if jax.process_index() == 0:
                aside.mkdir(exist_ok=True)
                (checkpoints.directory / str(step)).rename(aside / f"{step}-{time.time_ns()}")
            if jax.process_count() > 1:
                multihost_utils.sync_global_devices("damaged checkpoint moved")
            checkpoints.reload()
    if steps:
        raise UserError(f"workdir = {workdir}: none of its checkpoints {steps} can be read; they are in {aside}")
    return None


@contextlib.contextmanager
def _source(workdir: str) -> Iterator[tuple[Any, int, nnx.State[Any, Any]]]:
    """The checkpoints of a run to start from, the step to take, and what its model holds, without the arrays."""
    try:
        with checkpoint.opened(workdir) as (checkpoints, step):
            _, about = checkpoint.restore(checkpoints, step)
            model = nnx.eval_shape(lambda: SequenceModel(**about["model"], rngs=nnx.Rngs(0)))
            yield checkpoints, step, nnx.state(model)
    except (FileNotFoundError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"init_from = {workdir}: {error}") from None


def check_source(config: Config) -> None:
    """Whether this config's run can start from the parameters of the run in `init_from`; nothing is compiled.

    Raises:
        UserError: There is no such run, or its parameters are others; the message names them.
    """
    if config.init_from is None:
        return

    def shapes(state: nnx.State[Any, Any]) -> dict[str, tuple[int, ...]]:
        return {name: x.shape for name, x in checkpoint.flatten(nnx.filter_state(state, nnx.Param)).items()}

    wanted = shapes(nnx.state(nnx.eval_shape(lambda: config.make_model(nnx.Rngs(0)))))
    with _source(config.init_from) as (_, _, state):
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
    """`state` with the parameters of another run: of its best checkpoint, as `mru.load` takes it."""
    wanted, rest = checkpoint.flatten(state.params), state.step.sharding
    with _source(workdir) as (checkpoints, step, held):
        like = {
            name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=wanted[name].sharding if name in wanted else rest)
            for name, x in checkpoint.flatten(held).items()
        }
        found, _ = checkpoint.restore(checkpoints, step, model=like)
    return dataclasses.replace(state, params=checkpoint.unflatten(state.params, found["model"]))


@functools.cache
def quiet_abandoned_reads() -> None:
    """When a read of a checkpoint fails, Orbax closes the event loop of the others; what these say of it is no news."""
    report = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if not (isinstance(unraisable.exc_value, RuntimeError) and str(unraisable.exc_value) == "Event loop is closed"):
            report(unraisable)

    sys.unraisablehook = hook
    logging.getLogger("asyncio").addFilter(lambda record: "was never retrieved" not in record.getMessage())
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
