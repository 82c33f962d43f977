"""Pathfinder: how fast images are made, whether their label is in anything simple, and a picture of 16 of them.

python -m benchmarks.pathfinder --out results/pathfinder.json
python -m benchmarks.pathfinder --figure results/figures/pathfinder.png

Logistic regressions see what a label must not be in: counts of pixels by grey level, how far the dots are from each
other, where they are, and the pixels, each by itself. A small convolutional network sees the image. It would need very
many images of curves of 14 dashes before it found out what to look for; so it learns from shorter ones first, in
lessons. All are measured on the first 5,000 test images of 32 x 32 pixels. Images are timed with two processes.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.measure import parser, report, timed
from mru.plots import style
from tasks import _pathfinder
from tasks._datasets import computed
from tasks.base import streams

TRAINED, TESTED = 10000, 5000
TIMED = {32: 10000, 64: 1000, 128: 1000}
# Dashes of a long curve, number of images, and epochs of each lesson of the network.
LESSONS = ((3, 5000, 3), (5, 5000, 3), (8, 5000, 3), (11, 5000, 3), (14, TRAINED, 6))
BATCH = 64
Arrays = dict[str, np.ndarray]


def shown(dashes: int, split: str, indices: np.ndarray) -> Arrays:
    """Images of 32 x 32 pixels, their labels, and the places of the left and the right dot, float64 `(n, 4)`."""
    drawing = dataclasses.replace(_pathfinder.DRAWINGS[32], dashes=dashes)
    scenes = [_pathfinder.scene(one.bit_generator, drawing) for one in streams("pathfinder_32", 0, split, indices)]
    dots = np.stack([scene.dots[np.argsort(scene.dots[:, 0])] for scene in scenes])
    targets = np.array([scene.joined for scene in scenes], np.int32)
    return {"inputs": _pathfinder.paint(scenes, drawing), "targets": targets, "dots": dots.reshape(-1, 4)}


def speeds() -> Iterator[dict[str, Any]]:
    """Seconds for images of each resolution, and seconds of processor time; the start of the processes included."""
    for resolution, images in TIMED.items():
        generate = functools.partial(_pathfinder.generate, 0, resolution)
        with timed() as seconds, computed.workers(2) as pool:
            computed.compute(pool, generate, "train", images)
        yield {"what": f"{images:,} images of {resolution} x {resolution}", **seconds}


def counts(images: np.ndarray) -> np.ndarray:
    """Number of pixels in each of eight ranges of grey, and the mean."""
    levels = images.reshape(len(images), -1) // 32
    return np.stack([*((levels == level).sum(1) for level in range(8)), images.mean((1, 2))], 1)


def distance(dots: np.ndarray) -> np.ndarray:
    """How far two dots are apart, and the square and root of that."""
    far = np.hypot(dots[:, 2] - dots[:, 0], dots[:, 3] - dots[:, 1])[:, None]
    return np.concatenate([far, far**2, np.sqrt(far)], 1)


def logistic(view: Callable[[Arrays], np.ndarray], train: Arrays, test: Arrays) -> float:
    """Test accuracy of a logistic regression on what `view` sees, `(n, features)`."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300, tol=1e-3))
    return float(model.fit(view(train), train["targets"]).score(view(test), test["targets"]))


class Network(nnx.Module):
    """Seven convolutions of 3 x 3 pixels with batch norm, halving the image twice, and the maximum of each channel."""

    WIDTHS = (16, 32, 32, 64, 64, 64, 64)

    def __init__(self, rngs: nnx.Rngs):
        pairs = list(zip((1, *self.WIDTHS), self.WIDTHS))
        self.convolutions = nnx.List([nnx.Conv(a, b, (3, 3), use_bias=False, rngs=rngs) for a, b in pairs])
        self.norms = nnx.List([nnx.BatchNorm(b, momentum=0.9, rngs=rngs) for _, b in pairs])
        self.head = nnx.Linear(self.WIDTHS[-1], 2, rngs=rngs)

    def __call__(self, images: jax.Array, training: bool) -> jax.Array:
        """Logits `(B, 2)` of uint8 images `(B, 32, 32)`."""
        x = images[..., None] / 255
        for i, (convolution, norm) in enumerate(zip(self.convolutions, self.norms)):
            y = nnx.relu(norm(convolution(x), use_running_average=not training))
            x = x + y if x.shape == y.shape else y
            x = nnx.max_pool(x, (2, 2), (2, 2)) if i in (1, 3) else x
        return self.head(x.max((1, 2)))


@nnx.jit
def step(network: Network, optimizer: nnx.Optimizer, images: jax.Array, targets: jax.Array) -> None:
    def loss(network: Network) -> jax.Array:
        logits = network(images, training=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

    optimizer.update(network, nnx.grad(loss)(network))


@nnx.jit
def classes(network: Network, images: jax.Array) -> jax.Array:
    return network(images, training=False).argmax(-1)


def convolutional(lessons: dict[int, Arrays], test: Arrays) -> Iterator[dict[str, Any]]:
    """Test accuracy of the network after each lesson; the images of a lesson by the number of dashes."""
    network, rng = Network(nnx.Rngs(0)), np.random.default_rng(0)
    steps = sum(images // BATCH * epochs for _, images, epochs in LESSONS)
    schedule = optax.warmup_cosine_decay_schedule(0, 2e-3, 100, steps, 1e-5)
    optimizer = nnx.Optimizer(network, optax.adamw(schedule, weight_decay=1e-3), wrt=nnx.Param)
    began = time.perf_counter()
    for dashes, count, epochs in LESSONS:
        inputs, targets = lessons[dashes]["inputs"], lessons[dashes]["targets"]
        for _ in range(epochs):
            for rows in rng.permutation(count)[: count // BATCH * BATCH].reshape(-1, BATCH):
                # A turned or mirrored image has the same label.
                images = np.rot90(inputs[rows], rng.integers(4), (1, 2))[:, :: rng.choice([1, -1])]
                step(network, optimizer, np.ascontiguousarray(images), targets[rows])
        found = [classes(network, part) for part in np.array_split(test["inputs"], 20)]
        yield {
            "what": f"convolutional network, lesson of {dashes} dashes",
            "accuracy": float(np.mean(np.concatenate(found) == test["targets"])),
            "seconds": time.perf_counter() - began,
        }


def rows() -> Iterator[dict[str, Any]]:
    yield from speeds()
    with computed.workers() as pool:
        test = computed.compute(pool, functools.partial(shown, 14), "test", TESTED)
        lessons = {
            dashes: computed.compute(pool, functools.partial(shown, dashes), "train", images)
            for dashes, images, _ in LESSONS
        }
    share = float(test["targets"].mean())
    yield {"what": "the more frequent class", "accuracy": max(share, 1 - share)}
    views = {
        "counts of pixels": lambda part: counts(part["inputs"]),
        "distance of the dots": lambda part: distance(part["dots"]),
        "places of the dots": lambda part: part["dots"],
        "pixels": lambda part: part["inputs"].reshape(len(part["inputs"]), -1),
    }
    for what, view in views.items():
        yield {"what": f"logistic regression on {what}", "accuracy": logistic(view, lessons[14], test)}
    yield from convolutional(lessons, test)


def line(row: dict[str, Any]) -> str:
    numbers = [f"{name} {value:.4g}" for name, value in row.items() if name != "what"]
    return f"{row['what']}: {', '.join(numbers)}"


@style.styled
def draw(file: pathlib.Path) -> None:
    """A picture of the first 8 training images of 32 x 32 and of 128 x 128 pixels, with their labels."""
    figure, axes = style.panels(style.PAGE, 7.8, 4, 4)
    made = [(r, *_pathfinder.generate(0, r, "train", np.arange(8)).values()) for r in (32, 128)]
    shown = [(resolution, *one) for resolution, images, labels in made for one in zip(images, labels)]
    for axis, (resolution, image, label) in zip(axes, shown):
        axis.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axis.set_axis_off()
        axis.set_title(f"{resolution} x {resolution}: {label}, {'joined' if label else 'not joined'}")
    figure.savefig(file, dpi=style.DPI)


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--figure", type=pathlib.Path, help="draw 16 images to this file instead")
    options = arguments.parse_args()
    if options.figure:
        draw(options.figure)
    else:
        report(rows(), line, options.out, lambda found, file: None)


if __name__ == "__main__":
    main()
