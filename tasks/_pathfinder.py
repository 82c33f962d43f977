"""Makes the images of Pathfinder: a scene of snakes, two dots, and the drawing of them."""

from dataclasses import dataclass

import numpy as np

from tasks import _paint, _snakes
from tasks._snakes import Snakes
from tasks.base import streams

SIZES = {"train": 160_000, "validation": 20_000, "test": 20_000}

# Snakes that are drawn at a time, of which those that go together are taken.
_LONG, _SHORT = 48, 96


@dataclass(frozen=True)
class Drawing:
    """Sizes in pixels.

    Attributes:
        size: Side of the image.
        dash: Length of a dash.
        gap: From a dash to the next.
        thickness: Of a dash.
        radius: Of a dot.
        margin: Least distance of the centre lines of two snakes.
        dashes: Number in each of the two long snakes.
        short: Number in each distractor.
        distractors: Largest number of them.
    """

    size: int
    dash: float
    gap: float
    thickness: float
    radius: float
    margin: float
    dashes: int = 14
    short: int = 4
    distractors: int = 8

    @property
    def period(self) -> float:
        """A dash and a gap."""
        return self.dash + self.gap

    def snakes(self, bits: np.random.BitGenerator, number: int, dashes: int) -> Snakes:
        """Random snakes that leave room for a dot within the image, and keep the margin from themselves."""
        border = self.radius + 0.5
        found = _snakes.draw(bits, number, dashes, self.period, border, self.size - border)
        return found.take(_snakes.untangled(found, self.margin))


DRAWINGS = {
    drawing.size: drawing
    for drawing in (
        Drawing(32, dash=1.5, gap=1, thickness=1, radius=1.5, margin=3),
        Drawing(64, dash=3, gap=1.5, thickness=1, radius=2.25, margin=4.5),
        Drawing(128, dash=5, gap=2.5, thickness=1.5, radius=3.5, margin=7.5),
    )
}


@dataclass(frozen=True)
class Scene:
    """What one image shows.

    Attributes:
        snakes: The two long ones, and the distractors.
        dots: Centres of the two dots, float64 `(2, 2)`.
        joined: Whether one snake joins them.
    """

    snakes: tuple[Snakes, Snakes]
    dots: np.ndarray
    joined: bool


def scene(bits: np.random.BitGenerator, drawing: Drawing) -> Scene:
    """A random scene; the label is drawn by itself, and nothing but the dots depends on it."""
    is_joined = int(bits.random_raw(1)[0] >> np.uint64(63))
    while True:
        long = drawing.snakes(bits, _LONG, drawing.dashes)
        pairs, dots = _dotted_pairs(long.ends, drawing)
        for pair, both in zip(pairs, dots):
            if _snakes.keep_apart(*long.points[pair], drawing.margin):
                chosen = long.take(pair)
                return Scene((chosen, _distractors(bits, drawing, chosen)), both[is_joined], bool(is_joined))


def _dotted_pairs(ends: np.ndarray, drawing: Drawing) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of snakes, and for each the dots if they are to be apart and if they are to be joined.

    Only pairs where both are about equally far from each other are kept, so that distance does not tell the label.

    Args:
        ends: float64 `(n, 2, 2)` by snake, end and coordinate.
        drawing: Sizes.

    Returns:
        Indices of snakes, int `(m, 2)`, and places of dots, float64 `(m, 2, 2, 2)`: apart or joined, dot, coordinate.
    """
    pairs = np.stack(np.triu_indices(len(ends), 1), 1)
    four = ends[pairs].reshape(-1, 4, 2)
    x, y = np.moveaxis(four[:, [0, 2, 0, 0, 1, 1]] - four[:, [1, 3, 2, 3, 2, 3]], -1, 0)
    distance = np.sqrt(x * x + y * y)
    # Joined dots that touch would be one.
    joined = np.where(distance[:, :2] >= 3 * drawing.radius, distance[:, :2], np.inf)
    off = abs(joined[:, :, None] - distance[:, None, 2:]).reshape(-1, 8)
    best = off.argmin(1)
    kept = off[np.arange(len(off)), best] <= drawing.period / 4
    ways = [[apart, own] for own in ((0, 1), (2, 3)) for apart in ((0, 2), (0, 3), (1, 2), (1, 3))]
    chosen = np.array(ways)[best[kept]]
    return pairs[kept], four[kept][np.arange(kept.sum())[:, None, None], chosen]


def _distractors(bits: np.random.BitGenerator, drawing: Drawing, long: Snakes) -> Snakes:
    """As many short snakes as find room, up to the largest number."""
    short = drawing.snakes(bits, _SHORT, drawing.short)
    short = short.take(_snakes.keep_apart(short.points, long.points.reshape(-1, 2), drawing.margin))
    free = _snakes.keep_apart(short.points[:, None], short.points, drawing.margin)
    taken: list[int] = []
    for i in range(len(free)):
        if len(taken) < drawing.distractors and free[i, taken].all():
            taken.append(i)
    return short.take(np.array(taken, np.int64))


def generate(seed: int, size: int, split: str, indices: np.ndarray) -> dict[str, np.ndarray]:
    """Images by their index, the same on any machine and with any version of Python and NumPy.

    Args:
        seed: Seed of the generator.
        size: Side of the images, 32, 64 or 128.
        split: "train", "validation" or "test".
        indices: int `(n,)`.

    Returns:
        `inputs` uint8 `(n, size, size)`, grey, and `targets` uint8 `(n,)`: 1 if a snake joins the dots.
    """
    made = scenes(seed, size, split, indices)
    return {"inputs": paint(made, DRAWINGS[size]), "targets": np.array([found.joined for found in made], np.uint8)}


def scenes(seed: int, size: int, split: str, indices: np.ndarray) -> list[Scene]:
    """What the images of `generate` show."""
    made = streams(f"pathfinder_{size}", seed, split, indices)
    return [scene(stream.bit_generator, DRAWINGS[size]) for stream in made]


def paint(scenes: list[Scene], drawing: Drawing) -> np.ndarray:
    """The images of some scenes, uint8 `(n, size, size)`."""
    images = np.zeros((len(scenes), drawing.size, drawing.size))
    groups = [(i, snakes) for i, found in enumerate(scenes) for snakes in found.snakes]
    if groups:
        owner = np.concatenate([np.full(snakes.headings.size, i) for i, snakes in groups])
        centres = np.concatenate([snakes.centres for _, snakes in groups])
        headings = np.concatenate([snakes.headings.reshape(-1) for _, snakes in groups])
        _paint.dashes(images, owner, centres, _snakes.DIRECTIONS[headings], drawing.dash, drawing.thickness)
        dots = np.concatenate([found.dots for found in scenes])
        _paint.discs(images, np.arange(len(scenes)).repeat(2), dots, drawing.radius)
    return np.floor(255 * images + 0.5).astype(np.uint8)
