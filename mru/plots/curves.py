"""Curves of runs: learning, retention and robustness. Runs that differ in their seed alone are one line with a band.

Every function takes the runs by their label, `{"BMRU": [run, run], "LRU": [run]}`; those of one label differ in their
seed alone. The line is their mean, and the band goes from the least to the largest of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mru.plots import style

# A curve: its values by their places.
Curve = Mapping[float, float]


def spread(curves: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Places that all curves have, sorted, and the mean, the least and the largest value there, (n,) each."""
    places = sorted(set.intersection(*(set(curve) for curve in curves)))
    values = np.array([[curve[place] for place in places] for curve in curves], np.float64)
    return np.array(places, np.float64), values.mean(0), values.min(0), values.max(0)


@style.styled
def learning(
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    metric: str,
    *,
    goal: str = "min",
    chance: float | None = None,
    title: str = "",
) -> Figure:
    """Loss and metric against the step, a panel each; one panel where the metric is the loss.

    Of one run, training, validation and the test at the best step are drawn; of several, the validation.

    Args:
        runs: By label; of each its `log`, the lines of metrics.jsonl, and, if it has ended, `test`, the test metrics by
            name, and `best_step`.
        metric: Name of the metric.
        goal: Its better direction, "min" or "max".
        chance: The metric of a model that ignores its input.
        title: Above the panels.
    """
    every = [run for same in runs.values() for run in same]
    names = ["loss"] if _metric_is_loss(every, metric) else ["loss", metric]
    figure, axes = style.panels(style.PAGE if len(names) == 2 else 1.3 * style.COLUMN, 2.7, columns=len(names))
    for name, axis in zip(names, axes, strict=True):
        if len(every) == 1:
            _one_run(axis, every[0], name)
        else:
            for number, (label, same) in enumerate(runs.items()):
                _line(axis, number, label, [_points(run["log"], "validation", name) for run in same])
        compared = chance if name == (metric if metric in names else "loss") else None
        _finish(axis, "min" if name == "loss" else goal, compared)
        shown = f"{metric} (the loss)" if names == ["loss"] else name
        axis.set(xlabel="step", ylabel=shown if len(every) == 1 else f"validation {shown}")
        axis.locator_params(axis="x", nbins=5)
    figure.suptitle(title)
    style.legend_below(figure, axes[-1])
    return figure


@style.styled
def retention(
    runs: Mapping[str, Sequence[Curve]],
    metric: str,
    *,
    goal: str = "min",
    chance: float | None = None,
    length_name: str = "sequence length T",
    trained: float | None = None,
    title: str = "",
) -> Figure:
    """The test metric against the length of the sequence.

    Args:
        runs: By label; each run is its metric by length.
        metric: Name of the metric.
        goal: Its better direction, "min" or "max".
        chance: The metric of a model that ignores its input.
        length_name: What the lengths are called.
        trained: The length of training.
        title: Above the panel.
    """
    figure, (axis,) = style.panels(1.3 * style.COLUMN, 2.9)
    for number, (label, same) in enumerate(runs.items()):
        _line(axis, number, label, same)
    _finish(axis, goal, chance)
    if trained is not None:
        axis.axvline(trained, color=style.GREY, linewidth=0.8, label="length of training", zorder=1)
    style.logarithmic(axis, "x")
    axis.set(xlabel=length_name, ylabel=f"test {metric}", title=title)
    style.legend_below(figure, axis)
    return figure


@style.styled
def robustness(
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    metric: str,
    *,
    goal: str = "min",
    chance: float | None = None,
    title: str = "",
) -> Figure:
    """The validation metric against the variability of the parameters: mean and least to largest of all draws.

    Args:
        runs: By label; each run has `p`, fractions, and `values`, the metric of every draw of each of them, None for a
            draw that made it infinite.
        metric: Name of the metric.
        goal: Its better direction, "min" or "max".
        chance: The metric of a model that ignores its input.
        title: Above the panel.
    """
    figure, (axis,) = style.panels(1.3 * style.COLUMN, 2.9)
    for number, (label, same) in enumerate(runs.items()):
        draws: dict[float, list[float]] = {}
        for run in same:
            for p, values in zip(run["p"], run["values"], strict=True):
                draws.setdefault(100 * p, []).extend(float("nan") if x is None else x for x in values)
        finite = {p: [x for x in values if np.isfinite(x)] for p, values in sorted(draws.items())}
        lost = sum(len(draws[p]) - len(values) for p, values in finite.items())
        finite = {p: values for p, values in finite.items() if values}
        most = max(map(len, finite.values()))
        about = f"{label}: mean, min to max of {most} draws"
        if len(same) > 1:
            about += f" of {len(same)} seeds"
        _banded(
            axis,
            number,
            about + (f"; {lost} draws are infinite" if lost else ""),
            np.array(list(finite)),
            *(np.array([reduce(values) for values in finite.values()]) for reduce in (np.mean, np.min, np.max)),
        )
    _finish(axis, goal, chance)
    axis.set(xlabel="variability of the parameters p (%)", ylabel=f"validation {metric}", title=title)
    style.legend_below(figure, axis)
    return figure


@style.styled
def layers(log: Sequence[Mapping[str, Any]], *, title: str = "") -> Figure:
    """What the layers of one run did at each evaluation: a panel for each quantity, a line for each layer.

    Args:
        log: Lines of metrics.jsonl; those of the split "inside" have values by names such as "1/0/BMRU/write_rate".
        title: Above the panels.

    Raises:
        ValueError: None has any.
    """
    lines = [line for line in log if line["split"] == "inside"]
    names = dict.fromkeys(tuple(name.rsplit("/", 1)) for line in lines for name in line if "/" in name)
    if not names:
        raise ValueError("the log has nothing of the layers")
    quantities = list(dict.fromkeys(quantity for _, quantity in names))
    numbers = {layer: number for number, layer in enumerate(sorted({layer for layer, _ in names}))}
    columns = min(3, len(quantities))
    rows = math.ceil(len(quantities) / columns)
    figure, axes = style.panels(style.PAGE * columns / 3, 1 + 1.7 * rows, rows, columns)
    for quantity, axis in zip(quantities, axes, strict=False):
        for layer in (layer for layer, other in names if other == quantity):
            points = _points(lines, "inside", f"{layer}/{quantity}")
            look = style.line(numbers[layer], len(points)) | {"clip_on": False}
            axis.plot(list(points), list(points.values()), label=layer, **look)
        axis.set(xlabel="step", ylabel=quantity.replace("_", " "))
        axis.locator_params(axis="x", nbins=4)
        _finish(axis, "min", None)
        if axis.get_yscale() == "linear" and axis.dataLim.ymin >= 0:
            axis.set_ylim(0, 1.1 * axis.dataLim.ymax or 1)  # else the smallest change looks large
    for axis in axes[len(quantities) :]:
        axis.set_visible(False)
    figure.suptitle(title)
    style.legend_below(figure, *axes)
    return figure


def _metric_is_loss(runs: Iterable[Mapping[str, Any]], metric: str) -> bool:
    lines = [line for run in runs for line in run["log"] if "loss" in line and metric in line]
    return all(line["loss"] == line[metric] for line in lines)


def _points(log: Iterable[Mapping[str, Any]], split: str, name: str) -> dict[float, float]:
    return {line["step"]: line[name] for line in log if line["split"] == split and name in line}


def _one_run(axis: Axes, run: Mapping[str, Any], name: str) -> None:
    train, validation = (_points(run["log"], split, name) for split in ("train", "validation"))
    axis.plot(list(train), list(train.values()), color=style.SKY, linewidth=1, label="train")
    # A handful of evaluations is no curve: points alone, which nothing joins.
    (dots,) = axis.plot(list(validation), list(validation.values()), "o", color=style.BLACK, label="validation")
    dots.set(markersize=3.5, zorder=5)  # on the star
    if run.get("test"):
        (star,) = axis.plot(
            run["best_step"], run["test"][name], "*", color=style.VERMILLION, label="test, at best step"
        )
        star.set(clip_on=False, markersize=12)


def _line(axis: Axes, number: int, label: str, curves: Sequence[Curve]) -> None:
    places, mean, least, largest = spread(curves)
    if len(curves) == 1:
        axis.plot(places, mean, label=label, **style.line(number, len(places)))
    else:
        _banded(axis, number, f"{label}: mean, min to max of {len(curves)} seeds", places, mean, least, largest)


def _banded(
    axis: Axes, number: int, label: str, places: np.ndarray, mean: np.ndarray, least: np.ndarray, largest: np.ndarray
) -> None:
    look = style.line(number, len(places))
    axis.plot(places, mean, label=label, **look)
    axis.fill_between(places, least, largest, color=look["color"], alpha=0.2, linewidth=0, zorder=2)


def _finish(axis: Axes, goal: str, chance: float | None) -> None:
    """Draw the level of chance, if it is known.

    The axis is logarithmic where the smaller is the better and the values differ twentyfold or more.
    """
    values = np.concatenate([np.asarray(line.get_ydata(), np.float64) for line in axis.get_lines()])
    if chance is not None:
        values = np.append(values, chance)
        axis.axhline(chance, color=style.GREY, linestyle=(0, (1, 2)), linewidth=1, label="chance", zorder=1)
        axis.margins(y=0.08)  # it is seen, also at the edge
    if goal == "min" and len(values) and values.min() > 0 and values.max() >= 20 * values.min():
        style.logarithmic(axis, "y")
