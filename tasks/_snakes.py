"""Random dashed snakes for Pathfinder, and whether they touch.

Lengths are in pixels, directions in 1,024ths of a turn. The vectors of the directions are rounded to multiples of
2^-14, so that they are the same whoever computes cosines. All else is sums, products and square roots of float64, of
which IEEE 754 fixes every bit: a snake is the same on any machine.
"""

from dataclasses import dataclass

import numpy as np

TURN = 1024
_ANGLES = 2 * np.pi * np.arange(TURN) / TURN
DIRECTIONS = np.rint(2**14 * np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], 1)) / 2**14

# A turn from one dash to the next is the sum of three numbers, uniform within +-54. It shares two of them with the turn
# after it, so that the curvature is smooth. The standard deviation of a turn is about 54 as well, 19 degrees.
_BEND, _SUMMANDS = 54, 3


@dataclass(frozen=True)
class Snakes:
    """Some snakes of equally many dashes.

    Attributes:
        headings: Direction of each dash, int64 `(n, dashes)`.
        points: Half a dash and half a gap apart: the first end, then in turn the centre of a dash and the middle of the
            gap after it, float64 `(n, 2 * dashes + 1, 2)`. The ends are half a gap beyond the last dash.
    """

    headings: np.ndarray
    points: np.ndarray

    @property
    def ends(self) -> np.ndarray:
        """Both ends of each, float64 `(n, 2, 2)`."""
        return self.points[:, [0, -1]]

    @property
    def centres(self) -> np.ndarray:
        """Those of all dashes, float64 `(n * dashes, 2)`."""
        return self.points[:, 1::2].reshape(-1, 2)

    def take(self, which: np.ndarray) -> "Snakes":
        """Those of an index or mask."""
        return Snakes(self.headings[which], self.points[which])


def draw(bits: np.random.BitGenerator, number: int, dashes: int, period: float, low: float, high: float) -> Snakes:
    """Random snakes with all points between `low` and `high`.

    Args:
        bits: Source of randomness.
        number: How many are drawn; those that are too wide are left out.
        dashes: Number of dashes of each.
        period: Length of a dash and a gap.
        low: Least coordinate.
        high: Largest coordinate.
    """
    noise = _integers(bits, (number, dashes + _SUMMANDS + 2))
    bends = (noise[:, 3:] * (2 * _BEND + 1) >> 16) - _BEND
    turns = sum(bends[:, i : i + dashes] for i in range(_SUMMANDS))
    headings = (noise[:, :1] + np.cumsum(turns, 1)) % TURN
    half = period / 2 * DIRECTIONS[headings]
    steps = np.repeat(half, 2, axis=1)  # to the centre of the dash, and on
    points = np.concatenate([np.zeros((number, 1, 2)), np.cumsum(steps, 1)], 1)
    corner, room = points.min(1), high - low - np.ptp(points, 1)
    # Uniform among the places where it fits.
    points += (low - corner + room * noise[:, 1:3] / 2**16)[:, None]
    return Snakes(headings, points).take((room >= 0).all(1))


def _integers(bits: np.random.BitGenerator, shape: tuple[int, int]) -> np.ndarray:
    """Uniform integers below 2^16, int64."""
    count = shape[0] * shape[1]
    words = bits.random_raw(-(-count // 4))[:, None] >> np.array([0, 16, 32, 48], np.uint64)
    return (words & np.uint64(2**16 - 1)).astype(np.int64).reshape(-1)[:count].reshape(shape)


def keep_apart(a: np.ndarray, b: np.ndarray, margin: float) -> np.ndarray:
    """Whether points `(..., n, 2)` and `(..., m, 2)` are nowhere closer than `margin`, bool `(...)`."""
    x = a[..., :, None, 0] - b[..., None, :, 0]
    y = a[..., :, None, 1] - b[..., None, :, 1]
    return (x * x + y * y >= margin * margin).all((-2, -1))


def untangled(snakes: Snakes, margin: float) -> np.ndarray:
    """Whether each snake keeps `margin` from itself, bool `(n,)`: any two points that are two dashes apart or more."""
    x, y = np.moveaxis(snakes.points, -1, 0)
    clear = np.ones(len(x), bool)
    for steps in range(4, x.shape[1]):
        dx, dy = x[:, steps:] - x[:, :-steps], y[:, steps:] - y[:, :-steps]
        clear &= (dx * dx + dy * dy >= margin * margin).all(1)
    return clear
