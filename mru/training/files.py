"""Files of a run: written whole or not at all, and moved aside, never deleted, when they are damaged."""

from __future__ import annotations

import contextlib
import os
import pathlib
import time


def write(path: pathlib.Path, text: str) -> None:
    """Write a file whole or not at all; it is on the disk then."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def move_aside(workdir: pathlib.Path, path: pathlib.Path) -> pathlib.Path:
    """Move what is damaged to WORKDIR/damaged, where a person may look at it; where it is then."""
    aside = workdir / "damaged"
    aside.mkdir(exist_ok=True)
    return path.rename(aside / f"{path.name}-{time.time_ns()}")
