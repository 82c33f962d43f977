"""Continual learning of permuted digits by a MiRU: feedback alignment beside backpropagation through time.

python -m benchmarks.continual_digits --out results/continual_digits.json

M2RU's protocol (arXiv 2512.17299) on the small digits: five tasks one after the other, the digits with the pixels in
five fixed orders; one network that is never told which task it is; and replay from a reservoir of a few examples of all
that was seen. M2RU reads a row of 28 pixels a step; here it is a row of 8, 8 steps a digit.

The network is the cell `miru2` of 100 channels in one block of width 64, without MLP, read after the last step. A step
is of 32 new examples and, with replay, of 32 from a reservoir of 500, which holds each example seen so far with the
same probability. The ways to learn: "backpropagation" through time; "alignment", which uses the 43 % of every gradient
that M2RU does; "alignment, dense", which uses all of it; "alignment, 4 bits", whose matrices have 4 bits, written with
an error of 2 % of their range; and two of them without replay. Learning rates (of Adam, from 0.0005 to 0.01, with one
seed) were chosen on validation; the accuracies are those of the test split.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

import mru
from benchmarks.measure import parser, report
from mru.plots import style
from mru.training import alignment
from mru.training.optimizer import sparsified
from mru.training.task import ModelInputs
from tasks.digits import Digits

TASKS, EPOCHS, NEW, RESERVOIR = 5, 6, 32, 500


class Way(NamedTuple):
    """How it is learned.

    Attributes:
        aligned: By feedback alignment instead of backpropagation.
        keep: Share of each gradient that is used.
        replay: With examples from the reservoir.
        bits: Bits of the matrices; None for full precision.
    """

    aligned: bool
    keep: float = 1.0
    replay: bool = True
    bits: int | None = None


WAYS = {
    "backpropagation": Way(False),
    "alignment": Way(True, alignment.KEEP),
    "alignment, dense": Way(True),
    "alignment, 4 bits": Way(True, alignment.KEEP, bits=4),
    "backpropagation, no replay": Way(False, replay=False),
    "alignment, no replay": Way(True, alignment.KEEP, replay=False),
}
# By whether it is feedback alignment.
RATES = {False: 1e-3, True: 1e-2}
NOISE = 0.02


def digits(order: int, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The digits of a split with their pixels in one of the orders, (n, 8, 8), and their classes (n,)."""
    task = Digits(permutation_seed=order)
    examples = task.examples(split, np.arange(task.sizes[split]))
    return examples["inputs"].reshape(-1, 8, 8), examples["targets"]


def stream(seed: int, replay: bool) -> Iterator[dict[str, np.ndarray]]:
    """The steps of each task: inputs (steps, 64, 8, 8), targets and weights (steps, 64)."""
    rng = np.random.default_rng(seed)
    kept_x, kept_y, seen = np.zeros((RESERVOIR, 8, 8), np.float32), np.zeros(RESERVOIR, np.int32), 0
    for order in range(TASKS):
        inputs, targets = digits(order, "train")
        steps: list[tuple[np.ndarray, ...]] = []
        for epoch in range(EPOCHS):
            shuffled = rng.permutation(len(inputs))
            for rows in shuffled[: len(inputs) // NEW * NEW].reshape(-1, NEW):
                held = min(seen, RESERVOIR)
                drawn = rng.integers(max(held, 1), size=NEW)
                weight = np.repeat([1.0, float(replay and held > 0)], NEW)
                x, y = np.concatenate([inputs[rows], kept_x[drawn]]), np.concatenate([targets[rows], kept_y[drawn]])
                steps.append((x, y, weight / weight.sum()))
                for row in rows if epoch == 0 else ():
                    # The n-th example is kept with probability RESERVOIR / n, in place of any one.
                    place = seen if seen < RESERVOIR else rng.integers(seen + 1)
                    seen += 1
                    if place < RESERVOIR:
                        kept_x[place], kept_y[place] = inputs[row], targets[row]
        x, y, w = (np.stack(part) for part in zip(*steps, strict=True))
        yield {"inputs": x, "targets": y, "weights": w.astype(np.float32)}


def learner(way: Way, seed: int, rate: float) -> tuple[Callable, Callable, Any]:
    """The compiled learning of one task's steps, the compiled accuracy, and what learning starts with."""
    model = mru.SequenceModel(
        8, 10, cells="miru2", width=64, state_size=100, expansion=0, pooling="last", rngs=nnx.Rngs(seed)
    )
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    transform = optax.chain(sparsified(way.keep), optax.adam(rate))
    key = jax.random.key(seed)

    def written(params: Any, key: Array | None = None) -> Any:
        if way.bits is not None:
            params = mru.quantized(params, way.bits, noise=NOISE if key is not None else 0.0, key=key)
        return nnx.merge(graphdef, params, rest)

    def step(carry: Any, batch: dict[str, Array]) -> tuple[Any, None]:
        params, optimizer, number = carry

        def loss_of(logits: Array) -> tuple[Array, None]:
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["targets"])
            return jnp.sum(losses * batch["weights"]), None

        def outputs_of(model: Any, capture: dict[str, Array] | None = None) -> Array:
            return model(batch["inputs"], capture=capture)[0]

        model_of = functools.partial(written, key=jax.random.fold_in(key, number))
        if way.aligned:
            learn = alignment.value_and_grad(model_of, outputs_of, loss_of, ModelInputs(batch["inputs"]), key)
        else:
            learn = jax.value_and_grad(lambda params: loss_of(outputs_of(model_of(params))), has_aux=True)
        updates, optimizer = transform.update(learn(params)[1], optimizer)
        return (optax.apply_updates(params, updates), optimizer, number + 1), None

    def accuracy(params: Any, x: Array, y: Array) -> Array:
        return jnp.mean(written(params)(x)[0].argmax(-1) == y)

    run = jax.jit(lambda carry, batches: jax.lax.scan(step, carry, batches)[0])
    return run, jax.jit(accuracy), (params, transform.init(params), jnp.int32(0))


def rows(ways: list[str], seeds: int, rate: float | None, split: str) -> Iterator[dict[str, Any]]:
    """Each way and seed: the accuracy on task j after task i, their mean at the end, and what was forgotten by then."""
    held_out = [digits(order, split) for order in range(TASKS)]
    for name in ways:
        for seed in range(seeds):
            way = WAYS[name]
            run, accuracy, carry = learner(way, seed, rate or RATES[way.aligned])
            matrix = []
            for batches in stream(seed, way.replay):
                carry = run(carry, batches)
                matrix.append([round(float(accuracy(carry[0], *task)), 4) for task in held_out])
            found = np.array(matrix)
            yield {
                "way": name,
                "seed": seed,
                "split": split,
                "rate": rate or RATES[way.aligned],
                "accuracy": matrix,
                "average_accuracy": round(float(found[-1].mean()), 4),
                # By how much each task but the last was better once.
                "forgetting": round(float((found.max(0) - found[-1])[:-1].mean()), 4),
            }


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    last = " ".join(f"{x:.3f}" for x in row["accuracy"][-1])
    return (
        f"{row['way']:28} seed {row['seed']}: average accuracy {row['average_accuracy']:.3f}, forgetting "
        f"{row['forgetting']:.3f}; of each task at the end {last}"
    )


@style.styled
def draw(found: list[dict[str, Any]], out: pathlib.Path) -> None:
    """The mean accuracy on the tasks seen so far, after each task; bands from the worst to the best seed."""
    figure, (axis,) = style.panels(style.COLUMN, 3.0)
    for number, name in enumerate(dict.fromkeys(row["way"] for row in found)):
        matrices = np.array([row["accuracy"] for row in found if row["way"] == name])
        so_far = np.stack([matrices[:, i, : i + 1].mean(-1) for i in range(TASKS)], -1)
        tasks = np.arange(1, TASKS + 1)
        look = style.line(number, TASKS)
        axis.plot(tasks, so_far.mean(0), label=name, **look)
        axis.fill_between(tasks, so_far.min(0), so_far.max(0), color=look["color"], alpha=0.15, linewidth=0)
    axis.axhline(0.1, color=style.GREY, linewidth=0.8, linestyle=":")
    axis.text(TASKS, 0.11, "chance", color=style.GREY, fontsize=style.SMALL, ha="right", va="bottom")
    axis.set(xlabel="tasks learned", ylabel="mean test accuracy on them", xticks=range(1, TASKS + 1), ylim=(0, 1))
    style.legend_below(figure, axis)
    style.save(figure, out.parent, out.stem)


def main() -> None:
    """The command line."""
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="which; all if not given")
    arguments.add_argument("--seeds", type=int, default=2, help="seeds of each way")
    arguments.add_argument("--rate", type=float, help="learning rate of Adam; if not given, that of the way")
    arguments.add_argument("--split", choices=["validation", "test"], default="test", help="what accuracies are of")
    given = arguments.parse_args()
    report(rows(given.ways, given.seeds, given.rate, given.split), line, given.out, draw)


if __name__ == "__main__":
    main()
