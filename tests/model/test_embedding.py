import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mru.model import embedding
from mru.model.embedding import Embedding

V, D = 7, 3
RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, V, (4, 5))
BARS = RNG.normal(size=(4, 5, D))


def test_the_layer_has_the_rows_in_its_dtype():
    layer = Embedding(V, D, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    expected = np.asarray(layer.embedding[...].astype(jnp.bfloat16), np.float32)[TOKENS]
    assert layer(TOKENS).dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(layer(TOKENS), np.float32), expected)
    assert np.isnan(np.asarray(layer(jnp.array([V])), np.float32)).all()
    one = Embedding(1, D, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(one(jnp.zeros((2, 2), int)), np.broadcast_to(one.embedding[...], (2, 2, D)))


def gradient(dtype, tokens, bars):
    graphdef, params = nnx.split(Embedding(V, D, dtype=dtype, rngs=nnx.Rngs(0)))
    return jax.grad(lambda params: (nnx.merge(graphdef, params)(tokens) * bars).sum())(params)["embedding"][...]


def test_the_gradient_sums_the_cotangents_of_each_token():
    expected = np.zeros((V, D))
    np.add.at(expected, TOKENS, BARS)
    np.testing.assert_allclose(gradient(None, TOKENS, jnp.asarray(BARS, jnp.float32)), expected, rtol=1e-5, atol=1e-6)


def test_a_bfloat16_layer_loses_no_step_of_a_frequent_token():
    # In bfloat16, 256 + 1 is 256 again.
    found = gradient(jnp.bfloat16, np.zeros(1000, int), jnp.ones((1000, D), jnp.bfloat16))
    np.testing.assert_array_equal(found, [[1000] * D] + [[0] * D] * (V - 1))


def test_a_gradient_summed_in_several_tables_is_the_same(monkeypatch):
    """As on a GPU: of a token that is counted from the end too, and none of one that is behind it."""
    monkeypatch.setattr(embedding, "on_cuda", lambda: True)
    monkeypatch.setattr(embedding, "_BYTES", 3 * V * D * 4)
    tokens = TOKENS.copy()
    tokens[1, 2:4] = [-1, V]
    expected = np.zeros((V + 1, D))
    np.add.at(expected, np.where(tokens < 0, V - 1, tokens), BARS)
    np.testing.assert_allclose(gradient(None, tokens, jnp.asarray(BARS, jnp.float32)), expected[:V], atol=1e-6)
    bars = jnp.asarray(BARS, jnp.bfloat16)
    expected = np.zeros((V + 1, D))
    np.add.at(expected, np.where(tokens < 0, V - 1, tokens), np.asarray(bars, np.float64))
    found = gradient(jnp.bfloat16, tokens, bars)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected[:V], atol=1e-6)
    found = gradient(jnp.bfloat16, np.zeros(1000, int), jnp.ones((1000, D), jnp.bfloat16))
    np.testing.assert_array_equal(found, [[1000] * D] + [[0] * D] * (V - 1))
    jaxpr = str(jax.make_jaxpr(functools.partial(gradient, None, TOKENS))(jnp.ones(BARS.shape)))
    assert f"f32[3,{V},{D}]" in jaxpr
    np.testing.assert_array_equal(embedding._in_turn((2, 5), 3), [[0, 1, 2, 0, 1]] * 2)
    layer = Embedding(V, D, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(layer(tokens), jnp.take(layer.embedding[...], tokens, axis=0))
    np.testing.assert_array_equal(layer(jnp.array(2)), layer.embedding[2])


def test_a_large_table_is_read_once(monkeypatch):
    monkeypatch.setattr(embedding, "on_cuda", lambda: True)
    monkeypatch.setattr(embedding, "_BYTES", V * D)
    jaxpr = str(jax.make_jaxpr(functools.partial(gradient, None, TOKENS))(jnp.ones(BARS.shape)))
    assert f",{V},{D}]" not in jaxpr


@pytest.mark.parametrize(
    ("vocabulary", "width", "tables"), [(16, 128, 16), (256, 128, 16), (32000, 128, 2), (50257, 768, 1)]
)
def test_small_tables_are_read_in_turns_and_large_ones_once(vocabulary, width, tables, monkeypatch):
    monkeypatch.setattr(embedding, "on_cuda", lambda: True)
    graphdef, params = nnx.split(nnx.eval_shape(lambda: Embedding(vocabulary, width, rngs=nnx.Rngs(0))))
    rows = jax.make_jaxpr(lambda params, tokens: nnx.merge(graphdef, params)(tokens))(params, TOKENS)
    assert (f"f32[{tables},{vocabulary},{width}]" in str(rows)) == (tables > 1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_several_tables_give_the_same_derivative_forward(monkeypatch, dtype):
    monkeypatch.setattr(embedding, "on_cuda", lambda: True)
    graphdef, params = nnx.split(Embedding(V, D, dtype=dtype, rngs=nnx.Rngs(0)))
    change = jax.tree.map(lambda x: jnp.ones_like(x).at[3].set(2), params)
    y, bar = jax.jvp(lambda params: nnx.merge(graphdef, params)(TOKENS), (params,), (change,))
    np.testing.assert_array_equal(y, nnx.merge(graphdef, params)(TOKENS))
    np.testing.assert_array_equal(np.asarray(bar, np.float32)[..., 0], np.where(TOKENS == 3, 2, 1))


@pytest.mark.parametrize(("cuda", "sums"), [(False, f"tensor<{V}x{D}xf32>"), (True, f"tensor<16x{V}x{D}xf32>")])
def test_a_gpu_is_given_no_bfloat16_additions_in_memory(monkeypatch, cuda, sums):
    monkeypatch.setattr(embedding, "on_cuda", lambda: cuda)
    graphdef, params = nnx.split(Embedding(V, D, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
    grad = jax.jit(jax.grad(lambda params: nnx.merge(graphdef, params)(TOKENS).astype(jnp.float32).sum()))
    program = jax.export.export(grad, platforms=["cuda"])(params).mlir_module()
    (scatter,) = (part.split(") -> ")[1] for part in program.split('"stablehlo.scatter"')[1:])
    assert scatter.startswith(sums)
