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

import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.continual import Way, learned, learner, network
from benchmarks.domains import NEW, SETS, domains, stream
from benchmarks.measure import parser, report
from mru.plots import style
from mru.training import alignment

TASKS, EPOCHS, RESERVOIR = 5, SETS["digits"].epochs, 500
WAYS = {
    "backpropagation": Way(),
    "alignment": Way(True, alignment.KEEP),
    "alignment, dense": Way(True, 1.0),
    "alignment, 4 bits": Way(True, alignment.KEEP, bits=4),
    "backpropagation, no replay": Way(replay=False),
    "alignment, no replay": Way(True, alignment.KEEP, replay=False),
}
# By whether it is feedback alignment.
RATES = {False: 1e-3, True: 1e-2}


def rows(ways: list[str], seeds: int, rate: float | None, split: str) -> Iterator[dict[str, Any]]:
    """Each way and seed: the accuracy on task j after task i, and the scores of that matrix."""
    tasks = domains("digits", TASKS, split)
    examples = len(tasks.train.classes)
    for name in ways:
        way = WAYS[name]
        used = rate or RATES[way.aligned]
        programs = learner(network("miru2", tasks.side, 64, 100), way, used, TASKS * EPOCHS * (examples // NEW))
        for seed in range(seeds):
            batches = stream(seed, examples, TASKS, EPOCHS, RESERVOIR, way.replay)
            about = {"way": name, "seed": seed, "split": split, "rate": used}
            yield about | learned(programs, seed, tasks, batches)


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
