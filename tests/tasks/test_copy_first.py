import jax.numpy as jnp
import numpy as np

import tasks

CopyFirst = tasks.get("copy_first")


def test_inputs_are_standard_normal_and_white():
    x = CopyFirst(length=50).examples("train", np.arange(4000))["inputs"][..., 0].astype(np.float64)
    n = x.size
    # Five standard errors each.
    assert abs(x.mean()) < 5 / np.sqrt(n)
    assert abs(x.var() - 1) < 5 * np.sqrt(2 / n)
    assert abs((x**4).mean() - 3) < 5 * np.sqrt(96 / n)
    assert abs((x[:, 1:] * x[:, :-1]).mean()) < 5 / np.sqrt(n)
    assert abs((x[1:] * x[:-1]).mean()) < 5 / np.sqrt(n)


def test_target_is_the_first_input():
    batch = CopyFirst(length=30).examples("test", np.arange(100))
    assert batch["targets"].shape == (100, 1)
    np.testing.assert_array_equal(batch["targets"], batch["inputs"][:, 0])


def test_chance_is_the_error_of_the_best_constant():
    task = CopyFirst(length=1)
    batch = task.examples("train", np.arange(20000))
    mse = task.metrics(jnp.zeros((20000, 1)), batch)["mse"]
    assert abs(float(mse.mean()) - task.chance) < 5 * np.sqrt(2 / 20000)
    np.testing.assert_allclose(task.loss(jnp.full((2, 1), 3.0), {"targets": jnp.array([[1.0], [3.5]])}), [4, 0.25])


def test_the_longest_of_the_retention_curve():
    task = CopyFirst()
    long = task.at(max(task.retention)).examples("test", np.array([0]))
    assert long["inputs"].shape == (1, 1_000_000, 1)
    assert abs(long["inputs"].std() - 1) < 0.01
