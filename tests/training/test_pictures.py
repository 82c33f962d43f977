import contextlib
import io
import json
import re
import shutil
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import yaml
from matplotlib import image
from train_helpers import ROOT, assert_refused, main, read

import tasks
from mru.training import pictures
from mru.training.records import Record


def plot(*argv):
    """The exit code, what was said, and the paths that were printed."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        code, said = main("--plot", *argv)
    return code, said, text.getvalue().splitlines()


def assert_drawn(folder, names):
    """These pictures, and nothing else, are in a folder, each as PNG and SVG."""
    assert {path.name for path in folder.iterdir()} == {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    for name in names:
        ink = np.mean(image.imread(folder / f"{name}.png")[..., :3].min(-1) < 0.95)
        assert 0.005 < ink < 0.9, name
        assert ElementTree.parse(folder / f"{name}.svg").getroot().tag.endswith("svg")


EVERYTHING = [
    "learning",
    "layers",
    "retention",
    *(f"0-{layer}-{what}" for layer in ("0-BMRU", "1-LRU", "2-PMRU") for what in ("states", "hysteresis")),
    "0-0-BMRU-writes",
    "0-2-PMRU-writes",
    "hold_times",
    "time_constants",
    "sensitivity",
]


def test_a_run(copied, cache):
    workdir, _ = copied
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file() and path.parent.name != "plots"}
    code, said, printed = plot(workdir)
    assert (code, said) == (0, "")
    assert_drawn(workdir / "plots", EVERYTHING)
    drawn, latches = printed[:-2], printed[-2:]
    assert sorted(drawn) == sorted(str(path) for path in (workdir / "plots").iterdir())
    kinds = (
        r"0/{}: \w+: of 4 channels \d hold for at least 25 % of a sequence, \d are overwritten before, \d never write"
    )
    for line, name in zip(latches, ("0/BMRU", "2/PMRU"), strict=True):
        assert re.fullmatch(kinds.format(name), line), line
    for path, data in before.items():
        assert path.read_bytes() == data


def seeds(workdir, tmp_path, numbers):
    """Folders with what is left of runs of other seeds, whose validation is `number` times that of a run."""
    for number in numbers:
        folder = tmp_path / f"seed-{number}"
        folder.mkdir()
        config = yaml.safe_load((workdir / "config.yaml").read_text())
        config["train"]["seed"] = number
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        lines = read(workdir / "metrics.jsonl")
        lines = [line | {name: number * line[name] for name in ("loss", "mse") if name in line} for line in lines]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        yield folder


def test_several_runs(copied, tmp_path, monkeypatch):
    workdir, _ = copied
    drawn = {}
    for name in ("learning", "retention", "robustness"):
        real = getattr(pictures.curves, name)
        monkeypatch.setattr(
            pictures.curves,
            name,
            lambda runs, *a, name=name, real=real, **k: drawn.update({name: runs}) or real(runs, *a, **k),
        )
    held = {"metric": "mse", "p": [0.0, 0.1], "values": [[0.5], [0.6, 0.7]]}
    (workdir / "robustness.json").write_text(json.dumps(held))
    code, said, _ = plot(workdir, *seeds(workdir, tmp_path, (2, 3)), workdir, "--out", tmp_path / "out")
    assert (code, said) == (0, "")
    assert_drawn(tmp_path / "out", ["learning", "retention", "robustness"])
    ((label, same),) = drawn["learning"].items()
    assert label == "BMRU + LRU + PMRU"
    last = [line["mse"] for line in read(workdir / "metrics.jsonl") if line["split"] == "validation"][-1]
    found = [[line["mse"] for line in run["log"] if line["split"] == "validation"][-1] for run in same]
    assert found == [last, 2 * last, 3 * last]
    assert drawn["robustness"] == {label: [held]}
    summary = json.loads((workdir / "summary.json").read_text())
    assert drawn["retention"] == {label: [{int(n): x for n, x in summary["retention"].items()}]}


def test_summaries_alone(tmp_path):
    paths = [ROOT / f"results/copy_first/{name}.json" for name in ("pmru", "bmru", "lru")]
    code, said, _ = plot(*paths, "--out", tmp_path / "out")
    assert (code, said) == (0, "")
    assert_drawn(tmp_path / "out", ["retention"])


@pytest.mark.parametrize(("delays", "trained"), [((200, 2000), 200), ((500, 2000), None)])
def test_the_length_of_training_is_marked(delays, trained):
    task = tasks.get("evidence")(delay=200)
    record = Record(
        {"task": {"name": "evidence"}, "model": {"cells": ["s5"]}, "train": {}},
        [],
        {"retention": dict.fromkeys(map(str, delays), 0.1), "test": {}, "best_step": 1},
    )
    ((name, draw),) = pictures.of_records([record], task)
    assert name == "retention"
    (axis,) = draw().axes
    assert axis.get_xlabel() == "delay"
    found = {line.get_label(): line.get_xdata()[0] for line in axis.get_lines()}
    assert found.get("length of training") == trained


def test_what_can_not_be_drawn(copied, tmp_path):
    workdir, _ = copied
    summary = ROOT / "results/copy_first/bmru.json"
    other = ROOT / "results/quickstart.json"
    for argv, parts in (
        ([workdir, summary], ["--plot: expected --out FOLDER"]),
        ([summary], ["--plot: expected --out FOLDER"]),
        ([summary, other, "--out", tmp_path / "x"], ["runs of one task, got copy_first, digits"]),
        ([other, "--out", tmp_path / "x"], ["nothing to draw"]),
    ):
        code, said, _ = plot(*argv)
        assert_refused(code, said, parts)
    assert not (tmp_path / "x").exists()


def test_a_folder_that_can_not_be_written(copied, tmp_path):
    workdir, _ = copied
    shutil.rmtree(workdir / "plots")
    (workdir / "plots").write_text("a file")
    code, said, _ = plot(workdir)
    assert code == 1
    assert said.startswith("error: ")
    assert "plots" in said
    assert said.count("\n") == 1
