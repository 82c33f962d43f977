"""Train a sequence model from a config file, resume it, and report how it does.

    python train.py --config configs/quickstart.yaml [--workdir runs/x] [--train.steps 500] [--model.cells bmru,lru] ...
    python train.py --check runs/x
    python train.py --plot runs/x [runs/y ...] [--out FOLDER]
    python train.py --robustness runs/x [--draws 5] [--bits 4]

One loop for every task and cell: select on validation, report test once. The same command continues a stopped run.
"""

from __future__ import annotations

import os
import signal
import sys

if __name__ == "__main__":
    # The imports below take seconds. A signal then, and whenever nothing is held that is not on the disk, ends the
    # program at once and without a traceback.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: os._exit(128 + number))

import contextlib
import dataclasses
import functools
import itertools
import logging
import time
from typing import Any

import jax
from jax.sharding import Mesh

import tasks
from mru.training import (
    MissingData,
    buckets,
    checkpoint,
    commands,
    devices,
    estimate,
    lock,
    multistability,
    peers,
    provenance,
    resume,
    workdir,
)
from mru.training.batches import train_batches
from mru.training.checkpoint import Writer
from mru.training.command_line import parse
from mru.training.config import Config
from mru.training.log import Log
from mru.training.messages import RunFailed, UserError, error_line, say
from mru.training.progress import Clock, Progress
from mru.training.report import report
from mru.training.stop import Stop, Stopped
from mru.training.trainer import Trainer, TrainState


def main(argv: list[str] | None = None) -> int:
    """The command line; the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    # Orbax warns of much that a run may do, and traces what its threads meet. The run itself says what is wrong.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    try:
        if (asked := commands.asked(argv)) is not None:
            return commands.do(asked, tasks.REGISTRY, argv)
        code = run(parse(argv, tasks.REGISTRY), argv)
        peers.leave()
        return code
    except UserError as error:
        return failed(error, 2)
    except (RunFailed, OSError) as error:
        return failed(error, 1)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        why = str(error).partition("\n")[0].removeprefix("RESOURCE_EXHAUSTED: ") or "out of memory"
        return failed(RunFailed(f"{why}; lower train.batch_size, model.width or the length of the task"), 1)


def failed(error: Exception, code: int) -> int:
    """Tell what ended the program, in one line, and the other processes if there are any; the exit code."""
    line = error_line(error)
    print(line, file=sys.stderr)
    peers.fail(line.removeprefix("error: "), code)
    return code


def run(config: Config, argv: list[str]) -> int:
    """Train, or go on training, and report; the exit code."""
    began = time.perf_counter()
    if config.train.deterministic:
        devices.make_deterministic()
    devices.start_processes(config.distributed)
    devices.keep_programs()
    resume.quiet_abandoned_files()
    with contextlib.ExitStack() as exits:
        with peers.agreed():
            mesh = mesh_for(config)
            exits.enter_context(lock.held(config.workdir))
            before = workdir.earlier(config)
        if workdir.is_complete(config, before):
            say(f"{config.workdir} is complete: it has its summary.json. A larger --train.steps goes on with it.")
            return 0
        stop = exits.enter_context(Stop())
        trainer = Trainer(config, mesh)
        state, progress = begin(trainer)
        with peers.agreed():
            workdir.prepare(config)
        clock = Clock(began, progress)
        writer = exits.enter_context(Writer(config.workdir))
        log = exits.enter_context(contextlib.closing(Log(config, int(state.step), progress)))
        try:
            state, progress = train(trainer, state, progress, writer, log, stop, clock)
            report(trainer, state, progress, writer, stop, clock, argv)
        except Stopped:
            writer.wait()
            say(f"stopped by {stop.signal or 'a signal'} and saved; the same command goes on from here")
        except (RunFailed, OSError) as error:
            with contextlib.suppress(OSError):
                writer.wait()
            what = str(error)
            if isinstance(error, OSError) and error.errno:
                what = f"{error.strerror}: {error.filename or config.workdir}"
            raise RunFailed(f"{what}; {last_good(config)}") from None
    return 0


def mesh_for(config: Config) -> Mesh:
    """The mesh to run on; nothing is compiled or written.

    Raises:
        UserError: The config can not run here.
    """
    mesh = devices.make_mesh(config.mesh, config.train.batch_size)
    try:
        estimate.check(config, mesh)
        buckets.check(config.task, config.train.buckets)
    except MissingData as error:
        raise UserError(str(error)) from None
    if not checkpoint.steps(config.workdir):
        resume.check_source(config)
    return mesh


def begin(trainer: Trainer) -> tuple[TrainState, Progress]:
    """The state and progress to go on from: the newest checkpoint, another run's parameters, or new ones."""
    config, steps = trainer.config, trainer.config.train.steps
    state, progress = trainer.initial(), Progress(steps=steps)
    found = resume.newest(config, state)
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
    if config.multistability.steps and found is None:
        state = multistability.warmed_up(trainer, state)
    if progress.steps != steps:
        state = trainer.continued(state)
        if progress.steps is not None:
            say(
                f"train.steps was {progress.steps} and is {steps}: from here on the learning rate, now "
                f"{float(trainer.rate(start)):.2g}, and all ramps are those of a run of {steps} steps"
            )
    return state, dataclasses.replace(progress, steps=steps)


def train(
    trainer: Trainer, state: TrainState, progress: Progress, writer: Writer, log: Log, stop: Stop, clock: Clock
) -> tuple[TrainState, Progress]:
    """Train from `state` to the last step or an early stop; the state and the progress then.

    Raises:
        Stopped: A signal came; the state is saved.
        RunFailed: Something was not finite; nothing of it is saved.
        OSError: Something could not be written.
    """
    config, settings, step = trainer.config, trainer.config.train, int(state.step)
    if progress.finished(step, settings):
        return state, progress
    dispatch = settings.dispatch(step)
    with contextlib.ExitStack() as exits:
        batches = exits.enter_context(contextlib.closing(batches_from(trainer, step, dispatch)))
        first = next(batches)
        with clock.compiling():
            trainer.compile(state, first)
        stop.listen()
        exits.enter_context(log.progress_bar(step, settings.steps))
        clock.start()
        for batch in itertools.chain([first], batches):
            with clock.compiling():  # only the first batch of a shape
                train_steps = trainer.compile(state, batch)
            state, metrics = train_steps(state, batch)
            step += dispatch
            log.train(step, metrics)  # which writes those of the call before: the device is never waited for
            evaluating, stopping = settings.evaluates(step), stop.requested(step // dispatch)
            if not (evaluating or stopping):
                continue
            log.fetch()
            clock.pause()
            if evaluating:
                log.flush(step)
            if evaluating and step >= trainer.settled:
                values, inside = trainer.evaluate(state, "validation")
                log.line(step, "validation", values)
                log.inside(step, inside)
                progress = progress.evaluated(values[config.task.metric], step, config.task.goal)
            progress = clock.stamp(log.stamp(progress))
            resume.save(writer, config, state, progress)
            if progress.finished(step, settings):
                return state, progress
            if stopping:
                raise Stopped
            clock.start()
    raise AssertionError("the stream of batches has no end")


def last_good(config: Config) -> str:
    """What is left of a run that failed, in words."""
    steps = checkpoint.steps(config.workdir)
    return f"last good checkpoint: {config.workdir / 'checkpoints' / str(steps[-1]) if steps else 'none was saved yet'}"


def batches_from(trainer: Trainer, step: int, dispatch: int) -> Any:
    """The training batches from a step on, on the mesh, `dispatch` steps in each element."""
    config = trainer.config
    return train_batches(
        config.task,
        batch_size=config.train.batch_size,
        seed=config.train.seed,
        start_step=step,
        steps_per_batch=dispatch,
        buckets=config.train.buckets,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        place=functools.partial(trainer.place, axis=1),
    )


if __name__ == "__main__":
    sys.exit(main())
