"""How a trained model bears parameters that vary: `train.py --robustness WORKDIR`.

The protocol is that of the MRU family, published for parameter variability by De Geeter et al. 2026 (arXiv 2601.09495)
and Fyon et al. 2026 (arXiv 2605.15216): every parameter is multiplied by 1 + N(0, (p/3)^2), with a draw of its own for
each of its numbers, so that p is about the largest relative deviation (three standard deviations). This is measured on
validation, as the test split is read once, at the end of training.

With `--bits`, or of a run that trained with `weights.bits`, matrices are rounded to so many bits (`mru.quantized`)
before all vary: p is then the error with which a memristor is written.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shlex
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tqdm import tqdm

from mru.model import quantized
from mru.registry import Registry
from mru.training import checkpoint, devices, provenance
from mru.training.config import Config
from mru.training.files import write
from mru.training.load import chosen
from mru.training.look import config_in, told
from mru.training.messages import RunFailed
from mru.training.sections import WeightsConfig
from mru.training.summary import rounded
from mru.training.task import Task
from mru.training.trainer import Trainer, TrainState

# Fractions: 0.3 is 30 %.
VARIABILITIES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
FILE = "robustness.json"


def command(
    folder: pathlib.Path,
    tasks: Registry[Task],
    draws: int,
    argv: list[str],
    *,
    bits: int | None = None,
    seed: int = 0,
) -> int:
    """Measure the run in a folder, print a line for each p, write WORKDIR/robustness.json and the plot; the exit code.

    Args:
        folder: The folder of the run.
        tasks: Where tasks are found by name.
        draws: Number of draws of all parameters, for each p.
        argv: The command line, to be recorded.
        bits: Bits of the numbers of matrices; those that the run trained with if None.
        seed: Seed of the draws.

    Raises:
        UserError: It can not be evaluated; the message says why.
        MissingData: The data set of its task has not been prepared.
        OSError: Something could not be written.
    """
    from mru.training import pictures
    from mru.training.records import Record

    option = "--robustness"
    config = config_in(folder, tasks, option)
    if config.train.deterministic:
        devices.make_deterministic()
    config.task.examples("validation", np.empty(0, np.int64))  # what is missing is missed here
    with told(option, folder):
        step = chosen(folder)
        trainer, state = restored(config, step)
    bits = config.weights.bits if bits is None else bits
    if bits is not None:
        state = dataclasses.replace(state, params=quantized(state.params, bits))
    coarse = "" if bits is None else f"matrices are of {bits} bits, and "
    print(f"{folder}, step {step}: validation {config.task.metric} where {coarse}parameters vary by p")
    rows = []
    with tqdm(total=1 + draws * (len(VARIABILITIES) - 1), unit="draw", file=sys.stderr, dynamic_ncols=True) as bar:
        for p, values in measured(trainer, state, draws, seed, bar):
            tqdm.write(line(p, values), file=sys.stdout)
            rows.append((p, values))
    found = {
        "metric": config.task.metric,
        "split": "validation",
        "p": [p for p, _ in rows],
        "values": [values for _, values in rows],
        "bits": bits,
        "draws": draws,
        "seed": seed,
        "step": step,
    }
    write(folder / FILE, json.dumps(found | _made_by(argv), indent=2) + "\n")
    record = Record(config.resolved, [], robustness=found)
    for path in [folder / FILE, *pictures.save_curves(folder / "plots", record, config.task)]:
        print(path)
    return 0


def _made_by(argv: list[str]) -> dict[str, Any]:
    """What a number is recorded with."""
    return {
        "device": provenance.device(),
        "versions": provenance.versions(),
        "command": shlex.join(["python", "train.py", *argv]),
        "commit": provenance.commit(),
    }


def restored(config: Config, step: int) -> tuple[Trainer, TrainState]:
    """A trainer on one device, and the state to evaluate that has the model of a step; it has no optimiser.

    The trainer takes parameters as they are, whatever `weights.bits` says.

    Raises:
        ValueError: The checkpoint can not be read, or is of another model.
    """
    # Another machine may have fewer devices than the run had.
    axes = ("data", "seq", "model")
    mesh = jax.make_mesh((1, 1, 1), axes, (jax.sharding.AxisType.Auto,) * 3, devices=jax.devices()[:1])
    trainer = Trainer(dataclasses.replace(config, weights=WeightsConfig()), mesh)
    model = nnx.eval_shape(lambda: config.make_model(nnx.Rngs(0)))
    parts = nnx.split(model, nnx.Param, ...)[1:]
    like = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=trainer.replicated)
        for part in parts
        for name, x in checkpoint.flatten(part).items()
    }
    found = checkpoint.restore(config.workdir, step, model=like)["model"]
    params, rest = (checkpoint.unflatten(part, found) for part in parts)
    return trainer, TrainState(params, rest, (), jnp.int32(step))


def perturbed(params: nnx.State[Any, Any], key: jax.Array, p: jax.Array | float) -> nnx.State[Any, Any]:
    """The parameters, every number of them times 1 + N(0, (p/3)^2); at p = 0 they are the same bits.

    Scheduled scalars (the leak, the width of a surrogate) are no parameters and not among them.
    """
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    noise = [jax.random.normal(k, x.shape, x.real.dtype) for k, x in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, [x * (1 + p / 3 * z) for x, z in zip(leaves, noise, strict=True)])


def measured(
    trainer: Trainer, state: TrainState, draws: int, seed: int, bar: tqdm[Any] | None = None
) -> Iterator[tuple[float, list[float | None]]]:
    """Each p, with the validation metric of each draw; None where a draw made it infinite. At p = 0 one draw is all.

    Draw d at the i-th p has the key (seed, i, d): more draws have the same ones first.

    Raises:
        RunFailed: The metric is not finite for the parameters as they are.
    """
    vary = jax.jit(perturbed, out_shardings=trainer.replicated)
    for number, p in enumerate(VARIABILITIES):
        values: list[float | None] = []
        for draw in range(draws if p else 1):
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), number), draw)
            varied = dataclasses.replace(state, params=vary(state.params, key, jnp.float32(p)))
            try:
                found, _ = trainer.evaluate(varied, "validation")
                values.append(rounded(found[trainer.task.metric]))
            except RunFailed:
                if not p:
                    raise
                values.append(None)
            if bar is not None:
                bar.update()
        yield p, values


def line(p: float, values: list[float | None]) -> str:
    """What is said of one p: mean, standard deviation and extremes of its draws."""
    finite = [x for x in values if x is not None]
    lost = f", {len(values) - len(finite)} not finite" if len(finite) < len(values) else ""
    if not finite:
        return f"p = {100 * p:3.0f} %: none of {len(values)} draws is finite"
    spread = f" +- {np.std(finite, ddof=1):.2g}, from {min(finite):.4g} to {max(finite):.4g}" if len(finite) > 1 else ""
    return f"p = {100 * p:3.0f} %: {np.mean(finite):.4g}{spread} ({len(values)} draw{'s'[: len(values) > 1]}{lost})"


def read(folder: pathlib.Path) -> dict[str, Any] | None:
    """What `command` wrote in a folder; None if it did not, or it can not be read."""
    try:
        held = json.loads((folder / FILE).read_bytes())
        fits = len(held["p"]) == len(held["values"]) > 0 and isinstance(held["metric"], str)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return held if fits else None
