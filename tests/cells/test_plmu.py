import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from legendre_reference import discretized, memories
from reference import affine, cell_parameters, patterns, shake

from mru.cells import PLMU, _legendre

pytestmark = pytest.mark.usefixtures("quick_compile")
D, N, T = 3, 12, 30


@pytest.mark.parametrize("blocks", [(4096, 64), (8, 7)], ids=["one block", "several blocks"])
@pytest.mark.parametrize(("channels", "theta"), [(1, 20.0), (3, 7.5)])
def test_output_is_the_equation(monkeypatch, blocks, channels, theta):
    """With resets by pairs of steps, without by FFT, and in chunks that carry the state, odd ones too."""
    monkeypatch.setattr(_legendre, "FFT_BLOCK", blocks[0])
    monkeypatch.setattr(_legendre, "PAIRS_BLOCK", blocks[1])
    cell = shake(PLMU(D, N, channels=channels, theta=theta, rngs=0))
    x, reset, p = np.random.default_rng(0).normal(size=(5, T, D)).astype(np.float32), patterns(T), cell_parameters(cell)

    @jax.jit
    def run(x):
        early, middle = cell(x[:, :13])
        late, last = cell(x[:, 13:], middle)
        return cell(x, reset=reset), cell(x), (jnp.concatenate([early, late], 1), last)

    packed, *whole = run(x)
    u = np.tanh(affine(p, "signal", x))
    for (y, state), firsts in ((packed, reset), (whole[0], None), (whole[1], None)):
        m = memories(u, N // channels, theta, firsts)
        expected = np.tanh(m @ p["memory/kernel"] + affine(p, "skip", x))
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=2e-5)
        np.testing.assert_allclose(state, m[:, -1], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(("order", "theta"), [(1, 3.0), (6, 2.0), (24, 64.0), (64, 64.0), (256, 784.0)])
def test_matrices_are_those_of_extended_precision(order, theta):
    for mine, exact in zip(_legendre.discretized(order, theta), discretized(order, theta), strict=True):
        np.testing.assert_allclose(mine, exact, rtol=0, atol=1e-11 * abs(exact).max())


def test_order_256_over_784_steps_is_the_dense_recurrence():
    """By FFT, over resets, and step by step, all in float32, against float64."""
    order, theta, time = 256, 784.0, 784
    memory, rng = _legendre.Legendre(order, theta, 1), np.random.default_rng(0)
    u = np.tanh(rng.normal(size=(2, time, 1)))
    u[1] = np.sin(np.arange(time) / 30)[:, None]
    reset = np.tile(np.arange(time) == 300, (2, 1))
    single, empty = jnp.asarray(u, jnp.float32), jnp.zeros((2, order))
    exact, packed = (memories(u, order, theta, firsts) for firsts in (None, reset))

    def looped(u):
        def one(m, now):
            m = memory.step(m, now)
            return m, m

        return jnp.moveaxis(jax.lax.scan(one, empty, jnp.moveaxis(u, 1, 0))[1], 0, 1)

    forms = (lambda u: memory.states(None, u, None), lambda u: memory.states(empty, u, None), looped)
    for form in forms:
        np.testing.assert_allclose(jax.jit(form)(single), exact, rtol=0, atol=1e-4)
    found = jax.jit(lambda u: memory.states(None, u, reset))(single)
    np.testing.assert_allclose(found, packed, rtol=0, atol=1e-4)


def test_the_memory_holds_the_last_theta_steps():
    """Legendre polynomials give the signal back: sum_i m_i P_i(2 r - 1) is u, r theta steps ago."""
    order, theta, time = 24, 100.0, 300
    u = np.sin(2 * np.pi * np.arange(time) / 80) + 0.5
    m = _legendre.Legendre(order, theta, 1).states(None, jnp.asarray(u[:, None], jnp.float32), None)
    ago = np.arange(5, 95)
    series = np.polynomial.legendre.legval(2 * (ago + 0.5) / theta - 1, np.asarray(m[-1], float))
    np.testing.assert_allclose(series, u[time - 1 - ago], atol=0.03)


def test_gradient_is_that_of_finite_differences(monkeypatch):
    """Of both forms, over blocks, with a state carried in and one left."""
    monkeypatch.setattr(_legendre, "FFT_BLOCK", 4)
    monkeypatch.setattr(_legendre, "PAIRS_BLOCK", 3)
    with jax.enable_x64(True):
        cell, rng = shake(PLMU(D, N, channels=2, theta=8.0, rngs=0)), np.random.default_rng(0)
        graphdef, params = nnx.split(cell)
        point = jax.tree.map(lambda a: jnp.asarray(a, "float64"), (params, rng.normal(size=(11, D)), np.ones(N)))
        direction = jax.tree.map(lambda a: rng.normal(size=a.shape), point)
        for reset in (None, np.arange(11) == 5):

            @jax.jit
            def loss(point, reset=reset):
                params, x, m = point
                y, m = nnx.merge(graphdef, params)(x, m, reset)
                return (y**2).sum() + jnp.cos(m).sum()

            def moved(size, loss=loss):
                return loss(jax.tree.map(lambda a, d: a + size * d, point, direction))

            found = jax.tree.map(lambda g, d: (g * d).sum(), jax.jit(jax.grad(loss))(point), direction)
            np.testing.assert_allclose(sum(jax.tree.leaves(found)), (moved(1e-5) - moved(-1e-5)) / 2e-5, rtol=1e-7)


def test_a_bad_sequence_reaches_no_other(monkeypatch):
    """Of three in a line of several blocks, the one in the middle; in values, and in gradients both ways."""
    monkeypatch.setattr(_legendre, "PAIRS_BLOCK", 4)
    cell, rng, t = shake(PLMU(D, N, theta=9.0, rngs=0)), np.random.default_rng(0), np.arange(22)
    x, weight = rng.normal(size=(2, 22, D)).astype(np.float32)
    reset, inside = (t == 7) | (t == 13), (t >= 7) & (t < 13)

    @jax.jit
    def run(x, weight):
        y, pullback, state = jax.vjp(lambda x: cell(x, reset=reset), x, has_aux=True)
        return y, pullback(weight)[0], state

    clean = run(x, weight)
    bad = [np.where((t == 9)[:, None], np.nan, a) for a in (x, weight)]
    for arguments in ((bad[0], weight), (x, bad[1]), bad):
        y, bar, state = run(*arguments)
        np.testing.assert_array_equal(y[~inside], clean[0][~inside])
        np.testing.assert_array_equal(bar[~inside], clean[1][~inside])
        np.testing.assert_array_equal(state, clean[2])
        assert np.isnan(y[9:13]).all() == (arguments[0] is bad[0])  # and it is not hidden from its own
        np.testing.assert_array_equal(y[7:9], clean[0][7:9])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 5}, "PLMU state_size must be a multiple of its 5 channels, got 12"),
        ({"channels": 0}, "channels must be an integer of at least 1, got 0"),
        ({"theta": 0.0}, "PLMU needs a positive, finite theta, got 0.0"),
        ({"theta": float("inf")}, "PLMU needs a positive, finite theta, got inf"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        PLMU(D, N, rngs=0, **options)


def test_memory_on_the_host_is_asked_for():
    assert PLMU.host_bytes(D, 100_000) > 8 * 100_000**2
    assert PLMU.host_bytes(D, 100_000, channels=1000) < 10**6


@pytest.mark.parametrize("time", [5, 70])
def test_an_empty_batch_has_resets_too(time):
    y, state = PLMU(D, N, rngs=0)(jnp.zeros((0, time, D)), reset=jnp.zeros((0, time), bool))
    assert (y.shape, state.shape) == ((0, time, D), (0, N))
