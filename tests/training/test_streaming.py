"""A task with an output at every step, at lengths of many chunks: the same numbers, in memory that does not grow."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from train_helpers import TINY, make_trainer

import tasks
from mru.training import streaming

pytestmark = pytest.mark.usefixtures("cache")
TEXT = TINY.replace("copy_first", "echo")


@pytest.fixture
def echo(monkeypatch):
    """Whether the number before was above 0, asked at the first step of all and then at steps where a coin says so."""
    monkeypatch.setattr(tasks.REGISTRY, "_classes", dict(tasks.REGISTRY._classes))

    @dataclass(frozen=True)
    class Echo(tasks.base.Generated, name="echo"):
        length: int = 20

        features: ClassVar = 1
        outputs: ClassVar = 1
        pooling: ClassVar = "none"
        metric: ClassVar = "mse"
        goal: ClassVar = "min"
        chance: ClassVar = 1.0
        retention_option: ClassVar = "length"
        time_axes: ClassVar = {"inputs": 1, "targets": 1, "asked": 1}

        def _examples(self, split, indices):
            inputs = np.empty((len(indices), self.length, 1), np.float32)
            asked = np.zeros((len(indices), self.length), bool)
            for row, coins, stream in zip(inputs, asked, self._streams(split, indices)):
                row[:] = stream.normal(size=(self.length, 1))
                coins[-50:] = stream.random(min(self.length, 50)) < 0.3  # in no chunk but the last
                coins[0] = True
            targets = np.roll(inputs[..., 0], 1, 1)
            return {"inputs": inputs, "targets": targets, "asked": asked, "scale": targets[:, 0] * 0 + 3}

        def loss(self, outputs, batch):
            error = jnp.square(outputs[..., 0] - batch["targets"]) * batch["scale"][:, None]
            return (error * batch["asked"]).sum(1) / batch["asked"].sum(1)

        def metrics(self, outputs, batch):
            return {"mse": self.loss(outputs, batch) / 3}

        def counted(self, batch):
            return batch["asked"].sum(1)

    return Echo


@pytest.mark.parametrize("counts", [True, False])
def test_chunks_have_the_values_of_the_whole(echo, tmp_path, counts, monkeypatch):
    if not counts:
        monkeypatch.setattr(echo, "counted", tasks.base.Generated.counted)
    trainer = make_trainer(tmp_path, text=TEXT)
    state, task = trainer.initial(), trainer.task.at(2700)
    found = trainer.evaluate_at(state, task, lambda: None)
    examples = task.examples("test", np.arange(20))
    outputs, _ = nnx.merge(trainer.graphdef, state.params, state.rest)(examples["inputs"])
    error, asked = (np.asarray(outputs)[..., 0] - np.float64(examples["targets"])) ** 2, examples["asked"]
    expected = np.mean([row[which].mean() for row, which in zip(error, asked)])
    assert found["mse"] == pytest.approx(expected, rel=1e-4)
    assert found["loss"] == pytest.approx(3 * expected, rel=1e-4)


def test_what_the_device_holds_does_not_grow_with_the_length(echo, tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, text=TEXT)
    state, task, chunk = trainer.initial(), trainer.task.at(8 * streaming.CHUNK), 4 * 16 * streaming.CHUNK

    def grown():
        held = []
        trainer.evaluate_at(state, task, lambda: held.append(sum(x.nbytes for x in jax.live_arrays())))
        assert len(held) == 2 * 8  # 20 examples are two batches of 16
        return max(held[2:8]) - held[1]

    assert grown() < chunk / 2
    monkeypatch.setattr(echo, "counted", tasks.base.Generated.counted)
    assert grown() >= 6 * chunk  # the outputs of all steps: that they can be seen here


def test_chunks_cover_the_sequence_and_the_first_is_the_shorter_one():
    assert [(x.start, x.stop) for x in streaming.slices(2500)] == [(0, 500), (500, 1500), (1500, 2500)]
    assert [(x.start, x.stop) for x in streaming.slices(1000)] == [(0, 1000)]
