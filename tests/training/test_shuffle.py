import numpy as np

from mru.training.shuffle import permutation, shuffled


def test_permutation():
    order = permutation(100, 1, 2)
    np.testing.assert_array_equal(np.sort(order), np.arange(100))
    assert not np.array_equal(order, np.arange(100))
    assert not np.array_equal(order, permutation(100, 2, 1))
    # The numbers of psmnist's default order: they may never change.
    assert permutation(784, 0)[:6].tolist() == [652, 293, 617, 707, 693, 382]


def test_a_stream_visits_every_example_once_an_epoch_in_the_order_of_its_permutation():
    order = shuffled(np.arange(5, 25), 10, seed=3)
    expected = [permutation(10, epoch, 3) for epoch in range(3)]
    np.testing.assert_array_equal(order, np.concatenate(expected)[5:25])
