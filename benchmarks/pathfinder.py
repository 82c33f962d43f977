"""Pathfinder: how fast images are made, whether their label is in anything simple, and a picture of 16 of them.

python -m benchmarks.pathfinder --out results/pathfinder.json [--images 100000 --epochs 12]
python -m benchmarks.pathfinder --figure results/figures/pathfinder.png

Logistic regressions see what a label must not be in: counts of pixels by grey level, how far the dots are from each
other, where they are, and the pixels, each by itself. A small convolutional network sees the image. The network learns
from training images of 32 x 32 pixels, the regressions from the first 20,000 of these; all are measured on 5,000 test
images. Images are timed with two processes.
"""

from __future__ import annotations

import functools
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.measure import parser, report
from mru.plots import style
from tasks import _pathfinder
from tasks._datasets import computed

FEW, TESTED, TIMED = 20000, 5000, 10000
Arrays = dict[str, np.ndarray]


def shown(split: str, indices: np.ndarray) -> Arrays:
    """Images of 32 x 32 pixels, their labels, and the places of the left and the right dot, float64 `(n, 4)`."""
    scenes = _pathfinder.scenes(0, 32, split, indices)
    dots = np.stack([scene.dots[np.argsort(scene.dots[:, 0])] for scene in scenes])
    targets = np.array([scene.joined for scene in scenes], np.int32)
    return {
        "inputs": _pathfinder.paint(scenes, _pathfinder.DRAWINGS[32]),
        "targets": targets,
        "dots": dots.reshape(-1, 4),
    }


def speeds() -> Iterator[dict[str, Any]]:
    """Seconds for images of each resolution, the start of the processes included."""
    for resolution in _pathfinder.DRAWINGS:
        generate = functools.partial(_pathfinder.generate, 0, resolution)
        began = time.perf_counter()
        with computed.workers(2) as pool:
            computed.compute(pool, generate, "train", TIMED)
        yield {"what": f"{TIMED:,} images of {resolution} x {resolution}", "seconds": time.perf_counter() - began}


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
    """Residual convolutions of 3 x 3 pixels at 32 x 32, 16 x 16 and 8 x 8 pixels, with batch norm."""

    def __init__(self, rngs: nnx.Rngs, widths: tuple[int, ...] = (32, 64, 128), depth: int = 4):
        shapes = [(1 if i == 0 else widths[i - 1], width, depth) for i, width in enumerate(widths)]
        pairs = [[(before, width)] + [(width, width)] * (depth - 1) for before, width, depth in shapes]
        self.stages = nnx.List(
            [nnx.List([nnx.Conv(a, b, (3, 3), use_bias=False, rngs=rngs) for a, b in stage]) for stage in pairs]
        )
        self.norms = nnx.List([nnx.List([nnx.BatchNorm(b, rngs=rngs) for _, b in stage]) for stage in pairs])
        self.head = nnx.Linear(widths[-1], 2, rngs=rngs)

    def __call__(self, x: jax.Array, training: bool) -> jax.Array:
        """Logits `(B, 2)` of images `(B, 32, 32, 1)`."""
        for i, (stage, norms) in enumerate(zip(self.stages, self.norms)):
            x = nnx.max_pool(x, (2, 2), (2, 2)) if i else x
            for convolution, norm in zip(stage, norms):
                y = nnx.relu(norm(convolution(x), use_running_average=not training))
                x = x + y if x.shape == y.shape else y
        return self.head(x.max((1, 2)))


@nnx.jit
def step(network: Network, optimizer: nnx.Optimizer, images: jax.Array, targets: jax.Array, turns: int) -> None:
    """One step; a turned image has the same label."""
    images = jax.lax.switch(turns, [functools.partial(jnp.rot90, k=k, axes=(1, 2)) for k in range(4)], images)

    def loss(network: Network) -> jax.Array:
        logits = network(images[..., None] / 255, training=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

    optimizer.update(network, nnx.grad(loss)(network))


@nnx.jit
def classes(network: Network, images: jax.Array) -> jax.Array:
    return network(images[..., None] / 255, training=False).argmax(-1)


def convolutional(train: Arrays, test: Arrays, epochs: int, batch: int = 100) -> float:
    """Test accuracy of the network, after its last step."""
    network, count = Network(nnx.Rngs(0)), len(train["targets"])
    schedule = optax.cosine_onecycle_schedule(epochs * (count // batch), 3e-3)
    optimizer = nnx.Optimizer(network, optax.adamw(schedule, weight_decay=0.01), wrt=nnx.Param)
    rng = np.random.default_rng(0)
    for _ in range(epochs):
        for rows in rng.permutation(count)[: count // batch * batch].reshape(-1, batch):
            step(network, optimizer, train["inputs"][rows], train["targets"][rows], rng.integers(4))
    found = [classes(network, part) for part in np.array_split(test["inputs"], max(1, len(test["inputs"]) // 500))]
    return float(np.mean(np.concatenate(found) == test["targets"]))


def rows(images: int, epochs: int) -> Iterator[dict[str, Any]]:
    yield from speeds()
    with computed.workers() as pool:
        train = computed.compute(pool, shown, "train", images)
        test = computed.compute(pool, shown, "test", TESTED)
    share = float(test["targets"].mean())
    yield {"what": "the more frequent class", "accuracy": max(share, 1 - share)}
    views = {
        "counts of pixels": lambda part: counts(part["inputs"]),
        "distance of the dots": lambda part: distance(part["dots"]),
        "places of the dots": lambda part: part["dots"],
        "pixels": lambda part: part["inputs"].reshape(len(part["inputs"]), -1),
    }
    few = {name: array[:FEW] for name, array in train.items()}
    for what, view in views.items():
        yield {"what": f"logistic regression on {what}", "accuracy": logistic(view, few, test)}
    began = time.perf_counter()
    accuracy = convolutional(train, test, epochs)
    seconds = time.perf_counter() - began
    about = {"images": images, "epochs": epochs, "seconds": seconds}
    yield {"what": "convolutional network", "accuracy": accuracy, **about}


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
    arguments.add_argument("--images", type=int, default=100000, help="training images of the classifiers")
    arguments.add_argument("--epochs", type=int, default=12, help="of the convolutional network")
    arguments.add_argument("--figure", type=pathlib.Path, help="draw 16 images to this file instead")
    options = arguments.parse_args()
    if options.figure:
        draw(options.figure)
    else:
        report(rows(options.images, options.epochs), line, options.out, lambda found, file: None)


if __name__ == "__main__":
    main()
