"""The end of a run: test metrics of the best checkpoint, the retention curve, summary.json and the plots."""

from __future__ import annotations

import json
import shlex
from typing import Any

import jax

from mru.training import plots, provenance
from mru.training.log import read_log
from mru.training.messages import UserError, say
from mru.training.progress import Clock, Progress
from mru.training.resume import restore
from mru.training.stop import Stop
from mru.training.trainer import Trainer, TrainState
from mru.training.workdir import write


def report(
    trainer: Trainer,
    state: TrainState,
    progress: Progress,
    checkpoints: Any,
    stop: Stop,
    clock: Clock,
    argv: list[str],
) -> None:
    """Read the test set once, at the best checkpoint, and write what came of the run.

    Raises:
        UserError: The best checkpoint is damaged.
        Stopped: A signal came.
    """
    config, task, best_step = trainer.config, trainer.task, progress.best_step
    assert best_step is not None
    checkpoints.wait_until_finished()
    try:
        best, _ = restore(checkpoints, state, best_step)
    except Exception as error:  # whatever a damaged file makes of its reader
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"workdir = {config.workdir}: its best checkpoint {best_step} is damaged ({reason})") from None
    values = {split: trainer.evaluate(best, split) for split in ("validation", "test")}
    say(f"best step {best_step}: " + ", ".join(f"{s} {task.metric} {v[task.metric]:.4g}" for s, v in values.items()))
    retention = {}
    for length in task.retention:
        retention[length] = trainer.evaluate_at(best, task.at(length), stop.check)[task.metric]
        say(f"{task.retention_axis} {length:>9,}: test {task.metric} {retention[length]:.4g}")
    if jax.process_index() == 0:
        _write(trainer, progress, int(state.step), {**values, "retention": retention}, clock, argv)
        say(f"{clock.wall():.0f} s; see {config.workdir / 'summary.json'} and {config.workdir / 'plots'}")


def _write(
    trainer: Trainer, progress: Progress, steps: int, measured: dict[str, Any], clock: Clock, argv: list[str]
) -> None:
    """summary.json and the plots."""
    config, task = trainer.config, trainer.task
    log = read_log(config.workdir / "metrics.jsonl")
    summary = {
        "task": config.resolved["task"],
        "cells": config.model.blocks,
        "parameters": trainer.parameters,
        "steps": steps,
        "best_step": progress.best_step,
        "seed": config.train.seed,
        "metric": task.metric,
        "chance": task.chance,
        **measured,
        **_last(log, progress.best_step),
        "seconds": {"wall": clock.wall(), "compile": clock.compile},
        "steps_per_second": steps / clock.train,
        "device": provenance.device(),
        "versions": provenance.versions(),
        "command": shlex.join(["python", "train.py", *argv]),
        "commit": provenance.commit(),
    }
    plots.plot(config.workdir / "plots", log, summary, task.retention_axis)
    text = json.dumps({name: x if name == "task" else rounded(x) for name, x in summary.items()}, indent=2)
    write(config.workdir / "summary.json", text + "\n")


def _last(log: list[dict[str, Any]], best_step: int | None) -> dict[str, dict[str, float]]:
    """The last line of training, and of validation where that is not the best step's."""
    found = {}
    for split in ("train", "validation"):
        lines = [line for line in log if line["split"] == split]
        if lines and (split == "train" or lines[-1]["step"] != best_step):
            found[f"last_{split}"] = {name: x for name, x in lines[-1].items() if name not in ("step", "split")}
    return found


def rounded(x: Any) -> Any:
    """Six significant digits of every float in plain data: more are noise."""
    if isinstance(x, dict):
        return {name: rounded(value) for name, value in x.items()}
    return float(f"{x:.6g}") if isinstance(x, float) else x
