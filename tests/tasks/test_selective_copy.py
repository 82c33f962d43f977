import numpy as np
import pytest

import tasks

SelectiveCopy = tasks.get("selective_copy")


@pytest.mark.parametrize("options", [{}, {"places": 9, "count": 3, "alphabet": 5}, {"places": 4, "count": 4}])
def test_the_markers_ask_for_the_symbols_in_order(options):
    task = SelectiveCopy(**options)
    batch, blank, marker = task.examples("train", np.arange(20)), task.alphabet, task.alphabet + 1
    assert batch["inputs"].shape == batch["targets"].shape == (20, task.places + task.count)
    for tokens, targets in zip(batch["inputs"].tolist(), batch["targets"].tolist()):
        seen, asked = [], []
        for t, (token, target) in enumerate(zip(tokens, targets)):
            assert (token == marker) == (t >= task.places) == (target != -1)
            if token == marker:
                asked.append(target)
            elif token != blank:
                assert 0 <= token < task.alphabet
                seen.append(token)
        assert asked == seen
        assert len(seen) == task.count


def test_symbols_and_places_are_uniform():
    inputs = SelectiveCopy(places=20, count=4, alphabet=3).examples("train", np.arange(5000))["inputs"][:, :20]
    n = 5000
    np.testing.assert_allclose((inputs < 3).mean(0), 4 / 20, atol=5 * np.sqrt(0.16 / n))
    # Two places are both taken with probability 4/20 3/19.
    pairs = [((inputs[:, a] < 3) & (inputs[:, b] < 3)).mean() for a, b in ((0, 1), (0, 19), (7, 12))]
    np.testing.assert_allclose(pairs, 12 / 380, atol=5 * np.sqrt(0.0316 / n))
    counts = np.bincount(inputs[inputs < 3], minlength=3)
    np.testing.assert_allclose(counts / (4 * n), 1 / 3, atol=5 * np.sqrt(2 / 9 / (4 * n)))


def test_accuracy_is_that_at_the_markers():
    task = SelectiveCopy(places=2, count=2, alphabet=4)
    logits = np.eye(4)[[[3, 0, 1, 2], [3, 3, 1, 2]]]
    targets = np.array([[-1, -1, 1, 3], [-1, -1, 1, 2]])
    assert task.metrics(logits, {"targets": targets})["accuracy"].tolist() == [0.5, 1]
    assert task.chance == 1 / 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "task.count = 0, allowed for selective_copy: an integer >= 1"),
        ({"alphabet": 1}, "task.alphabet = 1, allowed for selective_copy: an integer >= 2"),
        ({"places": 15}, "task.places = 15, allowed for selective_copy: an integer >= 16"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        SelectiveCopy(**options)
