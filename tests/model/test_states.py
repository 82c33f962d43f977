"""States of any structure in a model: an LSTM's two arrays, and a cache with a counter."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mru import SequenceModel, cells

pytestmark = pytest.mark.usefixtures("quick_compile")
D, N, T = 6, 4, 7
close = functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-5)


class Stepwise(cells.Cell):
    """A cell that is its step, one after the other."""

    def __init__(self, features, state_size, *, dtype=None, rngs):
        self.features, self.state_size = features, state_size
        self.make(features, state_size, rngs)

    def __call__(self, x, state=None, reset=None, *, capture=None):
        batch = x.shape[:-2]
        first = self.initial_state(batch)
        reset = jnp.zeros(x.shape[:-1], bool) if reset is None else reset

        def one(state, inputs):
            x, reset = inputs
            state = jax.tree.map(lambda a, b: jnp.where(reset.reshape(batch + (1,) * (b.ndim - len(batch))), a, b),
                                 first, state)  # fmt: skip
            y, state = self.step(x, state)
            return state, y

        state, y = jax.lax.scan(
            one, first if state is None else state, (jnp.moveaxis(x, -2, 0), jnp.moveaxis(reset, -1, 0))
        )
        return jnp.moveaxis(y, 0, -2), state


class LSTM(Stepwise):
    def make(self, features, state_size, rngs):
        self.gates = nnx.Linear(features + state_size, 4 * state_size, rngs=rngs)
        self.out = nnx.Linear(state_size, features, rngs=rngs)

    def initial_state(self, batch_shape=()):
        zeros = jnp.zeros((*batch_shape, self.state_size))
        return zeros, zeros

    def step(self, x, state=None):
        h, c = self.initial_state(x.shape[:-1]) if state is None else state
        i, f, g, o = jnp.split(self.gates(jnp.concatenate([x, h], -1)), 4, -1)
        c = nnx.sigmoid(f) * c + nnx.sigmoid(i) * jnp.tanh(g)
        h = nnx.sigmoid(o) * jnp.tanh(c)
        return self.out(h), (h, c)


class Cache(Stepwise):
    """Attends to what it has kept, at most 16 steps, and counts them."""

    def make(self, features, state_size, rngs):
        self.key, self.value = (nnx.Linear(features, state_size, rngs=rngs) for _ in range(2))
        self.out = nnx.Linear(state_size, features, rngs=rngs)

    def initial_state(self, batch_shape=()):
        kept = jnp.zeros((*batch_shape, 16, self.state_size))
        return {"keys": kept, "values": kept, "count": jnp.zeros(batch_shape, jnp.int32)}

    def step(self, x, state=None):
        state = self.initial_state(x.shape[:-1]) if state is None else state
        place = jnp.arange(16) == state["count"][..., None]
        keys = jnp.where(place[..., None], self.key(x)[..., None, :], state["keys"])
        values = jnp.where(place[..., None], self.value(x)[..., None, :], state["values"])
        score = jnp.einsum("...n,...kn->...k", self.key(x), keys)
        weight = jax.nn.softmax(jnp.where(jnp.arange(16) <= state["count"][..., None], score, -jnp.inf))
        y = self.out(jnp.einsum("...k,...kn->...n", weight, values))
        return y, {"keys": keys, "values": values, "count": state["count"] + 1}


def make(**kwargs):
    return SequenceModel(3, 2, cells=[[LSTM, "bmru"], Cache], width=D, state_size=N, positions=2, rngs=0, **kwargs)


def inputs(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(*shape, 3)), jnp.float32)


def trees_close(mine, theirs):
    jax.tree.map(close, mine, theirs)


@functools.cache
def compiled(**kwargs):
    graphdef, variables = nnx.split(make(**kwargs))
    call = jax.jit(lambda v, x, state=None, **kw: nnx.merge(graphdef, v)(x, state, **kw))
    return functools.partial(call, variables)


@pytest.mark.parametrize("remat", [False, True])
def test_whole_chunks_steps_and_packed_agree(remat):
    call, model, x = compiled(remat=remat), make(), inputs(2, T)
    logits, state = call(x)
    assert [type(s) for block in state.cells for s in block] == [tuple, type(logits), dict]
    np.testing.assert_array_equal(state.cells[1][0]["count"], [T, T])
    _, middle = call(x[:, :3])
    trees_close(call(x[:, 3:], middle), (logits, state))

    def one(state, x):
        out, state = model.step(x, state)
        return state, out

    carried, stepped = jax.lax.scan(one, model.initial_state((2,)), jnp.moveaxis(x, 1, 0))
    trees_close((stepped[-1], carried), (logits, state))
    reset = jnp.zeros((2, T), bool).at[:, 3].set(True)
    trees_close(call(x, middle, reset=reset), call(x[:, 3:]))


def test_both_directions_and_padding():
    call, x = compiled(bidirectional=True), inputs(2, T)
    logits, _ = call(x, lengths=jnp.array([4, T]))
    close(logits[0], call(x[:1, :4])[0][0])


# Doubles


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("pooling", ["mean", "last", "none"])
def test_float64_features_are_computed_with_in_float64(pooling, x64):
    model = SequenceModel(3, 2, cells="mingru", width=D, state_size=N, positions=4, pooling=pooling, rngs=0)
    assert {v.dtype.name for v in jax.tree.leaves(nnx.state(model, nnx.Param))} == {"float32"}
    # Behind the cell: what it computes in is its own affair.
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, T, 3)), jnp.float64)
    encoded = model._encode(x, jnp.arange(T) + 1000)
    kernel, positions = (np.asarray(e.kernel[...], float) for e in (model.encoder, model.position_encoder))
    angle = (np.arange(T) + 1000.0)[:, None] * np.array([1.0, 1e-4])
    expected = np.asarray(x) @ kernel + np.concatenate([np.sin(angle), np.cos(angle)], -1) @ positions
    assert encoded.dtype == jnp.float64
    np.testing.assert_allclose(encoded, expected, rtol=1e-10, atol=1e-12)
    y = model._normed(encoded)
    mean = encoded - encoded.mean(-1, keepdims=True)
    np.testing.assert_allclose(y, mean / np.sqrt(encoded.var(-1, keepdims=True) + 1e-6), rtol=1e-9)


def test_float32_features_stay_float32(x64):
    model = SequenceModel(3, 2, cells="lru", width=D, state_size=N, positions=4, rngs=0)
    initial = model.initial_state((2,))
    assert initial.total.dtype == jnp.float32
    assert model._encode(inputs(2, T), jnp.arange(T)).dtype == jnp.float32
