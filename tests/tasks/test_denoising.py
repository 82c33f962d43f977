import jax.numpy as jnp
import numpy as np
import pytest

import tasks

Denoising = tasks.get("denoising")


@pytest.mark.parametrize("options", [{}, {"forget": 0}, {"length": 12, "forget": 7}, {"length": 6, "forget": 0}])
def test_targets_are_the_flagged_values_in_order(options):
    task = Denoising(**options)
    batch = task.examples("train", np.arange(50))
    assert batch["inputs"].shape == (50, task.length, 2)
    assert batch["targets"].shape == (50, 5)
    for x, targets in zip(batch["inputs"], batch["targets"]):
        flagged = []
        for t, (value, flag) in enumerate(x.tolist()):
            assert (flag == -1) == (t == task.length - 1)
            if flag == 1:
                assert t < task.length - task.forget
                flagged.append(value)
            else:
                assert flag in (0, -1)
        assert flagged == targets.tolist()


def test_values_are_normal_and_places_uniform():
    n, inputs = 5000, Denoising(length=20, forget=10).examples("train", np.arange(5000))["inputs"]
    values = inputs[..., 0].astype(np.float64)
    assert abs(values.mean()) < 5 / np.sqrt(values.size)
    assert abs(values.var() - 1) < 5 * np.sqrt(2 / values.size)
    np.testing.assert_allclose((inputs[:, :10, 1] == 1).mean(0), 0.5, atol=2.5 / np.sqrt(n))
    assert not (inputs[:, 10:, 1] == 1).any()


def test_chance_is_the_error_of_the_best_constant():
    task, n = Denoising(length=8, forget=0), 20000
    mse = task.metrics(jnp.zeros((n, 5)), task.examples("train", np.arange(n)))["mse"]
    assert abs(float(mse.mean()) - task.chance) < 5 * np.sqrt(2 / (5 * n))
    one = {"targets": np.array([[0.0, 1, 2, 3, 4]])}
    np.testing.assert_allclose(task.loss(jnp.ones((1, 5)), one), (1 + 0 + 1 + 4 + 9) / 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 204}, "task.length = 204, allowed for denoising: an integer >= 205"),
        ({"length": 5, "forget": 0}, "task.length = 5, allowed for denoising: an integer >= 6"),
        ({"forget": -1}, "task.forget = -1, allowed for denoising: an integer >= 0"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        Denoising(**options)
