"""Pictures of a run: its learning curves and, where there is one, its retention curve."""

from __future__ import annotations

import pathlib
from typing import Any


def plot(folder: pathlib.Path, log: list[dict[str, Any]], summary: dict[str, Any], retention_axis: str) -> None:
    """Draw `learning.png` and, where there is a retention curve, `retention.png`.

    Args:
        folder: Where the pictures go.
        log: The lines of metrics.jsonl.
        summary: The content of summary.json.
        retention_axis: What the lengths of the retention curve are called.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    folder.mkdir(exist_ok=True)
    title = f"{summary['task']['name']}: {', '.join(summary['cells'])}"
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    _learning(axes, log, summary)
    figure.suptitle(title)
    figure.savefig(folder / "learning.png", dpi=120)
    plt.close(figure)
    if not summary["retention"]:
        return
    figure, axis = plt.subplots(figsize=(5, 3.4), layout="constrained")
    metric = summary["metric"]
    axis.plot([int(n) for n in summary["retention"]], list(summary["retention"].values()), "o-", label="test")
    axis.axhline(summary["chance"], color="grey", linestyle=":", label="chance")
    axis.set(xscale="log", yscale=_scale(metric), xlabel=retention_axis, ylabel=metric, title=title)
    axis.legend(fontsize=8)
    figure.savefig(folder / "retention.png", dpi=120)
    plt.close(figure)


def _learning(axes: Any, log: list[dict[str, Any]], summary: dict[str, Any]) -> None:
    """Loss and metric against the step, a panel each."""
    metric, best = summary["metric"], summary["best_step"]
    # A handful of evaluations is no curve: points alone, which nothing joins.
    styles: dict[str, dict[str, Any]] = {
        "train": {"alpha": 0.7},
        "validation": {"marker": "o", "markersize": 4, "color": "black", "linestyle": ""},
    }
    for axis, name in zip(axes, ("loss", metric), strict=True):
        for split, style in styles.items():
            points = [(line["step"], line[name]) for line in log if line["split"] == split and name in line]
            if points:
                axis.plot(*zip(*points, strict=True), label=split, **style)
        axis.plot(best, summary["test"][name], "r*", label="test, at the best step")
        axis.set(xlabel="step", ylabel=name, yscale="log" if name == "loss" else _scale(metric))
        axis.locator_params(axis="x", nbins=5)
    axes[1].axhline(summary["chance"], color="grey", linestyle=":", label="chance")
    for axis in axes:
        axis.legend(fontsize=8)


def _scale(metric: str) -> str:
    return "log" if metric == "mse" else "linear"
