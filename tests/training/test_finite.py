import jax.numpy as jnp
import numpy as np
import pytest

from mru.training.finite import all_finite

DTYPES = ["float16", "float32", "float64", "complex64", jnp.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("shape", [(), (1,), (1000,), (3, 5, 7)])
def test_one_number_that_is_not_finite_is_seen(dtype, value, shape):
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape).astype(dtype)
    assert all_finite(x)
    x[tuple(rng.integers(n) for n in shape)] = value
    assert not all_finite(x)
    assert not all_finite(x.T)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_largest_numbers_are_finite(dtype):
    assert all_finite(np.full((2, 1000), np.finfo(dtype).max, dtype))
    assert all_finite(np.zeros((0, 3), dtype))


def test_integers_are_finite():
    for x in (np.arange(5), np.ones(3, bool), np.zeros(2, np.uint8)):
        assert all_finite(x)
