"""What a run writes as it goes: metrics.jsonl, TensorBoard events and the progress bar."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import sys
import time
import zlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from mru.training.config import Config
from mru.training.events import Events
from mru.training.files import move_aside, write
from mru.training.messages import RunFailed, say
from mru.training.progress import Progress


class Log:
    """metrics.jsonl, TensorBoard events and the progress bar, written by process 0.

    Args:
        config: The run.
        start: Step that it goes on from.
        progress: Its progress there.
    """

    def __init__(self, config: Config, start: int, progress: Progress):
        workdir, self.active = config.workdir, jax.process_index() == 0
        self.metric, self.every, self.path = config.task.metric, config.train.log_every, workdir / "metrics.jsonl"
        self.waiting: list[tuple[int, dict[str, jax.Array]]] = []
        window = progress.window
        self.window = [{name: np.asarray(x, np.float32) for name, x in window.items()}] if window else []
        self.last = dict(progress.last)
        self.shown: dict[str, str] = {}
        self.bar: Any = None
        if not self.active:
            return
        texts = keep(workdir, start, progress.log)
        self.written = extent(texts)
        self.events = Events(workdir, map(json.loads, texts))

    @contextlib.contextmanager
    def progress_bar(self, step: int, steps: int) -> Iterator[None]:
        """Show the progress bar, from a step on; its clock starts here, so the train step is compiled by now."""
        from tqdm import tqdm

        if not self.active:
            yield
            return
        interval = 0.5 if sys.stderr.isatty() else 10
        with tqdm(total=steps, initial=step, unit="step", mininterval=interval, dynamic_ncols=True) as self.bar:
            yield

    def train(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Take the metrics of the steps up to `step`, which the device may still be computing; write those before.

        Raises:
            RunFailed: As `fetch`.
        """
        self.waiting.append((step, metrics))
        self.fetch(keep=1)

    def fetch(self, keep: int = 0) -> None:
        """Fetch all metrics but the newest `keep`, for which the device would have to be waited for; write what is due.

        Raises:
            RunFailed: One of them was not finite.
        """
        while len(self.waiting) > keep:
            step, metrics = self.waiting.pop(0)
            values = {name: np.atleast_1d(x) for name, x in jax.device_get(metrics).items()}
            before = step - len(values["loss"])
            require_finite(values, before)
            self.window.append(values)
            if step // self.every != before // self.every:
                self.flush(step)
            # The metric may be one of whole splits alone.
            self.shown |= {name: f"{values[name].mean():.4g}" for name in ("loss", self.metric) if name in values}
            if self.bar is not None:
                self.bar.set_postfix(self.shown, refresh=False)
                self.bar.update(step - self.bar.n)

    def pending(self) -> dict[str, list[float]]:
        """What no line has averaged yet, by name, for a checkpoint between two lines."""
        names = self.window[0] if self.window else {}
        return {name: np.concatenate([w[name] for w in self.window]).tolist() for name in names}

    def flush(self, step: int) -> None:
        """Write the means since the last line."""
        if self.window:
            means = {name: float(np.mean(x, dtype=np.float64)) for name, x in self.pending().items()}
            self.window = []
            self.line(step, "train", means)

    def line(self, step: int, split: str, values: dict[str, float]) -> None:
        """One line, of one split."""
        self.last[split] = {"step": step, **values}
        if split == "validation":
            self.shown |= {f"val_{self.metric}": f"{values[self.metric]:.4g}"}
        self._write(step, split, values)

    def inside(self, step: int, values: dict[str, float]) -> None:
        """One line of what the layers did, if any of them has something to tell."""
        if values:
            self._write(step, "inside", values)

    def _write(self, step: int, split: str, values: dict[str, float]) -> None:
        if not self.active:
            return
        line = {"step": step, "split": split, **values, "time": round(time.time(), 3)}
        text = json.dumps(line, allow_nan=False) + "\n"
        with self.path.open("a") as file:
            file.write(text)
        self.written = extent([text], self.written)
        self.events.write(line)

    def stamp(self, progress: Progress) -> Progress:
        """The progress with what a later start needs of the log, all of which is on the disk then."""
        if self.active:
            self.events.flush()
            with self.path.open("a") as file:
                os.fsync(file.fileno())
            progress = dataclasses.replace(progress, log=self.written)
        return dataclasses.replace(progress, window=self.pending(), last=dict(self.last))

    def close(self) -> None:
        """Close the events."""
        if self.active:
            self.events.close()


def require_finite(values: dict[str, np.ndarray], before: int) -> None:
    """Require that each metric of each step after step `before` is finite.

    Raises:
        RunFailed: One is not; the message names the first.
    """
    finite = {name: np.isfinite(x) for name, x in values.items()}
    # The loss first: what else is not finite follows from it.
    bad = [(int(np.argmin(x)), name != "loss", name) for name, x in finite.items() if not x.all()]
    if bad:
        place, _, name = min(bad)
        raise RunFailed(f"the {name.replace('_', ' ')} is not finite at step {before + place + 1}")


def extent(texts: list[str], before: dict[str, int] | None = None) -> dict[str, int]:
    """Number and CRC-32 of lines, after those `before`."""
    lines, check = (before["lines"], before["crc32"]) if before else (0, 0)
    return {"lines": lines + len(texts), "crc32": zlib.crc32("".join(texts).encode(), check)}


def keep(workdir: pathlib.Path, start: int, written: dict[str, int] | None) -> list[str]:
    """Take from metrics.jsonl the lines after step `start`, which will be logged again; the texts of the others.

    If some are damaged or missing, the file is moved aside with a warning, and what can be read of it is kept.

    Args:
        workdir: Folder of the run.
        start: Step that the run goes on from.
        written: `extent` of the log then; None if that is not known.
    """
    path = workdir / "metrics.jsonl"
    existed, (lines, damaged) = path.exists(), read(path)
    texts = [text for text, line in lines if line["step"] <= start]
    if damaged or (written is not None and extent(texts) != written):
        promised = f" of {written['lines']}" if written else ""
        aside = f", moved to {move_aside(workdir, path)}" if existed else ""
        say(f"warning: metrics.jsonl is damaged{aside}; {len(texts)}{promised} lines up to step {start} are left")
    if existed:
        write(path, "".join(texts))
    return texts


def read(path: pathlib.Path) -> tuple[list[tuple[str, dict[str, Any]]], bool]:
    """The lines of metrics.jsonl, as text and as what they say, and whether there is more that is no such line.

    A last line without its end is no damage: a kill cut it short.
    """
    try:
        texts = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return [], False
    except OSError:
        return [], True
    lines, damaged = [], False
    for text in texts[:-1]:
        try:
            line = json.loads(text)
            fine = _is_line(line)
        except (ValueError, RecursionError):
            fine = False
        if fine:
            lines.append((text.decode() + "\n", line))
        damaged |= not fine
    return lines, damaged


def _is_line(line: Any) -> bool:
    if not isinstance(line, dict) or line.get("split") not in ("train", "validation", "inside"):
        return False
    numbers = [x for name, x in line.items() if name != "split"]
    return type(line.get("step")) is int and all(type(x) in (int, float) and math.isfinite(x) for x in numbers)
