import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from known_cells import Leak, Pair, bmru, normal, pmru

import mru
from mru.dynamics import sensitivity

B, T = 512, 12


def test_of_a_leak_it_falls_as_its_power():
    x = normal(B, T, 2)
    found = sensitivity(Leak([0.5, 0.9]), x)
    expected = np.sqrt(0.5 ** (2 * np.arange(T)) + 0.9 ** (2 * np.arange(T)))  # Frobenius norm of a^k
    np.testing.assert_allclose(found, expected, rtol=0.15)  # of 512 random projections
    one = np.asarray(sensitivity(Leak([0.9]), x[..., :1]))
    np.testing.assert_allclose(one / one[0], 0.9 ** np.arange(T), rtol=1e-4)


def test_a_complex_leak():
    one = np.asarray(sensitivity(Leak([0.9 * np.exp(0.5j)]), normal(4096, T, 1)))
    np.testing.assert_allclose(one / one[0], 0.9 ** np.arange(T), rtol=0.1)


def test_of_a_loss_it_is_the_gradient():
    x = normal(3, T, 1)
    found = sensitivity(Leak([0.5]), x, lambda y: 3 * y[:, -1, 0])
    np.testing.assert_allclose(found, 3 * 0.5 ** np.arange(T), rtol=1e-5)


def test_of_a_play_it_is_exact():
    cell, x = pmru((1.0,)), 2 * normal(64, T, 1)
    # h_T depends on the last input that moved it, with slope 1, and on no other.
    hits = np.zeros(T)
    for sequence in x[..., 0]:
        h, last = 0.0, None
        for t, c in enumerate(sequence):
            moved = np.clip(h, c - 1, c + 1)
            last, h = (t if moved != h else last), moved
        if last is not None:
            hits[T - 1 - last] += 1
    found = np.asarray(sensitivity(cell, x, lambda y: y[:, -1].sum(-1)))
    slope = float(cell.alpha[...][0]) * np.asarray(cell.out.kernel[...]).sum()
    np.testing.assert_allclose(found, abs(slope) * np.sqrt(hits / 64), rtol=1e-5)


def test_of_a_latch_that_is_always_written_nothing_is_left():
    cell = bmru((0.0,))
    found = np.asarray(sensitivity(cell, normal(8, T, 1)))
    assert found[0] > 0
    np.testing.assert_array_equal(found[1:], 0)


def test_of_a_model_it_is_that_of_all_its_states():
    model = mru.SequenceModel(2, 3, cells="pmru,lru", width=4, state_size=4, pooling="last", rngs=nnx.Rngs(0))
    found = np.asarray(sensitivity(model, normal(4, T, 2)))
    assert found.shape == (T,)
    assert (found > 0).any()
    by_loss = np.asarray(sensitivity(model, normal(4, T, 2), lambda y: y.sum(-1)))
    assert by_loss[0] > 0


def test_states_of_several_arrays_and_integers():
    one = np.asarray(sensitivity(Pair(), normal(2048, T, 2)))
    # d sum_T / d x_{T-k} is 0.5^k, d last_T / d x_{T-k} is 1 at k = 0; two channels of each.
    expected = np.sqrt(2 * (0.25 ** np.arange(T) + (np.arange(T) == 0)))
    np.testing.assert_allclose(one, expected, rtol=0.1)


def test_mistakes():
    for wrong in (normal(T, 1), jnp.zeros((2, T, 1), int)):
        with pytest.raises(ValueError, match=r"sensitivity takes floating-point inputs \(B, T, D\), got"):
            sensitivity(bmru(), wrong)
