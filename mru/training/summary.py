"""summary.json: what came of a run. It has a checksum of itself, so that no figure in it changes unnoticed."""

from __future__ import annotations

import json
import pathlib
from typing import Any

from mru.training.checksum import is_sealed, sealed
from mru.training.files import write

KEYS = [
    "task",
    "cells",
    "parameters",
    "steps",
    "best_step",
    "seed",
    "metric",
    "chance",
    "validation",
    "test",
    "retention",
    "seconds",
    "steps_per_second",
    "device",
    "versions",
    "command",
    "commit",
]
OPTIONAL = {"last_train", "last_validation", "damaged_best_step"}


def save(workdir: pathlib.Path, summary: dict[str, Any]) -> None:
    """Write it, floats with six significant digits.

    Args:
        workdir: Folder of the run.
        summary: Its `KEYS`, and some of `OPTIONAL`.
    """
    held = {name: x if name == "task" else rounded(x) for name, x in summary.items()}
    write(workdir / "summary.json", json.dumps(sealed(held), indent=2) + "\n")


def fitting(workdir: pathlib.Path, config: dict[str, Any]) -> dict[str, Any] | None:
    """The summary in a workdir, if it can be read, is what was written, and is of a run of that (resolved) config."""
    try:
        held = json.loads((workdir / "summary.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(held, dict) or not set(KEYS) <= set(held):
        return None
    earlier = set(held) <= {*KEYS, *OPTIONAL}  # versions without a checksum wrote nothing but these
    if not (earlier or is_sealed(held)):
        return None
    now = {"task": config["task"], "cells": config["model"]["cells"], "seed": config["train"]["seed"]}
    return held if now == {name: held[name] for name in now} else None


def rounded(x: Any) -> Any:
    """Six significant digits of every float in plain data: more are noise."""
    if isinstance(x, dict):
        return {name: rounded(value) for name, value in x.items()}
    return float(f"{x:.6g}") if isinstance(x, float) else x
