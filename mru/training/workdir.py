"""The folder of a run: whether a config may go on in it, whether it is complete, its config.yaml and summary.json."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
from typing import Any

import jax
import yaml

from mru.training import checkpoint, plain_yaml, summary
from mru.training.config import Config
from mru.training.files import move_aside, write
from mru.training.lines import short
from mru.training.messages import UserError, say
from mru.training.sections import SECTIONS

# That the run has had a checkpoint. It lies beside them, so that it outlives them.
FIRST = "first_checkpoint.json"
# What a run leaves at its start and later; a folder that has none of it is no run's.
TRACES = ("config.yaml", "checkpoints", "metrics.jsonl", "summary.json", "lock", FIRST)
# What may differ when a run goes on; README has it as a table. Where it runs:
PLACES = ("workdir", "mesh", "distributed")
# Where its data lie, options that tasks may have; `Task.data_version` says whether they are the same:
DATA_PLACES = ("task.data_dir", "task.path")
# How long, how it is watched, and how the same numbers are computed:
MAY_CHANGE = (
    *DATA_PLACES,
    "train.steps",
    "train.eval_every",
    "train.log_every",
    "train.steps_per_dispatch",
    "train.deterministic",
    "train.patience",
    "model.method",
    "model.remat",
)
# Earlier versions wrote this ramp of the leak `epsilon` to every config.yaml, also where no cell has one.
FORMER_DEFAULT = {"start": 1.0, "end": 0.0, "begin": 0.2, "finish": 0.6}


def earlier(config: Config) -> dict[str, Any] | None:
    """The config of the run that the workdir holds, if it holds one with which this config can go on.

    The newest checkpoint that can be read says what it is; before there is one, and in runs of earlier versions,
    config.yaml does.

    Raises:
        UserError: It can not go on, and why.
    """
    workdir = config.workdir
    written, held = read_config(workdir / "config.yaml"), of_checkpoints(workdir)
    before = recorded(workdir, written, held)
    if before is None:
        return None
    if changed := differences(before, config.resolved):
        raise UserError(
            f"workdir = {workdir}, allowed: a new folder, or settings as in that run; it has {'; '.join(changed)}"
        )
    require_steps(workdir, config.train.steps)
    if before is held:
        say(f"warning: {workdir / 'config.yaml'} is not as the checkpoints have it; it is written anew")
    return before


def recorded(
    workdir: pathlib.Path, written: dict[str, Any] | None, held: dict[str, Any] | None
) -> dict[str, Any] | None:
    """The config of the run in a folder: what its config.yaml has, or what its checkpoints have where they differ.

    Args:
        workdir: The folder.
        written: What `read_config` gives there.
        held: What `of_checkpoints` gives there.

    Raises:
        UserError: There is a run, and no command can go on with it.
    """
    path = workdir / "config.yaml"
    if held is None and written is None and (path.exists() or checkpoint.steps(workdir)):
        raise UserError(
            f"workdir = {workdir}, allowed: a new folder, or one whose config.yaml is that of its run; it "
            f"{'can not be read' if path.exists() else 'is missing'}: put it back, or start over in another folder"
        )
    _require_unused(workdir)
    return held if held is not None and (written is None or differences(held, written)) else written


def require_run(option: str, folder: pathlib.Path) -> None:
    """Refuse a folder that is no run's, which was given with an option of the command line.

    Raises:
        UserError: It is none.
    """
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise UserError(f"{option} {short(folder)}, allowed: the folder of a run; {error.strerror}") from None
    if not {*TRACES} & {*names}:
        raise UserError(f"{option} {short(folder)}, allowed: the folder of a run; it has none of {', '.join(TRACES)}")


def require_steps(workdir: pathlib.Path, steps: int) -> None:
    """Refuse to go on to fewer steps than are done, or to end at one that was never evaluated.

    Raises:
        UserError: They are fewer, or it was not.
    """
    done = max(checkpoint.steps(workdir), default=0)
    if done > steps:
        raise UserError(f"train.steps = {steps}, allowed: at least the {done} that {workdir} has done")
    if done != steps:
        return
    with contextlib.suppress(checkpoint.Damaged):  # then an earlier one is gone on with
        progress = checkpoint.about(workdir, done)["progress"]
        evaluated = progress.get("last", {}).get("validation", {}).get("step")
        if progress.get("steps", steps) != steps and evaluated != done:
            raise UserError(
                f"train.steps = {steps}, allowed: more than the {done} that {workdir} has done, as it was stopped "
                "there before its metric was measured"
            )


def of_checkpoints(workdir: pathlib.Path) -> dict[str, Any] | None:
    """The config in the newest checkpoint that can be read and has it.

    Raises:
        UserError: That was written by a later version.
    """
    for step in reversed(checkpoint.steps(workdir)):
        try:
            return checkpoint.about(workdir, step).get("config")
        except checkpoint.Damaged:
            continue
        except ValueError as error:
            raise UserError(str(error)) from None
    return None


def _require_unused(workdir: pathlib.Path) -> None:
    """A run without a checkpoint starts from step 0, which only one that never had a checkpoint may do.

    Raises:
        UserError: There was one.
    """
    if checkpoint.steps(workdir):
        return
    traces = [workdir / FIRST, *workdir.glob("summary*.json"), *workdir.glob("damaged/[0-9]*")]
    if found := [path for path in traces if path.exists()]:
        raise UserError(
            f"workdir = {workdir} has had checkpoints, as {found[0].relative_to(workdir)} tells, and has none now: put "
            f"them back in {workdir / 'checkpoints'}, or start over in another folder"
        )


def mark_first(workdir: pathlib.Path, step: int) -> None:
    """Note that the run has a checkpoint, once; from here on it never starts from step 0 by itself."""
    if not (workdir / FIRST).exists():
        write(workdir / FIRST, json.dumps({"step": step}) + "\n")


def has_ended(workdir: pathlib.Path, config: dict[str, Any]) -> bool:
    """Whether the run of a config, as plain data, has a summary of all the steps that it has done."""
    found = summary.fitting(workdir, config)
    return found is not None and found["steps"] >= max(checkpoint.steps(workdir), default=0)


def is_complete(config: Config, before: dict[str, Any] | None) -> bool:
    """Whether the run has its summary, and the config asks for no more steps or patience than it had."""
    if before is None or not has_ended(config.workdir, config.resolved):
        return False
    steps, patience = config.train.steps, config.train.patience
    held = before["train"]["patience"]
    more_patience = held is not None and (patience is None or patience > held)
    return steps <= before["train"]["steps"] and not more_patience


def prepare(config: Config) -> None:
    """Write config.yaml; the summary of a run that goes on becomes summary-STEPS.json, a damaged one is moved aside."""
    if jax.process_index() != 0:
        return
    path, held = config.workdir / "summary.json", summary.fitting(config.workdir, config.resolved)
    # First, so that a kill between the two does not leave a summary that looks like that of the longer run.
    if held is not None:
        path.rename(path.with_name(f"summary-{held['steps']}.json"))
    elif path.exists():
        say(f"warning: summary.json is damaged or of another run, moved to {move_aside(config.workdir, path)}")
    write(config.workdir / "config.yaml", yaml.safe_dump(config.resolved, sort_keys=False))


def read_config(path: pathlib.Path) -> dict[str, Any] | None:
    """A config.yaml; None if there is none, or none that can be read."""
    try:
        held = plain_yaml.read(path)
    except (OSError, plain_yaml.NotPlain):
        return None
    if not isinstance(held, dict) or not all(isinstance(held.get(name), dict) for name in ("task", "model", "train")):
        return None
    steps, patience = (held["train"].get(name, "missing") for name in ("steps", "patience"))
    return held if type(steps) is int and type(patience) in (int, type(None)) else None


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What a config has other than before and may not, in words. A field that a version did not have is its default."""
    return _differences(_complete(before), _complete(now), "")


def _complete(config: dict[str, Any]) -> dict[str, Any]:
    defaults = {name: dataclasses.asdict(kind()) for name, kind in SECTIONS.items()}  # type: ignore[call-overload]
    held = {name: config.get(name, {}) for name in defaults}
    return config | {name: defaults[name] | x if isinstance(x, dict) else x for name, x in held.items()}


def _differences(before: dict[str, Any], now: dict[str, Any], prefix: str) -> list[str]:
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
