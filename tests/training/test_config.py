import collections
import json
import pathlib
import re

import numpy as np
import pytest
import yaml
from flax import nnx
from train_helpers import ROOT, TINY, config_file, head_of, parse

from mru.training import checkpoint

CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
# What a head says in place of a score, and how many do, by folder: a config that has been trained is taken off here.
WAITING = {("published", "Not trained to the end here."): 35}
# Test accuracy in per cent (Smith et al. 2022, table 1, and sequential MNIST; Orvieto et al. 2023).
PUBLISHED = {
    "% (S5, arXiv 2208.04933).": {
        "listops/s5": "62.15", "text/s5": "89.31", "retrieval/s5": "91.40", "image/s5": "88.00",
        "pathfinder/s5": "95.33", "path_x/s5": "98.58", "smnist/s5": "99.65", "psmnist/s5": "98.67",
    },
    "% (LRU, arXiv 2303.06349).": {"listops/lru": "60.2", "text/lru": "89.4", "image/lru": "89.0"},
}  # fmt: skip


def name_of(path):
    return path.relative_to(ROOT / "configs").with_suffix("").as_posix()


def waits(path):
    """What a head says in place of a score; None if it has one."""
    return next((said for _, said in WAITING if said in head_of(path)), None)


def results_of(path):
    """The committed summaries of the runs of a config."""
    files = [ROOT / "results" / f"{name_of(path)}{suffix}.json" for suffix in ("", "_rerun")]
    return [json.loads(file.read_text()) for file in files if file.is_file()]


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_every_config_parses_into_a_model(path, here, monkeypatch):
    made, make = [], nnx.eval_shape
    monkeypatch.setattr(nnx, "eval_shape", lambda f: made.append(make(f)) or made[-1])
    config = parse(["--config", str(path)])  # which makes the model, to see whether it can be made
    content = yaml.safe_load(path.read_text())
    assert config.task.name == content["task"]["name"]
    assert list(config.model.blocks) == content["model"]["cells"]
    assert config.workdir == pathlib.Path("runs", path.relative_to(ROOT / "configs").with_suffix(""))
    (model,) = made
    assert len(model.blocks) == len(content["model"]["cells"])
    for stated in re.findall(r"Parameters: ([\d,]*\d)", head_of(path)):
        parameters = checkpoint.flatten(nnx.state(model, nnx.Param)).values()
        assert stated == f"{sum(np.prod(x.shape, dtype=int) for x in parameters):,}"
    assert not list(here.iterdir())


def test_the_resolved_config_is_a_config_of_the_same_run(here):
    text = TINY.replace("steps: 20", "steps: 20, schedules: {epsilon: {begin: 0.1}}").replace("[]", "[30, 40]")
    text = text.replace("[pmru]", "[bmru, s5], options: {s5: {discretization: bilinear}}")
    config = parse(["--config", str(config_file(here, text)), "--workdir", "w", "--optimizer.clip", "null"])
    assert config.resolved["train"]["schedules"]["epsilon"] == {"start": 1.0, "end": 0.0, "begin": 0.1, "finish": 0.6}
    assert config.optimizer.clip is None
    again = here / "config.yaml"
    again.write_text(yaml.safe_dump(config.resolved, sort_keys=False))
    assert parse(["--config", str(again)]) == config
    assert parse(["--config", str(again)]).resolved == config.resolved == json.loads(json.dumps(config.resolved))


STATED = re.compile(r"([\d.]*\d)(?: \(chance\))? at (?:T =|a delay of) ([\d,]*\d)")


def close(stated, value):
    """Whether a value is the stated one to half a unit of its last digit."""
    digits = len(stated.partition(".")[2])
    return abs(float(stated) - value) <= 0.5 * 10**-digits + 1e-9


@pytest.mark.parametrize("path", [path for path in CONFIGS if not waits(path)], ids=name_of)
def test_the_head_of_a_config_states_what_its_committed_runs_scored(path):
    head = head_of(path)
    expected = head[head.index("Expected: ") : head.index("Time: ")]
    runs = results_of(path)
    assert runs
    for run in runs:
        metric, value = run["metric"], run["test"][run["metric"]]
        if found := STATED.findall(expected):
            assert all(close(number, run["retention"][length.replace(",", "")]) for number, length in found), expected
        elif between := re.search(rf"test {metric} ([\d.]*\d) to ([\d.]*\d)", expected):
            assert float(between[1]) - 5e-4 <= value <= float(between[2]) + 5e-4, expected
        elif about := re.search(rf"test {metric} about ([\d.]*\d)", expected):
            assert close(about[1], value), expected
        else:
            last = re.search(r"validation MSE .* to ([\d.]*\d) after", expected)
            assert close(last[1], run["validation"][metric]), expected


def test_configs_without_a_committed_result_say_so_and_are_counted():
    found = collections.Counter()
    for path in CONFIGS:
        if (said := waits(path)) is not None:
            assert not results_of(path), path
            found[next(folder for folder, _ in WAITING if name_of(path).startswith(f"{folder}/")), said] += 1
    assert found == WAITING


def test_heads_of_published_set_ups_state_the_published_accuracy():
    stated = {name_of(path): re.findall(r"Published: (\S+) (.*?\).)", head_of(path)) for path in CONFIGS}
    expected = {
        f"published/{name}": [(figure, source)]
        for source, figures in PUBLISHED.items()
        for name, figure in figures.items()
    }
    assert {name: found for name, found in stated.items() if found} == expected
