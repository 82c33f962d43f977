import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference import assert_gradients, cell_parameters, loop, patterns, shake
from scipy.integrate import solve_ivp

from mru.cells import S4D, StateParam

pytestmark = pytest.mark.usefixtures("quick_compile")
D, N, T = 3, 4, 30


def oracle(p, x, reset):
    """Every state (..., T, D * N) and output, from the equations."""
    lam, dt = -np.exp(p["log_decay"]) + 1j * p["frequency"], np.exp(p["log_step"])[:, None]
    a, scale = np.exp(lam * dt), (np.exp(lam * dt) - 1) / lam
    start = p["start"][:, 0] + 1j * p["start"][:, 1] if "start" in p else np.zeros(D * N, complex)
    b = (scale * x[..., None]).reshape(*x.shape[:-1], D * N)
    h = loop(lambda t, h: a.ravel() * h + b[..., t, :], x.shape[-2], start, reset)
    c = p["c"][0] + 1j * p["c"][1]
    return h, 2 * (c * h.reshape(*x.shape, N)).sum(-1).real + p["d"] * x


def test_output_is_the_equation():
    cell = shake(S4D(D, N, learn_initial_state=True, rngs=nnx.Rngs(0)), scale=0.2)
    x, reset = np.random.default_rng(0).normal(size=(5, T, D)).astype(np.float32), patterns(T)
    h, expected = oracle(cell_parameters(cell), x, reset)
    y, state = jax.jit(lambda x: cell(x, reset=reset))(x)
    assert state.shape == (5, D * N)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(state, h[:, -1], rtol=1e-4, atol=1e-4)


def test_gradients_are_finite_differences_of_the_equation():
    cell = shake(S4D(D, N, step_min=0.1, step_max=0.5, rngs=nnx.Rngs(0)))
    assert_gradients(cell, lambda *args: oracle(*args)[1])


def test_zero_order_hold_integrates_the_differential_equation():
    """h' = A h + x for inputs that are constant over a step, by a Runge-Kutta solver."""
    cell = S4D(1, N, step_min=0.2, step_max=0.2, rngs=nnx.Rngs(0))
    x, p = np.random.default_rng(0).normal(size=(5, 1)).astype(np.float32), cell_parameters(cell)
    lam, h = -0.5 + 1j * np.pi * np.arange(N), np.zeros(N, complex)
    for u in x[:, 0]:
        h = solve_ivp(lambda _, h, u=u: lam * h + u, (0, 0.2), h, rtol=1e-9, atol=1e-11).y[:, -1]
    np.testing.assert_allclose(cell(x)[1], h, rtol=1e-4, atol=1e-6)
    y = 2 * ((p["c"][0, 0] + 1j * p["c"][1, 0]) * h).sum().real + p["d"] * x[-1]
    np.testing.assert_allclose(cell(x)[0][-1], y, rtol=1e-4, atol=1e-5)


def test_initialisation():
    p = cell_parameters(S4D(500, 16, rngs=0))
    np.testing.assert_allclose(-np.exp(p["log_decay"]), np.full((500, 16), -0.5), rtol=1e-6)
    np.testing.assert_allclose(p["frequency"], np.tile(np.pi * np.arange(16), (500, 1)), rtol=1e-6)
    assert np.log(0.001) <= p["log_step"].min() < np.log(0.0011)
    assert np.log(0.09) < p["log_step"].max() <= np.log(0.1)
    np.testing.assert_allclose(p["log_step"].mean(), np.log(0.01), rtol=0.03)  # uniform in the logarithm
    np.testing.assert_allclose((p["c"] ** 2).sum(0).mean(), 1, rtol=0.05)
    np.testing.assert_allclose(p["c"].mean((1, 2)), 0, atol=0.03)
    np.testing.assert_allclose(p["d"].var(), 1, rtol=0.2)


def test_features_do_not_mix():
    cell = shake(S4D(D, N, rngs=0))
    reach = jax.jacobian(lambda x: cell(x)[0].sum(0))(jnp.ones((T, D)))  # (D, T, D)
    assert (np.einsum("dtd->dt", reach) != 0).all()
    np.testing.assert_array_equal(reach * (1 - np.eye(D))[:, None], 0)


def test_state_parameters_are_those_of_the_update():
    special = {path[-1] for path, v in nnx.to_flat_state(nnx.state(S4D(D, N, rngs=0))) if isinstance(v, StateParam)}
    assert special == {"log_decay", "frequency", "log_step"}


def test_the_coefficient_is_not_repeated_over_time():
    assert S4D(D, N, rngs=0).operator(jnp.ones((2, T, D))).a.shape == (D * N,)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"step_min": 0.0}, r"S4D needs 0 < step_min <= step_max, both finite, got step_min 0.0"),
        ({"step_max": 1e-4}, r"got step_min 0.001 and step_max 0.0001"),
        ({"step_max": float("nan")}, r"step_max nan"),
    ],
)
def test_arguments_are_checked(kwargs, message):
    with pytest.raises(ValueError, match=message):
        S4D(D, N, **kwargs, rngs=0)
