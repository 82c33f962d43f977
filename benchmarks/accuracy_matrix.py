"""What the accuracies say that were measured while tasks were learned one after the other, and how they are drawn.

All are in one matrix a, (k, k) of k tasks: a[i, j] is the accuracy on task j when task i has just been learned.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from mru.plots import style


def average_accuracy(matrix: np.ndarray) -> float:
    """The mean accuracy on all tasks at the end, 1/k sum_j a[k-1, j] (Lopez-Paz and Ranzato 2017).

    Args:
        matrix: Accuracies (k, k), see above.

    Raises:
        ValueError: It is not square.
    """
    return float(_checked(matrix, 1)[-1].mean())


def forgetting(matrix: np.ndarray) -> float:
    """By how much less is known at the end than was known at best, as mean over all tasks but the last.

    1/(k-1) sum_{j<k-1} (max_{i<k-1} a[i, j] - a[k-1, j]) (Chaudhry et al. 2018). The best is one before the end, so
    this is negative where the last task has taught something about the others.

    Args:
        matrix: Accuracies (k, k), see above.

    Raises:
        ValueError: It is not square, or of one task, after which nothing can be forgotten.
    """
    earlier = _checked(matrix, 2)[:, :-1]
    return float((earlier[:-1].max(0) - earlier[-1]).mean())


def backward_transfer(matrix: np.ndarray) -> float:
    """By how much more is known at the end than when each task had just been learned, over all tasks but the last.

    1/(k-1) sum_{j<k-1} (a[k-1, j] - a[j, j]) (Lopez-Paz and Ranzato 2017): negative where tasks were forgotten.

    Args:
        matrix: Accuracies (k, k), see above.

    Raises:
        ValueError: It is not square, or of one task, which has no task before it.
    """
    matrix = _checked(matrix, 2)
    return float((matrix[-1] - matrix.diagonal())[:-1].mean())


def scores(matrix: np.ndarray) -> dict[str, float]:
    """The three by their names, to 4 digits."""
    return {f.__name__: round(f(matrix), 4) for f in (average_accuracy, forgetting, backward_transfer)}


def draw(axis: Axes, matrix: np.ndarray) -> None:
    """The matrix as colours and numbers: a row for each task learned, a column for each that is tested."""
    axis.imshow(matrix, cmap=style.SEQUENTIAL, vmin=0, vmax=1)
    for (i, j), accuracy in np.ndenumerate(matrix):
        colour = "white" if accuracy < 0.55 else "black"
        axis.text(j, i, f"{accuracy:.2f}", color=colour, fontsize=style.SMALL, ha="center", va="center")
    places = range(len(matrix))
    axis.set(xticks=places, yticks=places, xticklabels=[j + 1 for j in places], yticklabels=[i + 1 for i in places])
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


def _checked(matrix: np.ndarray, least: int) -> np.ndarray:
    """In float64, if it is square and of enough tasks."""
    found = np.asarray(matrix, np.float64)
    if found.ndim != 2 or len(found) != found.shape[1] or len(found) < least:
        raise ValueError(f"accuracies must be (k, k) of k >= {least} tasks, got shape {found.shape}")
    return found
