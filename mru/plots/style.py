"""How every picture looks: colours that all readers can tell apart, sizes of a paper, and how pictures are saved.

The colours are those of Okabe and Ito, "Color Universal Design", 2008, without yellow, which is hard to see on white.
Lines differ in their style and marker too, so that they can be told apart in grey.
"""

from __future__ import annotations

import functools
import io
import pathlib
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

P = ParamSpec("P")
R = TypeVar("R")

BLUE, VERMILLION, GREEN = "#0072B2", "#D55E00", "#009E73"
ORANGE, SKY, PURPLE, BLACK = "#E69F00", "#56B4E9", "#CC79A7", "#000000"
PALETTE = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, BLACK)
STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "D", "^", "v")
# What is no curve of its own: chance, the length of training.
GREY = "#707070"
# Maps of numbers to colours: around zero, and from zero up.
DIVERGING, SEQUENTIAL = "PuOr", "cividis"

# Widths of one column and of a page, in inches.
COLUMN, PAGE = 3.4, 7.0
DPI = 180
# Points; nothing is smaller than SMALL.
SMALL, NORMAL = 7, 8
SETTINGS: Any = {
    "font.size": NORMAL,
    "axes.titlesize": NORMAL,
    "axes.labelsize": NORMAL,
    "figure.titlesize": NORMAL,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "lines.linewidth": 1.3,
    "lines.markersize": 4,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "mru",  # equal pictures are equal files
}


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Run a function that draws with the settings of this file, and leave matplotlib's own as they are."""

    @functools.wraps(draw)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with matplotlib.rc_context(SETTINGS):
            return draw(*args, **kwargs)

    return run


def panels(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, list[Axes]]:
    """A new figure and its axes, row by row.

    Args:
        width: In inches.
        height: In inches.
        rows: Number of rows.
        columns: Number of columns.
        **options: Of `Figure.subplots`.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options).ravel().tolist()
    for axis in axes:
        # Ticks are made when the figure is drawn, when matplotlib's own settings hold again.
        axis.tick_params(which="both", labelsize=SMALL)
    return figure, axes


def line(number: int, points: int = 0) -> dict[str, Any]:
    """How the line of a number looks: no two of the first 28 alike.

    Lines may lie on each other: the later ones are thinner, and their open markers leave those below to be seen.

    Args:
        number: From 0.
        points: Number of points of the line; many have no markers.
    """
    look: dict[str, Any] = {
        "color": PALETTE[number % len(PALETTE)],
        "linestyle": STYLES[number % len(STYLES)],
        "linewidth": 1.1,
        "zorder": 3 + 0.01 * number,
    }
    if points <= 40:
        look["linewidth"] = max(1.0, 1.9 - 0.3 * number)
        look |= {"marker": MARKERS[number % len(MARKERS)], "markersize": 6 - 1.2 * (number % 3), "fillstyle": "none"}
    return look


def logarithmic(axis: Axes, which: str) -> None:
    """Make the "x" or the "y" axis logarithmic, with labels like 0.01 and 10k: an exponent is hard to read."""
    getattr(axis, f"set_{which}scale")("log")
    side = getattr(axis, f"{which}axis")

    def minor(x: float, _: Any) -> str:
        """Labels at 2 and 5 where the axis may have no power of ten."""
        low, high = side.get_view_interval()
        return _plain(x) if high < 10 * low and f"{x:.0e}"[0] in "25" else ""

    side.set_major_formatter(FuncFormatter(lambda x, _: _plain(x)))
    side.set_minor_formatter(FuncFormatter(minor))


def _plain(x: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if x >= size:
            return f"{x / size:g}{letter}"
    return f"{x:g}"


def legend_below(figure: Figure, *axes: Axes) -> None:
    """One legend for the whole figure, below it, of the lines of some axes; as many columns as have room."""
    lines = {label: line for axis in axes for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    widest = max(map(len, lines), default=1)
    room = int(figure.get_figwidth() * 72 / (SMALL * (0.55 * widest + 5)))
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=max(1, min(room, len(lines))))


def save(figure: Figure, folder: str | pathlib.Path, name: str) -> list[pathlib.Path]:
    """Write a figure as PNG and as SVG, each whole or not at all, and free it.

    Args:
        figure: The figure; it is empty afterwards.
        folder: Where the two files go; it is made if it is not there.
        name: Their name without its end.

    Returns:
        The two paths.

    Raises:
        OSError: A file can not be written.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
        held = io.BytesIO()
        with matplotlib.rc_context(SETTINGS):
            figure.savefig(held, format=kind, dpi=DPI, metadata=metadata)
        path = folder / f"{name}.{kind}"
        part = path.with_name(path.name + ".part")
        try:
            part.write_bytes(held.getvalue())
            part.replace(path)
        except OSError:
            part.unlink(missing_ok=True)
            raise
        written.append(path)
    figure.clear()
    return written
