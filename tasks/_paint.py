"""Draws dashes and discs into images, white on black with smooth edges.

The middle of the pixel in row r and column c is the point (x, y) = (c + 0.5, r + 0.5).
"""

import numpy as np


def dashes(
    images: np.ndarray, owner: np.ndarray, centres: np.ndarray, directions: np.ndarray, length: float, thickness: float
) -> None:
    """Draw straight dashes; where one meets what is there, the lighter is kept.

    Args:
        images: float64 `(n, size, size)` from 0 to 1, changed in place.
        owner: Number of the image of each dash, int `(m,)`.
        centres: Of the dashes, x and y in pixels, float64 `(m, 2)`.
        directions: Unit vectors along them, float64 `(m, 2)`.
        length: Of each, in pixels.
        thickness: Of each, in pixels.
    """
    pixels, x, y = _around(images, owner, centres, (length + thickness) / 2)
    along = abs(x * directions[:, :1] + y * directions[:, 1:])
    across = abs(y * directions[:, :1] - x * directions[:, 1:])
    _lighten(images, pixels, _covered(along, length / 2) * _covered(across, thickness / 2))


def discs(images: np.ndarray, owner: np.ndarray, centres: np.ndarray, radius: float) -> None:
    """Draw discs of a radius in pixels; the other arguments are those of `dashes`."""
    pixels, x, y = _around(images, owner, centres, radius)
    _lighten(images, pixels, _covered(np.sqrt(x * x + y * y), radius))


def _covered(distance: np.ndarray, half: float) -> np.ndarray:
    """Share of a pixel that a strip covers, at a distance from the middle of the strip, whose width is `2 * half`."""
    return np.clip(half + 0.5 - distance, 0, min(1, 2 * half))


def _around(
    images: np.ndarray, owner: np.ndarray, centres: np.ndarray, reach: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pixels that are within `reach` of some points, or half a pixel further, and some more.

    Returns:
        Number of each pixel in the flat images, int `(m, k)`, -1 for one outside; and where its middle lies, seen from
        the point: x and y, float64 `(m, k)`.
    """
    size, steps = images.shape[-1], np.arange(-np.ceil(reach + 0.5), np.ceil(reach + 0.5) + 1)
    corner = np.floor(centres)
    column = corner[:, :1] + np.tile(steps, len(steps))
    row = corner[:, 1:] + np.repeat(steps, len(steps))
    inside = (column >= 0) & (column < size) & (row >= 0) & (row < size)
    pixels = np.where(inside, (owner[:, None] * size + row) * size + column, -1).astype(np.int64)
    return pixels, column + 0.5 - centres[:, :1], row + 0.5 - centres[:, 1:]


def _lighten(images: np.ndarray, pixels: np.ndarray, values: np.ndarray) -> None:
    drawn = (pixels >= 0) & (values > 0)
    np.maximum.at(images.reshape(-1), pixels[drawn], values[drawn])
