"""Errors of trained runs on the flip-flop language: dense, sparse and long sequences, over many reads.

python -m benchmarks.flip_flop runs/flip_flop-bmru runs/flip_flop-lru --out results/flip_flop/errors.json

Each run is one of train.py on the task `flip_flop`. It is tested on the task as it was trained; with p_ignore 0.98
("sparse") and 0.1 ("dense"), as in Liu et al. 2023 (arXiv 2306.00946); and on long sequences; each time until enough
reads were made. Long sequences are read in chunks with the state carried, so that the device holds one chunk at a time.
The examples are those of the test split, also beyond the number that the run itself was tested on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

import mru
from benchmarks.measure import parser, report
from mru.plots import style
from mru.training import checkpoint
from mru.training.batches import evaluation_batches
from mru.training.load import chosen
from tasks._per_step import NOT_ASKED
from tasks.flip_flop import FlipFlop

SPARSE, DENSE = 0.98, 0.1
ROWS = 8  # sequences at a time, or more where they are short


class Run(NamedTuple):
    """A trained run.

    Attributes:
        name: Its folder.
        step: The checkpoint.
        cells: Those of its blocks.
        model: As it was trained.
        task: As it was trained on.
    """

    name: str
    step: int
    cells: list[str]
    model: mru.SequenceModel
    task: FlipFlop


def loaded(workdir: pathlib.Path) -> Run:
    """A run from its folder.

    Raises:
        FileNotFoundError: There is no checkpoint.
        ValueError: It is damaged, or of another task, or of a model that reads backwards too.
    """
    step = chosen(workdir)
    config = checkpoint.about(workdir, step).get("config", {})
    options = dict(config.get("task", {}))
    if (name := options.pop("name", None)) != FlipFlop.name:
        raise ValueError(f"{workdir} is a run of {name}, expected one of {FlipFlop.name}")
    model = mru.load(workdir, step)
    if model.bidirectional:
        raise ValueError(f"{workdir} has a bidirectional model, which sees the answers: expected a causal one")
    cells = config["model"]["cells"]
    cells = cells.split(",") if isinstance(cells, str) else cells
    task = FlipFlop(**options | {"retention": (), "held_out": 2**31 - 1})
    return Run(workdir.name, step, cells, model, task)


def tests(task: FlipFlop, length: int) -> dict[str, FlipFlop]:
    """The task in each way that it is tested."""
    return {
        "as trained": task,
        "sparse": dataclasses.replace(task, p_ignore=SPARSE),
        "dense": dataclasses.replace(task, p_ignore=DENSE),
        "long": task.at(length),
    }


Reader = Callable[[jax.Array, jax.Array, Any], tuple[jax.Array, jax.Array, Any]]


def reader(model: mru.SequenceModel) -> Reader:
    """(inputs, targets, state) -> (reads, errors, state): what a model does with a chunk of sequences, compiled."""
    graphdef, variables = nnx.split(model)

    @jax.jit
    def read(variables: Any, inputs: jax.Array, targets: jax.Array, state: Any) -> tuple[jax.Array, jax.Array, Any]:
        logits, state = nnx.merge(graphdef, variables)(inputs, state)
        asked = targets != NOT_ASKED
        return asked.sum(), (asked & (jnp.argmax(logits, -1) != targets)).sum(), state

    return functools.partial(read, variables)


def counted(read: Reader, beginning: Any, task: FlipFlop, reads: int, chunk: int) -> dict[str, int]:
    """Sequences, reads and errors of a model, once there were so many reads.

    Args:
        read: The model as a `reader`.
        beginning: State of the model before a batch of sequences.
        task: Where the sequences come from.
        reads: Reads to make at least; the last batch is counted whole.
        chunk: Tokens of each sequence that the model is called with at a time.
    """
    size = len(jax.tree.leaves(beginning)[0])
    found = {"sequences": 0, "reads": 0, "errors": 0}
    with contextlib.closing(evaluation_batches(task, "test", batch_size=size)) as batches:
        while found["reads"] < reads:
            batch, state, sums = next(batches), beginning, []
            for start in range(0, task.length, chunk):
                inputs, targets = (batch[name][:, start : start + chunk] for name in ("inputs", "targets"))
                *counts, state = read(inputs, targets, state)
                sums.append(counts)
            asked, wrong = (sum(int(x) for x in column) for column in zip(*jax.device_get(sums), strict=True))
            for name, more in (("sequences", size), ("reads", asked), ("errors", wrong)):
                found[name] += more
    return found


def rows(runs: list[Run], reads: int, length: int, tokens: int) -> Iterator[dict[str, Any]]:
    """Every run in every test.

    Args:
        runs: The runs.
        reads: Reads of each test, at least.
        length: Tokens of the long sequences.
        tokens: Tokens that a model is called with at a time, of all sequences together.
    """
    for run in runs:
        read = reader(run.model)
        for test, task in tests(run.task, length).items():
            began, size = time.perf_counter(), max(ROWS, tokens // task.length)
            beginning = run.model.initial_state((size,))
            found = counted(read, beginning, task, reads, max(1, tokens // size))
            yield {
                "run": run.name,
                "step": run.step,
                "cells": run.cells,
                "test": test,
                "p_ignore": task.p_ignore,
                "length": task.length,
                **found,
                "error_rate": found["errors"] / found["reads"],
                "seconds": time.perf_counter() - began,
            }


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    return (
        f"{row['run']:24} {row['test']:10} p_ignore {row['p_ignore']:<5g} T = {row['length']:<9,} "
        f"{row['errors']:>10,} errors in {row['reads']:>10,} reads: {row['error_rate']:.3g}, {row['seconds']:.1f} s"
    )


@style.styled
def draw(found: list[dict[str, Any]], out: pathlib.Path) -> None:
    """The error rate of each run in each test; where there was no error, one in that many reads, with an arrow down."""
    figure, (axis,) = style.panels(style.COLUMN, 2.8)
    names = list(dict.fromkeys(row["test"] for row in found))
    runs = list(dict.fromkeys(row["run"] for row in found))
    for number, run in enumerate(runs):
        look = style.line(number) | {"linestyle": "none"}
        here = [row for row in found if row["run"] == run]
        x = [names.index(row["test"]) + 0.12 * (number - (len(runs) - 1) / 2) for row in here]
        y = [max(row["errors"], 1) / row["reads"] for row in here]
        axis.plot(x, y, label=run, **look)
        arrow = {"arrowstyle": "->", "color": look["color"], "shrinkA": 3, "linewidth": 0.8}
        for place, rate in [(a, b) for a, b, row in zip(x, y, here) if not row["errors"]]:
            axis.annotate("", (place, rate / 3), (place, rate), arrowprops=arrow)
    style.logarithmic(axis, "y")
    axis.axhline(0.5, color=style.GREY, linewidth=0.8, linestyle=":")
    axis.text(len(names) - 0.55, 0.53, "chance", color=style.GREY, fontsize=style.SMALL, ha="right", va="bottom")
    axis.set(xticks=range(len(names)), xticklabels=names, xlim=(-0.5, len(names) - 0.5), ylabel="errors per read")
    axis.set_ylim(axis.get_ylim()[0] / 3, 1.2)
    style.legend_below(figure, axis)
    style.save(figure, out.parent, out.stem)


def main() -> None:
    """The command line."""
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("runs", nargs="+", type=pathlib.Path, help="workdirs of runs of train.py on flip_flop")
    arguments.add_argument("--reads", type=int, default=1_000_000, help="reads of each test, at least")
    arguments.add_argument("--length", type=int, default=1_000_000, help="tokens of the long sequences")
    arguments.add_argument("--tokens", type=int, default=2**18, help="tokens that a model is called with at a time")
    given = arguments.parse_args()
    if min(given.reads, given.tokens) < 1:
        arguments.error(f"--reads = {given.reads}, --tokens = {given.tokens}, allowed: integers >= 1")
    try:
        runs = [loaded(workdir) for workdir in given.runs]
        tests(runs[0].task, given.length)
    except (FileNotFoundError, ValueError) as error:
        arguments.error(str(error))
    report(rows(runs, given.reads, given.length, given.tokens), line, given.out, draw)


if __name__ == "__main__":
    main()
