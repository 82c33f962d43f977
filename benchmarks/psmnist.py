"""Permuted sequential MNIST: accuracy against the number of parameters, published points beside ours.

python -m benchmarks.psmnist [--results results/psmnist/by_size] [--out results]

Ours are the `summary.json` files of runs of `configs/psmnist/by_size`, kept as CELLS_SIZE.json, and of further seeds as
CELLS_SIZE_seed1.json and on. Nothing is trained here. It writes OUT/figures/psmnist_by_parameters.png and .svg, and
OUT/psmnist_by_parameters.md.
"""

from __future__ import annotations

import argparse
import math
import pathlib
import re
import statistics
import sys
from typing import Any, NamedTuple

from matplotlib import patheffects
from matplotlib.figure import Figure

from benchmarks.grid import ROOT
from benchmarks.sweep import mean_and_deviation
from mru.plots import style
from mru.training import summary
from mru.training.files import write
from mru.training.messages import UserError, error_line

NAME = "psmnist_by_parameters"
# Parameters and test accuracy, of causal models for which both numbers are certain.
PUBLISHED = (
    ("SpatialRNN", 36_000, 0.963),
    ("CKCNN", 100_000, 0.980),
    ("parallel LMU", 165_000, 0.9849),
    ("GRU", 200_000, 0.941),
    ("LSTM", 270_000, 0.929),
    ("CKCNN", 1_000_000, 0.9854),
)
BEST = 0.975


class Point(NamedTuple):
    """The runs of one config.

    Attributes:
        cells: What the stack is called, such as "hybrid".
        size: What the config calls its size, such as "165k".
        parameters: Number of parameters.
        accuracy: Test accuracy of each seed, by seed.
    """

    cells: str
    size: str
    parameters: int
    accuracy: dict[int, float]

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return statistics.mean(self.accuracy.values())

    @property
    def deviation(self) -> float:
        """Sample standard deviation over the seeds; NaN of a single one, which draws no bar."""
        return statistics.stdev(self.accuracy.values()) if len(self.accuracy) > 1 else math.nan


def points(folder: pathlib.Path) -> list[Point]:
    """The runs in a folder: stacks in the order of their names, each from its smallest size up.

    Raises:
        UserError: There is none, or a file is not of such a run or does not fit to the others of its config.
    """
    found: dict[tuple[str, str], Point] = {}
    files = sorted(folder.glob("*.json"))
    if not files:
        raise UserError(f"--results {folder} has no *.json, allowed: a folder with the summaries of psMNIST by size")
    for file in files:
        cells, size, seed, held = _read(file)
        parameters, accuracy = held["parameters"], held["test"][held["metric"]]
        point = found.setdefault((cells, size), Point(cells, size, parameters, {}))
        if parameters != point.parameters:
            raise UserError(f"{file} has {parameters:,} parameters, allowed: {point.parameters:,}, as other seeds have")
        if seed in point.accuracy:
            raise UserError(f"{file} is of seed {seed}, allowed: a seed that no other file of {cells}_{size} has")
        point.accuracy[seed] = accuracy
    return sorted(found.values(), key=lambda point: (point.cells, point.parameters))


def _read(file: pathlib.Path) -> tuple[str, str, int, dict[str, Any]]:
    """Cells and size by the name of a file, its seed, and the summary in it."""
    named = re.fullmatch(r"(\w+?)_(\d+[kM])(_seed\d+)?", file.stem)
    if named is None:
        raise UserError(f"{file}, allowed: names such as pmru_165k.json and pmru_165k_seed1.json")
    try:
        held = summary.read(file)
    except ValueError as error:
        raise UserError(f"{file} is no summary of a run: {error}") from None
    if held["task"]["name"] != "psmnist":
        raise UserError(f"{file} is of task {held['task']['name']}, allowed: psmnist")
    return named[1], named[2], held["seed"], held


@style.styled
def draw(found: list[Point]) -> Figure:
    """Accuracy against parameters: our stacks as lines, with a standard deviation over seeds, and published points."""
    figure, (axis,) = style.panels(style.COLUMN, 3.2)
    for number, cells in enumerate(dict.fromkeys(point.cells for point in found)):
        same = [point for point in found if point.cells == cells]
        sizes, means = [point.parameters for point in same], [100 * point.mean for point in same]
        bars = [100 * point.deviation for point in same]
        axis.errorbar(sizes, means, bars, label=cells, capsize=2, elinewidth=0.8, **style.line(number, len(same)))
    names, sizes, accuracies = zip(*PUBLISHED, strict=True)
    axis.plot(sizes, [100 * x for x in accuracies], "x", color=style.GREY, markersize=5, zorder=4, label="published")
    halo = [patheffects.withStroke(linewidth=2, foreground="white")]  # a name may lie on one of our lines
    for name, parameters, accuracy in zip(names, sizes, accuracies, strict=True):
        # The best are above our lines, and have their names above; under the others our lines do not go on.
        offset, place = ((0, 4), ("center", "bottom")) if accuracy > BEST else ((3, -3), ("left", "top"))
        text = axis.annotate(name, (parameters, 100 * accuracy), offset, textcoords="offset points", zorder=5)
        text.set(ha=place[0], va=place[1], fontsize=style.SMALL, color=style.GREY, path_effects=halo)
    style.logarithmic(axis, "x")
    axis.margins(x=0.12, y=0.12)
    axis.set(xlabel="parameters", ylabel="psMNIST test accuracy, %")
    style.legend_below(figure, axis)
    return figure


def table(found: list[Point]) -> str:
    """Ours and the published ones from the fewest parameters up, as Markdown."""
    ours = [
        (p.parameters, f"`{p.cells}_{p.size}`", mean_and_deviation([*p.accuracy.values()]), len(p.accuracy))
        for p in found
    ]
    theirs = [(parameters, f"{name}, published", f"{x:.4g}", "") for name, parameters, x in PUBLISHED]
    rows = ["| | parameters | test accuracy | seeds |", "|---|---|---|---|"]
    for parameters, name, accuracy, seeds in sorted([*ours, *theirs], key=lambda row: row[0]):
        rows.append(f"| {name} | {parameters:,} | {accuracy} | {seeds} |")
    return "\n".join(rows)


def page(found: list[Point], command: str) -> str:
    """The table, and how it was made."""
    return (
        "# psMNIST by parameters\n\nCausal models. Ours are the configs of `configs/psmnist/by_size`: test accuracy at "
        "the best validation step, mean and standard deviation over seeds. The published figures are those of the "
        f"papers, whose numbers of parameters are rounded. Made by `{command}`.\n\n{table(found)}\n"
    )


def main() -> None:
    """The command line."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    results = ROOT / "results"
    arguments.add_argument("--results", type=pathlib.Path, default=results / "psmnist" / "by_size", help="summaries")
    arguments.add_argument("--out", type=pathlib.Path, default=results, help="where table and figures go")
    given = arguments.parse_args()
    try:
        found = points(given.results)
    except UserError as error:
        raise SystemExit(error_line(error)) from None
    text = page(found, " ".join(["python -m benchmarks.psmnist", *sys.argv[1:]]))
    print(table(found))
    given.out.mkdir(parents=True, exist_ok=True)
    write(given.out / f"{NAME}.md", text)
    style.save(draw(found), given.out / "figures", NAME)


if __name__ == "__main__":
    main()
