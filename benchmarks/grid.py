"""Runs of `train.py` for every combination of some values: which they are, where they lie, and training them all."""

from __future__ import annotations

import concurrent.futures
import itertools
import pathlib
import subprocess
import sys
from typing import Any, NamedTuple

import tasks
from mru.training import command_line, summary, workdir
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
        UserError: Some values do not fit, or two runs would share a folder.
    """
    runs = [make_run(values, folder) for values in combinations(options)]
    places = [run.config.workdir for run in runs]
    if twice := [place for place in places if places.count(place) > 1]:
        raise UserError(f"two runs would lie in {twice[0]}, allowed: configs of different names, and other values")
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
    folder = run.config.workdir
    if not workdir.is_complete(run.config, workdir.earlier(run.config)):
        streams: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE} if quiet else {}
        done = subprocess.run(run.command, text=True, **streams)
        if done.returncode:
            said = (done.stderr or "").strip().splitlines() or [f"exit code {done.returncode}"]
            raise RunFailed(f"{folder}: {said[-1].removeprefix('error: ')}")
    try:
        return summary.read(folder / "summary.json")
    except ValueError as error:
        raise RunFailed(f"{folder} was stopped, or its summary.json is damaged: {error}") from None


def train_all(runs: list[Run], jobs: int) -> list[dict[str, Any]]:
    """The summaries of all runs. One that fails does not keep the others from being trained.

    Raises:
        RunFailed: Some failed; each has been told in a line of its own.
    """
    pool = concurrent.futures.ThreadPoolExecutor(jobs)
    started = {pool.submit(trained, run, jobs > 1): run for run in runs}
    failed = 0
    try:
        for number, done in enumerate(concurrent.futures.as_completed(started), 1):
            try:
                held = done.result()
            except (RunFailed, UserError, OSError) as error:
                failed += 1
                print(error_line(error), file=sys.stderr)
                continue
            value = f"validation {held['metric']} {held['validation'][held['metric']]:.4g}"
            print(f"{number}/{len(runs)}  {started[done].config.workdir}  {value}", flush=True)
    finally:
        pool.shutdown(cancel_futures=True)
    if failed:
        raise RunFailed(f"{failed} of {len(runs)} runs failed; the same command goes on with them")
    return [future.result() for future in started]
