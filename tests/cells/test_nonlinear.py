"""Cells whose update does not compose: against plain loops of their equations, and finite differences, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference import affine, cell_parameters, patterns, shake, sigmoid

from mru import cells

pytestmark = pytest.mark.usefixtures("quick_compile")
D, N, T = 3, 5, 24
OPTIONS = {
    "miru1": [{}, {"update_coefficient": 0.8}],
    "miru2": [{}, {"update_coefficient": 0.2, "reset_coefficient": 0.9}],
    "dmu": [{}, {"delays": 1}, {"delays": 3}],
}
NAMES = ["brc", "diagonal_gru", "diagonal_lstm", "dmu", "gru", "lstm", "miru1", "miru2", "nbrc", "rnn"]
CASES = [(name, options) for name in NAMES for options in OPTIONS.get(name, [{}])]


def bistable(p, x, h, to_a, to_c):
    u, a, c = np.split(affine(p, "input", x), 3, -1)
    a, c = 1 + np.tanh(a + to_a), sigmoid(c + to_c)
    return c * h + (1 - c) * np.tanh(u + a * h)


def brc(p, x, h):
    return bistable(p, x, h, p["gain"] * h, p["gate"] * h)


def nbrc(p, x, h):
    w = p["recurrent/kernel"]
    return bistable(p, x, h, h @ w[:, :N], h @ w[:, N:])


def rnn(p, x, h):
    return np.tanh(affine(p, "cell/dense_i", x) + h @ p["cell/dense_h/kernel"])


def gated(x, r, z, n, h):
    """A GRU's step, given what r, z and n get of the input and of the state."""
    x_r, x_z, x_n = np.split(x, 3, -1)
    r, z = sigmoid(x_r + r), sigmoid(x_z + z)
    return (1 - z) * np.tanh(x_n + r * n) + z * h


def gru(p, x, h):
    return gated(affine(p, "cell/dense_i", x), *np.split(h @ p["cell/dense_h/kernel"], 3, -1), h)


def diagonal_gru(p, x, h):
    return gated(affine(p, "input", x), *(u * h for u in p["recurrent"]), h)


def cells_of(gates, c):
    """An LSTM's step to (c, h), given what i, f, g and o get together."""
    i, f, g, o = gates
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return c, sigmoid(o) * np.tanh(c)


def lstm(p, x, state):
    c, h = state
    return cells_of(np.split(x @ p["cell/dense_i/kernel"] + affine(p, "cell/dense_h", h), 4, -1), c)


def diagonal_lstm(p, x, state):
    c, h = state
    return cells_of([part + u * h for part, u in zip(np.split(affine(p, "input", x), 4, -1), p["recurrent"])], c)


def miru1(p, x, h, update_coefficient=0.5):
    u, r = np.split(affine(p, "input", x), 2, -1)
    r = sigmoid(r + h @ p["gate/kernel"])
    return update_coefficient * h + (1 - update_coefficient) * np.tanh(u + (r * h) @ p["recurrent/kernel"])


def miru2(p, x, h, update_coefficient=0.5, reset_coefficient=0.5):
    c = np.tanh(affine(p, "input", x) + (reset_coefficient * h) @ p["recurrent/kernel"])
    return update_coefficient * h + (1 - update_coefficient) * c


def dmu(p, x, line, delays=8):
    both = affine(p, "input", x) + line[..., 0, :] @ p["recurrent/kernel"]
    c, d = np.tanh(both[..., :N]), np.exp(both[..., N:])
    d = d / d.sum(-1, keepdims=True)
    new = np.zeros_like(line)
    for j in range(delays):
        new[..., j, :] = (line[..., j + 1, :] if j + 1 < delays else 0) + d[..., j, None] * c
    return new


STEPS = {f.__name__: f for f in (brc, nbrc, rnn, gru, lstm, diagonal_gru, diagonal_lstm, miru1, miru2, dmu)}


def make(name, options):
    return shake(cells.get(name)(D, N, rngs=nnx.Rngs(0), **options))


def read(name, h):
    """What the readout sees of a state."""
    return {"lstm": lambda: h[1], "diagonal_lstm": lambda: h[1], "dmu": lambda: h[..., 0, :]}.get(name, lambda: h)()


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_output_is_the_equation(name, options):
    cell = make(name, options)
    x, reset, p = np.random.default_rng(0).normal(size=(5, T, D)).astype(np.float32), patterns(T), cell_parameters(cell)
    start = jax.tree.map(lambda h: np.zeros(h.shape), cell.initial_state((5,)))
    state, outputs = start, []
    for t in range(T):
        state = jax.tree.map(
            lambda s, h, t=t: np.where(reset[:, t].reshape(5, *[1] * (h.ndim - 1)), s, h), start, state
        )  # fmt: skip
        state = STEPS[name](p, x[:, t].astype(float), state, **options)
        outputs.append(affine(p, "out", read(name, state)))
    y, last = jax.jit(lambda x: cell(x, reset=reset))(x)
    np.testing.assert_allclose(y, np.stack(outputs, 1), rtol=1e-4, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), last, state)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_is_that_of_finite_differences(name):
    """In the parameters and inputs, along one direction, over a reset."""
    with jax.enable_x64(True):
        graphdef, params = nnx.split(make(name, {}))
        rng, reset = np.random.default_rng(0), np.arange(7) == 4
        args = jax.tree.map(lambda p: p.astype("float64"), params), jnp.asarray(rng.normal(size=(2, 7, D)))
        direction = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), args)

        @jax.jit
        def loss(args):
            y, state = nnx.merge(graphdef, args[0])(args[1], reset=reset)
            return (y**2).sum() + sum((h**3).sum() for h in jax.tree.leaves(state))

        def moved(step):
            return loss(jax.tree.map(lambda a, d: a + step * d, args, direction))

        slope = (moved(1e-6) - moved(-1e-6)) / 2e-6
        along = jax.tree.map(lambda g, d: (g * d).sum(), jax.grad(loss)(args), direction)
        np.testing.assert_allclose(sum(jax.tree.leaves(along)), slope, rtol=1e-7)


@pytest.mark.parametrize(("name", "kind"), [("rnn", "SimpleCell"), ("gru", "GRUCell"), ("lstm", "OptimizedLSTMCell")])
def test_flax_runs_the_same(name, kind):
    """`nnx.RNN` over a cell of Flax's own, given our parameters."""
    cell = make(name, {})
    theirs = getattr(nnx, kind)(D, N, rngs=nnx.Rngs(1))
    nnx.update(theirs, nnx.state(cell.cell))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, T, D)).astype(np.float32))
    zeros = cell.initial_state((2,))
    states = nnx.RNN(theirs, rngs=False)(x, initial_carry=zeros)
    np.testing.assert_allclose(cell(x)[0], cell.out(states), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("a", [0.9, 1.5])
def test_a_brc_is_bistable_where_its_gain_is_above_one(a):
    """Two states of rest without input, at h = tanh(a h)."""
    cell = cells.BRC(D, N, rngs=0)
    cell.gain[...] = jnp.zeros(N)
    cell.input.bias[...] = jnp.repeat(jnp.array([0, np.arctanh(a - 1), 0], jnp.float32), N)
    h = np.asarray(cell(jnp.zeros((2, 2000, D)), jnp.array([[0.3], [-0.3]]) * jnp.ones(N))[1], float)
    np.testing.assert_allclose(h, np.tanh(a * h), atol=1e-5)
    assert (np.sign(h) == [[1], [-1]]).all() and (np.abs(h) > 0.8).all() if a > 1 else (np.abs(h) < 1e-3).all()


def test_options_are_checked():
    with pytest.raises(ValueError, match=r"update_coefficient must be in \[0, 1\], got 1\.5"):
        cells.MiRU1(D, N, update_coefficient=1.5, rngs=0)
    with pytest.raises(ValueError, match=r"reset_coefficient must be in \[0, 1\], got -1"):
        cells.MiRU2(D, N, reset_coefficient=-1, rngs=0)
    for given in (0, 2.5, "3"):
        with pytest.raises(ValueError, match=f"delays must be an integer of at least 1, got {given!r}"):
            cells.DMU(D, N, delays=given, rngs=0)


def test_a_model_gives_one_kind_of_cell_a_method_of_its_own():
    from mru import SequenceModel

    model = SequenceModel(
        2, 2, cells=["lru", "brc"], width=4, state_size=4, options={"brc": {"method": "newton"}}, rngs=0
    )
    assert model.blocks[1].cells[0].method == "newton"
    assert model.blocks[0].cells[0].method == "auto"
