"""`train.py --check WORKDIR`: whether all that a run left is as it was written, and what its command would do there.

Everything is read, and nothing is written, moved or run: the code of its model and task is not needed.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax

from mru.training import checkpoint, lock, log, summary, workdir
from mru.training.checkpoint import Damaged, reason
from mru.training.lines import cut, printable
from mru.training.messages import RunFailed, UserError
from mru.training.progress import Progress
from mru.training.resume import quiet_abandoned_files, require_finite

# Of these, `note` alone is nothing to mend.
OK, DAMAGED, MISSING, NOTE = "ok", "damaged", "missing", "note"


class Line(NamedTuple):
    """What is said of one thing."""

    mark: str
    thing: str
    said: str = ""

    def __str__(self) -> str:
        return cut(printable(f"{self.mark:<8} {self.thing}{': ' if self.said else ''}{self.said}"), 299)


class Held(NamedTuple):
    """What a checkpoint came to.

    Attributes:
        mark: `OK`, `DAMAGED`, or `NOTE` for one of another version, or that is being removed.
        said: More of it.
        progress: Its progress, if it is what was written; a run would go on from it.
        stops: Why a run that goes on from it comes to nothing; empty if it does not.
    """

    mark: str
    said: str
    progress: Progress | None = None
    stops: str = ""


def check(folder: pathlib.Path) -> int:
    """Print a line for each thing in a run's folder, and last what the run's command would do; the exit code.

    It is 0, or 1 if anything is damaged or missing or the run can not go on.

    Raises:
        UserError: It is no run's folder.
    """
    workdir.require_run("--check", folder)
    jax.config.update("jax_platforms", "cpu")  # Orbax asks for devices, and they may all be the run's
    quiet_abandoned_files()
    owner = lock.holder(folder)
    held = _all(folder)
    newest = max((step for step, x in held.items() if x.progress), default=None)
    progress = held[newest].progress if newest is not None else None
    parts: dict[str, Callable[[], Iterable[Line]]] = {
        "lock": lambda: _lock(folder, owner),
        "config.yaml": lambda: _config(folder),
        "checkpoints": lambda: _checkpoints(folder, held, progress),
        "metrics.jsonl": lambda: _log(folder, newest or 0, progress),
        "summary.json": lambda: _summaries(folder, held, progress),
        "events": lambda: _events(folder),
        "damaged": lambda: _aside(folder),
    }
    lines = [line for name, part in parts.items() for line in _guarded(name, part)]
    outlook = _outlook(folder, held)
    waiting = ", once the process that holds the lock has ended" if owner else ""
    for line in lines:
        print(line)
    print(printable(f"the same command {outlook}{waiting}"))
    return int(any(line.mark in (DAMAGED, MISSING) for line in lines) or outlook.startswith("can not"))


def _guarded(name: str, part: Callable[[], Iterable[Line]]) -> list[Line]:
    try:
        return list(part())
    except Exception as error:  # what is written nowhere: whatever a file may hold makes a line
        return [Line(DAMAGED, name, reason(error))]


def _steps(folder: pathlib.Path) -> list[int]:
    try:
        return checkpoint.steps(folder)
    except OSError:
        return []


def _lock(folder: pathlib.Path, owner: str | None) -> Iterable[Line]:
    if (folder / "lock").is_dir():
        yield Line(DAMAGED, "lock", "a folder, no file")
    if owner:
        yield Line(NOTE, "lock", f"in use by {owner}; what is here may change while it is read")


def _config(folder: pathlib.Path) -> Iterable[Line]:
    written, held = _configs(folder)
    if written is None:
        there = (folder / "config.yaml").exists()
        yield Line(DAMAGED if there else MISSING, "config.yaml", "can not be read as a config" if there else "")
    elif held is None:
        yield Line(OK, "config.yaml", "can be read; no checkpoint has it too, to compare with")
    elif changed := workdir.differences(held, written):
        yield Line(DAMAGED, "config.yaml", f"not as the checkpoints have it: {'; '.join(changed)}")
    else:
        yield Line(OK, "config.yaml", "as the checkpoints have it")


def _configs(folder: pathlib.Path) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The config that config.yaml has, and that of the checkpoints."""
    written = workdir.read_config(folder / "config.yaml")
    try:
        return written, workdir.of_checkpoints(folder)
    except UserError:  # of a later version, which the line of the checkpoint says
        return written, None


def _all(folder: pathlib.Path) -> dict[int, Held]:
    """All checkpoints by step, in order."""
    read = {step: _checkpoint(folder, step) for step in _steps(folder)}
    # A run that goes on meanwhile has removed some of them.
    held = {step: one for step, one in read.items() if one.mark == OK or step in _steps(folder)}
    whole = [step for step, one in held.items() if one.mark == OK]
    for step, one in held.items():
        # Which a run keeps no longer, so it removes it, or a kill came while it did.
        removed = len(whole) > 1 and step < whole[-2]
        if one.mark == DAMAGED and removed and (last := held[whole[-1]].progress) and step != last.best_step:
            held[step] = one._replace(mark=NOTE, said=f"no longer needed, and removed in part ({one.said})")
    return held


def _checkpoint(folder: pathlib.Path, step: int) -> Held:
    try:
        about = checkpoint.about(folder, step)
        progress = Progress.from_json(about["progress"])
        arrays = {item: checkpoint.read(folder, step, item) for item in ("model", "train")}
        require_finite(step, arrays)
    except (Damaged, RunFailed) as error:
        within = folder.absolute() / "checkpoints" / str(step)
        return Held(DAMAGED, str(error).replace(f"{within}/", "").replace(f"{folder}/checkpoints/{step}/", ""))
    except (UserError, ValueError) as error:
        return Held(NOTE, str(error), stops=str(error))
    except Exception as error:  # what has no checksum may hold anything
        return Held(DAMAGED, f"about: {reason(error)}")
    seal = "as they were written" if "arrays" in about else "no checksums, readable"
    return Held(OK, f"{sum(map(len, arrays.values()))} arrays, {seal}", progress)


def _checkpoints(folder: pathlib.Path, held: dict[int, Held], progress: Progress | None) -> Iterable[Line]:
    best = progress.best_step if progress else None
    for step, one in held.items():
        roles = [role for role, which in (("newest", max(held)), ("best", best)) if step == which]
        yield Line(one.mark, f"checkpoint {step}" + (f" ({', '.join(roles)})" if roles else ""), one.said)
    if best is not None and best not in held:
        yield Line(MISSING, f"checkpoint {best} (best)", "the report takes the best of the others")
    if not held:
        yield Line(NOTE, "checkpoints", "none")
    if not (folder / "checkpoints").exists():
        return
    for name in sorted({*os.listdir(folder / "checkpoints")} - {*map(str, held)} - {*map(str, _steps(folder))}):
        if name.isdecimal():
            yield Line(DAMAGED, f"checkpoints/{name}", "no folder that can be read")
        else:
            yield Line(NOTE, f"checkpoints/{name}", "no checkpoint; a run that is killed may leave one unfinished")


def _log(folder: pathlib.Path, step: int, progress: Progress | None) -> Iterable[Line]:
    path, promised = folder / "metrics.jsonl", progress.log if progress else None
    if not path.exists():
        yield Line(MISSING if progress else NOTE, "metrics.jsonl", "" if progress else "none yet")
        return
    lines, damaged = log.read(path)
    texts = [text for text, line in lines if line["step"] <= step]
    if damaged or (promised is not None and log.extent(texts) != promised):
        of = f" of {promised['lines']}" if promised else ""
        why = "not all in it is lines of a log" if damaged else "its lines are not those that were written"
        yield Line(DAMAGED, "metrics.jsonl", f"{why}; there are {len(texts)}{of} up to step {step}")
        return
    said = f"{len(texts)} lines up to step {step}"
    if progress and promised is None:
        said += ", no checksum, readable"
    if after := len(lines) - len(texts):
        said += f"; {after} after it, which are logged again"
    if path.stat().st_size > sum(len(text.encode()) for text, _ in lines):
        said += "; the last line is cut short, as by a kill, which is no damage"
    yield Line(OK, "metrics.jsonl", said)


def _summaries(folder: pathlib.Path, held: dict[int, Held], progress: Progress | None) -> Iterable[Line]:
    for path in sorted(folder.glob("summary-*.json")):
        try:
            yield Line(OK, path.name, f"of {summary.read(path)['steps']} steps, before the run went on")
        except ValueError as error:
            yield Line(DAMAGED, path.name, str(error))
    path = folder / "summary.json"
    if not path.exists():
        yield Line(NOTE, path.name, "none yet")
        return
    try:
        found = summary.read(path)
    except ValueError as error:
        yield Line(DAMAGED, path.name, str(error))
        return
    written, of_checkpoints = _configs(folder)
    config, steps = of_checkpoints or written, max(held, default=None)
    # A best checkpoint that could not be read is named beside the one that was reported in its place.
    best = found.get("damaged_best_step", found["best_step"])
    if config is not None and not summary.is_of(found, config):
        yield Line(DAMAGED, path.name, "of another run: its task, cells or seed are others")
    elif steps is not None and found["steps"] != steps:
        yield Line(DAMAGED, path.name, f"of step {found['steps']}, and the newest checkpoint is of step {steps}")
    elif progress and steps is not None and progress is held[steps].progress and best != progress.best_step:
        yield Line(DAMAGED, path.name, f"best step {best}, and checkpoint {steps} has {progress.best_step}")
    else:
        yield Line(OK, path.name, f"of {found['steps']} steps, best step {found['best_step']}")


def _events(folder: pathlib.Path) -> Iterable[Line]:
    found = list(folder.glob("events.out.tfevents.*"))
    yield Line(OK if found else NOTE, "events", "" if found else "none; they are written from metrics.jsonl at a start")


def _aside(folder: pathlib.Path) -> Iterable[Line]:
    path = folder / "damaged"
    if path.exists():
        names = sorted(os.listdir(path))
        yield Line(NOTE, "damaged", f"{len(names)} that earlier starts moved there: {', '.join(names)}")


def _outlook(folder: pathlib.Path, held: dict[int, Held]) -> str:
    """What the command of the run would do in its folder, in words."""
    try:
        _require_kind(folder / "lock", is_folder=False)
        written, of_checkpoints = workdir.read_config(folder / "config.yaml"), workdir.of_checkpoints(folder)
        config = workdir.recorded(folder, written, of_checkpoints)
        if config is None:
            return "starts from step 0: the run has no checkpoint yet"
        steps = config["train"]["steps"]
        workdir.require_steps(folder, steps)
        if workdir.has_ended(folder, config):
            return "has nothing to do: the run is complete"
        _require_kind(folder / "config.yaml", is_folder=False)
        _require_kind(folder / "checkpoints", is_folder=True)
    except UserError as error:
        return f"can not go on: {error}"
    except Exception as error:  # a config that was edited may hold anything
        return f"can not go on: {reason(error)}"
    if not held:
        return "starts from step 0: the run has no checkpoint yet"
    for step, one in sorted(held.items(), reverse=True):
        if one.stops:
            return f"can not go on: {one.stops}"
        if one.progress is not None:
            return f"goes on from step {step} of {steps}"
    return f"can not go on: none of its checkpoints {sorted(held)} can be read"


def _require_kind(path: pathlib.Path, is_folder: bool) -> None:
    if path.exists() and path.is_dir() != is_folder:
        raise UserError(f"{path} is {'no' if is_folder else 'a'} folder")
