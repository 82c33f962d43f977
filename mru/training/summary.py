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
# `together`: so many runs were trained in one program (`benchmarks/together.py`), of which seconds and steps a
# second are, and `command` is that of the run by itself. `failed`: what was not finite, at some step after the best.
OPTIONAL = {"last_train", "last_validation", "damaged_best_step", "together", "failed"}


def save(workdir: pathlib.Path, summary: dict[str, Any]) -> None:
    """Write it, floats with six significant digits.

    Args:
        workdir: Folder of the run.
        summary: Its `KEYS`, and some of `OPTIONAL`.
    """
    held = {name: x if name == "task" else rounded(x) for name, x in summary.items()}
    write(workdir / "summary.json", json.dumps(sealed(held), indent=2) + "\n")


def fitting(workdir: pathlib.Path, config: dict[str, Any]) -> dict[str, Any] | None:
    """The summary in a folder, if it can be read, is what was written, and is of the run of a config as plain data."""
    try:
        held = read(workdir / "summary.json")
    except ValueError:
        return None
    return held if is_of(held, config) else None


def read(path: pathlib.Path) -> dict[str, Any]:
    """A summary.

    Raises:
        ValueError: It can not be read, or is not what was written.
    """
    try:
        held = json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(error.strerror) from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no JSON: {error}") from None
    if not isinstance(held, dict) or not set(KEYS) <= set(held):
        raise ValueError(f"no JSON object with {', '.join(KEYS[:3])} and the rest of what a summary has")
    earlier = set(held) <= {*KEYS, *OPTIONAL}  # versions without a checksum wrote nothing but these
    if not (earlier or is_sealed(held)):
        raise ValueError("its checksum is another")
    return held


def is_of(held: dict[str, Any], config: dict[str, Any]) -> bool:
    """Whether a summary is of the run of a config, as plain data."""
    now = {"task": config["task"], "cells": config["model"]["cells"], "seed": config["train"]["seed"]}
    return now == {name: held[name] for name in now}


def rounded(x: Any) -> Any:
    """Six significant digits of every float in plain data: more are noise."""
    if isinstance(x, dict):
        return {name: rounded(value) for name, value in x.items()}
    return float(f"{x:.6g}") if isinstance(x, float) else x
