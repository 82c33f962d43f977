"""Newton's method and the parallel backward pass, against the same cell run one step after the other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference import patterns, shake

from mru import cells

pytestmark = pytest.mark.usefixtures("quick_compile", "exact_products")
D, N = 3, 4
DIAGONAL = ["brc", "diagonal_gru", "diagonal_lstm"]
DENSE = ["nbrc", "gru", "lstm"]


@pytest.fixture
def exact_products():
    """A GPU would else multiply numbers of which it takes 10 bits of the fraction, and not in both methods alike."""
    with jax.default_matmul_precision("highest"):
        yield


def cell_of(name, bistable, method, features=D, size=N):
    """A cell whose channels have one or two stable states without input; that of the LSTM is in its pair."""
    cell = cells.get(name)(features, size, method=method, rngs=0)
    one = jnp.ones(size)
    if name == "brc":  # a = 1 + tanh(b): 0.5 or 1.7
        cell.gain[...] = 0.1 * one
        cell.input.bias[...] = jnp.concatenate([0 * one, np.arctanh(0.7 if bistable else -0.5) * one, 0 * one])
    else:  # the weight of the candidate: r u_n h at r = 1/2, i g + f c at i = f = 1/2 and h = c / 2
        weight = jnp.array([0.3, 0.3, 3.0 if bistable else 0.5] + [0.3] * (name == "diagonal_lstm"))
        cell.recurrent[...] = weight[:, None] * one
    return cell


def dense(name, method, scale=1.0):
    cell = shake(cells.get(name)(D, N, method=method, rngs=0), scale=0.1)
    recurrent = {"rnn": "dense_h", "gru": "dense_h", "lstm": "dense_h"}
    layer = getattr(cell.cell, recurrent[name]) if name in recurrent else cell.recurrent
    layer.kernel[...] = scale * layer.kernel[...]
    return cell


def run(cell, x, state=None, reset=None):
    """(outputs, last state), the gradients of a loss in parameters, inputs and carried state, and what was captured."""
    graphdef, params = nnx.split(cell)
    state = cell.initial_state(x.shape[:-2]) if state is None else state

    @jax.jit
    def both(params, x, state):
        def loss(params, x, state):
            capture = {}
            y, last = nnx.merge(graphdef, params)(x, state, reset, capture=capture)
            cost = (jnp.sin(y) * jnp.cos(jnp.arange(y.size, dtype=y.dtype).reshape(y.shape))).mean()
            return cost + sum((h**2).mean() for h in jax.tree.leaves(last)), (y, last, capture)

        return jax.grad(loss, (0, 1, 2), has_aux=True)(params, x, state)

    gradients, (y, last, capture) = both(params, x, state)
    return (y, last), gradients, capture


def close(mine, theirs, tolerance):
    """Each array to the tolerance, relative to its largest number."""

    def one(a, b):
        scale = max(1e-30, np.abs(np.asarray(b)).max()) if np.size(b) else 1
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale)

    jax.tree.map(one, mine, theirs)


def states(capture):
    return {name: h for name, h in capture.items() if name.split("/")[0] == "state"}


def noise(*shape, seed=0, dtype=np.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(dtype))


@functools.cache
def long_run(name, bistable, method):
    return run(cell_of(name, bistable, method), noise(2, 2048, D))


@pytest.mark.parametrize("bistable", [False, True], ids=["monostable", "bistable"])
@pytest.mark.parametrize("name", DIAGONAL)
def test_long_sequences_are_those_of_the_loop(name, bistable):
    """States to 1e-5, gradients to 1e-4 at T = 2,048; and what is called bistable ends in two states without input."""
    _, expected_bars, expected = long_run(name, bistable, "sequential")
    _, bars, found = long_run(name, bistable, "newton")
    print(f"{name}, {'bi' if bistable else 'mono'}stable: {found['newton/iterations'][:, 0]} iterations")
    assert found["newton/converged"].all()
    assert found["newton/residual"].max() <= 1e-6
    assert (found["newton/iterations"] >= 2).all()
    for key in states(expected):
        np.testing.assert_allclose(found[key], expected[key], rtol=0, atol=1e-5)
    close(bars, expected_bars, 1e-4)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(bars[:2]))
    cell, start = cell_of(name, bistable, "sequential"), jnp.array([[0.5], [-0.5]]) * jnp.ones(N)
    start = (start, jnp.tanh(start)) if name == "diagonal_lstm" else start
    apart = jnp.ptp(jax.tree.leaves(cell(jnp.zeros((2, 500, D)), start)[1])[0], axis=0)
    assert (apart > 0.1).all() if bistable else (apart < 1e-3).all()


@pytest.mark.parametrize("bistable", [False, True], ids=["monostable", "bistable"])
@pytest.mark.parametrize("name", DIAGONAL)
def test_a_parallel_backward_pass_is_that_of_the_loop(name, bistable):
    (y, last), bars, found = long_run(name, bistable, "parallel_backward")
    (expected_y, expected_last), expected_bars, expected = long_run(name, bistable, "sequential")
    close((y, last, states(found)), (expected_y, expected_last, states(expected)), 1e-6)
    close(bars, expected_bars, 1e-4)
    assert not any(key.startswith("newton") for key in found)


@functools.cache
def packed_run(name, time, method):
    """Two batch axes, of which the second has the reset patterns, and a state carried in that is large."""
    cell = shake(cell_of(name, True, method))
    state = jax.tree.map(lambda h: noise(*h.shape, seed=1) * 2, cell.initial_state((2, 5)))
    return run(cell, noise(2, 5, time, D), state, jnp.asarray(patterns(time)))


@pytest.mark.parametrize("method", ["newton", "parallel_backward"])
@pytest.mark.parametrize("time", [1, 13])
@pytest.mark.parametrize("name", DIAGONAL)
def test_resets_batch_axes_and_a_carried_state(name, time, method):
    outs, bars, found = packed_run(name, time, method)
    expected_outs, expected_bars, _ = packed_run(name, time, "sequential")
    close(outs, expected_outs, 1e-5)
    close(bars, expected_bars, 1e-4)
    if method == "newton":
        assert found["newton/iterations"].shape == (2, 5, time)
        assert found["newton/converged"].all()


def test_without_batch_axes_and_in_chunks():
    cell, x = shake(cell_of("brc", True, "newton")), noise(12, D)
    call = jax.jit(lambda *args: cell(*args))
    y, last = call(x)
    early, middle = call(x[:6], cell.initial_state())
    late, end = call(x[6:], middle)
    close((jnp.concatenate([early, late]), end), (y, last), 1e-5)
    close(cell.step(x[6], middle)[0], y[6], 1e-5)


@pytest.mark.parametrize("name", ["brc", "diagonal_lstm"])
def test_float64_is_computed_in_float64(name):
    cell, rival = (shake(cell_of(name, True, method)) for method in ("newton", "sequential"))
    with jax.enable_x64(True):
        x, reset = noise(5, 40, D, dtype=np.float64), jnp.asarray(patterns(40))
        outs, bars, found = run(cell, x, None, reset)
        expected_outs, expected_bars, _ = run(rival, x, None, reset)
        assert found["newton/converged"].all()
        assert outs[0].dtype == "float64"
        close(outs, expected_outs, 1e-12)
        close(jax.tree.leaves(bars)[-1], jax.tree.leaves(expected_bars)[-1], 1e-10)


def test_bfloat16_inputs_converge_to_the_tolerance_of_float32():
    cell, rival = (cell_of("diagonal_gru", True, method) for method in ("newton", "sequential"))
    x = noise(2, 200, D).astype("bfloat16")

    @jax.jit
    def call(x):
        found = {}
        return *cell(x, capture=found), found

    y, last, capture = call(x)
    assert y.dtype == "bfloat16"
    assert capture["state"].dtype == "float32"
    assert capture["newton/converged"].all()
    np.testing.assert_allclose(last, rival(x)[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["brc", "diagonal_lstm"])
def test_where_it_has_not_converged_the_states_are_the_loops(name):
    """One iteration can not do: the loop is run, and capture says so."""
    cell, x, reset = shake(cell_of(name, True, "newton")), noise(5, 60, D) * 3, jnp.asarray(patterns(60))
    cell.newton_iterations = 1
    outs, bars, found = run(cell, x, None, reset)
    expected_outs, expected_bars, expected = run(shake(cell_of(name, True, "sequential")), x, None, reset)
    assert not found["newton/converged"][:2].any()
    assert (found["newton/iterations"] == 1).all()
    assert (found["newton/residual"][:2] > 1e-3).all()
    close((outs, states(found)), (expected_outs, states(expected)), 1e-6)
    close(bars, expected_bars, 1e-4)


def test_a_chaotic_cell_falls_back():
    """The diagonal of a dense Jacobian is no help where trajectories part exponentially."""
    cell, x = dense("rnn", "newton", 4.0), noise(2, 300, D)
    outs, bars, found = run(cell, x)
    expected_outs, _, expected = run(dense("rnn", "sequential", 4.0), x)
    assert not found["newton/converged"].any()
    assert (found["newton/iterations"] == cell.newton_iterations).all()
    close((outs, found["state"]), (expected_outs, expected["state"]), 1e-6)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(bars))


@pytest.mark.parametrize("name", DENSE)
def test_dense_cells(name):
    """Where the recurrent weights are small it converges; the gradient is exact though only the diagonal was used."""
    x, reset = noise(5, 40, D), jnp.asarray(patterns(40))
    outs, bars, found = run(dense(name, "newton", 0.3), x, None, reset)
    expected_outs, expected_bars, _ = run(dense(name, "sequential", 0.3), x, None, reset)
    assert found["newton/converged"].all()
    close(outs, expected_outs, 1e-5)
    close(bars, expected_bars, 1e-4)


@pytest.mark.parametrize("method", ["newton", "parallel_backward"])
@pytest.mark.parametrize("name", DIAGONAL)
def test_a_bad_sequence_reaches_no_other(name, method):
    cell, t = shake(cell_of(name, True, method)), np.arange(9)
    x, weight, reset, inside = noise(9, D), noise(9, D, seed=2), (t == 3) | (t == 6), (t >= 3) & (t < 6)

    @jax.jit
    def both(x, weight):
        y, pullback = jax.vjp(lambda x: cell(x, None, reset)[0], x)
        return y, pullback(weight)[0]

    clean, clean_bar = both(x, weight)
    y, bar = both(jnp.where(inside[:, None], jnp.nan, x), jnp.where(inside[:, None], jnp.nan, weight))
    close((y[~inside], bar[~inside]), (clean[~inside], clean_bar[~inside]), 1e-5)
    assert np.isnan(y[inside]).all()


@pytest.mark.parametrize("name", ["brc", "diagonal_lstm"])
def test_second_derivatives_are_those_of_the_loop(name):
    x, direction = noise(2, 7, D), noise(2, 7, D, seed=1)

    def curvature(method):
        cell = shake(cell_of(name, True, method))
        slope = jax.grad(lambda x: (cell(x)[0] ** 3).sum())
        return jax.jit(jax.grad(lambda x: (slope(x) * direction).sum()))(x)

    close(curvature("newton"), curvature("sequential"), 1e-4)


def test_methods_are_checked():
    with pytest.raises(ValueError, match=r"method of BRC must be one of auto, .*, got 'associative'"):
        cells.BRC(D, N, method="associative", rngs=0)
    with pytest.raises(ValueError, match=r"method of LRU must be one of auto, .*, got 'newton'"):
        cells.LRU(D, N, method="newton", rngs=0)
    with pytest.raises(ValueError, match=r"method of S6 must be one of auto, sequential, pallas, got 'associative'"):
        cells.S6(D, N, method="associative", rngs=0)
    with pytest.raises(ValueError, match=r"'parallel_backward' needs a diagonal .* NBRC is dense"):
        cells.NBRC(D, N, method="parallel_backward", rngs=0)
    with pytest.raises(ValueError, match=r"DMU .* 'newton'"):
        cells.DMU(D, N, method="newton", rngs=0)


def test_a_state_that_is_not_real_is_refused():
    class Counter(cells.RecurrentCell):
        def initial_state(self, batch_shape=()):
            return jnp.zeros((*batch_shape, N), jnp.int32)

        def update(self, x, h):
            return h + 1

        def readout(self, h, x):
            return x + h[..., :1]

    with pytest.raises(ValueError, match="method 'newton' needs a state of real numbers, Counter has int32"):
        Counter(D, N, method="newton")(noise(4, D))
    np.testing.assert_array_equal(Counter(D, N)(noise(4, D))[1], 4)
