import jax
import numpy as np
import pytest
from flax import nnx
from reference import affine, cell_parameters, loop, np_sign, patterns, shake

from mru.cells import CMRU, AlphaCMRU

pytestmark = pytest.mark.usefixtures("quick_compile")
D, N, T = 3, 5, 30


def test_output_is_the_equation():
    cell = shake(AlphaCMRU(D, N, learn_initial_state=True, rngs=nnx.Rngs(0)))
    x, reset, p = np.random.default_rng(0).normal(size=(5, T, D)).astype(np.float32), patterns(T), cell_parameters(cell)
    c, beta, alpha = affine(p, "candidate", x), abs(affine(p, "threshold", x)), affine(p, "increment_size", x)
    increment = np.where(abs(c) >= beta, np_sign(c) * alpha, 0)
    h = loop(lambda t, h: h + increment[:, t], T, p["start"], reset)
    y, state = jax.jit(lambda x: cell(x, reset=reset))(x)
    np.testing.assert_allclose(y, affine(p, "out", h), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(state, h[:, -1], rtol=1e-4, atol=1e-5)


def test_increments_of_one_make_it_the_cmru():
    cell, plain = AlphaCMRU(D, N, rngs=nnx.Rngs(0)), CMRU(D, N, rngs=nnx.Rngs(1))
    np.testing.assert_array_equal(cell.increment_size.bias[...], 1)
    cell.increment_size.kernel[...] *= 0
    for layer in ("candidate", "threshold", "out"):
        nnx.update(getattr(plain, layer), nnx.state(getattr(cell, layer)))
    x = np.random.default_rng(0).normal(size=(T, D)).astype(np.float32)
    np.testing.assert_array_equal(cell(x)[1], plain(x)[1])
    np.testing.assert_allclose(cell(x)[0], plain(x)[0], rtol=1e-6)
    assert not hasattr(cell, "alpha")
