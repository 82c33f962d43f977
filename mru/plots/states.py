"""What happens inside of a layer: states and writes over time, hysteresis, hold times, time constants, sensitivity.

Shapes: T steps, N units.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mru.plots import style

# Longer sequences are drawn in so many parts; a picture has no more columns than that.
MOST_COLUMNS = 2000
MOST_LOOPS = 12
MOST_INPUTS = 4


@style.styled
def state_raster(state: np.ndarray, *, inputs: np.ndarray | None = None, title: str = "") -> Figure:
    """The state of every unit at every step of one example, as an image; the modulus of complex states.

    Of more than 2,000 steps, the first of each of 2,000 equal parts is drawn.

    Args:
        state: (T, N).
        inputs: What the model was given, (T, D), drawn above where D is at most 4, or tokens (T,).
        title: Above it.
    """
    values, name = _real(state)
    shown = values[:: _part(len(values))]
    figure, axis = _raster_axes(len(values), inputs, title)
    if values.min() < 0:
        top = float(np.abs(values).max())
        colours: dict[str, Any] = {"cmap": style.DIVERGING, "vmin": -top, "vmax": top}
    else:
        colours = {"cmap": style.SEQUENTIAL, "vmin": 0, "vmax": float(values.max()) or 1.0}
    image = axis.imshow(shown.T, **colours, **_place(values.shape))
    figure.colorbar(image, ax=axis, label=f"state {name}", aspect=30).ax.tick_params(labelsize=style.SMALL)
    return figure


@style.styled
def write_raster(write: np.ndarray, *, inputs: np.ndarray | None = None, title: str = "") -> Figure:
    """When every unit writes in one example: a dark dot a write; else it holds. Beside it, each unit's rate of writes.

    Of more than 2,000 steps, a dot stands for a write anywhere in one of 2,000 equal parts.

    Args:
        write: Boolean (T, N).
        inputs: What the model was given, (T, D), drawn above where D is at most 4, or tokens (T,).
        title: Above it.
    """
    write = np.asarray(write, bool)
    steps, units = write.shape
    part = _part(steps)
    padded = np.pad(write, ((0, -steps % part), (0, 0)))
    figure, axis = _raster_axes(steps, inputs, title)
    axis.imshow(padded.reshape(-1, part, units).any(1).T, cmap="Greys", vmin=0, vmax=1, **_place(write.shape))
    side = axis.inset_axes((1.05, 0, 0.14, 1), sharey=axis)
    side.barh(np.arange(units) + 0.5, write.mean(0), height=1.0, color=style.BLUE)
    side.set(xlim=(0, 1), xlabel="rate of writes")
    side.tick_params(labelsize=style.SMALL, labelleft=False)
    return figure


@style.styled
def hysteresis(
    drive: np.ndarray,
    state: np.ndarray,
    area: np.ndarray,
    *,
    units: np.ndarray | None = None,
    drive_name: str = "drive u",
    title: str = "",
) -> Figure:
    """The state of each unit against a drive that rises and falls: the largest loops, at most 12, a panel each.

    Left out are units whose loop encloses less than a thousandth of the largest: they do not move, or hold nothing.

    Args:
        drive: (T,).
        state: (T, N); of complex states the real part is drawn.
        area: Area of each unit's loop, (N,).
        units: Numbers of the units, (N,); 0 to N - 1 if None.
        drive_name: What the drive is called.
        title: Above the panels.
    """
    values, name = np.real(state), "Re h" if np.iscomplexobj(state) else "h"
    numbers = np.arange(values.shape[1]) if units is None else units
    largest = np.argsort(-np.asarray(area), kind="stable")[:MOST_LOOPS]
    largest = largest[area[largest] >= area[largest[0]] / 1000]
    columns = min(4, len(largest))
    rows = math.ceil(len(largest) / columns)
    figure, axes = style.panels(style.PAGE, 1.1 + 1.15 * rows, rows, columns, sharex=True, sharey=True)
    rising = np.gradient(np.asarray(drive, np.float64)) > 0
    for axis, unit in zip(axes, largest, strict=False):
        for where, label, look in ((rising, "drive rises", "-"), (~rising, "drive falls", "--")):
            colour = style.VERMILLION if look == "-" else style.BLUE
            axis.plot(drive, np.where(where, values[:, unit], np.nan), look, color=colour, label=label)
        axis.set_title(f"unit {numbers[unit]}: area {area[unit]:.3g}", fontsize=style.SMALL, pad=2)
    for axis in axes[len(largest) :]:
        axis.set_visible(False)
    for number, axis in enumerate(axes[: len(largest)]):
        axis.tick_params(labelbottom=number + columns >= len(largest))
        axis.set_xlabel(drive_name if number // columns == rows - 1 else "")
        axis.set_ylabel(f"state {name}" if number % columns == 0 else "")
    figure.suptitle(f"{title} ({len(largest)} of {values.shape[1]} units)")
    style.legend_below(figure, axes[0])
    return figure


@style.styled
def time_constants(constants: Mapping[str, np.ndarray], *, title: str = "") -> Figure:
    """How the time constants of each layer's units are distributed, in steps.

    Args:
        constants: Of each layer by its name, (N,); infinite where a unit does not forget.
        title: Above it.
    """
    return _distribution(constants, "time constant (steps)", "units", "without decay", title)


@style.styled
def hold_times(times: Mapping[str, np.ndarray], *, title: str = "") -> Figure:
    """How long the units of each layer hold, in steps: how many holds there are of each length.

    Args:
        times: Lengths of all holds of each layer by its name, int (number of holds,).
        title: Above it.
    """
    return _distribution(times, "steps held", "holds", "endless", title, whole=True)


@style.styled
def sensitivity(gradients: Mapping[str, np.ndarray], *, title: str = "") -> Figure:
    """How much an input matters after a number of steps: the norm of a gradient against the lag.

    Args:
        gradients: Norms by the name of what they are of, (T,), at lags 0 to T - 1. Where one is exactly 0, the line has
            a gap.
        title: Above it.
    """
    figure, (axis,) = style.panels(1.3 * style.COLUMN, 2.9)
    for number, (name, values) in enumerate(gradients.items()):
        values = np.asarray(values, np.float64)
        zero = values == 0
        label = f"{name} ({zero.sum()} of {len(values)} are 0)" if zero.any() else name
        axis.plot(
            np.arange(len(values)), np.where(zero, np.nan, values), label=label, **style.line(number, len(values))
        )
    axis.set(xlabel="lag k (steps)", ylabel="gradient norm", title=title)
    if any(np.any(np.asarray(values) > 0) for values in gradients.values()):
        style.logarithmic(axis, "y")
    style.legend_below(figure, axis)
    return figure


def _real(state: np.ndarray) -> tuple[np.ndarray, str]:
    """What is drawn of a state, and what it is called."""
    state = np.asarray(state)
    return (np.abs(state), "|h|") if np.iscomplexobj(state) else (state.astype(np.float64), "h")


def _part(steps: int) -> int:
    return max(1, math.ceil(steps / MOST_COLUMNS))


def _place(shape: tuple[int, int]) -> dict[str, Any]:
    """The image of T steps and N units covers [0, T] to the right and [0, N] downwards."""
    return {"aspect": "auto", "interpolation": "nearest", "extent": (0, shape[0], shape[1], 0)}


def _raster_axes(steps: int, inputs: np.ndarray | None, title: str) -> tuple[Figure, Axes]:
    """A figure with the axis of an image and, where there are few, the inputs above it."""
    traces = None if inputs is None else np.asarray(inputs)
    if traces is None or (traces.ndim == 2 and traces.shape[1] > MOST_INPUTS):
        figure, (axis,) = style.panels(style.PAGE, 2.6)
    else:
        ratios = {"height_ratios": (1, 4)}
        figure, (above, axis) = style.panels(style.PAGE, 3.2, rows=2, sharex=True, gridspec_kw=ratios)
        columns, part = traces.reshape(len(traces), -1).T, _part(steps)
        for number, trace in enumerate(columns):
            above.plot(np.arange(steps)[::part] + 0.5, trace[::part], color=style.PALETTE[number], linewidth=0.8)
        above.set_ylabel("input")
    axis.set(xlabel="step t", ylabel="unit", xlim=(0, steps))
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    figure.suptitle(title)
    return figure, axis


def _distribution(
    samples: Mapping[str, np.ndarray], axis_name: str, counted: str, endless: str, title: str, whole: bool = False
) -> Figure:
    """Outlines of histograms, a line each, in bins that are equal on a logarithmic axis."""
    figure, (axis,) = style.panels(1.3 * style.COLUMN, 2.9)
    values = {name: np.asarray(x, np.float64).ravel() for name, x in samples.items()}
    finite = {name: x[np.isfinite(x)] for name, x in values.items()}
    every = np.concatenate([*finite.values(), np.ones(0)])
    low, high = (every.min(), every.max()) if len(every) else (1.0, 10.0)
    if whole:  # each bin holds whole numbers of steps
        edges = np.unique(np.round(np.geomspace(low, high + 1, 21))) - 0.5
    else:
        edges = np.geomspace(low / 1.001, max(high, 2 * low) * 1.001, 21)
    for number, (name, x) in enumerate(finite.items()):
        label = f"{name}: median {np.median(x):.3g}" if len(x) else f"{name}: none"
        infinite = len(values[name]) - len(x)
        label += f", {infinite} {endless}" if infinite else ""
        look = {key: value for key, value in style.line(number, points=1000).items() if key != "zorder"}
        axis.stairs(np.histogram(x, edges)[0], edges, label=label, zorder=3, **look)
    style.logarithmic(axis, "x")
    axis.set(xlabel=axis_name, ylabel=f"number of {counted}", title=title)
    if whole and len(every):
        style.logarithmic(axis, "y")
        axis.set_ylim(bottom=0.7)
    style.legend_below(figure, axis)
    return figure
