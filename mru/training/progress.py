"""What a run remembers from one start to the next, beside its arrays: the best step so far, and its seconds."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from typing import Any, Self

from mru.training.messages import UserError
from mru.training.sections import TrainConfig


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run has come; checkpoints keep it as JSON.

    Attributes:
        best: Best validation metric so far.
        best_step: Step that had it. Of equal values the latest is best, as in `checkpoint`.
        since_best: Evaluations since then.
        window: Training metrics of the steps that no line of the log has averaged yet, by name.
        train_seconds: Seconds in the train loop, without evaluation and compilation, over all starts.
        wall: All seconds.
        compile: Those of compiling the train step.
        steps: Steps that learning rate and ramps were stretched over; None in checkpoints of earlier versions.
        last: The last line of the log of each split, with its step.
        log: How much of the log was written; None in checkpoints of earlier versions.
    """

    best: float | None = None
    best_step: int | None = None
    since_best: int = 0
    window: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    train_seconds: float = 0.0
    wall: float = 0.0
    compile: float = 0.0
    steps: int | None = None
    last: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    log: dict[str, int] | None = None

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Progress as a checkpoint keeps it.

        Raises:
            UserError: It was written by a version that keeps other things.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise UserError(
                f"the checkpoints were written by another version of mru, whose progress has {', '.join(unknown)}; "
                "go on with that version, or start a new run from these weights with --init_from"
            )
        return cls(**values)

    def evaluated(self, value: float, step: int, goal: str) -> Progress:
        """The progress after a validation metric, whose better direction is "min" or "max"."""
        if self.best is None or (value <= self.best if goal == "min" else value >= self.best):
            return dataclasses.replace(self, best=value, best_step=step, since_best=0)
        return dataclasses.replace(self, since_best=self.since_best + 1)

    def finished(self, step: int, train: TrainConfig) -> bool:
        """Whether the steps are done, or nothing has become better for long enough."""
        return step >= train.steps or (train.patience is not None and self.since_best >= train.patience)


class Clock:
    """Seconds of the run, over all its starts: all of them, those of compilation, those of the train loop."""

    def __init__(self, began: float, progress: Progress):
        self.began, self.earlier = began, progress.wall
        self.compile, self.train = progress.compile, progress.train_seconds
        self.since: float | None = None

    def wall(self) -> float:
        """All of them."""
        return self.earlier + time.perf_counter() - self.began

    def start(self) -> None:
        """The train loop goes on."""
        self.since = time.perf_counter()

    def pause(self) -> None:
        """The train loop stands still, for an evaluation."""
        if self.since is not None:
            self.train += time.perf_counter() - self.since
        self.since = None

    @contextlib.contextmanager
    def compiling(self) -> Iterator[None]:
        """Count what happens inside as compilation, and not as training."""
        began = time.perf_counter()
        yield
        seconds = time.perf_counter() - began
        self.compile += seconds
        if self.since is not None:
            self.since += seconds

    def stamp(self, progress: Progress) -> Progress:
        """The progress with the seconds of now."""
        return dataclasses.replace(progress, wall=self.wall(), compile=self.compile, train_seconds=self.train)
