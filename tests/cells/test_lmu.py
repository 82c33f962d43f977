import jax
import numpy as np
import pytest
from legendre_reference import discretized
from reference import cell_parameters, patterns, shake

from mru.cells import LMU

pytestmark = pytest.mark.usefixtures("quick_compile")
D, N, T = 3, 8, 30


@pytest.mark.parametrize(("channels", "theta"), [(1, 20.0), (2, 7.5)])
def test_output_is_the_equation(channels, theta):
    cell = shake(LMU(D, N, channels=channels, theta=theta, rngs=0))
    x, reset, p = np.random.default_rng(0).normal(size=(5, T, D)).astype(np.float32), patterns(T), cell_parameters(cell)
    p = {name.removesuffix("/kernel"): w for name, w in p.items()}
    a, b = discretized(N // channels, theta)
    h, m, expected = np.zeros((5, D)), np.zeros((5, N)), []
    for t in range(T):
        h, m = (np.where(reset[:, t, None], 0, s) for s in (h, m))
        u = x[:, t] @ p["input_signal"] + h @ p["hidden_signal"] + m @ p["memory_signal"]
        m = (m.reshape(5, channels, -1) @ a.T + u[..., None] * b).reshape(5, N)
        h = np.tanh(x[:, t] @ p["input"] + h @ p["hidden"] + m @ p["memory"])
        expected.append(h)
    y, state = jax.jit(lambda x: cell(x, reset=reset))(x)
    np.testing.assert_allclose(y, np.stack(expected, 1), rtol=1e-4, atol=1e-4)
    for mine, theirs in zip(state, (h, m), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4)


def test_gradient_is_that_of_finite_differences():
    with jax.enable_x64(True):
        cell, reset = shake(LMU(D, N, theta=8.0, rngs=0)), np.arange(9) == 4
        x, direction = np.random.default_rng(0).normal(size=(2, 9, D))

        @jax.jit
        def loss(x):
            y, (h, m) = cell(x, reset=reset)
            return (y**2).sum() + (h.sum() * m).sum()

        slope = (loss(x + 1e-5 * direction) - loss(x - 1e-5 * direction)) / 2e-5
        np.testing.assert_allclose((jax.grad(loss)(x) * direction).sum(), slope, rtol=1e-7)


def test_the_memory_reads_itself_only_once_it_has_learned_to():
    p = cell_parameters(LMU(D, N, rngs=0))
    assert not p["memory_signal/kernel"].any()
    assert all(w.all() for name, w in p.items() if name != "memory_signal/kernel")
