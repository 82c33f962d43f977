"""F1 and the area under the ROC curve, and how metrics of a whole split reach a run."""

import itertools
import json

import jax.numpy as jnp
import numpy as np
import pytest
from train_helpers import config_file, main

import mru
import tasks
from tasks.ecg import auroc, f1

TEXT = """\
task: {name: ecg, length: 8}
model: {cells: [lru], width: 4, state_size: 2, expansion: 0}
train: {steps: 2, batch_size: 7, eval_every: 2}
"""


def test_f1_from_counts():
    found, is_true = np.array([1, 1, 1, 0, 0, 1]), np.array([1, 0, 1, 1, 0, 0])
    precision, recall = 2 / 4, 2 / 3
    assert f1(found, is_true) == pytest.approx(2 * precision * recall / (precision + recall))
    assert f1(np.zeros(6), is_true) == 0
    assert f1(np.zeros(6), np.zeros(6)) == 0


def test_auroc_is_the_fraction_of_pairs_in_the_right_order():
    rng = np.random.default_rng(0)
    score, is_true = rng.integers(5, size=40), rng.integers(2, size=40)
    pairs = itertools.product(score[is_true == 1], score[is_true == 0])
    assert auroc(score, is_true) == pytest.approx(np.mean([(a > b) + (a == b) / 2 for a, b in pairs]))
    assert auroc(score, np.ones(40)) == 0.5


def test_loss_weighs_the_classes_alike():
    task = tasks.get("ecg")()
    targets = np.repeat([0, 1], task.counts)
    loss = np.asarray(task.loss(jnp.zeros((len(targets), 2)), {"targets": targets}), np.float64)
    assert loss[targets == 0].sum() == pytest.approx(loss[targets == 1].sum(), rel=1e-6)
    assert loss.mean() == pytest.approx(np.log(2), rel=1e-6)


def test_chance_is_the_f1_of_calling_every_beat_a_pvc():
    counted = np.repeat([0, 1], [6077 - 488, 488])
    assert tasks.get("ecg").chance == pytest.approx(f1(np.ones(6077), counted), abs=5e-4)


def test_a_split_is_summarised_as_a_whole(arrays_are, tmp_path, monkeypatch, quick_compile):
    rng = np.random.default_rng(0)
    beats = np.stack([np.zeros(25), rng.integers(100, size=25), rng.integers(2, size=25)], 1).astype(np.int32)
    signals = rng.integers(2048, size=(1, 100)).astype(np.int16)
    arrays_are(
        {f"{s}_{k}": x for s in ("train", "validation", "test") for k, x in (("signals", signals), ("beats", beats))}
    )
    sizes = {"train": 25, "validation": 25, "test": 25}
    monkeypatch.setattr(tasks.get("ecg"), "sizes", property(lambda task: sizes))
    code, said = main("--config", config_file(tmp_path, TEXT), "--workdir", tmp_path / "w")
    assert code == 0, said
    found = json.loads((tmp_path / "w" / "summary.json").read_text())["validation"]
    # 25 examples in batches of 7: three fill the last one up, and are not counted.
    batch = tasks.get("ecg")(length=8).examples("validation", np.arange(25))
    logits, _ = mru.load(tmp_path / "w")(jnp.asarray(batch["inputs"]))
    difference = np.asarray(logits[:, 1] - logits[:, 0], np.float64)
    assert 0 < found["f1"] < 1
    assert found["f1"] == pytest.approx(f1(difference > 0, batch["targets"]), rel=1e-5)
    assert found["auroc"] == pytest.approx(auroc(difference, batch["targets"]), rel=1e-5)
    assert found["accuracy"] == pytest.approx(np.mean((difference > 0) == batch["targets"]), rel=1e-5)
