import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference import cell_parameters, loop, patterns, shake

from mru.cells import LRU, StateParam

pytestmark = pytest.mark.usefixtures("quick_compile")
D, N, T = 3, 5, 30


def test_output_is_the_equation():
    cell = shake(LRU(D, N, learn_initial_state=True, rngs=nnx.Rngs(0)), scale=0.05)
    x, reset, p = np.random.default_rng(0).normal(size=(5, T, D)).astype(np.float32), patterns(T), cell_parameters(cell)
    lam = np.exp(-np.exp(p["nu"]) + 1j * np.exp(p["theta"]))
    b, c = p["b"][:, 0] + 1j * p["b"][:, 1], p["c"][0] + 1j * p["c"][1]
    u = np.exp(p["log_gamma"]) * (x @ b)
    h = loop(lambda t, h: lam * h + u[:, t], T, p["start"][:, 0] + 1j * p["start"][:, 1], reset)
    y, state = jax.jit(lambda x: cell(x, reset=reset))(x)
    np.testing.assert_allclose(y, (h @ c).real + p["d"] * x, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(state, h[:, -1], rtol=1e-4, atol=1e-4)


def test_initialisation_is_a_ring():
    cell = LRU(50, 2000, r_min=0.4, r_max=0.8, max_phase=1.0, rngs=nnx.Rngs(0))
    p = cell_parameters(cell)
    radius, phase = np.exp(-np.exp(p["nu"])), np.exp(p["theta"])
    assert radius.min() >= 0.4 - 1e-6
    assert radius.max() <= 0.8 + 1e-6
    np.testing.assert_allclose((radius**2).mean(), (0.4**2 + 0.8**2) / 2, rtol=0.02)  # uniform in area
    assert phase.min() >= 0
    assert 0.99 < phase.max() <= 1
    np.testing.assert_allclose(phase.mean(), 0.5, rtol=0.05)
    np.testing.assert_allclose(np.exp(p["log_gamma"]), np.sqrt(1 - radius**2), rtol=1e-4)
    np.testing.assert_allclose(p["b"].var((0, 2)), 1 / 100, rtol=0.05)
    np.testing.assert_allclose(p["c"].var((1, 2)), 1 / 2000, rtol=0.05)
    np.testing.assert_allclose(p["d"].var(), 1, rtol=0.5)
    default = cell_parameters(LRU(2, 2000, rngs=nnx.Rngs(0)))
    radius, phase = np.exp(-np.exp(default["nu"])), np.exp(default["theta"])
    assert 0.9 - 1e-6 <= radius.min() < 0.905
    assert 0.998 < radius.max() <= 0.999 + 1e-6
    assert 6.2 < phase.max() <= 6.28


def test_state_parameters_are_those_of_the_update():
    """Which the optimiser gives a learning rate of their own and no weight decay."""
    state = nnx.to_flat_state(nnx.state(LRU(D, N, rngs=0)))
    special = {path[-1] for path, variable in state if isinstance(variable, StateParam)}
    assert special == {"nu", "theta", "log_gamma", "b"}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_stays_inside_the_unit_circle_whatever_is_learned(dtype):
    """In the rounded numbers that the scan multiplies by: exp(-exp(-20)) is 1 in float32."""
    with jax.enable_x64(dtype == "float64"):
        cell = LRU(1, 20_000, rngs=0)
        for nu in (-14.0, -16.0, -20.0, -90.0):
            cell.nu[...] = jnp.full(20_000, nu, jnp.float32)
            for eigenvalues in (cell.eigenvalues, jax.jit(cell.eigenvalues, static_argnums=0)):
                lam = np.asarray(eigenvalues(dtype))
                assert lam.dtype.itemsize == 2 * np.dtype(dtype).itemsize
                assert (abs(lam.astype(np.clongdouble)) < 1).all()
    short = LRU(1, 20_000, rngs=0)
    np.testing.assert_allclose(abs(np.asarray(short.eigenvalues())), np.exp(-np.exp(short.nu[...])), rtol=1e-6)


def test_a_ring_up_to_one_is_finite_and_covers_the_disc():
    p = cell_parameters(LRU(1, 400_000, r_min=0.0, r_max=1.0, rngs=0))
    radius = np.exp(-np.exp(p["nu"]))
    assert all(np.isfinite(v).all() for v in p.values())
    assert radius.max() < 1
    assert radius.max() > 0.99999
    np.testing.assert_allclose((radius**2).mean(), 0.5, rtol=0.01)
    np.testing.assert_allclose(np.exp(p["log_gamma"]), np.sqrt(1 - radius**2), rtol=1e-2)


@pytest.mark.parametrize("phase", [float("nan"), float("inf"), -1.0, 0.0])
def test_phase_is_checked(phase):
    with pytest.raises(ValueError, match=f"positive, finite max_phase, got {phase}"):
        LRU(D, N, max_phase=phase, rngs=0)


def test_stable_and_forgets():
    cell = LRU(D, N, rngs=nnx.Rngs(0))
    _, h = jax.jit(lambda x, h: cell(x, h))(jnp.zeros((100_000, D)), jnp.ones(N, jnp.complex64))
    assert (abs(h) < 1e-30).all()  # what an MRU holds exactly, a stable linear recurrence must lose


@pytest.mark.parametrize("ring", [(0.9, 0.5), (0.5, 1.01), (-0.1, 0.5), (float("nan"), 0.5)])
def test_ring_is_checked(ring):
    with pytest.raises(ValueError, match=r"0 <= r_min < r_max <= 1, got r_min (-?[0-9.]+|nan) and r_max [0-9.]+"):
        LRU(D, N, r_min=ring[0], r_max=ring[1], rngs=nnx.Rngs(0))
