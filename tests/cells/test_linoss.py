import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference import assert_gradients, cell_parameters, patterns, shake, sigmoid

from mru.cells import LinOSS, StateParam

pytestmark = pytest.mark.usefixtures("quick_compile")
D, N, T = 3, 5, 30
every_form = pytest.mark.parametrize(
    ("discretization", "damping"), [("im", False), ("imex", False), ("im", True), ("imex", True)]
)


def solved(discretization, a, dt, g, force, z, y):
    """One step as the discretised equations themselves, solved for the new z and y as a linear system.

    z_t = z + dt (-A y* - G z_t + force), y_t = y + dt z_t, with y* = y_t (im) or y (imex).
    """
    one, implicit = np.ones_like(a), discretization == "im"
    left = np.stack([np.stack([1 + dt * g, dt * a * implicit], -1), np.stack([-dt, one], -1)], -2)
    right = np.stack([z + dt * (force - (not implicit) * a * y), y + 0 * z], -1)
    new = np.linalg.solve(np.broadcast_to(left, (*right.shape, 2)), right[..., None])[..., 0]
    return new[..., 0], new[..., 1]


def oracle(discretization, p, x, reset):
    """Every z, y and output."""
    a, dt, g = np.maximum(p["stiffness"], 0), sigmoid(p["step_logit"]), np.maximum(p.get("drag", np.zeros(N)), 0)
    start = p.get("start", np.zeros((N, 2)))
    z, y = (np.broadcast_to(start[:, k], (*x.shape[:-2], N)) for k in (0, 1))
    states, force = [], x @ p["force/kernel"]
    for t in range(x.shape[-2]):
        z, y = (np.where(reset[..., t, None], start[:, k], h) for k, h in enumerate((z, y)))
        z, y = solved(discretization, a, dt, g, force[..., t, :], z, y)
        states.append((z, y))
    z, y = (np.stack(h, -2) for h in zip(*states, strict=True))
    return z, y, y @ p["out/kernel"] + p["d"] * x


@every_form
def test_output_is_the_equation(discretization, damping):
    options = {"discretization": discretization, "damping": damping, "learn_initial_state": True}
    cell = shake(LinOSS(D, N, **options, rngs=nnx.Rngs(0)))
    x, reset, p = np.random.default_rng(0).normal(size=(5, T, D)).astype(np.float32), patterns(T), cell_parameters(cell)
    z, y, expected = oracle(discretization, p, x, reset)
    out, state = jax.jit(lambda x: cell(x, reset=reset))(x)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)
    for mine, theirs in zip(state, (z, y), strict=True):
        assert mine.dtype == jnp.float32
        np.testing.assert_allclose(mine, theirs[:, -1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("discretization", ["im", "imex"])
def test_a_step_is_the_published_one(discretization):
    """Without damping, as the source writes it: S = 1 / (1 + dt^2 A) and the two lines of each form."""
    cell = LinOSS(D, N, discretization=discretization, rngs=nnx.Rngs(0))
    p, rng = cell_parameters(cell), np.random.default_rng(0)
    u, z, y = rng.normal(size=D), *rng.normal(size=(2, N))
    a, dt, force = p["stiffness"], sigmoid(p["step_logit"]), u @ p["force/kernel"]
    s = 1 / (1 + dt**2 * a)
    if discretization == "im":
        expected = s * (z - dt * a * y + dt * force), s * (dt * z + y + dt**2 * force)
    else:
        new = z + dt * (-a * y + force)
        expected = new, y + dt * new
    _, state = cell.step(jnp.asarray(u, jnp.float32), (jnp.asarray(z, jnp.float32), jnp.asarray(y, jnp.float32)))
    np.testing.assert_allclose(state, expected, rtol=1e-5, atol=1e-6)


@every_form
def test_gradients_are_finite_differences_of_the_equation(discretization, damping):
    cell = LinOSS(D, N, discretization=discretization, damping=damping, rngs=nnx.Rngs(0))
    assert_gradients(cell, lambda *args: oracle(discretization, *args)[2])


@pytest.mark.parametrize(("discretization", "kept"), [("im", False), ("imex", True)])
def test_energy_is_kept_or_lost(discretization, kept):
    """Left alone for 10,000 steps; imex keeps z^2 - dt A z y + A y^2, a quadratic form close to the energy."""
    cell = LinOSS(1, 100, discretization=discretization, rngs=nnx.Rngs(0))
    p, one = cell_parameters(cell), jnp.ones(100)
    z, y = (np.asarray(h, np.float64) for h in jax.jit(lambda x, h: cell(x, h))(jnp.zeros((10_000, 1)), (one, one))[1])
    a, dt = p["stiffness"], sigmoid(p["step_logit"])
    energy, before = z**2 - dt * a * z * y + a * y**2, 1 - dt * a + a
    if kept:
        np.testing.assert_allclose(energy, before, rtol=1e-2)
    else:
        assert (energy[a > 0.05] < 1e-6).all()


@pytest.mark.parametrize("discretization", ["im", "imex"])
def test_damping_is_the_factor_of_a_step(discretization):
    """|lambda|^2 = S: the eigenvalues of the block, by NumPy, and what the operator says of them."""
    cell = LinOSS(1, 200, discretization=discretization, damping=True, rngs=nnx.Rngs(0))
    p, op = cell_parameters(cell), cell.operator(jnp.zeros((1, 1)))
    found = abs(np.linalg.eigvals(np.moveaxis(np.asarray(op.a, np.float64), -1, 0)))
    a, dt, g = p["stiffness"], sigmoid(p["step_logit"]), p["drag"]
    oscillates = (found.max(-1) - found.min(-1)) < 1e-6
    assert oscillates.mean() > 0.7
    expected = (1 + dt * g + (discretization == "im") * dt**2 * a) ** -0.5
    np.testing.assert_allclose(found[oscillates].max(-1), expected[oscillates], rtol=1e-4)
    np.testing.assert_allclose(op.decay(), found.max(-1), rtol=1e-3)
    assert (found < 1).all()


def test_initialisation():
    p = cell_parameters(LinOSS(200, 2000, damping=True, rngs=0))
    for values in (p["stiffness"], p["step_logit"]):
        assert 0 <= values.min() < 0.01
        assert 0.99 < values.max() <= 1
        np.testing.assert_allclose(values.mean(), 0.5, rtol=0.05)
    factor = (1 + sigmoid(p["step_logit"]) * p["drag"]) ** -0.5
    assert 0.9 - 1e-5 < factor.min() < 0.901
    assert 0.999 < factor.max() <= 1 + 1e-6
    np.testing.assert_allclose(p["force/kernel"].var(), 1 / 200, rtol=0.05)
    np.testing.assert_allclose(p["out/kernel"].var(), 1 / 2000, rtol=0.05)


def test_negative_stiffness_and_drag_count_as_zero():
    cell = LinOSS(1, 1, damping=True, rngs=0)
    cell.stiffness[...] = cell.drag[...] = jnp.full(1, -3.0)
    cell.step_logit[...] = jnp.zeros(1)  # dt = 1/2
    np.testing.assert_array_equal(np.asarray(cell.operator(jnp.zeros((1, 1))).a)[..., 0], [[1, 0], [0.5, 1]])


def test_what_is_captured_are_sequences():
    """The entries (N,) of the block are none, also where N is the number of steps."""
    cell, capture = LinOSS(D, T, rngs=0), {}
    cell(jnp.ones((T, D)), capture=capture)
    assert {name: x.shape for name, x in capture.items()} == dict.fromkeys(("state/0", "state/1", "b/0", "b/1"), (T, T))


def test_state_parameters_are_those_of_the_update():
    state = nnx.to_flat_state(nnx.state(LinOSS(D, N, damping=True, rngs=0)))
    assert {path[-1] for path, v in state if isinstance(v, StateParam)} == {"stiffness", "step_logit", "drag"}


def test_the_discretization_is_checked():
    with pytest.raises(ValueError, match="LinOSS discretization must be 'im' or 'imex', got 'zoh'"):
        LinOSS(D, N, discretization="zoh", rngs=0)
