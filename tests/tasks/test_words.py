"""The word problems of S3 and S5, against composing permutations one by one."""

import itertools

import numpy as np
import pytest

import tasks

WORDS = {"word_s3": 3, "word_s5": 5}


@pytest.mark.parametrize("name", WORDS)
@pytest.mark.parametrize("length", [1, 64, 100])
def test_targets_are_the_running_product(name, length):
    symbols = WORDS[name]
    elements = list(itertools.permutations(range(symbols)))
    task = tasks.get(name)(length=length)
    batch = task.examples("train", np.arange(10))
    assert batch["inputs"].dtype == batch["targets"].dtype == np.int32
    for word, targets in zip(batch["inputs"].tolist(), batch["targets"].tolist()):
        places = list(range(symbols))  # where each thing is
        for element, target in zip(word, targets):
            places = [elements[element][place] for place in places]
            assert elements[target] == tuple(places)
    assert task.outputs == task.vocabulary == len(elements)
    assert task.chance == 1 / len(elements)


@pytest.mark.parametrize("name", WORDS)
def test_elements_and_products_are_uniform(name):
    batch = tasks.get(name)().examples("test", np.arange(1000))
    for elements in batch.values():
        p = 1 / tasks.get(name)().vocabulary
        counts = np.bincount(elements.ravel(), minlength=round(1 / p))
        np.testing.assert_allclose(counts / elements.size, p, atol=5 * np.sqrt(p / elements.size))


@pytest.mark.parametrize("name", WORDS)
def test_length_is_checked(name):
    with pytest.raises(ValueError, match=f"task.length = 0, allowed for {name}: an integer >= 1"):
        tasks.get(name)(length=0)
