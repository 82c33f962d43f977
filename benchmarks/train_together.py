"""Train runs of `train.py` side by side, each into its own folder, where `train.py` and all else finds it as its own.

python -m benchmarks.train_together ARGUMENTS -- ARGUMENTS [-- ARGUMENTS ...]

Between the words `--` stand the arguments of `train.py` for each run; they differ in seed and learning rate, see
`benchmarks/together.py`. `python -m benchmarks.sweep ... --together` runs this for each such group of its runs. Nothing
of a group is saved before its end: one that was stopped starts over.

A run in which something was not finite has failed, and the others go on. Its summary.json is that of the best step
before, and says so; where there is none, the run has no summary.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import sys
import time
from typing import Any

import jax

import tasks
from benchmarks.together import Evaluation, Together, raised, taken
from mru.training import MissingData, checkpoint, devices, estimate, lock, provenance, report, resume, workdir
from mru.training.checkpoint import Writer
from mru.training.command_line import parse
from mru.training.config import Config
from mru.training.log import Log
from mru.training.messages import RunFailed, UserError, error_line, say
from mru.training.progress import Clock, Progress

Values = dict[str, Any]


def split(words: list[str]) -> list[list[str]]:
    """The arguments of each run."""
    return [list(part) for between, part in itertools.groupby(words, lambda word: word == "--") if not between]


class Folders:
    """The folders of the runs of a group, as it is trained.

    Attributes:
        best: Progress of each run at its best step, as a checkpoint of that step has it.
    """

    def __init__(self, group: Together, configs: list[Config], clock: Clock, exits: contextlib.ExitStack):
        self.group, self.configs, self.clock = group, configs, clock
        for config in configs:
            workdir.prepare(config)
        self.logs = [exits.enter_context(contextlib.closing(Log(c, 0, Progress()))) for c in configs]
        self.best: dict[int, Progress] = {}

    def write(self, done: Evaluation) -> None:
        """Write the log of each run as `train.py` does, up to an evaluation."""
        steps, dispatch = done.metrics["loss"].shape[1], self.group.trainer.config.train.dispatch()
        for i, (standing, log) in enumerate(zip(self.group.standings, self.logs, strict=True)):
            if standing.step != done.step:
                continue  # it has failed or stopped
            for k in range(0, steps, dispatch):
                here = {name: x[i, k : k + dispatch] for name, x in done.metrics.items()}
                log.train(done.step - steps + k + dispatch, here)
            log.fetch()
            log.flush(done.step)
            if (found := done.found[i]) is not None:
                log.line(done.step, "validation", found[0])
                log.inside(done.step, found[1])
            standing.progress = self.clock.stamp(log.stamp(standing.progress))
            if standing.progress.best_step == done.step:
                self.best[i] = standing.progress

    def end(self, argvs: list[list[str]]) -> int:
        """Write the checkpoints and the summary of each run, and say which have failed; how many."""
        group, failed = self.group, 0
        found = [group.evaluate(group.best, split) for split in ("validation", "test")]
        task = group.trainer.task
        at = {length: group.evaluate_at(group.best, task.at(length)) for length in task.retention}
        for i, (config, standing) in enumerate(zip(self.configs, group.standings, strict=True)):
            try:
                if standing.progress.best_step is None:
                    raise RunFailed(standing.failed or "there was no evaluation")
                self._save(i)
                values = {name: raised(x[i])[0] for name, x in zip(("validation", "test"), found, strict=True)}
                values["retention"] = {length: raised(x[i])[task.metric] for length, x in at.items()}
                self._summarise(i, values, argvs[i])
                if standing.failed is not None:
                    raise RunFailed(standing.failed)
            except RunFailed as error:
                failed += 1
                say(error_line(RunFailed(f"{config.workdir}: {error}")))
        return failed

    def _save(self, i: int) -> None:
        """Write the checkpoints of a run: of its best step and of its last."""
        group, config, progress = self.group, self.configs[i], self.group.standings[i].progress
        states = {progress.best_step: (group.best, self.best[i]), group.standings[i].step: (group.last, progress)}
        with Writer(config.workdir) as writer:
            for _, (state, then) in sorted(states.items()):
                resume.save(writer, config, taken(state, i), then)
            writer.wait()

    def _summarise(self, i: int, values: Values, argv: list[str]) -> None:
        standing, runs = self.group.standings[i], len(self.configs)
        measured = {"best_step": standing.progress.best_step, **values, "together": runs}
        if standing.failed is not None:
            measured["failed"] = standing.failed
        parameters = self.group.trainer.parameters
        report.write(self.configs[i], parameters, standing.progress, standing.step, measured, self.clock, argv)


def run(argvs: list[list[str]]) -> int:
    """Train the runs of some command lines; how many have failed.

    Raises:
        UserError: They can not be trained so, or one of them has begun already.
        OSError: Something can not be written.
    """
    began = time.perf_counter()
    configs = [parse(argv, tasks.REGISTRY) for argv in argvs]
    if any(config.train.deterministic for config in configs):
        devices.make_deterministic()
    devices.keep_programs()
    resume.quiet_abandoned_files()
    with contextlib.ExitStack() as exits:
        group = Together(configs)
        for config in configs:
            try:
                estimate.check(config, group.trainer.mesh)
            except MissingData as error:
                raise UserError(str(error)) from None
            exits.enter_context(lock.held(config.workdir))
            if not is_new(config):
                raise UserError(
                    f"workdir = {config.workdir}, allowed: one without checkpoints; train.py goes on with it"
                )
        say(
            f"{group.trainer.task.name} with {', '.join(configs[0].model.blocks)}: {len(configs)} runs of "
            f"{group.trainer.parameters:,} parameters in one program, {provenance.device()}"
        )
        clock = Clock(began, Progress())
        folders = Folders(group, configs, clock, exits)
        for done in group.train(clock):
            folders.write(done)
        return folders.end(argvs)


def is_new(config: Config) -> bool:
    """Whether nothing of a run is saved.

    Raises:
        UserError: Its folder has another run.
    """
    workdir.earlier(config)
    return not checkpoint.steps(config.workdir)


def main(argv: list[str] | None = None) -> int:
    """The command line; the exit code."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # as in train.py
    try:
        return 1 if run(split(sys.argv[1:] if argv is None else argv)) else 0
    except (UserError, RunFailed, OSError) as error:
        print(error_line(error), file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        print("error: out of memory; train fewer runs side by side, or lower train.batch_size", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command starts over", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
