import json
import pathlib

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
