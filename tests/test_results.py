import subprocess
import sys

import jax
import numpy as np
import pytest
from matplotlib import image

from mru.training import report as results

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
    results.plot(tmp_path / "plots", log, summary if retention else summary | {"retention": {}}, "length")
    found = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert found == ["learning.png", *(["retention.png"] if retention else [])]
    for name in found:
        assert 0.01 < ink(tmp_path / "plots" / name) < 0.5


def test_what_is_plotted(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    drawn = []
    monkeypatch.setattr(Axes, "plot", lambda self, *args, label=None, **kwargs: drawn.append((label, *args)))
    monkeypatch.setattr(Axes, "legend", lambda *args, **kwargs: None)
    results.plot(tmp_path, LOG, SUMMARY, "length")
    curves = [(label, list(map(float, x)), list(map(float, y))) for label, x, y, *_ in drawn if np.ndim(x)]
    assert ("train", [5, 10], [2, 1]) in curves
    assert ("validation", [10], [0.5]) in curves
    assert ("test", [20, 2000, 100000], [0.6, 0.7, 0.8]) in curves
    assert ("test, at the best step", 10, 0.6, "r*") in drawn


def test_plots_before_a_first_validation_and_a_second_time(tmp_path):
    for log in (LOG[:2], LOG):
        results.plot(tmp_path, log, SUMMARY, "length")
        assert ink(tmp_path / "learning.png") > 0.01


def test_versions_name_what_runs():
    found = results.versions()
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["jax"] == jax.__version__
    assert found["numpy"] == np.__version__
    assert {"mru-jax", "jaxlib", "flax", "optax", "orbax-checkpoint"} <= set(found)
    assert all(isinstance(version, str) and version for version in found.values())


def git(folder, *command):
    who = ["-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", *who, *command], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A folder that takes the place of the one `results` lies in."""
    folder = tmp_path / "source"
    folder.mkdir()
    monkeypatch.setattr(results, "__file__", str(folder / "__init__.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.delenv("GIT_COMMIT", raising=False)
    return folder


def test_commit_of_the_source_tree(source, monkeypatch):
    monkeypatch.setenv("GIT_COMMIT", "not asked")
    git(source, "init", "-q")
    (source / "a").write_text("1")
    git(source, "add", "a")
    git(source, "commit", "-qm", "x")
    git(source, "tag", "v1")  # which would hide the hash
    head = git(source, "rev-parse", "HEAD")
    assert results.commit() == head
    (source / "a").write_text("2")
    assert results.commit() == f"{head}-dirty"


def test_commit_outside_a_repository(source, monkeypatch):
    assert results.commit() is None
    monkeypatch.setenv("GIT_COMMIT", "abc")
    assert results.commit() == "abc"


def test_commit_without_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("GIT_COMMIT", "abc")
    assert results.commit() == "abc"
