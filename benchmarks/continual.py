"""Continual learning: permuted MNIST one task after the other, by any cell, with replay or without.

python -m tasks.prepare smnist
python -m benchmarks.continual --cell miru2 lru bmru --replay on off --seeds 3 --out results/continual_mnist.json

The protocol is M2RU's (arXiv 2512.17299), of domain-incremental learning: each task has the same images and the same
ten classes, and the pixels in a fixed random order of its own, which is that of `psmnist` with the task's number as
`permutation_seed`. One network, with one head, is never told which task it is. It reads a row of 28 pixels a step, 28
steps an image (of the 8 x 8 digits of scikit-learn, `--set digits`, a row of 8, 8 steps), and answers after the last.

The network has one block of each cell that is named, without MLP. A step of Adam is of 32 new examples and, with
replay, of 32 from a reservoir, which holds each example seen so far with the same probability. The learning of a task
is one program, a scan over its steps, that works on images which stay on the device. Learning rates are chosen with
`--split validation`; what is reported is of the test split.
"""

from __future__ import annotations

import functools
import itertools
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

import mru
from benchmarks import accuracy_matrix
from benchmarks.domains import NEW, SETS, Domains, domains, stream
from benchmarks.measure import parser, positive, report, whole
from mru.plots import style
from mru.training import alignment, schedules
from mru.training.optimizer import sparsified
from mru.training.task import MissingData, ModelInputs

NOISE = 0.02  # of writing matrices of few bits


class Way(NamedTuple):
    """How it is learned.

    Attributes:
        aligned: By feedback alignment instead of backpropagation.
        keep: Share of each gradient that is used; None for the gradient as it is, which is not sorted then.
        replay: With examples from the reservoir.
        bits: Bits of the matrices; None for full precision.
    """

    aligned: bool = False
    keep: float | None = None
    replay: bool = True
    bits: int | None = None


class Learner(NamedTuple):
    """A network and how it learns.

    Attributes:
        start: From a seed to what learning starts with.
        run: From that, the domains and the steps of one task to what it is after them; compiled.
        accuracies: From that and the domains to the accuracy on each task, float32 (tasks,); compiled.
    """

    start: Callable[[int], Any]
    run: Callable[[Any, Domains, dict[str, Any]], Any]
    accuracies: Callable[[Any, Domains], Array]


def learner(model: Callable[[int], mru.SequenceModel], way: Way, rate: float, steps: int) -> Learner:
    """The programs that learn and test, which are compiled once for all seeds.

    Args:
        model: From a seed to the network.
        way: How it is learned.
        rate: Learning rate of Adam.
        steps: Steps of all tasks together, over which the scalars move that a cell schedules.
    """
    graphdef, _, rest = nnx.split(nnx.eval_shape(lambda: model(0)), nnx.Param, ...)
    ramps = schedules.ramps(rest, {})
    before = [] if way.keep is None else [sparsified(way.keep)]
    transform = optax.chain(*before, optax.adam(rate))

    def start(seed: int) -> Any:
        _, params, rest = nnx.split(model(seed), nnx.Param, ...)
        return params, rest, transform.init(params), jnp.int32(0), jax.random.key(seed)

    def written(rest: Any, number: Array, key: Array | None, params: Any) -> mru.SequenceModel:
        if way.bits is not None:
            params = mru.quantized(params, way.bits, noise=NOISE if key is not None else 0.0, key=key)
        return nnx.merge(graphdef, params, schedules.set_to(rest, ramps, number, steps))

    def step(domains: Domains, carry: Any, batch: dict[str, Array]) -> tuple[Any, None]:
        params, rest, optimizer, number, key = carry
        inputs = domains.shown(domains.train.images[batch["row"]], batch["task"])
        targets = domains.train.classes[batch["row"]]
        model_of = functools.partial(written, rest, number, jax.random.fold_in(key, number))
        found = gradient(way, model_of, params, inputs, targets, batch["weights"], key)
        updates, optimizer = transform.update(found, optimizer)
        return (optax.apply_updates(params, updates), rest, optimizer, number + 1, key), None

    def run(carry: Any, domains: Domains, batches: dict[str, Array]) -> Any:
        return jax.lax.scan(functools.partial(step, domains), carry, batches)[0]

    def accuracies(carry: Any, domains: Domains) -> Array:
        params, rest, _, number, _ = carry
        images, classes = domains.held_out

        def accuracy(task: Array) -> Array:
            shown = domains.shown(images, jnp.full(len(images), task))
            return jnp.mean(written(rest, number, None, params)(shown)[0].argmax(-1) == classes)

        return jax.lax.map(accuracy, jnp.arange(len(domains.orders)))

    return Learner(start, jax.jit(run, donate_argnums=0), jax.jit(accuracies))


def gradient(
    way: Way,
    model_of: Callable[[Any], mru.SequenceModel],
    params: Any,
    inputs: Array,
    targets: Array,
    weights: Array,
    key: Array,
) -> Any:
    """The gradient of the weighted cross-entropy in the parameters, or what feedback alignment has in its place.

    Args:
        way: How it is learned.
        model_of: From parameters to the network.
        params: The parameters.
        inputs: Images (n, side, side).
        targets: Classes (n,).
        weights: Part of each example in the loss, (n,).
        key: Key of the random matrices of feedback alignment.
    """

    def loss_of(logits: Array) -> tuple[Array, None]:
        return jnp.sum(optax.softmax_cross_entropy_with_integer_labels(logits, targets) * weights), None

    def outputs_of(model: Any, capture: dict[str, Array] | None = None) -> Array:
        return model(inputs, capture=capture)[0]

    if way.aligned:
        return alignment.value_and_grad(model_of, outputs_of, loss_of, ModelInputs(inputs), key)(params)[1]
    return jax.grad(lambda params: loss_of(outputs_of(model_of(params)))[0])(params)


def learned(learner: Learner, seed: int, domains: Domains, batches: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """The matrix of accuracies to 4 digits, and the scores of it.

    Args:
        learner: The network.
        seed: What it starts from.
        domains: The tasks.
        batches: The steps of each task.
    """
    carry, matrix = learner.start(seed), []
    for steps in batches:
        carry = learner.run(carry, domains, steps)
        matrix.append([round(float(x), 4) for x in learner.accuracies(carry, domains)])
    return {"accuracy": matrix, **accuracy_matrix.scores(np.array(matrix))}


def network(cells: str, side: int, width: int, state_size: int) -> Callable[[int], mru.SequenceModel]:
    """From a seed to the network that reads images of `side` pixels a row."""
    return lambda seed: mru.SequenceModel(
        side, 10, cells=cells, width=width, state_size=state_size, expansion=0, pooling="last", rngs=nnx.Rngs(seed)
    )


def rows(given: Any, domains: Domains) -> Iterator[dict[str, Any]]:
    """Each cell, with and without replay, from each seed.

    Args:
        given: The arguments of the command line.
        domains: The tasks.
    """
    examples = len(domains.train.classes)
    per_task = given.epochs * (examples // NEW)
    for cells, replay in itertools.product(given.cell, given.replay):
        model = network(cells, domains.side, given.width, given.state_size)
        params = nnx.state(nnx.eval_shape(lambda model=model: model(0)), nnx.Param)
        programs = learner(model, Way(replay=replay == "on"), given.rate, given.tasks * per_task)
        for seed in range(given.seeds):
            began = time.perf_counter()
            batches = stream(seed, examples, given.tasks, given.epochs, given.reservoir, replay == "on")
            yield {
                "cells": cells,
                "replay": replay == "on",
                "reservoir": given.reservoir,
                "seed": seed,
                **{name: getattr(given, name) for name in ("set", "split", "rate", "width", "state_size", "epochs")},
                "examples": examples,
                "steps_per_task": per_task,
                "parameters": sum(x.size for x in jax.tree.leaves(params)),
                **learned(programs, seed, domains, batches),
                "seconds": round(time.perf_counter() - began, 1),
            }


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    return (
        f"{row['cells']:12} {'replay' if row['replay'] else 'no replay':9} seed {row['seed']}: average accuracy "
        f"{row['average_accuracy']:.3f}, forgetting {row['forgetting']:.3f}, backward transfer "
        f"{row['backward_transfer']:.3f}, {row['seconds']:.0f} s"
    )


@style.styled
def draw(found: list[dict[str, Any]], out: pathlib.Path) -> None:
    """The matrix of accuracies of each cell (columns) with replay and without (rows), as mean of the seeds."""
    cells = list(dict.fromkeys(row["cells"] for row in found))
    replays = list(dict.fromkeys(row["replay"] for row in found))
    side = 0.5 + max(1.4, 0.28 * len(found[0]["accuracy"]))
    figure, axes = style.panels(side * len(cells) + 0.2, (side + 0.35) * len(replays), len(replays), len(cells))
    for axis, (replay, name) in zip(axes, itertools.product(replays, cells), strict=True):
        here = [row for row in found if row["cells"] == name and row["replay"] == replay]
        accuracy_matrix.draw(axis, np.mean([row["accuracy"] for row in here], 0))
        average, lost = (np.mean([row[score] for row in here]) for score in ("average_accuracy", "forgetting"))
        title = f"{name}, {'replay' if replay else 'no replay'}\naverage {average:.3f}, forgotten {lost:.3f}"
        axis.set(title=title, xlabel="accuracy on task", ylabel="after task")
        axis.label_outer()
    style.save(figure, out.parent, out.stem)


def main() -> None:
    """The command line."""
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--set", choices=SETS, default="mnist", help="the images")
    arguments.add_argument("--data_dir", help="where they were prepared; $TFDS_DATA_DIR if not given")
    arguments.add_argument(
        "--cell", nargs="+", default=["miru2"], help="networks: cells, one a block, as lru or lru,pmru"
    )
    arguments.add_argument(
        "--replay", nargs="+", choices=["on", "off"], default=["on"], help="learn from the reservoir"
    )
    arguments.add_argument("--split", choices=["validation", "test"], default="test", help="what accuracies are of")
    arguments.add_argument("--rate", type=positive, default=1e-3, help="learning rate of Adam")
    for name, default, least, meaning in (
        ("tasks", 5, 2, "tasks in sequence"),
        ("reservoir", 2000, 1, "examples that the reservoir holds"),
        ("seeds", 1, 1, "seeds of each network"),
        ("epochs", None, 1, "times that the examples of a task are seen; 1 of MNIST, 6 of the digits"),
        ("examples", None, NEW, "training examples of each task; all if not given"),
        ("width", 128, 1, "width of the network"),
        ("state_size", 100, 1, "channels of the state of each cell"),
    ):
        arguments.add_argument(f"--{name}", type=whole(least), default=default, help=meaning)
    given = arguments.parse_args()
    given.epochs = given.epochs or SETS[given.set].epochs
    try:
        tasks = domains(given.set, given.tasks, given.split, given.data_dir, given.examples)
        for cells in given.cell:
            nnx.eval_shape(lambda cells=cells: network(cells, tasks.side, given.width, given.state_size)(0))
    except (MissingData, ValueError) as error:
        arguments.error(str(error))
    report(rows(given, tasks), line, given.out, draw)


if __name__ == "__main__":
    main()
