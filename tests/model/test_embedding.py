import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mru.model.embedding import Embedding, rows

V, D = 7, 3
RNG = np.random.default_rng(0)
TABLE, TOKENS = RNG.normal(size=(V, D)), RNG.integers(0, V, (4, 5))
BARS = RNG.normal(size=(4, 5, D))


@pytest.fixture(params=["cpu", "default"])
def form(request, monkeypatch):
    """The form for CPUs, and that for other platforms."""

    def chosen(*args, **forms):
        return forms[request.param](*args)

    monkeypatch.setattr(jax.lax, "platform_dependent", chosen)


def test_the_gradient_sums_the_cotangents_of_each_token(form):
    expected = np.zeros((V, D))
    np.add.at(expected, TOKENS, BARS)
    with jax.enable_x64(True):
        found, pullback = jax.vjp(lambda table: rows(table, TOKENS), jnp.asarray(TABLE))
        np.testing.assert_array_equal(found, TABLE[TOKENS])
        np.testing.assert_allclose(pullback(jnp.asarray(BARS))[0], expected, rtol=1e-12, atol=1e-12)


def test_tangents_and_second_derivatives(form):
    table, tangent = jnp.asarray(TABLE, jnp.float32), jnp.asarray(TABLE[::-1], jnp.float32)
    _, moved = jax.jvp(lambda table: rows(table, TOKENS), (table,), (tangent,))
    np.testing.assert_array_equal(moved, tangent[TOKENS])
    # The sum of cubes has the Hessian 6 x times how often a row is read, on the diagonal.
    _, product = jax.jvp(jax.grad(lambda table: (rows(table, TOKENS) ** 3).sum()), (table,), (tangent,))
    times = np.bincount(TOKENS.reshape(-1), minlength=V)[:, None]
    np.testing.assert_allclose(product, 6 * times * TABLE * TABLE[::-1], rtol=1e-5, atol=1e-5)


def test_many_tables_and_token_arrays_at_once(form):
    tables, tokens = jnp.stack([TABLE, -TABLE]), jnp.stack([TOKENS, TOKENS[::-1]])
    expected = np.zeros((2, V, D))
    for one, ks in zip(expected, tokens, strict=True):
        np.add.at(one, ks, 1)
    gradient = jax.vmap(jax.grad(lambda table, tokens: rows(table, tokens).sum()))(tables, tokens)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


@pytest.mark.parametrize(("vocabulary", "scatters"), [(16, False), (1024, False), (1025, True)])
def test_a_gpu_is_given_no_scatter_of_a_small_vocabulary(vocabulary, scatters):
    table = jnp.zeros((vocabulary, D), jnp.bfloat16)
    gradient = jax.jit(jax.grad(lambda table: rows(table, TOKENS).astype(jnp.float32).sum()))
    program = jax.export.export(gradient, platforms=["cuda"])(table).mlir_module()
    assert ("stablehlo.scatter" in program) == scatters


def test_the_layer_has_the_rows_in_its_dtype():
    layer = Embedding(V, D, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    expected = np.asarray(layer.embedding[...].astype(jnp.bfloat16), np.float32)[TOKENS]
    np.testing.assert_array_equal(np.asarray(layer(TOKENS), np.float32), expected)
    assert np.isnan(np.asarray(layer(jnp.array([V])), np.float32)).all()
    one = Embedding(1, D, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(one(jnp.zeros((2, 2), int)), np.broadcast_to(one.embedding[...], (2, 2, D)))
