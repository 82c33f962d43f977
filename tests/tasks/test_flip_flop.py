import numpy as np
import pytest

import tasks

FlipFlop = tasks.get("flip_flop")
WRITE, READ, IGNORE, ZERO, ONE = range(5)


@pytest.mark.parametrize("options", [{}, {"p_ignore": 0.98}, {"p_ignore": 0.1, "length": 40}, {"length": 4}])
def test_every_read_finds_what_was_written_last(options):
    task = FlipFlop(**options)
    batch = task.examples("train", np.arange(30))
    assert batch["inputs"].shape == batch["targets"].shape == (30, task.length)
    assert batch["inputs"].dtype == batch["targets"].dtype == np.int32
    for tokens, targets in zip(batch["inputs"].tolist(), batch["targets"].tolist()):
        assert tokens[0] == WRITE
        assert tokens[-2] == READ
        memory = None
        for i in range(0, len(tokens), 2):
            instruction, bit = tokens[i : i + 2]
            assert instruction in (WRITE, READ, IGNORE)
            assert bit in (ZERO, ONE)
            if instruction == WRITE:
                memory = bit - ZERO
            if instruction == READ:
                assert bit - ZERO == memory
            assert targets[i : i + 2] == [memory if instruction == READ else -1, -1]


@pytest.mark.parametrize("p_ignore", [0.8, 0.98, 0.1, 0.0, 1.0])
def test_instructions_and_bits_are_as_likely_as_they_should_be(p_ignore):
    tokens = FlipFlop(p_ignore=p_ignore).examples("test", np.arange(1000))["inputs"].reshape(1000, 256, 2)
    drawn, bits = tokens[:, 1:-1, 0], tokens[..., 1]
    n = drawn.size
    for kind, p in ((IGNORE, p_ignore), (WRITE, (1 - p_ignore) / 2), (READ, (1 - p_ignore) / 2)):
        assert abs((drawn == kind).mean() - p) <= 5 * np.sqrt(p * (1 - p) / n)
    coins = bits[tokens[..., 0] != READ]
    assert abs((coins == ONE).mean() - 0.5) < 2.5 / np.sqrt(coins.size)
    # Instructions are independent: so are those of neighbours.
    both = ((drawn[:, 1:] == IGNORE) & (drawn[:, :-1] == IGNORE)).mean()
    assert abs(both - p_ignore**2) <= 10 * np.sqrt(p_ignore**2 * (1 - p_ignore**2) / n)


@pytest.mark.parametrize("length", [4, 30, 512])
def test_instructions_and_bits_are_those_of_numpys_generators(length):
    """One instruction after the other, from numbers that are drawn as they were when results were committed."""
    task, indices = FlipFlop(length=length, p_ignore=0.5), np.arange(40)
    for tokens, stream in zip(task.examples("train", indices)["inputs"], task._streams("train", indices)):
        chances = stream.random(length // 2, np.float32)
        coins, expected, memory = stream.integers(0, 2, length // 2, np.int8), [], None
        for t, (chance, coin) in enumerate(zip(chances.tolist(), coins.tolist())):
            kind = IGNORE if chance < 0.5 else READ if chance < 0.75 else WRITE
            kind = WRITE if t == 0 else READ if t == length // 2 - 1 else kind
            memory = coin if kind == WRITE else memory
            expected += [kind, ZERO + (memory if kind == READ else coin)]
        assert tokens.tolist() == expected


def test_errors_are_counted_at_the_reads_alone():
    task = FlipFlop()
    targets = np.array([[-1, -1, 1, -1, 0, -1, 1, -1]])
    answers = np.array([[0, 1, 1, 0, 1, 0, 1, 1]])  # of the three reads the second is wrong
    assert float(task.metrics(np.eye(2)[answers], {"targets": targets})["error"][0]) == pytest.approx(1 / 3)
    assert task.counted({"targets": targets}).tolist() == [3]


def test_the_longest_of_the_retention_curve():
    task = FlipFlop()
    long = task.at(max(task.retention)).examples("test", np.array([0]))
    assert long["inputs"].shape == (1, 1_000_000)
    reads = (long["targets"] >= 0).sum()
    assert abs(reads - 5e4) < 5 * np.sqrt(5e4)


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("length", 2, "an integer >= 4"),
        ("length", 7, "an even number"),
        ("p_ignore", -0.1, "a number from 0 to 1"),
        ("p_ignore", float("nan"), "a number from 0 to 1"),
    ],
)
def test_options_are_checked(option, value, allowed):
    with pytest.raises(ValueError, match=rf"^task\.{option} = {value}, allowed for flip_flop: {allowed}[^\n]*$"):
        FlipFlop(**{option: value})
