"""What a run writes as it goes: metrics.jsonl, TensorBoard events and the progress bar."""

from __future__ import annotations

import json
import pathlib
import sys
from typing import Any

import jax
import numpy as np

from mru.training.config import Config
from mru.training.workdir import write


class Log:
    """metrics.jsonl, TensorBoard events and the progress bar, written by process 0.

    The clock of the progress bar starts here, so this is made when the train step is compiled.

    Args:
        config: The run.
        start: Step that it goes on from.
        window: Training metrics of steps before it that no line has averaged yet.
    """

    def __init__(self, config: Config, start: int, window: dict[str, list[float]]):
        from tensorboardX import SummaryWriter
        from tqdm import tqdm

        workdir, self.active = config.workdir, jax.process_index() == 0
        self.metric, self.every, self.path = config.task.metric, config.train.log_every, workdir / "metrics.jsonl"
        self.waiting: list[tuple[int, dict[str, jax.Array]]] = []
        self.window = [{name: np.asarray(x, np.float32) for name, x in window.items()}] if window else []
        self.shown: dict[str, str] = {}
        if not self.active:
            return
        # What was logged after the checkpoint that the run goes on from will be logged again.
        write(self.path, "".join(json.dumps(line) + "\n" for line in read_log(self.path) if line["step"] <= start))
        self.events = SummaryWriter(str(workdir), purge_step=start + 1 if start else None)
        interval = 0.5 if sys.stderr.isatty() else 10
        self.bar = tqdm(total=config.train.steps, initial=start, unit="step", mininterval=interval, dynamic_ncols=True)

    def train(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Take the metrics of the steps up to `step`, which the device may still be computing; write those before.

        Raises:
            FloatingPointError: As `fetch`.
        """
        self.waiting.append((step, metrics))
        self.fetch(keep=1)

    def fetch(self, keep: int = 0) -> None:
        """Fetch all metrics but the newest `keep`, for which the device would have to be waited for; write what is due.

        Raises:
            FloatingPointError: The loss or its gradient was not finite; the argument is the step.
        """
        while len(self.waiting) > keep:
            step, metrics = self.waiting.pop(0)
            values = {name: np.atleast_1d(x) for name, x in jax.device_get(metrics).items()}
            bad = np.flatnonzero(~np.isfinite(values["loss"] + values["gradient_norm"]))
            before = step - len(values["loss"])
            if bad.size:
                raise FloatingPointError(before + int(bad[0]) + 1)
            self.window.append(values)
            if step // self.every != before // self.every:
                self.flush(step)
            self.shown |= {name: f"{values[name].mean():.4g}" for name in ("loss", self.metric)}
            if self.active:
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
        if split == "validation":
            self.shown |= {f"val_{self.metric}": f"{values[self.metric]:.4g}"}
        if not self.active:
            return
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, "split": split, **values}) + "\n")
        for name, value in values.items():
            self.events.add_scalar(f"{split}/{name}", value, step)

    def close(self) -> None:
        """Close the progress bar and the events."""
        if self.active:
            self.bar.close()
            self.events.close()


def read_log(path: pathlib.Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, without one that a kill cut short."""
    lines = []
    for text in path.read_text().splitlines() if path.is_file() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines
