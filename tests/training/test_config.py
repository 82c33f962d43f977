import json
import pathlib
import re

import pytest
import yaml
from flax import nnx
from train_helpers import ROOT, TINY, config_file, parse

CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT / "configs")))
def test_every_config_parses_into_a_model(path, here):
    config = parse(["--config", str(path)])
    content = yaml.safe_load(path.read_text())
    assert config.task.name == content["task"]["name"]
    assert list(config.model.blocks) == content["model"]["cells"]
    assert config.workdir == pathlib.Path("runs", path.relative_to(ROOT / "configs").with_suffix(""))
    model = nnx.eval_shape(lambda: config.make_model(nnx.Rngs(0)))
    assert len(model.blocks) == len(content["model"]["cells"])
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


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT / "configs")))
def test_the_head_of_a_config_states_what_its_committed_runs_scored(path):
    head = " ".join(line[1:].strip() for line in path.read_text().splitlines() if line.startswith("#"))
    expected = head[head.index("Expected: ") : head.index("Time: ")]
    name = path.relative_to(ROOT / "configs").with_suffix("")
    runs = [ROOT / "results" / f"{name}{suffix}.json" for suffix in ("", "_rerun")]
    runs = [json.loads(run.read_text()) for run in runs if run.is_file()]
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
