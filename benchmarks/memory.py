"""The memory leaderboard: every cell on every synthetic task, tested at lengths that it was not trained at.

python -m benchmarks.memory [--task NAME ...] [--cell NAME ...] [--size N ...] [--jobs 4]
python -m benchmarks.memory --table

Each part is a task, a cell and a size: two blocks of the cell, width and state size alike, trained at `TASKS` with each
of three learning rates and five seeds, all in one program (`benchmarks/together.py`). The rate is that of the best mean
on validation, and test is told of its five runs alone: at the length of training, at 10 times and at 1,000 times that,
where the sequences are read in chunks with the state carried.

A part becomes results/memory/TASK/CELL-SIZE.json. Those that are there are left alone, so that the work can be cut over
hours and machines; each is a process of its own, `--jobs` of them at a time. `--table` makes results/memory.md and
results/figures/memory.png from the files alone.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import datetime
import itertools
import json
import math
import os
import pathlib
import shlex
import subprocess
import sys
import time
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

import mru.cells
import tasks
from benchmarks import memory_figure, memory_table
from benchmarks.measure import whole
from benchmarks.together import Together, taken
from mru.cells import ScanCell
from mru.dynamics.layers import input_name, layers
from mru.plots import style
from mru.training import devices, provenance
from mru.training.checksum import sealed
from mru.training.command_line import config_of
from mru.training.config import Config
from mru.training.files import write
from mru.training.messages import RunFailed, UserError, error_line, say
from mru.training.progress import Clock, Progress
from mru.training.summary import rounded
from mru.training.trainer import Trainer

# The options of each task: T = 64 steps, or 65.
TASKS: dict[str, dict[str, Any]] = {
    "copy_first": {"length": 64},
    "denoising": {"length": 64, "forget": 32},
    "selective_copy": {"places": 56, "count": 8, "alphabet": 8},
    "flip_flop": {"length": 64},
    "evidence": {"delay": 48, "cue": 16, "mean": 0.5},
    "mqar": {"length": 64, "pairs": 8, "vocabulary": 64},
    "adding": {"length": 64},
    "parity": {"length": 64},
    "mod_k": {"length": 64, "modulus": 5},
    "word_s3": {"length": 64},
    "word_s5": {"length": 64},
    "t_maze": {"corridor": 64},
}
# Its queries come soon after the pairs, however long the sequence is: at another length it asks for no longer memory.
ONE_LENGTH = ("mqar",)
SIZES = (32, 64)
# What times the option that is the length, and the number of test examples there.
LONGER = {10: 256, 1000: 32}
RESULTS = pathlib.Path("results/memory")


class Plan(NamedTuple):
    """How each part is trained."""

    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    steps: int = 2000
    batch_size: int = 32
    eval_every: int = 200
    held_out: int = 512
    longer: tuple[tuple[int, int], ...] = tuple(LONGER.items())


class Part(NamedTuple):
    """A part of the leaderboard."""

    task: str
    cell: str
    size: int

    def file(self, folder: pathlib.Path) -> pathlib.Path:
        """Where its results lie."""
        return folder / self.task / f"{self.cell}-{self.size}.json"


def cells() -> list[str]:
    """Every cell of the registry that reads a sequence in one direction."""
    return [name for name in mru.cells.names() if name != "bidirectional"]


def config(part: Part, plan: Plan, rate: float, seed: int, method: str = "auto") -> Config:
    """The config of one run."""
    content = {
        "task": {"name": part.task, **TASKS[part.task], "retention": [], "held_out": plan.held_out},
        "model": {"cells": [part.cell] * 2, "width": part.size, "state_size": part.size, "method": method},
        "optimizer": {"lr": rate},
        "train": {
            **{"steps": plan.steps, "batch_size": plan.batch_size, "eval_every": plan.eval_every, "seed": seed},
            "steps_per_dispatch": 50,
        },
    }
    return config_of(content, tasks.REGISTRY, pathlib.Path("nowhere"))


def measured(part: Part, plan: Plan, method: str = "auto") -> dict[str, Any]:
    """Train and test a part: what its file has."""
    clock = Clock(time.perf_counter(), Progress())
    runs = [config(part, plan, rate, seed, method) for rate in plan.rates for seed in plan.seeds]
    group = Together(runs)
    task, count = group.trainer.task, len(plan.seeds)
    say(f"{part.task} with {part.cell}, size {part.size}: {len(runs)} runs, {provenance.device()}")
    for _ in group.train(clock):
        pass
    of_rates = [group.standings[i : i + count] for i in range(0, len(runs), count)]
    scores = [[s.progress.best for s in standings] for standings in of_rates]
    best = picked(scores, task.goal)
    chosen = taken(group.best, slice(best * count, (best + 1) * count))
    test: dict[str, list[float | None]] = {"1": outcomes(group.evaluate(chosen, "test"), task.metric)}
    for times, examples in plan.longer if part.task not in ONE_LENGTH else ():
        length = times * TASKS[part.task][type(task).retention_option]
        test[str(times)] = outcomes(group.evaluate_at(chosen, task.at(length), examples), task.metric)
    for i, value in enumerate(scores[best]):
        if value is None:  # it failed before its first evaluation
            test = {times: [*values[:i], None, *values[i + 1 :]] for times, values in test.items()}
    return {
        **part._asdict(),
        "options": runs[0].resolved["task"],
        "parameters": group.trainer.parameters,
        "persistent": persistent(group.trainer),
        "metric": task.metric,
        "goal": task.goal,
        "chance": task.chance,
        "plan": plan._asdict(),
        "rates": {
            str(rate): {
                "validation": values,
                "best_step": [s.progress.best_step for s in standings],
                "failed": [s.failed for s in standings],
            }
            for rate, values, standings in zip(plan.rates, scores, of_rates, strict=True)
        },
        "picked": plan.rates[best],
        "test": test,
        "together": len(runs),
        "seconds": {"wall": clock.wall(), "compile": clock.compile, "train": clock.train},
        "steps_per_second": plan.steps / clock.train,
        "date": datetime.date.today().isoformat(),
        "device": provenance.device(),
        "versions": provenance.versions(),
        "commit": provenance.commit(),
    }


def picked(scores: list[list[float | None]], goal: str) -> int:
    """Which rate has the best mean; one of which a run has failed before its first evaluation comes after all others.

    Args:
        scores: Metric on validation of each seed, for each rate.
        goal: "min" or "max".
    """
    sign = 1 if goal == "min" else -1
    means = [math.inf if None in values else sign * float(np.mean(values)) for values in scores]  # type: ignore[arg-type]
    return means.index(min(means))


def outcomes(found: list[Any], metric: str) -> list[float | None]:
    """The metric of each run, None of those where something is not finite."""
    return [
        None if isinstance(one, RunFailed) else float((one[0] if isinstance(one, tuple) else one)[metric])
        for one in found
    ]


def persistent(trainer: Trainer) -> bool:
    """Whether a model's cells can hold a state bit for bit: their operator says where it does."""

    def read(state: Any, inputs: jax.Array) -> None:
        model = nnx.merge(trainer.graphdef, state.params, state.rest)
        captured: dict[str, jax.Array] = {}
        model(inputs, capture=captured)
        for name, cell in layers(model).items():
            found.append(isinstance(cell, ScanCell) and cell.operator(captured[input_name(name)]).says("holds"))

    found: list[bool] = []
    example = trainer.task.model_inputs(trainer.task.examples("validation", np.arange(1))).inputs
    jax.eval_shape(read, jax.eval_shape(trainer.initial), example)
    return all(found)


def complete(part: Part, plan: Plan, folder: pathlib.Path, method: str = "auto") -> None:
    """Measure a part and write its file, whole or not at all."""
    devices.keep_programs()
    file = part.file(folder)
    command = shlex.join(["python", "-m", "benchmarks.memory", *words(part, method)])
    held = measured(part, plan, method) | {"command": command}
    file.parent.mkdir(parents=True, exist_ok=True)
    write(file, json.dumps(sealed(rounded(held)), indent=1) + "\n")
    say(f"wrote {file}, {held['seconds']['wall']:.0f} s, {held['steps_per_second']:.3g} steps/s")


def words(part: Part, method: str) -> list[str]:
    """The options that choose a part alone, and how its runs scan where they do not by themselves."""
    chosen = ["--task", part.task, "--cell", part.cell, "--size", str(part.size)]
    return chosen if method == "auto" else [*chosen, "--method", method]


def complete_all(parts: list[Part], folder: pathlib.Path, jobs: int, method: str) -> int:
    """Measure parts, each in a process of its own, so many at a time; how many failed."""
    # Each process would else take most of a GPU's memory for itself.
    share = {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 / jobs:.3f}"}

    def one(part: Part) -> int:
        command = [sys.executable, "-m", "benchmarks.memory", *words(part, method), "--out", str(folder)]
        done = subprocess.run(command, env=share | os.environ, text=True, stderr=subprocess.PIPE if jobs > 1 else None)
        if done.returncode and jobs > 1:
            # The driver of a GPU says what is wrong a line or two before where it says so, and a signal says nothing.
            said = " | ".join(done.stderr.strip().splitlines()[-3:])
            print(f"{' '.join(part[:2])}-{part.size}: exit code {done.returncode}: {said or 'silent'}", flush=True)
        return done.returncode

    failed = 0
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        started = {pool.submit(one, part): part for part in parts}
        for number, future in enumerate(concurrent.futures.as_completed(started), 1):
            failed += future.result() != 0
            state = "failed" if future.result() else "done"
            print(f"{number}/{len(parts)}  {started[future].file(folder)}  {state}", flush=True)
    return failed


def main(argv: list[str] | None = None) -> int:
    """The command line; the exit code."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--task", nargs="+", choices=list(TASKS), default=list(TASKS), help="these tasks only")
    arguments.add_argument("--cell", nargs="+", choices=cells(), default=cells(), help="these cells only")
    arguments.add_argument("--size", nargs="+", type=int, default=list(SIZES), help="width and state size")
    arguments.add_argument("--jobs", type=whole(1), default=1, help="parts at a time")
    arguments.add_argument("--method", default="auto", help="model.method of all runs")
    arguments.add_argument("--out", type=pathlib.Path, default=RESULTS, help="folder of the files; the table is beside")
    arguments.add_argument("--table", action="store_true", help="make the table and the picture of what there is")
    given = arguments.parse_args(argv)
    try:
        if given.table:
            results, page = memory_table.read(given.out), given.out.with_suffix(".md")
            if not results:
                raise UserError(f"--out = {given.out}, allowed: the folder of the files of parts; it has none")
            write(page, memory_table.page(results, list(TASKS), cells(), SIZES))
            figure = memory_figure.draw(results, list(TASKS), cells(), max(SIZES))
            drawn, _ = style.save(figure, given.out.parent / "figures", "memory")
            print(f"wrote {page} and {drawn}")
            return 0
        every = [Part(*one) for one in itertools.product(given.task, given.cell, given.size)]
        parts = [part for part in every if not part.file(given.out).exists()]
        if len(every) > 1:
            return 1 if complete_all(parts, given.out, given.jobs, given.method) else 0
        for part in parts:
            complete(part, Plan(), given.out, given.method)
    except (UserError, RunFailed, OSError) as error:
        print(error_line(error), file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
