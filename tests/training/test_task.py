"""A task that is no subclass of anything in this repository, or of `mru.training.Task` alone."""

import importlib.metadata
import json
import sys
import textwrap
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
from train_helpers import config_file, main, make_trainer

import mru.training
import tasks
from mru.registry import Registry
from mru.training import command_line
from mru.training.messages import UserError

PACKED = '''
import jax.numpy as jnp
import numpy as np
from dataclasses import dataclass
from mru.training import ENDLESS, ModelInputs, Task

@dataclass(frozen=True)
class Packed(Task, name="packed"):
    """Two sequences in one row: the target is the first number of the second one."""

    length: int = 6
    features = 1
    outputs = 1
    pooling = "last"
    metric = "mse"
    goal = "min"
    chance = 1.0
    sizes = {"train": ENDLESS, "validation": 8, "test": 8}
    time_axes = {"series": 1}

    def examples(self, split, indices):
        rows = [np.random.default_rng(int(i % 1000)).normal(size=self.length) for i in indices]
        series = np.array(rows, np.float32).reshape(-1, self.length)
        return {"series": series, "targets": series[:, 3].copy()}

    def model_inputs(self, batch):
        starts = jnp.arange(self.length) == 3
        series = batch["series"]
        return ModelInputs(series[..., None], reset=jnp.broadcast_to(starts, series.shape))

    def loss(self, outputs, batch):
        return jnp.square(outputs[:, 0] - batch["targets"])

    def metrics(self, outputs, batch):
        return {"mse": self.loss(outputs, batch)}
'''
TEXT = """\
task: {name: packed}
model: {cells: [lru], width: 4, state_size: 2, expansion: 0}
train: {steps: 4, batch_size: 8, eval_every: 400}
"""


@pytest.fixture
def packed(tmp_path, monkeypatch):
    """The module of another package, named in the entry-point group `mru.tasks`."""
    (tmp_path / "packed_task.py").write_text(textwrap.dedent(PACKED))
    monkeypatch.syspath_prepend(tmp_path)
    entry = importlib.metadata.EntryPoint("packed", "packed_task:Packed", "mru.tasks")
    monkeypatch.setitem(tasks.REGISTRY.__dict__, "_entry_points", {"packed": [entry]})
    monkeypatch.setattr(tasks.REGISTRY, "_classes", dict(tasks.REGISTRY._classes))
    yield
    sys.modules.pop("packed_task", None)


def test_a_task_of_another_package_trains_by_name(packed, tmp_path):
    code, said = main("--config", config_file(tmp_path, TEXT), "--workdir", tmp_path / "w")
    assert code == 0, said
    summary = json.loads((tmp_path / "w/summary.json").read_text())
    assert summary["task"] == {"name": "packed", "length": 6}
    # What the model was called with is the task's own: the reset makes the first three numbers of no account.
    model, examples = mru.load(tmp_path / "w"), tasks.get("packed")().examples("test", np.arange(8))
    alone, _ = model(examples["series"][:, 3:, None])
    expected = np.mean((np.asarray(alone[:, 0], np.float64) - examples["targets"]) ** 2)
    assert summary["test"]["mse"] == pytest.approx(expected, rel=1e-4)


def test_time_axes_are_named_not_guessed(packed, tmp_path):
    trainer = make_trainer(tmp_path, "--train.batch_size", "6", text=TEXT)
    batch = trainer.task.examples("train", np.arange(6))  # as many targets as steps
    placed = trainer.place(batch | {"more": np.ones((6, 6, 6), np.float32)}, 0)
    specs = {name: tuple(x.sharding.spec) for name, x in placed.items()}
    assert specs == {"series": ("data", "seq"), "targets": ("data",), "more": ("data",)}
    stacked = trainer.place({"series": batch["series"][None]}, 1)
    assert tuple(stacked["series"].sharding.spec) == (None, "data", "seq")


def test_a_class_of_no_base_fits():
    kind = type("Plain", (), {"name": "plain", "__doc__": "Nothing else."})
    registry = Registry("task", "no.such.group")
    registry.add("plain", dataclass(frozen=True)(kind))
    assert registry.get("plain") is kind


def test_what_is_missing_is_named_as_a_task_is_made():
    class Half(mru.training.Task, name="half"):
        outputs = 1

    with pytest.raises(TypeError, match=r"abstract.*\bchance\b.*\bexamples\b.*\bloss\b"):
        Half()


@pytest.mark.parametrize("hint", [Any, object, dict, list[Any], dict[str, object], type, tasks.Task])
def test_an_option_of_a_task_that_could_run_code_is_refused(hint, tmp_path):
    @dataclass(frozen=True)
    class Open(tasks.base.Generated):
        option: hint = None

        length: ClassVar[int] = 4

    registry = Registry("task", "no.such.group")
    Open.name = "open"
    registry.add("open", Open)
    with pytest.raises(UserError, match=r"task\.option is declared as .*, allowed: plain types"):
        command_line.parse(["--task.name", "open", "--task.option", "{class_path: os.system}"], registry)
