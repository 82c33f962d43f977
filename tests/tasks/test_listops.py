import statistics
import zlib

import numpy as np
import pytest

import tasks
from tasks import _listops

ListOps = tasks.get("listops")
WORDS = dict(enumerate(["_", *"0123456789", "MIN", "MAX", "MED", "SM", "]"]))


def tree(tokens):
    """Nested lists, an operator first, of an expression."""
    stack = [[]]
    for token in tokens:
        word = WORDS[int(token)]
        if word == "]":
            stack[-2].append(stack.pop())
        elif word in ("MIN", "MAX", "MED", "SM"):
            stack.append([word])
        else:
            stack[-1].append(int(word))
    assert len(stack) == 1
    (root,) = stack[0]
    return root


def value(node):
    if isinstance(node, int):
        return node
    function = {"MIN": min, "MAX": max, "MED": lambda x: int(statistics.median(x)), "SM": lambda x: sum(x) % 10}
    return function[node[0]]([value(child) for child in node[1:]])


def operators(node, depth=1):
    """Depth, operator and number of arguments of every operator of a tree; digits have a depth and the value."""
    if isinstance(node, int):
        yield depth, node, 0
        return
    yield depth, node[0], len(node) - 1
    for child in node[1:]:
        yield from operators(child, depth + 1)


@pytest.fixture(scope="module")
def batch():
    return ListOps().examples("train", np.arange(400))


def test_targets_are_the_values_of_the_expressions(batch):
    for tokens, length, target in zip(batch["inputs"], batch["lengths"], batch["targets"]):
        assert value(tree(tokens[:length])) == target
        assert not tokens[length:].any()
    assert set(batch["targets"].tolist()) == set(range(10))
    assert {array.dtype for array in batch.values()} == {np.dtype(np.int32)}
    assert batch["inputs"].shape == (400, 2000)


def test_values_of_some_expressions_by_hand():
    codes = {word: token for token, word in WORDS.items()}
    for text, expected in (
        ("MAX 4 MIN 2 3 ] SM 1 9 ] ]", 4),
        ("MED 1 2 ]", 1),
        ("MED 9 8 0 ]", 8),
        ("SM 9 9 9 ]", 7),
    ):
        assert value(tree([codes[word] for word in text.split()])) == expected


def test_trees_are_of_depth_10_at_most_and_their_nodes_as_frequent_as_they_should(batch):
    nodes = [node for row, n in zip(batch["inputs"], batch["lengths"]) for node in operators(tree(row[:n]))]
    assert max(depth for depth, _, _ in nodes) == 10
    arguments = np.array([count for _, _, count in nodes if count])
    assert (arguments.min(), arguments.max()) == (2, 10)
    # At the last level there are no operators, and of which kind a node is does not depend on what fits.
    for names, kind in ((("MIN", "MAX", "MED", "SM"), str), (range(10), int)):
        found = [name for _, name, _ in nodes if isinstance(name, kind)]
        shares = np.array([found.count(name) for name in names]) / len(found)
        np.testing.assert_allclose(shares, 1 / len(names), atol=5 * np.sqrt(1 / len(names) / len(found)))


def recursive_length(rng, depth=1):
    """Length of one tree by the published process, one node after the other."""
    if depth == 10 or rng.random() >= 0.25:
        return 1
    return 2 + sum(recursive_length(rng, depth + 1) for _ in range(rng.integers(2, 11)))


def test_lengths_are_those_of_the_published_process():
    rng, expected = np.random.default_rng(0), []
    while len(expected) < 500:
        length = recursive_length(rng)
        if 500 < length < 2000:
            expected.append(length)
    lengths = ListOps().examples("validation", np.arange(2000))["lengths"]
    assert lengths.min() >= 501
    assert lengths.max() <= 1999
    error = np.std(expected) * np.sqrt(1 / 500 + 1 / 2000)
    assert abs(lengths.mean() - np.mean(expected)) < 4 * error
    assert abs(lengths.mean() - 1035) < 4 * np.std(expected) / np.sqrt(2000)
    quantiles = np.linspace(0.1, 0.9, 9)
    np.testing.assert_allclose(np.quantile(lengths, quantiles), np.quantile(expected, quantiles), atol=120)


def test_most_frequent_class_is_chance():
    targets = ListOps().examples("test", np.arange(2000))["targets"]
    assert abs((targets == 0).mean() - ListOps.chance) < 4 * np.sqrt(0.17 * 0.83 / 2000)
    assert np.bincount(targets, minlength=10).max() < 0.21 * 2000


def test_examples_depend_on_their_index_alone_and_on_seed_and_split():
    task, indices = ListOps(), np.array([7, 0, 1999, 7])
    rows = task.examples("test", indices)
    for i, index in enumerate(indices):
        for name, array in ListOps().examples("test", np.array([index])).items():
            np.testing.assert_array_equal(array[0], rows[name][i])
    others = [ListOps(seed=1).examples("test", indices), task.examples("validation", indices)]
    seen = {row.tobytes() for made in (rows, *others) for row in made["inputs"]}
    assert len(seen) == 9  # one index was asked for twice
    assert task.examples("train", np.array([], int))["inputs"].shape == (0, 2000)


def drawn(index, split=0, seed=0):
    """Tokens of an expression from the words of the bit generator, by Python's integers alone."""
    key = np.random.SeedSequence([zlib.crc32(b"listops"), split, seed]).generate_state(2, np.uint64)
    bits = np.random.Philox(key=key, counter=[0, 0, 0, index])
    while True:
        root = []
        level, length, depth = [root], 0, 1
        while level and length + len(level) <= 1999:
            length, below = length + len(level), []
            for node in level:
                word = int(bits.random_raw())
                choice = (word >> 32) * (9 if depth == 1 else 36) >> 32
                if depth < 10 and choice < 9:
                    node += [11 + ((word % 2**32) * 4 >> 32), *([] for _ in range(choice + 2)), 15]
                    below += node[1:-1]
                    length += 1
                else:
                    node.append(1 + ((word % 2**32) * 10 >> 32))
            level, depth = below, depth + 1
        if not level and length >= 501:
            return flat(root)


def flat(node):
    return [node] if isinstance(node, int) else [token for child in node for token in flat(child)]


def test_expressions_are_those_of_the_stable_words_whatever_the_version():
    batch = ListOps().examples("train", np.array([0, 95999, 12]))
    np.testing.assert_array_equal(ListOps().example_lengths("train", np.array([0, 95999, 12])), batch["lengths"])
    for row, length, index in zip(batch["inputs"], batch["lengths"], (0, 95999, 12)):
        np.testing.assert_array_equal(row[:length], drawn(index))
    np.testing.assert_array_equal(ListOps(seed=7).examples("test", [3])["inputs"][0, :501], drawn(3, 2, 7)[:501])


def test_every_word_has_its_share_of_choices():
    words = np.array([0, 2**32 - 1, 2**31, 2**31 - 1], np.uint64)
    np.testing.assert_array_equal(_listops._choice(words, 10), [0, 9, 5, 4])
