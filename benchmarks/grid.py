"""Runs of `train.py` for every combination of some values: which they are, where they lie, and training them all."""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import tasks
from benchmarks import together, train_together
from mru.training import checkpoint, command_line, summary, workdir
from mru.training.config import Config
from mru.training.messages import RunFailed, UserError, error_line

ROOT = pathlib.Path(__file__).parents[1]
SEED = "train.seed"
Options = dict[str, list[str]]


class Run(NamedTuple):
    """One run.

    Attributes:
        name: Of its config file.
        values: Texts of the options by dotted name.
        argv: Arguments of `train.py`.
        config: What they say.
    """

    name: str
    values: dict[str, str]
    argv: list[str]
    config: Config

    @property
    def command(self) -> list[str]:
        """What trains it."""
        return [sys.executable, str(ROOT / "train.py"), *self.argv]

    @property
    def setting(self) -> tuple[str, ...]:
        """What the runs of all seeds share: config and values."""
        return self.name, *(text for option, text in self.values.items() if option != SEED)

    @property
    def contest(self) -> tuple[str, ...]:
        """What the settings that are compared with each other share: config and task."""
        return self.name, *(text for option, text in self.values.items() if option.startswith("task."))


def options_of(words: list[str]) -> Options:
    """The values of each option of a command line, by its dotted name.

    Raises:
        UserError: An option has no value or is given twice, a value is, or a word belongs to no option.
    """
    found: Options = {}
    for word in words:
        option, equals, text = word.partition("=")
        if word.startswith("--"):
            if (name := option[2:]) in found:
                raise UserError(f"{option} is given twice, allowed: once, with all of its values behind it")
            found[name] = [text] if equals else []
        elif not found:
            raise UserError(f"the argument {word}, allowed: options, and their values behind them")
        else:
            found[next(reversed(found))].append(word)
    for name, texts in found.items():
        if not texts or len({*texts}) < len(texts):
            raise UserError(f"--{name} {' '.join(texts)}, allowed: one value or several, each another")
    return found


def combinations(options: Options) -> list[dict[str, str]]:
    """Every combination of values of the options: the last option varies fastest."""
    return [dict(zip(options, texts, strict=True)) for texts in itertools.product(*options.values())]


def make_run(values: dict[str, str], folder: pathlib.Path | None) -> Run:
    """The run of some values, of which one is its config file.

    Args:
        values: Texts by option.
        folder: Where the folders of configs lie; None for where `train.py` puts them.

    Raises:
        UserError: They do not fit.
    """
    file, rest = values["config"], {option: text for option, text in values.items() if option != "config"}
    argv = [word for option, text in values.items() for word in (f"--{option}", text)]
    name = pathlib.Path(file).stem
    base = command_line.parse(argv, tasks.REGISTRY).workdir if folder is None else folder / name
    here = base / ",".join(f"{option}={text}" for option, text in rest.items()).replace("/", "_")
    argv += ["--workdir", str(here)]
    return Run(name, rest, argv, command_line.parse(argv, tasks.REGISTRY))


def grid(options: Options, folder: pathlib.Path | None) -> list[Run]:
    """A run of every combination; see `make_run`.

    Raises:
        UserError: Some values do not fit, or two runs would share a folder or be the same one.
    """
    runs = [make_run(values, folder) for values in combinations(options)]
    places = [run.config.workdir for run in runs]
    if twice := [place for place in places if places.count(place) > 1]:
        raise UserError(f"two runs would lie in {twice[0]}, allowed: configs of different names, and other values")
    known: dict[str, Run] = {}
    for run in runs:
        same = known.setdefault(f"{run.name} {run.config.resolved | {'workdir': None}}", run)
        if same is not run:
            raise UserError(f"{same.config.workdir} and {run.config.workdir} are the same run, allowed: other values")
    return runs


def trained(run: Run, quiet: bool) -> dict[str, Any]:
    """The summary of a run, which is trained or gone on with if it is not complete.

    Args:
        run: The run.
        quiet: Not to show what it says while it trains.

    Raises:
        RunFailed: It failed, or was stopped.
        UserError: Its folder has another run.
    """
    if not workdir.is_complete(run.config, workdir.earlier(run.config)):
        code, said = _ended(run.command, quiet)
        if code:
            raise RunFailed(f"{run.config.workdir}: {said[-1].removeprefix('error: ')}")
    return _summary(run)


def _ended(command: list[str], quiet: bool) -> tuple[int, list[str]]:
    """The exit code of a command, and the lines that it said, at least one."""
    streams: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE} if quiet else {}
    done = subprocess.run(command, text=True, **streams)
    return done.returncode, (done.stderr or "").strip().splitlines() or [f"exit code {done.returncode}"]


def _summary(run: Run) -> dict[str, Any]:
    folder = run.config.workdir
    try:
        held = summary.read(folder / "summary.json")
    except ValueError as error:
        raise RunFailed(f"{folder} was stopped, or its summary.json is damaged: {error}") from None
    if "failed" in held:
        raise RunFailed(f"{folder}: {held['failed']}")
    return held


def groups(runs: list[Run]) -> list[list[Run]]:
    """The runs, those together that differ in seed and learning rate alone."""
    found: dict[str, list[Run]] = {}
    for number, run in enumerate(runs):
        found.setdefault(together.alike(run.config) or str(number), []).append(run)
    return list(found.values())


def trained_together(runs: list[Run], quiet: bool) -> list[dict[str, Any] | Exception]:
    """The summary of each run of a group, or why it has none: those that have not begun are trained side by side."""
    found: dict[pathlib.Path, dict[str, Any] | Exception] = {}
    new = []
    for run in runs if len(runs) > 1 else []:
        with _kept(found, run):
            new += [run] if train_together.is_new(run.config) else []
    if len(new) > 1:
        words = [word for run in new for word in ("--", *run.argv)]
        _, said = _ended([sys.executable, "-m", "benchmarks.train_together", *words], quiet)
        for run in new:
            if not checkpoint.steps(run.config.workdir):
                why = next((line for line in said if f"{run.config.workdir}: " in line), said[-1])
                found[run.config.workdir] = RunFailed(f"nothing came of {run.config.workdir} in its group: {why}")
    for run in runs:
        if run.config.workdir not in found:
            with _kept(found, run):
                found[run.config.workdir] = trained(run, quiet)
    return [found[run.config.workdir] for run in runs]


def train_all(runs: list[Run], jobs: int, side_by_side: bool = False) -> list[dict[str, Any] | None]:
    """The summaries of all runs; None of one that fails, of which a line tells, and which keeps no other from training.

    Args:
        runs: The runs.
        jobs: Programs at a time.
        side_by_side: Train those that differ in seed and learning rate alone in one program.
    """
    pool = concurrent.futures.ThreadPoolExecutor(jobs)
    parts = groups(runs) if side_by_side else [[run] for run in runs]
    started = {pool.submit(trained_together, part, jobs > 1): part for part in parts}
    summaries: dict[pathlib.Path, dict[str, Any]] = {}
    number = 0
    try:
        for done in concurrent.futures.as_completed(started):
            for run, held in zip(started[done], done.result(), strict=True):
                number += 1
                if isinstance(held, Exception):
                    print(error_line(held), file=sys.stderr)
                    continue
                summaries[run.config.workdir] = held
                value = f"validation {held['metric']} {held['validation'][held['metric']]:.4g}"
                print(f"{number}/{len(runs)}  {run.config.workdir}  {value}", flush=True)
    finally:
        pool.shutdown(cancel_futures=True)
    return [summaries.get(run.config.workdir) for run in runs]


def require_all(summaries: list[dict[str, Any] | None]) -> list[dict[str, Any]]:
    """Those of `train_all`, of which none may be missing.

    Raises:
        RunFailed: Some failed.
    """
    whole = [held for held in summaries if held is not None]
    if failed := len(summaries) - len(whole):
        raise RunFailed(f"{failed} of {len(summaries)} runs failed; the same command goes on with them")
    return whole


@contextlib.contextmanager
def _kept(found: dict[pathlib.Path, dict[str, Any] | Exception], run: Run) -> Iterator[None]:
    """Keep what goes wrong inside as what came of a run."""
    try:
        yield
    except (RunFailed, UserError, OSError) as error:
        found[run.config.workdir] = error
