"""A run that has trained, to look at: its config, its task, its model, and what happens inside on validation examples.

The test split is read once, at the end of training, and not here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mru.model import SequenceModel
from mru.registry import Registry
from mru.training import workdir
from mru.training.batches import evaluation_batches
from mru.training.command_line import config_of
from mru.training.config import Config
from mru.training.lines import short
from mru.training.load import chosen, load
from mru.training.messages import UserError
from mru.training.task import ModelInputs, Task

# Examples that one look is at, of which long ones are fewer: so many steps in all.
EXAMPLES, STEPS = 16, 2**20


@dataclasses.dataclass(frozen=True)
class Run:
    """A run.

    Attributes:
        config: Its config, with the folder in which it lies now.
        step: Step of the checkpoint that is looked at: the best on validation, or the newest of a run without summary.
        model: Its model then.
        given: What the model is called with for the first validation examples, up to `EXAMPLES` of them.
    """

    config: Config
    step: int
    model: SequenceModel
    given: ModelInputs

    @property
    def task(self) -> Task:
        """Its task."""
        return self.config.task


def open_run(folder: pathlib.Path, tasks: Registry[Task], option: str = "run") -> Run:
    """The run in a folder.

    Args:
        folder: Where it is.
        tasks: Where tasks are found by name.
        option: What a message calls the folder.

    Raises:
        UserError: It is no run, has no checkpoint, or its task or model is not known here.
        MissingData: The data set of its task has not been prepared.
    """
    config = config_in(folder, tasks, option)
    with told(option, folder):
        step = chosen(folder)
        model = load(folder, step)
    count = max(1, min(EXAMPLES, STEPS // config.task.length))
    batch = next(evaluation_batches(config.task, "validation", batch_size=count, count=count, prefetch=0))
    given = config.task.model_inputs(batch)
    with told(option, folder):  # its data may not be those that it was trained on
        outputs = jax.eval_shape(lambda: model(given.inputs, lengths=given.lengths, reset=given.reset)[0])
        if outputs.shape[-1] != config.task.outputs:
            raise ValueError(f"its model has {outputs.shape[-1]} outputs, its task has {config.task.outputs} now")
    real = int(batch["weight"].sum())  # a split of few examples is filled up
    return Run(config, step, model, jax.tree.map(lambda x: jnp.asarray(x[:real]), given))


def config_in(folder: pathlib.Path, tasks: Registry[Task], option: str) -> Config:
    """The config of the run in a folder; see `open_run`."""
    content = content_of(folder, option)
    with told(option, folder):
        return config_of(content, tasks, folder)


def content_of(folder: pathlib.Path, option: str) -> dict[str, Any]:
    """The config of the run in a folder as plain data: of its newest checkpoint, or of config.yaml if none has it."""
    workdir.require_run(option, folder)
    with told(option, folder):
        held = workdir.of_checkpoints(folder) or workdir.read_config(folder / "config.yaml")
    if held is None:
        raise UserError(f"{option} {short(folder)}, allowed: the folder of a run; no config.yaml there can be read")
    return held


@contextlib.contextmanager
def told(option: str, path: pathlib.Path) -> Iterator[None]:
    """Tell in one line what can not be done with a path that was given with an option."""
    try:
        yield
    except (FileNotFoundError, ValueError, UserError) as error:
        raise UserError(f"{option} {short(path)}: {error}") from None


def inside(run: Run) -> dict[str, np.ndarray]:
    """What happens in the layers on the examples: arrays (examples, T, ...) by name, such as "1/0/BMRU/state"."""

    @jax.jit
    def captured(state: nnx.State[Any, Any], given: ModelInputs) -> dict[str, jax.Array]:
        found: dict[str, jax.Array] = {}
        nnx.merge(graphdef, state)(given.inputs, lengths=given.lengths, reset=given.reset, capture=found)
        return found

    graphdef, state = nnx.split(run.model)
    return {name: np.asarray(x) for name, x in captured(state, run.given).items()}


def real_steps(run: Run, x: np.ndarray, example: int) -> np.ndarray:
    """One example of an array (examples, T, ...), without its padding."""
    lengths = run.given.lengths
    return x[example] if lengths is None else x[example, : int(lengths[example])]


def confusion_matrix(run: Run) -> np.ndarray | None:
    """Validation examples of true class i that the model takes for class j, int (C, C).

    None for a task that is no classification: one without integer `targets`, one an example.
    """

    @jax.jit
    def guesses(state: nnx.State[Any, Any], given: ModelInputs) -> jax.Array:
        model = nnx.merge(graphdef, state)
        return jnp.argmax(model(given.inputs, lengths=given.lengths, reset=given.reset)[0], -1)

    graphdef, state = nnx.split(run.model)
    counts = np.zeros((run.task.outputs,) * 2, np.int64)
    for batch in evaluation_batches(run.task, "validation", batch_size=run.config.train.batch_size):
        targets = np.asarray(batch.get("targets", 0.0))
        if targets.ndim != 1 or not np.issubdtype(targets.dtype, np.integer) or len(counts) < 2:
            return None
        real = batch["weight"] > 0
        found = np.asarray(guesses(state, ModelInputs(*run.task.model_inputs(batch))))
        np.add.at(counts, (targets[real], found[real]), 1)
    return counts
