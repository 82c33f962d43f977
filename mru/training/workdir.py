"""The folder of a run: whether a config may go on in it, whether it is complete, its config.yaml and summary.json."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import jax
import yaml

from mru.training import plain_yaml
from mru.training.config import Config
from mru.training.messages import UserError

# What may differ when a run goes on; README has it as a table. Where it runs:
PLACES = ("workdir", "mesh", "distributed")
# How long, how it is watched, and how the same numbers are computed:
MAY_CHANGE = (
    "train.steps",
    "train.eval_every",
    "train.log_every",
    "train.steps_per_dispatch",
    "train.patience",
    "model.method",
    "model.remat",
)
# Earlier versions wrote this ramp of the leak `epsilon` to every config.yaml, also where no cell has one.
FORMER_DEFAULT = {"start": 1.0, "end": 0.0, "begin": 0.2, "finish": 0.6}


def write(path: pathlib.Path, text: str) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)


def earlier(config: Config) -> dict[str, Any] | None:
    """The config.yaml of the run that the workdir holds, if it holds one with which this config can go on.

    Raises:
        UserError: It can not; the message names what differs.
    """
    workdir = config.workdir
    if not (workdir / "config.yaml").is_file():
        if workdir.exists() and not workdir.is_dir():
            raise UserError(f"workdir = {workdir}, allowed: a folder; this is a file")
        return None
    try:
        before = plain_yaml.read(workdir / "config.yaml")
    except (OSError, plain_yaml.NotPlain):
        before = None
    changed = _differences(before, config.resolved) if isinstance(before, dict) else ["config.yaml, unreadable"]
    if changed:
        raise UserError(
            f"workdir = {workdir}, allowed: a new folder, or settings as in that run; it has {'; '.join(changed)}"
        )
    folder = workdir / "checkpoints"
    done = max((int(path.name) for path in folder.glob("*") if path.name.isdigit()), default=0)
    if done > config.train.steps:
        raise UserError(f"train.steps = {config.train.steps}, allowed: at least the {done} that {workdir} has done")
    return before


def is_complete(config: Config, before: dict[str, Any] | None) -> bool:
    """Whether the run has its summary, and the config asks for no more steps or patience than it had."""
    if before is None or not (config.workdir / "summary.json").is_file():
        return False
    steps, patience = config.train.steps, config.train.patience
    held = before["train"]["patience"]
    more_patience = held is not None and (patience is None or patience > held)
    return steps <= before["train"]["steps"] and not more_patience


def prepare(config: Config) -> None:
    """Make the folder and write config.yaml; the summary of a run that goes on becomes summary-STEPS.json.

    Raises:
        UserError: The folder can not be written.
    """
    summary = config.workdir / "summary.json"
    try:
        config.workdir.mkdir(parents=True, exist_ok=True)
        if jax.process_index() == 0:
            # First, so that a kill between the two does not leave a summary that looks like that of the longer run.
            if summary.is_file():
                summary.rename(summary.with_name(f"summary-{json.loads(summary.read_text())['steps']}.json"))
            write(config.workdir / "config.yaml", yaml.safe_dump(config.resolved, sort_keys=False))
    except OSError as error:
        raise UserError(f"workdir = {config.workdir}, allowed: a folder to write in; {error.strerror}") from None


def _differences(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    changed = []
    for key in sorted({*before, *now} - set(PLACES if not prefix else ())):
        a, b = before.get(key), now.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            changed += _differences(a, b, f"{prefix}{key}.")
        elif a != b and prefix + key not in MAY_CHANGE and not _was_default(prefix, a, b):
            changed.append(f"{prefix}{key} = {a} (now {b})")
    return changed


def _was_default(prefix: str, before: Any, now: Any) -> bool:
    return prefix == "train.schedules." and before == FORMER_DEFAULT and now is None
