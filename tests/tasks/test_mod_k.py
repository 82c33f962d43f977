import numpy as np
import pytest

import tasks

ModK = tasks.get("mod_k")


@pytest.mark.parametrize("options", [{}, {"modulus": 2}, {"modulus": 5, "digits": 2, "length": 7}])
def test_targets_are_the_running_sum(options):
    task = ModK(**options)
    batch, sums = task.examples("train", np.arange(6)), np.zeros(6, int)
    assert batch["inputs"].shape == (6, task.length)
    assert set(np.unique(batch["inputs"])) == set(range(options.get("digits") or task.modulus))
    for t in range(task.length):
        sums = (sums + batch["inputs"][:, t]) % task.modulus
        np.testing.assert_array_equal(batch["targets"][:, t], sums)


def test_digits_are_uniform():
    counts = np.bincount(ModK(length=100).examples("test", np.arange(1000))["inputs"].ravel(), minlength=5)
    np.testing.assert_allclose(counts / 1e5, 0.2, atol=5 * np.sqrt(0.16 / 1e5))


@pytest.mark.parametrize(
    "options", [{}, {"modulus": 2}, {"modulus": 1000, "length": 65}, {"modulus": 32767, "length": 2}]
)
def test_digits_are_those_of_numpys_generators(options):
    task, indices = ModK(**options), np.arange(300)
    expected = [
        stream.integers(0, task.vocabulary, task.length, np.int16) for stream in task._streams("train", indices)
    ]
    np.testing.assert_array_equal(task.examples("train", indices)["inputs"], expected)


def test_accuracy_is_the_fraction_of_right_steps():
    logits = np.eye(5)[[[0, 1, 2, 3]]]
    assert ModK().metrics(logits, {"targets": np.array([[0, 1, 4, 4]])})["accuracy"].tolist() == [0.5]
    assert ModK(modulus=2).chance == 0.5


@pytest.mark.parametrize(("option", "value"), [("modulus", 1), ("digits", 1), ("length", 0), ("modulus", 2**15)])
def test_options_are_checked(option, value):
    with pytest.raises(ValueError, match=rf"task.{option} = {value}, allowed for mod_k: an integer"):
        ModK(**{option: value})
