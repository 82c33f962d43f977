"""Train a sequence model from a config file, resume it, and report how it does.

    python train.py --config configs/quickstart.yaml [--workdir runs/x] [--train.steps 500] [--model.cells bmru,lru] ...

One loop for every task and cell: select on validation, report test once. The same command continues a stopped run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import math
import sys
import time
from typing import Any

import jax

import tasks
from mru.training import MissingData, checkpoint, devices, estimate, peers, provenance, resume, workdir
from mru.training.batches import train_batches
from mru.training.command_line import parse
from mru.training.config import Config
from mru.training.log import Log
from mru.training.messages import UserError, compiling, error_line, say
from mru.training.progress import Clock, Progress
from mru.training.report import report
from mru.training.stop import Stop, Stopped
from mru.training.trainer import Trainer, TrainState


def main(argv: list[str] | None = None) -> int:
    """The command line; the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    # Orbax warns of each checkpoint without metrics, as those of a model whose schedules still move are meant to be.
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        code = run(parse(argv, tasks.REGISTRY), argv)
        peers.part()
        return code
    except UserError as error:
        line = error_line(error)
        print(line, file=sys.stderr)
        peers.fail(line.removeprefix("error: "), 2)
        return 2


def run(config: Config, argv: list[str]) -> int:
    """Train, or go on training, and report; the exit code."""
    began = time.perf_counter()
    stop = Stop()
    devices.start_processes(config.distributed)
    devices.keep_programs()
    with peers.agreed():
        before = workdir.earlier(config)
        mesh = devices.make_mesh(config.mesh, config.train.batch_size)
        try:
            estimate.check(config, mesh)
        except MissingData as error:
            raise UserError(str(error)) from None
    if workdir.is_complete(config, before):
        say(f"{config.workdir} is complete: it has its summary.json. A larger --train.steps goes on with it.")
        return 0
    with peers.agreed():
        if before is None:
            resume.check_source(config)
        workdir.prepare(config)
    trainer = Trainer(config, mesh)
    with checkpoint.manager(config.workdir, config.task.metric, config.task.goal) as checkpoints:
        state, progress = begin(trainer, checkpoints)
        clock = Clock(began, progress)
        try:
            state, progress = train(trainer, state, progress, checkpoints, stop, clock)
            report(trainer, state, progress, checkpoints, stop, clock, argv)
        except Stopped:
            checkpoints.wait_until_finished()
            say(f"stopped by {stop.signal or 'a signal'} and saved; the same command goes on from here")
        except FloatingPointError as error:
            checkpoints.wait_until_finished()
            last = checkpoints.latest_step()
            good = "none was saved yet" if last is None else checkpoints.directory / str(last)
            say(f"error: the loss or its gradient is not finite at step {error}; last good checkpoint: {good}")
            return 1
    return 0


def begin(trainer: Trainer, checkpoints: Any) -> tuple[TrainState, Progress]:
    """The state and progress to go on from: the newest checkpoint, another run's parameters, or new ones."""
    config, steps = trainer.config, trainer.config.train.steps
    state, progress = trainer.initial(), Progress(steps=steps)
    found = resume.newest(checkpoints, state, config.workdir)
    if found is not None:
        state, progress = found
    elif config.init_from is not None:
        state = resume.started_from(config.init_from, state)
    start = int(state.step)
    say(
        f"{config.task.name} with {', '.join(config.model.blocks)}: {trainer.parameters:,} parameters, "
        f"{provenance.device()}, {config.workdir}"
        + (f", resumed at step {start}" if start else "")
        + (f", from the parameters of {config.init_from}" if config.init_from and not start else "")
    )
    if progress.steps != steps:
        state = trainer.continued(state)
        if progress.steps is not None:
            say(
                f"train.steps was {progress.steps} and is {steps}: from here on the learning rate, now "
                f"{float(trainer.rate(start)):.2g}, and all ramps are those of a run of {steps} steps"
            )
    return state, dataclasses.replace(progress, steps=steps)


def train(
    trainer: Trainer, state: TrainState, progress: Progress, checkpoints: Any, stop: Stop, clock: Clock
) -> tuple[TrainState, Progress]:
    """Train from `state` to the last step or an early stop; the state and the progress then.

    Raises:
        Stopped: A signal came; the state is saved.
        FloatingPointError: The loss or its gradient was not finite; nothing of it is saved.
    """
    config, settings, step = trainer.config, trainer.config.train, int(state.step)
    if progress.finished(step, settings):
        return state, progress
    dispatch = settings.dispatch(step)
    with contextlib.ExitStack() as exits:
        stream = exits.enter_context(contextlib.closing(batches_from(config, step, dispatch)))
        batches = (trainer.place(batch, 1) for batch in stream)
        first = next(batches)
        with compiling("the train step"), clock.compiling():
            train_steps = trainer.compile(state, first)
        log = exits.enter_context(contextlib.closing(Log(config, step, progress.window)))
        clock.start()
        for batch in itertools.chain([first], batches):
            state, metrics = train_steps(state, batch)
            step += dispatch
            log.train(step, metrics)  # which writes those of the call before: the device is never waited for
            evaluating, stopping = settings.evaluates(step), stop.requested(step // dispatch)
            if not (evaluating or stopping):
                continue
            log.fetch()
            clock.pause()
            values = None
            if evaluating:
                log.flush(step)
            if evaluating and step >= trainer.settled:
                values = validate(trainer, state, step)
                log.line(step, "validation", values)
                progress = progress.evaluated(values[config.task.metric], step, config.task.goal)
            progress = clock.stamp(dataclasses.replace(progress, window=log.pending()))
            resume.save(checkpoints, config, state, progress, values)
            if progress.finished(step, settings):
                return state, progress
            if stopping:
                raise Stopped
            clock.start()
    raise AssertionError("the stream of batches has no end")


def batches_from(config: Config, step: int, dispatch: int) -> Any:
    """The training batches of this process from a step on, `dispatch` steps in each element."""
    return train_batches(
        config.task,
        batch_size=config.train.batch_size,
        seed=config.train.seed,
        start_step=step,
        steps_per_batch=dispatch,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def validate(trainer: Trainer, state: TrainState, step: int) -> dict[str, float]:
    """Loss and metrics over the validation split.

    Raises:
        FloatingPointError: The metric that selects is not finite.
    """
    values = trainer.evaluate(state, "validation")
    if not math.isfinite(values[trainer.task.metric]):
        raise FloatingPointError(step)
    return values


if __name__ == "__main__":
    sys.exit(main())
