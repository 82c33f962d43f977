import numpy as np
from sklearn.datasets import load_digits

import tasks

Digits = tasks.get("digits")


def everything(task):
    parts = [task.examples(split, np.arange(size)) for split, size in task.sizes.items()]
    return {key: np.concatenate([part[key] for part in parts]) for key in ("inputs", "targets")}


def test_pixels_and_classes_are_those_of_sklearn():
    bundle, ours = load_digits(), everything(Digits(permutation_seed=None))
    theirs = sorted((*row, label) for row, label in zip((bundle.data / 16).tolist(), bundle.target.tolist()))
    rows = sorted((*row, label) for row, label in zip(ours["inputs"][..., 0].tolist(), ours["targets"].tolist()))
    assert rows == theirs


def test_permutation_is_undone_by_its_inverse():
    task = Digits(permutation_seed=5)
    indices = np.arange(20)
    shuffled = task.examples("test", indices)["inputs"]
    plain = Digits(permutation_seed=None).examples("test", indices)["inputs"]
    assert not np.array_equal(shuffled, plain)
    np.testing.assert_array_equal(shuffled[:, np.argsort(task.order)], plain)
    np.testing.assert_array_equal(shuffled, plain[:, task.order])
    assert not np.array_equal(task.order, Digits().order)


def test_split_sizes_and_classes_in_each():
    task = Digits()
    assert task.sizes == {"train": 1295, "validation": 143, "test": 359}
    for split, size in task.sizes.items():
        counts = np.bincount(task.examples(split, np.arange(size))["targets"], minlength=10)
        # Shuffled before it was split: each class near its tenth.
        assert counts.min() > 0.04 * size
        assert counts.max() < 0.18 * size
