"""`train.py --check WORKDIR`: everything that a run has left is read and compared, and nothing is changed."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from mru.training import checkpoint, lock, log, summary, workdir
from mru.training.messages import UserError

OK, DAMAGED, MISSING, NOTE = "ok", "damaged", "missing", "note"


class Finding(NamedTuple):
    """What was found of one thing: `mark` is one of the four above, of which two are bad."""

    mark: str
    what: str
    text: str

    @property
    def bad(self) -> bool:
        """Whether something is wrong."""
        return self.mark in (DAMAGED, MISSING)

    def __str__(self) -> str:
        return f"{self.mark:8} {self.what}: {self.text}"


def check(folder: pathlib.Path) -> Iterator[Finding]:
    """What a run's folder holds, thing by thing; the last one says what the command of the run would do now.

    Args:
        folder: Folder of the run.

    Raises:
        UserError: It is none.
    """
    traces = [workdir.FIRST, "config.yaml", "checkpoints", "metrics.jsonl", "summary.json"]
    if not any((folder / name).exists() for name in traces):
        raise UserError(f"--check {folder}, allowed: the workdir of a run of train.py")
    owner = lock.owner(folder)
    if owner is not None:
        yield Finding(NOTE, "lock", f"{owner} is at work here; what it writes meanwhile may look damaged")
    intact: dict[int, dict[str, Any]] = {}
    for step in checkpoint.steps(folder):
        finding, about = _checkpoint(folder, step)
        yield finding
        if about is not None:
            intact[step] = about
    newest = max(intact, default=None)
    about = intact[newest] if newest is not None else {}
    held = about.get("config")
    config = workdir.read_config(folder / "config.yaml")
    yield _config(folder, config, held)
    if newest is not None:
        yield from _best(folder, about["progress"], intact)
    yield _log(folder, newest, about.get("progress", {}).get("log"))
    finding, complete = _summary(folder, held or config)
    yield finding
    yield from _rest(folder)
    yield _next(folder, newest, complete)


def _checkpoint(folder: pathlib.Path, step: int) -> tuple[Finding, dict[str, Any] | None]:
    """One checkpoint, and what it says of itself if all of it can be trusted."""
    what = f"checkpoint {step}"
    try:
        about = checkpoint.about(folder, step)
        found = checkpoint.restore(folder, step, **checkpoint.like(folder, step))
    except ValueError as error:
        return Finding(DAMAGED, what, checkpoint.reason(error)), None
    arrays = {f"{item} {name}": np.asarray(x) for item, held in found.items() for name, x in held.items()}
    if bad := [name for name, x in arrays.items() if not np.all(np.isfinite(x))]:
        return Finding(DAMAGED, what, f"{bad[0]} is not finite, and {len(bad) - 1} more"), None
    sums = "checksums are right" if "arrays" in about else "format 1, without checksums"
    size = sum(x.nbytes for x in arrays.values())
    return Finding(OK, what, f"{len(arrays)} arrays, {size:,} bytes, all finite; {sums}"), about


def _config(folder: pathlib.Path, config: dict[str, Any] | None, held: dict[str, Any] | None) -> Finding:
    what = "config.yaml"
    if config is None:
        there = (folder / what).exists()
        saved = "; the checkpoints have it" if held else ""
        return Finding(DAMAGED if there else MISSING, what, f"{'can not be read' if there else 'none'}{saved}")
    if held is not None and (changed := workdir.differences(held, config)):
        return Finding(DAMAGED, what, f"not as the newest checkpoint has it: {'; '.join(changed)}")
    return Finding(OK, what, "as the newest checkpoint has it" if held else "can be read")


def _best(folder: pathlib.Path, progress: dict[str, Any], intact: dict[int, dict[str, Any]]) -> Iterator[Finding]:
    """The best checkpoint, as the newest one names it, where it can not be used."""
    best = progress.get("best_step")
    if best is not None and best not in intact:
        there = best in checkpoint.steps(folder)
        yield Finding(DAMAGED if there else MISSING, f"best checkpoint {best}", "the next best would be reported")


def _log(folder: pathlib.Path, newest: int | None, promised: dict[str, int] | None) -> Finding:
    what, path = "metrics.jsonl", folder / "metrics.jsonl"
    if not path.exists():
        then = (promised or {}).get("lines", 0)
        return Finding(MISSING, what, f"none of {then} lines") if then else Finding(NOTE, what, "none yet")
    lines, damaged = log.read(path)
    if damaged:
        return Finding(DAMAGED, what, f"some of it can not be read; {len(lines)} lines can")
    before = [text for text, line in lines if newest is None or line["step"] <= newest]
    if promised is not None and log.extent(before) != promised:
        return Finding(DAMAGED, what, f"up to step {newest} it has not the {promised['lines']} lines that were written")
    after = f"; {len(lines) - len(before)} after it will be logged again" if len(lines) > len(before) else ""
    return Finding(OK, what, f"{len(before)} lines{'' if newest is None else f' up to step {newest}'}{after}")


def _summary(folder: pathlib.Path, config: dict[str, Any] | None) -> tuple[Finding, bool]:
    """The summary, and whether the run is complete."""
    what = "summary.json"
    if not (folder / what).exists():
        return Finding(NOTE, what, "none yet"), False
    held = summary.fitting(folder, config) if config is not None else None
    if held is None:
        return Finding(DAMAGED, what, "can not be read, was changed, or is of another run"), False
    return Finding(OK, what, f"{held['steps']} steps, best {held['best_step']}"), True


def _rest(folder: pathlib.Path) -> Iterator[Finding]:
    """What is good to know, and no fault."""
    if not list(folder.glob("events.out.tfevents.*")):
        yield Finding(NOTE, "TensorBoard events", "none; they are written from the log at the next start")
    for path in sorted(folder.glob("checkpoints/*")):
        if not path.name.isdecimal():
            yield Finding(NOTE, f"checkpoints/{path.name}", "no whole checkpoint; a kill left it")
    if aside := sorted(path.name for path in folder.glob("damaged/*")):
        yield Finding(NOTE, "damaged", f"{len(aside)} things that were moved aside, such as {aside[-1]}")


def _next(folder: pathlib.Path, newest: int | None, complete: bool) -> Finding:
    """What the command of the run would do."""
    what = "the same command"
    if complete:
        return Finding(OK, what, "says that the run is complete")
    if newest is not None:
        return Finding(OK, what, f"goes on from step {newest}")
    if steps := checkpoint.steps(folder):
        return Finding(DAMAGED, what, f"can not go on: none of the checkpoints {steps} can be read")
    try:
        workdir.require_unused(folder)
    except UserError as error:
        return Finding(MISSING, what, f"can not go on: {error}")
    return Finding(OK, what, "starts from step 0, as there is no checkpoint yet")


def run(argv: list[str]) -> int:
    """Print what is found, each when it is; the exit code, 1 if anything is damaged or missing.

    Args:
        argv: The command line, --check WORKDIR.

    Raises:
        UserError: It is another, or as `check`.
    """
    if len(argv) != 2 or argv[0] != "--check":
        raise UserError("--check WORKDIR is all that such a command line has; its config lies in that folder")
    jax.config.update("jax_platforms", "cpu")  # no other device is needed, and another process may hold it
    checkpoint.quiet_abandoned_files()
    bad = False
    for finding in check(pathlib.Path(argv[1])):
        print(finding, flush=True)
        bad |= finding.bad
    return int(bad)
