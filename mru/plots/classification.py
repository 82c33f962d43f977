"""Which classes a model takes for which."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from mru.plots import style

# With more classes, numbers of 7 points do not fit into their squares.
MOST_WITH_NUMBERS = 12


@style.styled
def confusion(counts: np.ndarray, *, classes: Sequence[str] | None = None, title: str = "") -> Figure:
    """A confusion matrix: colours are fractions of each true class, numbers are examples.

    Args:
        counts: int (C, C): examples of true class i that were taken for class j.
        classes: Names of the classes; 0 to C - 1 if None.
        title: Above it.
    """
    counts = np.asarray(counts)
    number = len(counts)
    fractions = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    size = style.COLUMN if number <= 4 else 1.2 * style.COLUMN
    figure, (axis,) = style.panels(size, 0.9 * size)
    image = axis.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axis, label="fraction of the true class", shrink=0.8).ax.tick_params(
        labelsize=style.SMALL
    )
    if number <= MOST_WITH_NUMBERS:
        for i, j in zip(*np.nonzero(counts), strict=True):
            colour = "white" if fractions[i, j] > 0.55 else "black"
            axis.text(j, i, f"{counts[i, j]:,}", ha="center", va="center", color=colour, fontsize=style.SMALL)
        names = [str(name) for name in (classes or range(number))]
        axis.set_xticks(range(number), names)
        axis.set_yticks(range(number), names)
    axis.spines[["top", "right"]].set_visible(True)
    axis.set(xlabel="class of the model", ylabel="true class", title=title)
    return figure
