import numpy as np
import pytest

import tasks

MQAR = tasks.get("mqar")


@pytest.mark.parametrize("options", [{}, {"length": 12, "pairs": 3, "vocabulary": 6}, {"length": 32, "pairs": 2}])
def test_each_key_is_asked_for_once_after_the_pairs(options):
    task = MQAR(**options)
    batch, half, end = task.examples("train", np.arange(20)), task.vocabulary // 2, 2 * task.pairs
    assert batch["inputs"].shape == batch["targets"].shape == (20, task.length)
    assert batch["inputs"].max() < task.vocabulary
    for tokens, targets in zip(batch["inputs"].tolist(), batch["targets"].tolist()):
        known = {}
        for i in range(0, end, 2):
            key, value = tokens[i : i + 2]
            assert 0 <= key < half <= value < task.vocabulary
            assert key not in known
            known[key] = value
        asked = set()
        for t, (token, target) in enumerate(zip(tokens, targets)):
            if target != -1:
                assert t >= end
                assert (t - end) % 2 == 0
                assert target == known[token]
                asked.add(token)
        assert asked == set(known)
        assert sum(target != -1 for target in targets) == task.pairs


@pytest.mark.parametrize("power", [0.01, 0.5, 1.0, 3.0])
def test_slots_are_drawn_by_the_power_law_without_replacement(power):
    n, task = 20000, MQAR(length=20, pairs=4, vocabulary=64, power=power)
    batch = task.examples("train", np.arange(n))
    queries = batch["targets"][:, 8::2] != -1
    slot_of = [(queries & (batch["inputs"][:, 8::2] == batch["inputs"][:, [2 * i]])) for i in range(4)]
    p = np.arange(1, 7) ** (power - 1.0)
    p /= p.sum()
    second = np.array([sum(p[h] * p[g] / (1 - p[h]) for h in range(6) if h != g) for g in range(6)])
    for found, expected in ((slot_of[0], p), (slot_of[1], second)):
        np.testing.assert_array_equal(found.sum(1), 1)
        np.testing.assert_allclose(found.mean(0), expected, atol=5 * np.sqrt(0.25 / n))


def test_keys_values_and_other_tokens_are_uniform():
    n, task = 5000, MQAR(length=16, pairs=2, vocabulary=10)
    batch = task.examples("train", np.arange(n))
    inputs, rest = batch["inputs"], batch["targets"][:, 4:] == -1
    for tokens, low, high in ((inputs[:, 0], 0, 5), (inputs[:, 2], 0, 5), (inputs[:, 1], 5, 10), (inputs[:, 3], 5, 10)):
        counts = np.bincount(tokens, minlength=10)[low:high]
        np.testing.assert_allclose(counts / n, 0.2, atol=5 * np.sqrt(0.16 / n))
    others = inputs[:, 4:][rest]
    np.testing.assert_allclose(np.bincount(others) / others.size, 0.1, atol=5 * np.sqrt(0.09 / others.size))


def test_chance_is_a_guess_among_the_values():
    assert MQAR(vocabulary=512).chance == 1 / 256
    assert MQAR().outputs == 8192


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairs": 0}, "task.pairs = 0, allowed for mqar: an integer >= 1"),
        ({"length": 254}, "task.length = 254, allowed for mqar: an integer >= 256"),
        ({"length": 513}, "task.length = 513, allowed for mqar: an even number"),
        ({"vocabulary": 126}, "task.vocabulary = 126, allowed for mqar: an integer >= 128"),
        ({"vocabulary": 255}, "task.vocabulary = 255, allowed for mqar: an even number"),
        ({"power": float("inf")}, "task.power = inf, allowed for mqar: a number from 0 to 10"),
        ({"retention": (100,)}, "of which task.length = 100, allowed for mqar: an integer >= 256"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        MQAR(**options)
