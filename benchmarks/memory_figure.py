"""The picture of the memory leaderboard: how far each cell comes from chance to no error, on each task."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.memory_table import Results, marks
from mru.plots import style

PANELS = {"1": "at the length of training", "1000": "at 1,000 times that"}


def solved(held: dict[str, Any], times: str) -> float:
    """How far a part comes at so many times the length of training: 0 is chance or worse, 1 is no error.

    It is the mean of the seeds, of which one that is not finite counts 0; nan if that length is not tested.
    """
    values, chance = held["test"].get(times), held["chance"]
    if values is None:
        return float("nan")
    best = 0.0 if held["goal"] == "min" else 1.0
    return statistics.mean(0.0 if x is None else max(0.0, (x - chance) / (best - chance)) for x in values)


def grid(results: Results, tasks: list[str], cells: list[str], size: int, times: str) -> np.ndarray:
    """`solved` of cells and tasks, (cells, tasks), nan where there is no file."""
    rows = [[results.get((task, cell, size)) for task in tasks] for cell in cells]
    return np.array([[float("nan") if held is None else solved(held, times) for held in row] for row in rows])


@style.styled
def draw(results: Results, tasks: list[str], cells: list[str], size: int) -> Figure:
    """Two panels, at the length of training and at 1,000 times that; the cells that remember most at the top.

    What is not tested is white.

    Args:
        results: What there is.
        tasks: All tasks.
        cells: All cells.
        size: Width and state size of those that are shown.
    """
    grids = {times: grid(results, tasks, cells, size, times) for times in PANELS}
    order, marked = np.argsort(-np.nansum(grids["1000"], 1), kind="stable"), marks(results)
    names = [cells[i] + marked.get(cells[i], "") for i in order]
    figure, axes = style.panels(style.PAGE, 1.6 + 0.16 * len(cells), columns=2, sharey=True)
    for axis, (times, title) in zip(axes, PANELS.items(), strict=True):
        image = axis.imshow(
            grids[times][order], cmap=style.SEQUENTIAL, vmin=0, vmax=1, aspect="auto", interpolation="none"
        )
        axis.set(title=title, yticks=range(len(names)), yticklabels=names)
        axis.set_xticks(range(len(tasks)), tasks, rotation=90)
        axis.tick_params(length=0)
    figure.colorbar(image, ax=axes, location="bottom", aspect=60, label="from chance (0) to no error (1)")
    return figure
