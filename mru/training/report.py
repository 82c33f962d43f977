"""What a run reports: its summary and plots; and, beside this module, the committed results."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import subprocess
import sys
from typing import Any


def versions() -> dict[str, str]:
    """Versions of what the figures depend on."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in ("mru-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def commit() -> str | None:
    """The git commit of this source tree, marked if the tree has changes; outside a repository, that in $GIT_COMMIT."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        here = pathlib.Path(__file__).parent
        return subprocess.run(command, cwd=here, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("GIT_COMMIT")


def plot(folder: pathlib.Path, log: list[dict[str, Any]], summary: dict[str, Any], retention_axis: str) -> None:
    """Draw the learning curves and, where there is one, the retention curve of a run.

    Args:
        folder: Where `learning.png` and `retention.png` go.
        log: The lines of metrics.jsonl.
        summary: The content of summary.json.
        retention_axis: What the lengths of the retention curve are called.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    folder.mkdir(exist_ok=True)
    metric, chance = summary["metric"], summary["chance"]
    scale = "log" if metric == "mse" else "linear"
    title = f"{summary['task']['name']}: {', '.join(summary['cells'])}"
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for axis, name in zip(axes, ("loss", metric), strict=True):
        for split, style in (("train", {"alpha": 0.7}), ("validation", {"marker": ".", "color": "black"})):
            points = [(line["step"], line[name]) for line in log if line["split"] == split]
            if points:
                axis.plot(*zip(*points, strict=True), label=split, **style)
        axis.set(xlabel="step", ylabel=name, yscale="log" if name == "loss" else scale)
        axis.locator_params(axis="x", nbins=5)
    axes[1].axhline(chance, color="grey", linestyle=":", label="chance")
    axes[1].plot(summary["best_step"], summary["test"][metric], "r*", label="test, at the best step")
    axes[1].legend(fontsize=8)
    figure.suptitle(title)
    figure.savefig(folder / "learning.png", dpi=120)
    plt.close(figure)
    if not summary["retention"]:
        return
    figure, axis = plt.subplots(figsize=(5, 3.4), layout="constrained")
    axis.plot([int(n) for n in summary["retention"]], list(summary["retention"].values()), "o-", label="test")
    axis.axhline(chance, color="grey", linestyle=":", label="chance")
    axis.set(xscale="log", yscale=scale, xlabel=retention_axis, ylabel=metric, title=title)
    axis.legend()
    figure.savefig(folder / "retention.png", dpi=120)
    plt.close(figure)
