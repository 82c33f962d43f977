"""The end of a run: test metrics of the best checkpoint, the retention curve, summary.json and the plots."""

from __future__ import annotations

import shlex
from typing import Any

import jax

from mru.training import provenance
from mru.training.checkpoint import Damaged, Writer, reason, steps
from mru.training.config import Config
from mru.training.log import read as read_log
from mru.training.messages import UserError, say
from mru.training.progress import Clock, Progress
from mru.training.resume import restore
from mru.training.stop import Stop
from mru.training.summary import save
from mru.training.trainer import Trainer, TrainState


def report(
    trainer: Trainer, state: TrainState, progress: Progress, writer: Writer, stop: Stop, clock: Clock, argv: list[str]
) -> None:
    """Read the test set once, at the best checkpoint, and write what came of the run.

    Raises:
        UserError: No checkpoint can be read.
        RunFailed: A validation or test example has something that is not finite.
        Stopped: A signal came.
    """
    config, task = trainer.config, trainer.task
    writer.wait()
    best_step, best = _best(trainer, state, progress)
    values = {split: trainer.evaluate(best, split)[0] for split in ("validation", "test")}
    say(f"best step {best_step}: " + ", ".join(f"{s} {task.metric} {v[task.metric]:.4g}" for s, v in values.items()))
    retention = {}
    for length in task.retention:
        retention[length] = trainer.evaluate_at(best, task.at(length), stop.check)[task.metric]
        say(f"{task.retention_axis} {length:>9,}: test {task.metric} {retention[length]:.4g}")
    if jax.process_index() == 0:
        measured = {"best_step": best_step, **values, "retention": retention}
        if best_step != progress.best_step:
            measured["damaged_best_step"] = progress.best_step
        write(config, trainer.parameters, progress, int(state.step), measured, clock, argv)
        say(f"{clock.wall():.0f} s; see {config.workdir / 'summary.json'} and {config.workdir / 'plots'}")


def _best(trainer: Trainer, state: TrainState, progress: Progress) -> tuple[int, TrainState]:
    """The best checkpoint and its step; if it is damaged, the best of the others on validation, with a warning."""
    config, task, best_step = trainer.config, trainer.task, progress.best_step
    assert best_step is not None
    try:
        return best_step, restore(config, state, best_step)[0]
    except Damaged as error:
        why = reason(error)
    found: list[tuple[float, int, TrainState]] = []
    for step in steps(config.workdir):
        if step == best_step or step < trainer.settled:
            continue
        try:
            other = restore(config, state, step)[0]
        except Damaged:
            continue
        value = trainer.evaluate(other, "validation")[0][task.metric]
        found.append((value if task.goal == "max" else -value, step, other))
    if not found:
        raise UserError(
            f"workdir = {config.workdir}: its best checkpoint {best_step} is damaged, and no other can be read ({why})"
        )
    _, step, other = max(found, key=lambda one: one[:2])
    say(f"warning: the best checkpoint {best_step} is damaged ({why}); the next best, {step}, is reported in its place")
    return step, other


def write(
    config: Config,
    parameters: int,
    progress: Progress,
    done: int,
    measured: dict[str, Any],
    clock: Clock,
    argv: list[str],
) -> None:
    """Write summary.json and the plots.

    Args:
        config: The run.
        parameters: Number of parameters.
        progress: How far it came.
        done: Its steps.
        measured: Best step, metrics and what else the summary has of them.
        clock: Its seconds.
        argv: Arguments of `train.py`.
    """
    task = config.task
    summary = {
        "task": config.resolved["task"],
        "cells": config.model.blocks,
        "parameters": parameters,
        "steps": done,
        "best_step": None,
        "seed": config.train.seed,
        "metric": task.metric,
        "chance": task.chance,
        **measured,
        **_last(progress, measured["best_step"]),
        "seconds": {"wall": clock.wall(), "compile": clock.compile},
        "steps_per_second": done / clock.train,
        "device": provenance.device(),
        "versions": provenance.versions(),
        "command": shlex.join(["python", "train.py", *argv]),
        "commit": provenance.commit(),
    }
    from mru.training import pictures  # and with it matplotlib, which is slow to import
    from mru.training.records import Record

    log = [line for _, line in read_log(config.workdir / "metrics.jsonl")[0]]
    pictures.save_curves(config.workdir / "plots", Record(config.resolved, log, summary), task)
    save(config.workdir, summary)


def _last(progress: Progress, best_step: int) -> dict[str, dict[str, float]]:
    """The last line of training, and of validation where that is not the best step's."""
    lines = {split: line for split, line in progress.last.items() if split == "train" or line["step"] != best_step}
    return {
        f"last_{split}": {name: x for name, x in line.items() if name != "step"}
        for split, line in sorted(lines.items())
    }
