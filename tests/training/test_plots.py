import numpy as np
import pytest
from matplotlib import image

from mru.training import plots

LOG = [
    {"step": 5, "split": "train", "loss": 2.0, "mse": 2.0, "gradient_norm": 3.0},
    {"step": 10, "split": "train", "loss": 1.0, "mse": 1.0, "gradient_norm": 1.0},
    {"step": 10, "split": "validation", "loss": 0.5, "mse": 0.5},
]
SUMMARY = {
    "task": {"name": "copy_first"},
    "cells": ["bmru", "lru"],
    "metric": "mse",
    "chance": 1.0,
    "best_step": 10,
    "test": {"loss": 0.6, "mse": 0.6},
    "retention": {20: 0.6, 2000: 0.7, 100000: 0.8},
}


def ink(path):
    """Fraction of the pixels that are not white."""
    return float(np.mean(image.imread(path)[..., :3].min(-1) < 0.95))


@pytest.mark.parametrize("retention", [True, False], ids=["retention", "no retention"])
@pytest.mark.parametrize("metric", ["mse", "accuracy"])
def test_plots_are_drawn(retention, metric, tmp_path):
    summary = SUMMARY | {"metric": metric, "test": {"loss": 0.6, metric: 0.6}}
    log = [line | {metric: line["mse"]} for line in LOG]
    plots.plot(tmp_path / "plots", log, summary if retention else summary | {"retention": {}}, "length")
    found = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert found == ["learning.png", *(["retention.png"] if retention else [])]
    for name in found:
        assert 0.01 < ink(tmp_path / "plots" / name) < 0.5


def test_what_is_plotted(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    drawn, lines = [], {}

    def plot(self, *args, label=None, **kwargs):
        drawn.append((label, *args))
        lines[label] = kwargs.get("linestyle", "-")

    monkeypatch.setattr(Axes, "plot", plot)
    legends = []
    monkeypatch.setattr(Axes, "legend", lambda self, **kwargs: legends.append(self))
    plots.plot(tmp_path, LOG, SUMMARY, "length")
    curves = [(label, list(map(float, x)), list(map(float, y))) for label, x, y, *_ in drawn if np.ndim(x)]
    assert ("train", [5, 10], [2, 1]) in curves
    assert ("validation", [10], [0.5]) in curves
    assert ("test", [20, 2000, 100000], [0.6, 0.7, 0.8]) in curves
    assert drawn.count(("test, at the best step", 10, 0.6, "r*")) == 2
    assert len(set(legends)) == 3  # loss, metric, retention
    assert (lines["train"], lines["validation"]) == ("-", "")  # a few evaluations are points, not a curve


def test_plots_before_a_first_validation_and_a_second_time(tmp_path):
    for log in (LOG[:2], LOG):
        plots.plot(tmp_path, log, SUMMARY, "length")
        assert ink(tmp_path / "learning.png") > 0.01
