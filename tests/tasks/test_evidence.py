import math

import numpy as np
import pytest

import tasks

Evidence = tasks.get("evidence")


def test_bayes_error_of_the_defaults():
    assert Evidence().bayes_error == pytest.approx(0.0169, abs=1e-4)


@pytest.mark.parametrize("options", [{}, {"cue": 10, "delay": 3, "mean": 0.5, "noise": 2.0}])
def test_optimal_decoder_reaches_the_bayes_error(options):
    task, n = Evidence(**options), 20000
    exact = 0.5 - 0.5 * math.erf(task.mean * math.sqrt(task.cue) / task.noise / math.sqrt(2))
    assert task.bayes_error == pytest.approx(exact)
    batch = task.examples("train", np.arange(n))
    decision = batch["inputs"][:, : task.cue, 0].sum(1) > 0
    error = float((decision != batch["targets"]).mean())
    assert abs(error - exact) < 5 * math.sqrt(exact * (1 - exact) / n)
    assert abs(batch["targets"].mean() - 0.5) < 2.5 / math.sqrt(n)


def test_signal_is_in_the_cue_alone():
    task, n = Evidence(cue=8, delay=5, mean=0.7, noise=1.5), 20000
    batch = task.examples("train", np.arange(n))
    assert batch["inputs"].shape == (n, 14, 2)
    signed = batch["inputs"][..., 0] * (2 * batch["targets"][:, None] - 1)
    expected = np.where(np.arange(14) < 8, 0.7, 0)
    np.testing.assert_allclose(signed.mean(0), expected, atol=5 * 1.5 / math.sqrt(n))
    np.testing.assert_allclose(signed.std(0), 1.5, atol=5 * 1.5 / math.sqrt(2 * n))


def test_query_flag_is_1_at_the_last_step_alone():
    flag = Evidence(cue=2, delay=0).examples("test", np.arange(5))["inputs"][..., 1]
    np.testing.assert_array_equal(flag, np.tile([0, 0, 1], (5, 1)))


def test_error_is_1_where_the_decision_is_wrong():
    logits = np.array([[1.0, 0.0], [1.0, 0.0]])
    np.testing.assert_array_equal(Evidence().metrics(logits, {"targets": np.array([0, 1])})["error"], [0, 1])
