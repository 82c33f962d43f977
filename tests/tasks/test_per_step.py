"""Tasks with a class at some of the steps: loss and metric of those steps alone."""

import jax
import numpy as np
import pytest

import tasks
from tasks._per_step import PerStep, distinct

ALIKE = ["mod_k", "parity", "word_s3", "word_s5"]


def test_what_is_said_of_one_holds_for_all():
    for name in ALIKE:
        kind = tasks.get(name)
        assert (kind.loss, kind.metrics, kind.counted) == (PerStep.loss, PerStep.metrics, PerStep.counted)


@pytest.mark.parametrize("name", ["flip_flop", "mqar", "selective_copy", "word_s3"])
def test_other_steps_change_nothing(name):
    task, rng = tasks.get(name)(), np.random.default_rng(0)
    batch = task.examples("train", np.arange(3))
    batch = {key: x[:, -40:] for key, x in batch.items()}
    batch["targets"][2] = -1  # as in a chunk of a long sequence in which nothing is asked

    @jax.jit
    def run(logits, batch):
        slope = jax.grad(lambda x: task.loss(x, batch).sum())(logits)
        return task.metrics(logits, batch)[task.metric], task.loss(logits, batch), task.counted(batch), slope

    logits = rng.normal(size=(3, 40, task.outputs)).astype(np.float32)
    expected = {"loss": [], "right": []}
    for rows, targets in zip(logits.astype(np.float64), batch["targets"]):
        asked = [(row, target) for row, target in zip(rows, targets) if target != -1]
        expected["loss"].append(sum(np.log(np.exp(x).sum()) - x[y] for x, y in asked) / max(len(asked), 1))
        expected["right"].append(sum(x.argmax() == y for x, y in asked) / max(len(asked), 1))
    found, loss, counted, slope = (np.asarray(x) for x in run(logits, batch))
    np.testing.assert_allclose(loss, expected["loss"], rtol=1e-5)
    right = 1 - found if task.metric == "error" else found
    np.testing.assert_allclose(right[:2], expected["right"][:2], rtol=1e-5, atol=1e-7)
    assert np.isfinite(found[2])
    np.testing.assert_array_equal(counted, (batch["targets"] != -1).sum(1))
    assert not slope[batch["targets"] == -1].any()
    assert np.abs(slope[batch["targets"] != -1]).sum(-1).min() > 0


def test_distinct_integers_rise_and_cover_the_range():
    rng = np.random.default_rng(0)
    found = distinct(rng.random((2000, 3)), 5)
    assert (np.diff(found) > 0).all()
    assert (found.min(), found.max()) == (0, 4)
    sets, counts = np.unique(found, axis=0, return_counts=True)
    assert len(sets) == 10
    np.testing.assert_allclose(counts / 2000, 0.1, atol=5 * np.sqrt(0.09 / 2000))
    np.testing.assert_array_equal(distinct(rng.random((4, 6)), 6), [range(6)] * 4)
