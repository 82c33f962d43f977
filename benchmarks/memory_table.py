"""The page of the memory leaderboard, from the files of its parts alone (`benchmarks/memory.py`)."""

from __future__ import annotations

import json
import math
import pathlib
import statistics
from collections.abc import Iterable
from typing import Any

from benchmarks.sweep import markdown
from mru.training.checksum import is_sealed
from mru.training.messages import UserError

Results = dict[tuple[str, str, int], dict[str, Any]]  # by task, cell and size
TIMES = ("1000", "10", "1")
NOT_RUN, NO_LENGTH = "not run", "-"
HEAD = """\
# Memory leaderboard

Every cell on every synthetic task, trained at T = 64 and tested at 10 and 1,000 times that length: that many times the
delay of evidence, the places of selective_copy and the corridor of t_maze. `python -m benchmarks.memory --table` makes
this page from the files in `memory/`. Two blocks of the cell, width and state size alike. Of three learning rates the
one with the best mean on validation is taken; then mean ± standard deviation over its seeds, on test. (p) marks
persistent cells, whose state update can hold a state bit for bit. Seconds are those of the program that trains all
seeds and rates of a cell side by side, and then tests; it may have shared its device with others. S5 is not finite far
beyond the length of training because training may make real parts of its eigenvalues positive, as `clip_eigenvalues` is
off, which is the default of its authors too.
"""
PICTURE = """\
![How far each cell comes from chance to no error, on each task](figures/memory.png)

*Size 64: how far each cell comes from chance to no error. It is the mean of its seeds, of which one that is worse than
chance or not finite counts 0. The optimum of evidence is 0.95, as its cue is noisy. Cells are sorted by their sum at
1,000 times the length. Only one length of mqar is tested.*"""


def read(folder: pathlib.Path) -> Results:
    """The files of all parts in a folder.

    Raises:
        UserError: One is not what was written.
    """
    found: Results = {}
    for file in sorted(folder.glob("*/*.json")):
        try:
            held = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise UserError(f"{file} can not be read: {error}; measure it again") from None
        if not is_sealed(held):
            raise UserError(f"{file} is not as it was written, as its checksum is another; measure it again")
        found[held["task"], held["cell"], held["size"]] = held
    return found


def of_seeds(held: dict[str, Any], times: str) -> str:
    """Mean and standard deviation of the seeds at so many times the length of training, as text."""
    values = held["test"].get(times)
    if values is None:
        return NO_LENGTH
    if None in values:
        return f"not finite in {values.count(None)} of {len(values)}"
    # What is below is rounding: an error rate of 0 comes out as some 1e-8.
    mean, *more = (round(f(values), 6) + 0.0 for f in (statistics.mean, statistics.stdev)[: len(values)])
    return " ± ".join(f"{x:.3g}" for x in (mean, *more))


def marks(results: Results) -> dict[str, str]:
    """What follows the names of cells that are persistent."""
    return {cell: " (p)" for (_, cell, _), held in results.items() if held["persistent"]}


def order(held: dict[str, Any]) -> tuple[float, ...]:
    """What sorts the rows of a task: the mean at 1,000 times the length, then at 10 times, then at 1; best first."""
    sign = 1 if held["goal"] == "min" else -1
    rows = [held["test"].get(times) for times in TIMES]
    return tuple(0.0 if x is None else math.inf if None in x else sign * statistics.mean(x) for x in rows)


def page(results: Results, tasks: list[str], cells: list[str], sizes: Iterable[int]) -> str:
    """The page: a summary of all tasks, and a table of each.

    Args:
        results: What there is.
        tasks: All tasks.
        cells: All cells.
        sizes: All sizes.
    """
    rows = [(cell, size) for cell in cells for size in sizes]
    parts = [HEAD, *_made(results, len(tasks) * len(rows)), _summary(results, tasks, rows)]
    parts += [
        _of_task(task, {row: results[task, *row] for row in rows if (task, *row) in results}, rows) for task in tasks
    ]
    return "\n".join(parts)


def _made(results: Results, parts: int) -> list[str]:
    """Where the figures come from."""
    held = results.values()
    texts = [", ".join(sorted({text for x in held if (text := x[name]) is not None})) for name in ("device", "commit")]
    versions = ", ".join(sorted({x["versions"]["jax"] for x in held}))
    return [f"{len(results)} of {parts} parts, on {texts[0]}; jax {versions}; commits {texts[1]}.\n"] if results else []


def _summary(results: Results, tasks: list[str], rows: list[tuple[str, int]]) -> str:
    """The metric of each cell on each task at 1,000 times the length."""
    marked = marks(results)
    heads = []
    for task in tasks:
        one = next((held for (name, *_), held in results.items() if name == task), None)
        better = "" if one is None else f", {one['metric']} {'↓' if one['goal'] == 'min' else '↑'}"
        heads.append(f"{task}{better}")
    table = [["cell", "size", *heads]]
    for cell, size in rows:
        found = [results.get((task, cell, size)) for task in tasks]
        values = [NOT_RUN if held is None else of_seeds(held, TIMES[0]) for held in found]
        table.append([f"`{cell}`{marked.get(cell, '')}", str(size), *values])
    return f"## At 1,000 times the length of training\n\n{PICTURE}\n\n{markdown(table)}\n"


def _of_task(task: str, found: dict[tuple[str, int], dict[str, Any]], rows: list[tuple[str, int]]) -> str:
    """The table of a task, best first."""
    table = [["cell", "size", "1,000 times", "10 times", "length of training", "lr", "parameters", "seconds"]]
    for (cell, size), held in sorted(found.items(), key=lambda item: order(item[1])):
        name = f"`{cell}`{' (p)' if held['persistent'] else ''}"
        values = [of_seeds(held, times) for times in TIMES]
        seconds = f"{held['seconds']['wall']:.0f}"
        table.append([name, str(size), *values, f"{held['picked']:g}", f"{held['parameters']:,}", seconds])
    table += [[f"`{cell}`", str(size), NOT_RUN, *[""] * 5] for cell, size in rows if (cell, size) not in found]
    about = ""
    if found:
        one = next(iter(found.values()))
        options = ", ".join(f"{name} {x}" for name, x in one["options"].items() if name not in ("name", "retention"))
        better = "smaller" if one["goal"] == "min" else "larger"
        about = f"{one['metric']}, {better} is better; chance {one['chance']:.3g}. {options}.\n\n"
    return f"## {task}\n\n{about}{markdown(table)}\n"
