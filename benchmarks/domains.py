"""Images as tasks in sequence: the same classes, and the pixels of each task in an order of its own.

Beside them, what is learned from at each step: new examples of one task, and old ones of all from a reservoir. A step
says which examples these are, not what is in them: the images are on the device once, whatever the number of tasks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from tasks.base import Task
from tasks.digits import Digits
from tasks.smnist import PermutedMNIST, SequentialMNIST

NEW = 32  # new examples of a step, and as many from the reservoir


class Images(NamedTuple):
    """A set of images.

    Attributes:
        read: From the data directory to the task that shows the pixels row by row.
        order: From the number of a task to its order of the pixels, (pixels,).
        epochs: How often the examples of a task are seen, if nothing else is asked for.
    """

    read: Callable[[str | None], Task]
    order: Callable[[int], np.ndarray]
    epochs: int


SETS = {
    "digits": Images(lambda _: Digits(permutation_seed=None), lambda seed: Digits(permutation_seed=seed).order, 6),
    "mnist": Images(
        lambda data_dir: SequentialMNIST(data_dir=data_dir), lambda seed: PermutedMNIST(permutation_seed=seed).order, 1
    ),
}


class Examples(NamedTuple):
    """Examples of a split.

    Attributes:
        images: The pixels row by row, float32 (n, pixels).
        classes: int32 (n,).
    """

    images: Array
    classes: Array


class Domains(NamedTuple):
    """Tasks on one set of images.

    Attributes:
        train: What is learned from, the same images in each task.
        held_out: What accuracies are of.
        orders: Which pixel each task shows at each place, int32 (tasks, pixels).
    """

    train: Examples
    held_out: Examples
    orders: Array

    @property
    def side(self) -> int:
        """Rows of an image, which are the time steps, and pixels of a row."""
        return math.isqrt(self.orders.shape[-1])

    def shown(self, images: Array, task: Array) -> Array:
        """Images (n, pixels) as their tasks show them, a row of pixels a step: (n, side, side).

        Args:
            images: The pixels row by row.
            task: Number of the task of each image, int (n,).
        """
        return jnp.take_along_axis(images, self.orders[task], -1).reshape(-1, self.side, self.side)


def domains(name: str, tasks: int, split: str, data_dir: str | None = None, examples: int | None = None) -> Domains:
    """The tasks on a set of images.

    Args:
        name: One of `SETS`.
        tasks: How many.
        split: Where the held-out examples come from, "validation" or "test".
        data_dir: The data directory of a set that has to be prepared.
        examples: How many of the training examples each task has; None for all.

    Raises:
        MissingData: The set has not been prepared.
        ValueError: There are fewer training examples than asked for, or fewer are asked for than a step has.
    """
    task = SETS[name].read(data_dir)
    found = []
    for part, count in (("train", examples), (split, None)):
        size = task.sizes[part]
        if count is not None and not NEW <= count <= size:
            raise ValueError(
                f"{name} has {size} training examples and a step {NEW}: --examples = {count} is not between"
            )
        batch = task.examples(part, np.arange(size if count is None else count))
        found.append(Examples(jnp.asarray(batch["inputs"][..., 0]), jnp.asarray(batch["targets"])))
    orders = np.stack([SETS[name].order(number) for number in range(tasks)])
    return Domains(*found, jnp.asarray(orders, jnp.int32))


def stream(
    seed: int, examples: int, tasks: int, epochs: int, reservoir: int, replay: bool
) -> Iterator[dict[str, np.ndarray]]:
    """The steps of each task: `task` and `row` of each example, int32 (steps, 64), and its part of the loss, `weights`.

    The first 32 of a step are new, and the others from a reservoir, which after n examples holds each of them with the
    same probability (algorithm R of Vitter 1985). Before it holds any, and without replay, those weigh nothing.

    Args:
        seed: Seed of the order of the examples and of the reservoir.
        examples: Training examples of a task.
        tasks: Number of tasks.
        epochs: How often the examples of a task are seen; the reservoir sees them once.
        reservoir: How many examples it holds.
        replay: Learn from the reservoir.
    """
    rng = np.random.default_rng(seed)
    kept, seen = np.zeros((reservoir, 2), np.int32), 0
    for task in range(tasks):
        steps: list[tuple[np.ndarray, np.ndarray]] = []
        for epoch in range(epochs):
            shuffled = rng.permutation(examples)
            for rows in shuffled[: examples // NEW * NEW].reshape(-1, NEW):
                held = min(seen, reservoir)
                drawn = rng.integers(max(held, 1), size=NEW)
                weight = np.repeat([1.0, float(replay and held > 0)], NEW)
                new = np.stack([np.full(NEW, task), rows], -1)
                steps.append((np.concatenate([new, kept[drawn]]), weight / weight.sum()))
                for row in rows if epoch == 0 else ():
                    # The n-th example is kept with probability reservoir / n, in place of any one.
                    place = seen if seen < reservoir else rng.integers(seen + 1)
                    seen += 1
                    if place < reservoir:
                        kept[place] = task, row
        which, weights = (np.stack(part) for part in zip(*steps, strict=True))
        which = which.astype(np.int32)
        yield {"task": which[..., 0], "row": which[..., 1], "weights": weights.astype(np.float32)}
