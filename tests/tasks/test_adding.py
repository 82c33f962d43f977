import jax.numpy as jnp
import numpy as np
import pytest

import tasks

Adding = tasks.get("adding")


@pytest.mark.parametrize("length", [200, 2, 7])
def test_target_is_the_sum_of_the_two_that_are_marked(length):
    batch = Adding(length=length).examples("train", np.arange(50))
    assert batch["inputs"].shape == (50, length, 2)
    assert batch["targets"].shape == (50, 1)
    for x, target in zip(batch["inputs"], batch["targets"]):
        marked = [t for t in range(length) if x[t, 1] == 1]
        assert len(marked) == 2
        assert marked[0] < length // 2 <= marked[1]
        assert np.count_nonzero(x[:, 1]) == 2
        assert target[0] == pytest.approx(sum(float(x[t, 0]) for t in marked), rel=1e-6)


def test_numbers_and_places_are_uniform():
    n, inputs = 5000, Adding(length=8).examples("train", np.arange(5000))["inputs"]
    numbers = inputs[..., 0].astype(np.float64)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 5 * np.sqrt(1 / 12 / numbers.size)
    assert abs((numbers**2).mean() - 1 / 3) < 5 * np.sqrt(4 / 45 / numbers.size)
    np.testing.assert_allclose(inputs[..., 1].mean(0), 0.25, atol=5 * np.sqrt(0.1875 / n))


def test_chance_is_the_error_of_the_best_constant():
    task, n = Adding(length=10), 20000
    batch = task.examples("train", np.arange(n))
    # The squared error of the mean, 1, has the variance 7/180 of a triangular distribution's.
    errors = task.metrics(jnp.ones((n, 1)), batch)["mse"]
    assert abs(float(errors.mean()) - task.chance) < 5 * np.sqrt((1 / 15 - 1 / 36) / n)
    np.testing.assert_allclose(task.loss(jnp.ones((2, 1)), {"targets": np.array([[1.0], [1.5]])}), [0, 0.25])


def test_length_is_checked():
    with pytest.raises(ValueError, match=r"task\.length = 1, allowed for adding: an integer >= 2"):
        Adding(length=1)
