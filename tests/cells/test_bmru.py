import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference import affine, cell_parameters, loop, np_sign, patterns, shake, states_of, surrogate

from mru.cells import BMRU

pytestmark = pytest.mark.usefixtures("quick_compile")
D, N, T = 3, 5, 30


def gates(p, x):
    return affine(p, "candidate", x), abs(affine(p, "threshold", x))


def expected(p, x, epsilon, reset=None):
    c, beta = gates(p, x)

    def step(t, h):
        z = abs(c[..., t, :]) >= beta[..., t, :]
        return np.where(z, np_sign(c[..., t, :]) + epsilon * h, h)

    h = loop(step, x.shape[-2], p["start"], reset)
    return affine(p, "out", p["alpha"] * h), h


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 1.0])
def test_output_is_the_equation(epsilon):
    cell = shake(BMRU(D, N, rngs=nnx.Rngs(0)))
    cell.epsilon[...] = jnp.asarray(epsilon)
    x, reset = np.random.default_rng(0).normal(size=(5, T, D)).astype(np.float32), patterns(T)
    y, h = expected(cell_parameters(cell), x.astype(float), epsilon, reset)

    @jax.jit
    def run(x):
        capture = {}
        return *cell(x, reset=reset, capture=capture), capture

    mine, state, capture = run(x)
    np.testing.assert_allclose(mine, y, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state, h[:, -1], rtol=1e-5)
    np.testing.assert_allclose(capture["state"], h, rtol=1e-5, atol=1e-6)
    c, beta = gates(cell_parameters(cell), x)
    np.testing.assert_array_equal(capture["write"], abs(c) >= beta)
    assert 0.2 < np.mean(abs(c) >= beta) < 0.8  # both writes and holds are exercised


def test_states_are_plus_or_minus_one_or_the_initial_state():
    cell = shake(BMRU(D, N, rngs=nnx.Rngs(0)))
    h = np.asarray(states_of(cell, np.random.default_rng(0).normal(size=(T, D)).astype(np.float32)))
    assert (np.isin(h, [-1, 1]) | (h == np.asarray(cell.start[...]))).all()
    assert (h == 1).any()
    assert (h == -1).any()


def test_initialisation():
    cell = BMRU(64, 256, rngs=nnx.Rngs(0))
    p = cell_parameters(cell)
    np.testing.assert_array_equal(p["threshold/bias"], 1)
    np.testing.assert_array_equal(p["candidate/bias"], 0)
    np.testing.assert_array_equal(p["alpha"], 1)
    assert p["epsilon"] == 0
    assert p["width"] == 1
    assert set(p["start"]) == {-1, 1}
    assert abs(p["start"].mean()) < 0.2
    np.testing.assert_allclose(p["candidate/kernel"].std(), 1 / 8, rtol=0.05)


def test_gradient_of_one_step_is_the_formula():
    """h = z (s + eps h0) + (1 - z) h0, dz/du = w / (1 + (pi w u)^2) at u = |c| - beta, and ds/dc twice that at c."""
    width, epsilon = 0.7, 0.25
    cell = shake(BMRU(D, N, rngs=nnx.Rngs(1)))
    cell.epsilon[...], cell.width[...] = jnp.asarray(epsilon), jnp.asarray(width)
    graphdef, params, rest = nnx.split(cell, nnx.Param, ...)
    x = np.random.default_rng(3).normal(size=(1, D)).astype(np.float32)
    out_bar = np.array([1.0, -2.0, 0.5])

    p, x64 = cell_parameters(cell), x[0].astype(float)
    c, raw = affine(p, "candidate", x64), affine(p, "threshold", x64)
    z, s, h0 = abs(c) >= abs(raw), np_sign(c), p["start"]
    assert 0 < z.sum() < N
    h_bar = p["alpha"] * (p["out/kernel"] @ out_bar)
    z_bar = h_bar * (s + epsilon * h0 - h0) * surrogate(abs(c) - abs(raw), width)
    c_bar = z_bar * np_sign(c) + h_bar * z * 2 * surrogate(c, width)
    raw_bar = -z_bar * np_sign(raw)
    h = np.where(z, s + epsilon * h0, h0)
    formula = {
        "candidate/bias": c_bar,
        "candidate/kernel": np.outer(x64, c_bar),
        "threshold/bias": raw_bar,
        "threshold/kernel": np.outer(x64, raw_bar),
        "start": h_bar * np.where(z, epsilon, 1),
        "alpha": h * (p["out/kernel"] @ out_bar),
        "out/kernel": np.outer(p["alpha"] * h, out_bar),
        "out/bias": out_bar,
    }
    grads = jax.grad(lambda params: (nnx.merge(graphdef, params, rest)(x)[0] * out_bar).sum())(params)
    grads = {"/".join(k): np.asarray(v[...]) for k, v in nnx.to_flat_state(grads)}
    assert grads.keys() == formula.keys()
    for name, value in formula.items():
        np.testing.assert_allclose(grads[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_a_leak_of_one_carries_the_gradient_through_writes_and_none_does_not():
    cell = BMRU(D, N, rngs=nnx.Rngs(0))
    cell.candidate.kernel[...] = jnp.zeros((D, N))
    cell.candidate.bias[...] = jnp.full(N, 9.0)  # writes at every step
    for epsilon, through in [(0.0, 0.0), (0.5, 0.5**4), (1.0, 1.0)]:
        cell.epsilon[...] = jnp.asarray(epsilon)
        jacobian = jax.jit(jax.jacobian(lambda h: cell(jnp.zeros((4, D)), h)[1]))(jnp.zeros(N))
        np.testing.assert_allclose(jacobian, through * np.eye(N), rtol=1e-6)


def test_holds_bit_for_bit():
    cell = shake(BMRU(D, N, rngs=nnx.Rngs(0)))
    cell.candidate.kernel[...] = jnp.full((D, N), 0.1)
    cell.candidate.bias[...] = jnp.zeros(N)
    cell.threshold.kernel[...], cell.threshold.bias[...] = jnp.zeros((D, N)), jnp.ones(N)
    x = np.random.default_rng(0).uniform(-1, 1, (100_000, D)).astype(np.float32)
    held = np.asarray(cell.start[...])
    assert len(set(held.tolist())) == N
    for first, state in [(0, held), (100, np.ones(N)), (-100, -np.ones(N))]:  # the initial state, and both written ones
        x[0] = first
        assert (np.asarray(states_of(cell, x)) == state).all()
