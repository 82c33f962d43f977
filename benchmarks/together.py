"""Train runs side by side in one program: those that differ in their seed and their learning rate alone.

Each of them is the run that `train.py` does with these values, to rounding: the trainer's own step under `jax.vmap`, on
the examples of the run's seed, with its dropout, its schedule, and its own best step on validation. A small model
leaves most of a device idle, which takes the steps of many of them in little more time than those of one.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mru.training import means, streaming
from mru.training.batches import evaluation_batches, train_batches
from mru.training.config import Config
from mru.training.devices import compiled
from mru.training.estimate import RETENTION_ROWS
from mru.training.log import require_finite
from mru.training.messages import RunFailed, UserError, compiling, say
from mru.training.progress import Clock, Progress
from mru.training.seed_and_rate import SeedAndRate
from mru.training.task import Task
from mru.training.trainer import Evaluated, Trainer, TrainState


@dataclasses.dataclass
class Standing:
    """How far one of the runs has come.

    Attributes:
        progress: Its best step, and its evaluations.
        step: The last evaluation at which all was finite: that of its state in `Together.last`.
        failed: What was not finite then, in words; None if nothing was. The best step is one before.
    """

    progress: Progress
    step: int = 0
    failed: str | None = None


class Evaluation(NamedTuple):
    """What came of some steps and of the evaluation after them.

    Attributes:
        step: The step of the evaluation.
        metrics: Of each run and step since the evaluation before, (runs, steps) by name.
        found: Of each run: its metrics on validation and what its layers did there; None if it was not evaluated, as it
            has failed or stopped, or its schedules have not arrived.
    """

    step: int
    metrics: dict[str, np.ndarray]
    found: list[tuple[dict[str, float], dict[str, float]] | None]


def alike(config: Config) -> str | None:
    """A text that is the same for runs that can be trained side by side; None for one that can not be with any.

    Such are runs that begin with another's parameters or with steps of multistability, need several devices, or have
    buckets, of which each seed may be in another.
    """
    mesh = config.mesh
    devices = mesh.seq * mesh.model * max(mesh.data, 1)
    if config.init_from is not None or config.multistability.steps or devices > 1 or config.train.buckets > 1:
        return None
    content = copy.deepcopy(config.resolved)
    del content["train"]["seed"], content["optimizer"]["lr"], content["workdir"]
    return json.dumps(content, sort_keys=True)


class Together:
    """Some runs in one program, on the first device.

    Attributes:
        trainer: That of the first run; what it is given says of which run it computes.
        standings: How far each run has come.
        best: The states of the runs, each at its best step so far; arrays have a first axis over runs.
        last: The states at the last step of each, or at the last evaluation before one failed.
    """

    def __init__(self, configs: Sequence[Config]):
        """Prepare the runs.

        Raises:
            UserError: They differ in more than seed and learning rate, or can not be trained so.
        """
        kinds = {alike(config) for config in configs}
        if len(kinds) != 1 or None in kinds:
            raise UserError(
                "runs side by side, allowed: those that differ in train.seed, optimizer.lr and workdir alone, on one "
                "device, without init_from, multistability and buckets"
            )
        axes = ("data", "seq", "model")
        mesh = jax.make_mesh((1, 1, 1), axes, (jax.sharding.AxisType.Auto,) * 3, devices=jax.devices()[:1])
        self.trainer = Trainer(configs[0], mesh)
        seeds = [config.train.seed for config in configs]
        self.seeds = list(dict.fromkeys(seeds))
        self.keys = [jax.random.key(seed) for seed in self.seeds]
        self.seed_of = jnp.array([self.seeds.index(seed) for seed in seeds])
        self.own = SeedAndRate(jnp.stack(self.keys)[self.seed_of], jnp.array([c.optimizer.lr for c in configs]))
        self.standings = [Standing(Progress(steps=config.train.steps)) for config in configs]
        self.best: TrainState
        self.last: TrainState
        self._evaluated = jax.jit(jax.vmap(self.trainer.evaluated, (0, 0, None)))
        self._carried = jax.jit(jax.vmap(self.trainer.carried, (0, 0, None, 0, None)))

    def initial(self) -> TrainState:
        """The states before the first step."""
        draw = jax.jit(self.trainer.drawn)
        drawn = [draw(key) for key in self.keys]
        return jax.tree.map(lambda *x: jnp.stack(x)[self.seed_of], *drawn)

    def steps(self, own: SeedAndRate, states: TrainState, batches: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        """Several steps of all runs, from batches (K, seeds, B, ...): the states and the metrics (K, runs)."""

        def step(states: TrainState, batch: Any) -> tuple[TrainState, dict[str, jax.Array]]:
            return jax.vmap(self.trainer.step)(own, states, jax.tree.map(lambda x: x[self.seed_of], batch))

        return jax.lax.scan(step, states, batches)

    def _batches(self, dispatch: int) -> Iterator[dict[str, np.ndarray]]:
        """Batches (K, seeds, B, ...): those of a seed are for all runs that have it."""
        train = self.trainer.config.train
        with contextlib.ExitStack() as exits:
            streams = [
                exits.enter_context(
                    contextlib.closing(
                        train_batches(
                            self.trainer.task, batch_size=train.batch_size, seed=seed, steps_per_batch=dispatch
                        )
                    )
                )
                for seed in self.seeds
            ]
            for parts in zip(*streams, strict=True):
                yield {name: np.stack([part[name] for part in parts], 1) for name in parts[0]}

    def train(self, clock: Clock) -> Iterator[Evaluation]:
        """Train all runs to their ends, and tell of each evaluation, with a line for people.

        A run in which something is not finite has failed: its steps are still taken, and count no more.

        Args:
            clock: It counts the seconds of the train loop and of compiling it, without what is done between two items.
        """
        train, states = self.trainer.config.train, self.initial()
        self.best = self.last = jax.tree.map(jnp.copy, states)  # as the steps take the buffers of what they are given
        dispatch, waiting, metrics = train.dispatch(), list[Any](), list[dict[str, np.ndarray]]()
        with contextlib.closing(self._batches(dispatch)) as batches:
            batch = next(batches)
            with compiling(f"the train step of {len(self.standings)} runs"), clock.compiling():
                lowered = jax.jit(self.steps, donate_argnums=1).lower(self.own, states, batch)
                program = compiled(lowered, self.trainer.mesh)
            clock.start()
            for step in range(dispatch, train.steps + 1, dispatch):
                states, found = program(self.own, states, batch)
                waiting.append(found)
                if step < train.steps:
                    batch = next(batches)
                # The metrics of the call before: the device is never waited for.
                keep = 0 if train.evaluates(step) else 1
                while len(waiting) > keep:
                    metrics.append(jax.device_get(waiting.pop(0)))
                if not train.evaluates(step):
                    continue
                clock.pause()
                joined = {name: np.concatenate([x[name] for x in metrics]).T for name in metrics[0]}
                metrics.clear()
                yield self._judged(step, states, joined, clock)
                if not self._running().any():
                    return
                clock.start()

    def _running(self) -> np.ndarray:
        """Which runs go on, bool (runs,)."""
        train = self.trainer.config.train
        return np.array([s.failed is None and not s.progress.finished(s.step, train) for s in self.standings])

    def _judged(self, step: int, states: TrainState, metrics: dict[str, np.ndarray], clock: Clock) -> Evaluation:
        """Evaluate the states after some steps, and keep those that are the best of their runs."""
        running, task = self._running(), self.trainer.task
        before = step - metrics["loss"].shape[1]
        evaluated = self.evaluate(states, "validation") if step >= self.trainer.settled else None
        found: list[tuple[dict[str, float], dict[str, float]] | None] = [None] * len(running)
        better = np.zeros(len(running), bool)
        for i in np.flatnonzero(running):
            standing = self.standings[i]
            try:
                require_finite({name: x[i] for name, x in metrics.items()}, before)
                if evaluated is not None:
                    found[i] = held = raised(evaluated[i])
                    standing.progress = standing.progress.evaluated(held[0][task.metric], step, task.goal)
                    better[i] = standing.progress.best_step == step
                standing.step = step
            except RunFailed as error:
                standing.failed = str(error)
                running[i] = False
        self.best, self.last = _kept(better, states, self.best), _kept(running, states, self.last)
        self._tell(step, metrics, clock)
        return Evaluation(step, metrics, found)

    def _tell(self, step: int, metrics: dict[str, np.ndarray], clock: Clock) -> None:
        """A line of how the runs stand."""
        best = [s.progress.best for s in self.standings if s.progress.best is not None]
        what = f"best validation {self.trainer.task.metric}" if best else "loss"
        values, steps = np.array(best or metrics["loss"][:, -1]), self.trainer.config.train.steps
        failed = sum(s.failed is not None for s in self.standings)
        say(
            f"step {step:,} of {steps:,}: {what} {values.min():.4g} to {values.max():.4g}, "
            f"median {np.median(values):.4g}, of {len(self.standings)} runs"
            + (f", {failed} of which failed" if failed else "")
            + f"; {step / clock.train:.3g} steps/s"
        )

    def evaluate(self, states: TrainState, split: str) -> list[tuple[dict[str, float], dict[str, float]] | RunFailed]:
        """For each of some runs what `Trainer.evaluate` returns or raises, from one pass over a split."""
        size = self.trainer.config.train.batch_size
        batches = evaluation_batches(self.trainer.task, split, batch_size=size)
        found = jax.device_get([self._evaluated(states.params, states.rest, batch) for batch in batches])
        judge = functools.partial(self.trainer.summed_up, split)
        return [_outcome(judge, taken(found, i)) for i in range(len(states.step))]

    def evaluate_at(
        self, states: TrainState, task: Task, count: int | None = None
    ) -> list[dict[str, float] | RunFailed]:
        """For each of some runs what `Trainer.evaluate_at` returns or raises, from one pass over the examples.

        Args:
            states: Whose parameters to evaluate.
            task: The task at its other length.
            count: Number of test examples, all at once; None for as many as there, some at a time.
        """
        runs, rows, count = len(states.step), count or RETENTION_ROWS, count or streaming.count(task, RETENTION_ROWS)
        add = jax.jit(jax.vmap(functools.partial(streaming.added, task), (0, 0, None)))
        sums: list[list[Evaluated]] = [[] for _ in range(runs)]
        for batch in evaluation_batches(task, "test", batch_size=rows, count=count, prefetch=1):
            chunks = self._chunks(states, task, batch)
            values = jax.device_get(streaming.values_of_chunks(task, chunks, batch, add, _values))
            for i in range(runs):
                sums[i].append(jax.device_get(means.sums(taken(values, i), batch)))
        where = f"test (length {task.length:,})"
        return [_outcome(lambda found: means.mean(found, where), found) for found in sums]

    def _chunks(self, states: TrainState, task: Task, batch: dict[str, Any]) -> Iterator[tuple[slice, jax.Array]]:
        """Where each chunk of the sequences is, and the outputs of all runs there, (runs, rows, C, outputs)."""
        given = self.trainer.whole_inputs(task, batch)
        rows, time = given.inputs.shape[:2]
        first = functools.partial(self.trainer.first_state, rows=rows)
        carried = jax.vmap(first)(states.params, states.rest)
        for here in streaming.slices(time):
            resets = None if given.reset is None else given.reset[:, here]
            outputs, carried = self._carried(states.params, states.rest, given.inputs[:, here], carried, resets)
            yield here, outputs


def _values(task: Task, outputs: jax.Array, batch: Any) -> dict[str, jax.Array]:
    """Loss and metrics of each run and example, from outputs with a first axis over runs."""
    return jax.vmap(lambda own: streaming.values(task, own, batch))(outputs)


def taken(tree: Any, which: Any) -> Any:
    """Of arrays with a first axis over runs the part of one of them, or of several."""
    return jax.tree.map(lambda x: x[which], tree)


def raised(outcome: Any) -> Any:
    """What came out, raised if it is an error."""
    if isinstance(outcome, RunFailed):
        raise outcome
    return outcome


def _outcome(judge: Any, found: Any) -> Any:
    """What a function returns, or the RunFailed that it raises."""
    try:
        return judge(found)
    except RunFailed as error:
        return error


@jax.jit
def _kept(which: jax.Array, new: TrainState, old: TrainState) -> TrainState:
    """The new state of some runs, the old one of the others."""
    return jax.tree.map(lambda a, b: jnp.where(which.reshape(-1, *[1] * (a.ndim - 1)), a, b), new, old)
