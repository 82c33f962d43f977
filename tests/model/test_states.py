"""States of any structure in a model: an LSTM's two arrays, and a cache with a counter."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from own_cells import LSTM, CachedAttention
from stacks import close, trees_close

from mru import SequenceModel
from mru.model.positions import sinusoidal_positions

pytestmark = pytest.mark.usefixtures("quick_compile")
D, N, T = 6, 4, 7


def make(**kwargs):
    return SequenceModel(
        3, 2, cells=[[LSTM, "bmru"], CachedAttention], width=D, state_size=N, positions=2, rngs=0, **kwargs
    )


def inputs(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(*shape, 3)), jnp.float32)


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
    model = SequenceModel(3, 2, cells="lru,bmru", width=D, state_size=N, positions=4, pooling=pooling, rngs=0)
    assert {v.dtype.name for v in jax.tree.leaves(nnx.state(model, nnx.Param))} == {"float32"}
    # The same numbers as parameters of float64 would give, so nothing on the way is rounded to float32.
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, T, 3)), jnp.float64)
    call = jax.jit(lambda model, x, state=None: model(x, state))
    (logits, state), exact = call(model, x), call(_doubled(model), x)
    assert logits.dtype == jnp.float64
    assert state.total.dtype == (jnp.float64 if pooling == "mean" else jnp.float32)  # 0 elsewhere
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12), (logits, state), exact)
    _, middle = call(model, x[:, :3])
    later = call(model, x[:, 3:], middle)[0]
    np.testing.assert_allclose(later, logits[:, 3:] if pooling == "none" else logits, rtol=1e-10, atol=1e-10)
    stepped, carried = model.step(x[:, 0])
    stepped, carried = model.step(x[:, 1], carried)
    two = call(model, x[:, :2])[0]
    np.testing.assert_allclose(stepped, two[:, 1] if pooling == "none" else two, rtol=1e-10, atol=1e-10)


def _doubled(model):
    graphdef, variables = nnx.split(model)
    double = jax.tree.map(lambda v: v.astype(jnp.float64) if v.dtype == jnp.float32 else v, variables)
    return nnx.merge(graphdef, double)


def test_positions_in_float64(x64):
    angle = (np.arange(T) + 1e6)[:, None] * np.array([1.0, 1e-4])
    expected = np.concatenate([np.sin(angle), np.cos(angle)], -1)
    found = sinusoidal_positions(jnp.arange(T) + 1_000_000, 4, jnp.float64)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_float32_features_stay_float32(x64):
    model = SequenceModel(3, 2, cells="lru,bmru", width=D, state_size=N, positions=4, rngs=0)
    for out, state in (model(inputs(2, T)), model.step(inputs(2))):
        assert out.dtype == state.total.dtype == jnp.float32
