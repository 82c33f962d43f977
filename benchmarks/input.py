"""What the input pipeline costs: training steps a second with it, and with one batch that lies on the device already.

python -m benchmarks.input --data_dir DIR --out results/benchmarks/input-gpu.json [--task NAME ...] [--model.width 64]

Steps are those of train.py: as many in one call, batches made ahead in its threads, the metrics of a call fetched while
the next one runs. The share of the input is the median of 1 - b / a, of seconds a with the pipeline and b without,
timed in turn: a host is now and then slower for seconds on end, which falls on both. Beside it stands what the pipeline
makes alone. The model is four blocks of BMRU of width 128, which is fast and so the harder on the pipeline; on a CPU it
is one of width 8. Options of train.py change it. A task whose data set is not prepared is named so; where it can, it
computes its examples.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import pathlib
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

import tasks
from benchmarks.measure import parser, report, start
from mru.plots import style
from mru.training import MissingData, devices
from mru.training.batches import train_batches
from mru.training.command_line import parse
from mru.training.config import Config
from mru.training.messages import UserError, error_line
from mru.training.trainer import Trainer
from tasks._computed import Computed

MODELS = {
    "gpu": ["--model.cells", "bmru,bmru,bmru,bmru", "--model.width", "128", "--model.state_size", "128"],
    "cpu": ["--model.cells", "bmru", "--model.width", "8", "--model.state_size", "8", "--model.expansion", "0"],
}
# Customary ones; those of tasks that are not named are of 64 examples.
BATCHES = {
    "copy_first": 32, "denoising": 50, "adding": 50, "evidence": 32, "selective_copy": 32,
    "smnist": 100, "psmnist": 100, "fashion_mnist": 100, "permuted_fashion_mnist": 100, "scifar": 50, "image": 50,
    "listops": 50, "text": 32, "retrieval": 32, "path_x": 16,
    "fsdd": 32, "speech_commands": 16, "speech_commands_16k": 16, "shakespeare": 32,
}  # fmt: skip
# Steps a second that the pipeline alone is to make on two cores: of (100, 784) pixels and of (50, 2000) tokens.
WANTED = {"psmnist": 1000, "listops": 300}
MOST = 0.05  # of the time of a step may go to the input
_AHEAD = 4  # elements that may be ready when the clock starts, and are therefore not timed: more than are made ahead


def config_for(name: str, data_dir: str | None, argv: list[str]) -> Config:
    """The config of a task."""
    options = {field.name for field in dataclasses.fields(tasks.get(name))}  # type: ignore[arg-type]
    where = ["--task.data_dir", data_dir] if data_dir and "data_dir" in options else []
    batch = ["--train.batch_size", str(BATCHES.get(name, 64))]
    return parse(["--task.name", name, *where, *batch, *argv], tasks.REGISTRY)


def is_prepared(task: Any) -> bool:
    """Whether no example is computed that a prepared set would hold."""
    return not isinstance(task, Computed) or task.arrays is not None


def stream(config: Config, **options: Any) -> contextlib.closing[Any]:
    """The batches that train.py asks for; more options are those of `train_batches`."""
    of = config.train
    return contextlib.closing(
        train_batches(config.task, batch_size=of.batch_size, seed=of.seed, steps_per_batch=of.dispatch(), **options)
    )


class Steps:
    """The training steps of a config, which go on from one timing to the next."""

    def __init__(self, config: Config):
        self.config, self.trainer = config, Trainer(config, devices.make_mesh(config.mesh, config.train.batch_size))
        self.state = self.trainer.initial()
        with stream(config) as batches:
            self.cached = self.trainer.place(next(batches), 1)
        self.program = self.trainer.compile(self.state, self.cached)

    def _run(self, batches: Iterator[dict[str, jax.Array]], count: int) -> None:
        """So many calls, the metrics of each fetched while the next one runs."""
        before: Any = {}
        for batch in itertools.islice(batches, count):
            self.state, metrics = self.program(self.state, batch)
            jax.device_get(before)
            before = metrics
        jax.block_until_ready(self.state)

    def _clock(self, batches: Iterator[dict[str, jax.Array]], count: int) -> float:
        """Seconds of one of so many calls, after some that are not timed."""
        self._run(batches, _AHEAD)
        began = time.perf_counter()
        self._run(batches, count)
        return (time.perf_counter() - began) / count

    def with_input(self, count: int) -> float:
        """Seconds of a call whose batch comes from the pipeline."""
        with stream(self.config, place=functools.partial(self.trainer.place, axis=1)) as batches:
            return self._clock(batches, count)

    def without(self, count: int) -> float:
        """Seconds of a call on the one batch that is on the device."""
        return self._clock(itertools.repeat(self.cached), count)


def alone(config: Config, seconds: float) -> float:
    """Steps a second of the pipeline, when nothing else is done."""
    with stream(config) as batches:
        for _ in range(_AHEAD):
            next(batches)
        began, made = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            next(batches)
            made += config.train.dispatch()
        return made / (time.perf_counter() - began)


def measured(config: Config, repeats: int, seconds: float) -> dict[str, Any]:
    """The row of a task."""
    batch, dispatch = config.train.batch_size, config.train.dispatch()
    steps = Steps(config)
    count = max(4, round(seconds / steps.without(3)))
    times: dict[Callable[[int], float], list[float]] = {steps.with_input: [], steps.without: []}
    for _ in range(repeats):
        for clock, held in times.items():
            held.append(clock(count) / dispatch)
    a, b = (statistics.median(held) for held in times.values())
    shares = [1 - without / given for given, without in zip(*times.values(), strict=True)]
    rate = alone(config, seconds)
    return {
        "length": config.task.length, "batch": batch, "steps_per_call": dispatch, "prepared": is_prepared(config.task),
        "steps_per_second": 1 / a, "cached_steps_per_second": 1 / b, "share_of_input": statistics.median(shares),
        "pipeline_steps_per_second": rate, "pipeline_examples_per_second": rate * batch,
        "seconds_with_input": times[steps.with_input], "seconds_cached": times[steps.without],
    }  # fmt: skip


def rows(
    names: list[str], data_dir: str | None, argv: list[str], repeats: int, seconds: float
) -> Iterator[dict[str, Any]]:
    """Each task in turn; of one whose data is absent, what is missing."""
    for name in names:
        try:
            yield {"task": name, **measured(config_for(name, data_dir, argv), repeats, seconds)}
        except MissingData as error:
            yield {"task": name, "missing": str(error)}
        jax.clear_caches()


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    if "missing" in row:
        return f"{row['task']:22} not measured: {row['missing']}"
    wanted = WANTED.get(row["task"])
    asked = f"  ({wanted:,} wanted)" if wanted else ""
    return (
        f"{row['task']:22} {row['batch']:5} {row['length']:7,} {row['steps_per_second']:9.1f} "
        f"{row['cached_steps_per_second']:9.1f} {100 * row['share_of_input']:6.1f} % "
        f"{row['pipeline_steps_per_second']:10,.0f} {row['pipeline_examples_per_second']:12,.0f}"
        f"{asked}{'' if row['prepared'] else '  computed, as the set is not prepared'}"
    )


@style.styled
def draw(found: list[dict[str, Any]], out: pathlib.Path) -> None:
    """The share of the input, and the rates of the pipeline and of the training that it has to be faster than."""
    found = [row for row in found if "missing" not in row]
    if not found:
        return
    names, places = [row["task"] for row in found], range(len(found))
    figure, (left, right) = style.panels(style.PAGE, 1.2 + 0.17 * len(found), columns=2, sharey=True)
    left.barh(places, [100 * row["share_of_input"] for row in found], 0.6, color=style.SKY)
    left.axvline(100 * MOST, color=style.GREY, linestyle=":", linewidth=1)
    left.set(xlabel="share of a step that the input takes (%)", yticks=places, yticklabels=names)
    left.margins(y=0.02)
    left.invert_yaxis()
    for key, label, marker, colour in (
        ("cached_steps_per_second", "training, batch on the device", "s", style.VERMILLION),
        ("pipeline_steps_per_second", "pipeline alone", "o", style.BLUE),
    ):
        right.plot([row[key] for row in found], places, marker, color=colour, label=label)
    right.grid(axis="y", linewidth=0.3)
    right.set(xlabel="steps a second")
    style.logarithmic(right, "x")
    style.legend_below(figure, right)
    style.save(figure, out.parent, out.stem)


def main() -> None:
    """The command line; what it does not know is that of train.py."""
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument(
        "--task", nargs="+", choices=tasks.names(), metavar="NAME", help="tasks; all if none is named"
    )
    arguments.add_argument("--data_dir", help="where data sets are prepared")
    arguments.add_argument("--repeats", type=int, default=5, help="timings of each kind")
    arguments.add_argument("--seconds", type=float, default=2.0, help="about how long one takes")
    given, argv = arguments.parse_known_args()
    argv = [*MODELS["cpu" if start() == "cpu" else "gpu"], *argv]
    names = given.task or [name for name in tasks.names() if name != "npz"]  # which is what its file is
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, batches made ahead in 2 threads")
    print(
        f"{'task':22} {'batch':>5} {'T':>7} {'steps/s':>9} {'cached':>9} {'input':>8} "
        f"{'pipeline':>10} {'examples/s':>12}"
    )
    measured_rows = functools.partial(rows, names, given.data_dir, argv, given.repeats, given.seconds)
    try:
        report(measured_rows(), line, given.out, draw)
    except UserError as error:
        raise SystemExit(error_line(error)) from None


if __name__ == "__main__":
    main()
