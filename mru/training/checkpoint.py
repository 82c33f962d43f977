"""Checkpoints of a `SequenceModel`: where they lie in a run's folder, what is in them, and how to get the model back.

`WORKDIR/checkpoints/STEP/` holds three items, written by Orbax: `model` (every variable of the model, by dotted name),
`train` (what training needs to go on, by name) and `about` (JSON: the arguments of the model, progress). Nothing in
them is executed on loading.
"""

from __future__ import annotations

import contextlib
import json
import logging
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx

from mru.model.sequence import SequenceModel

if TYPE_CHECKING:
    import orbax.checkpoint as ocp

# Orbax is slow to import and not needed to use a cell, so each function that uses it imports it.


def flatten(state: nnx.State[Any, Any]) -> dict[str, jax.Array]:
    """The arrays of a state, or what stands for them, by dotted name, such as "blocks.0.cells.0.alpha"."""
    return {".".join(map(str, path)): leaf.get_value() for path, leaf in nnx.to_flat_state(state)}


def unflatten(state: nnx.State[Any, Any], arrays: dict[str, jax.Array]) -> nnx.State[Any, Any]:
    """`state` with its arrays replaced by those of the same name."""
    flat = nnx.to_flat_state(state)
    return nnx.from_flat_state([(path, leaf.replace(arrays[".".join(map(str, path))])) for path, leaf in flat])


def manager(workdir: str | pathlib.Path, metric: str | None = None, goal: str = "min") -> ocp.CheckpointManager:
    """The checkpoints of a run.

    The two newest are kept, so that one damaged file does not lose the run, and the best by `metric`.

    Args:
        workdir: Folder of the run.
        metric: Name of the validation metric that ranks checkpoints; None opens them for reading only.
        goal: "min" or "max".
    """
    import orbax.checkpoint as ocp
    from orbax.checkpoint import checkpoint_managers as policies

    directory = pathlib.Path(workdir).absolute() / "checkpoints"
    if metric is None:
        return ocp.CheckpointManager(
            directory, options=ocp.CheckpointManagerOptions(read_only=True, create=False, save_interval_steps=0)
        )

    def rank(metrics: Any) -> float:
        return metrics[metric]

    best = policies.BestN(get_metric_fn=rank, reverse=goal == "min", n=1, keep_checkpoints_without_metrics=False)
    options = ocp.CheckpointManagerOptions(
        best_fn=rank,
        best_mode=goal,
        preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(2), best]),
    )
    return ocp.CheckpointManager(directory, options=options)


def save(
    checkpoints: ocp.CheckpointManager,
    step: int,
    *,
    model: dict[str, jax.Array],
    train: dict[str, jax.Array],
    about: dict[str, Any],
    metrics: dict[str, float] | None,
) -> None:
    """Save a step, in the background.

    Args:
        checkpoints: What `manager` returned.
        step: Step that it is saved as.
        model: Variables of the model, as `flatten` names them.
        train: Other arrays by name.
        about: JSON-serialisable; `about["model"]` holds the arguments of `SequenceModel`.
        metrics: Validation metrics; None where the model is not to be ranked.
    """
    import orbax.checkpoint as ocp

    # The next train step may donate these buffers, so what is written in the background must be copies.
    model, train = jax.tree.map(jnp.copy, (model, train))
    items = ocp.args.Composite(
        model=ocp.args.StandardSave(model), train=ocp.args.StandardSave(train), about=ocp.args.JsonSave(about)
    )
    checkpoints.save(step, args=items, metrics=metrics)


def restore(
    checkpoints: ocp.CheckpointManager, step: int, **like: dict[str, Any]
) -> tuple[dict[str, dict[str, jax.Array]], dict[str, Any]]:
    """The arrays of a step, and what `save` was told about it.

    Args:
        checkpoints: What `manager` returned.
        step: Step to restore.
        **like: `model` or `train`, or both: arrays with the names, shapes, dtypes and shardings to restore to.
    """
    import orbax.checkpoint as ocp

    target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    items = {name: ocp.args.StandardRestore(arrays) for name, arrays in target.items()}
    found = checkpoints.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore(), **items))
    return {name: found[name] for name in like}, found["about"]


def load(workdir: str | pathlib.Path, step: int | None = None) -> SequenceModel:
    """The trained model of a run.

    Args:
        workdir: Folder of the run.
        step: Which checkpoint; if None, the one that `summary.json` names as best on validation, or else the newest.

    Raises:
        FileNotFoundError: There is no such checkpoint; the message names the folder and the steps that it has.
        ValueError: The checkpoint does not hold a model of this version.
    """
    with opened(workdir, step) as (checkpoints, step):
        _, about = restore(checkpoints, step)
        try:
            graphdef, state = nnx.split(SequenceModel(**about["model"], rngs=nnx.Rngs(0)))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{workdir}/checkpoints/{step} holds no model of this version: {error}") from None
        found, _ = restore(checkpoints, step, model=flatten(state))
        return nnx.merge(graphdef, unflatten(state, found["model"]))


@contextlib.contextmanager
def opened(workdir: str | pathlib.Path, step: int | None = None) -> Iterator[tuple[ocp.CheckpointManager, int]]:
    """The checkpoints of a run, for reading, and the step that `load` would take.

    Raises:
        FileNotFoundError: As `load`.
    """
    workdir = pathlib.Path(workdir)
    if not (workdir / "checkpoints").is_dir():
        raise FileNotFoundError(f"{workdir} holds no checkpoints; expected the workdir of a run of train.py")
    with _quiet(), manager(workdir) as checkpoints:
        steps = sorted(checkpoints.all_steps())
        summary = workdir / "summary.json"
        if step is None and summary.is_file():
            step = json.loads(summary.read_text())["best_step"]
        if step is None and steps:
            step = steps[-1]
        if step is None or step not in steps:
            raise FileNotFoundError(f"{workdir}/checkpoints has no step {step}; steps there: {steps}")
        yield checkpoints, step


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Orbax warns that a folder is opened for reading only, as it was asked to be."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
