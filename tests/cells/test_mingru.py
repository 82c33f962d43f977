import jax
import numpy as np
import pytest
from flax import nnx
from reference import affine, cell_parameters, loop, patterns, shake, sigmoid, states_of

from mru.cells import MinGRU

pytestmark = pytest.mark.usefixtures("quick_compile")
D, N, T = 3, 5, 30


@pytest.mark.parametrize("linear_candidate", [False, True])
def test_output_is_the_equation(linear_candidate):
    cell = shake(MinGRU(D, N, linear_candidate=linear_candidate, learn_initial_state=True, rngs=nnx.Rngs(0)))
    x, reset, p = np.random.default_rng(0).normal(size=(5, T, D)).astype(np.float32), patterns(T), cell_parameters(cell)
    z, u = sigmoid(affine(p, "gate", x)), affine(p, "candidate", x)
    new = u if linear_candidate else np.where(u >= 0, u + 0.5, sigmoid(u))
    h = loop(lambda t, h: (1 - z[:, t]) * h + z[:, t] * new[:, t], T, p["start"], reset)
    y, state = jax.jit(lambda x: cell(x, reset=reset))(x)
    np.testing.assert_allclose(y, affine(p, "out", h), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state, h[:, -1], rtol=1e-4, atol=1e-5)


def test_the_state_stays_positive():
    cell = shake(MinGRU(D, N, rngs=nnx.Rngs(0)))
    h = states_of(cell, np.random.default_rng(0).normal(size=(T, D)).astype(np.float32))
    assert (np.asarray(h) > 0).all()
