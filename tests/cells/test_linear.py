import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import mru
from mru.cells._linear import complex_in, linear, product, real_out

RNG = np.random.default_rng(0)
X, W, G = (RNG.normal(size=shape) for shape in ((3, 5, 8), (8, 6), (3, 5, 6)))
LAST = (((2,), (0,)), ((), ()))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 3e-2)])
def test_a_product_and_its_derivatives_are_those_of_float64(dtype, tolerance):
    x, w = jnp.asarray(X, dtype), jnp.asarray(W, dtype)
    run = lambda x, w: product(x, w, LAST, None, jnp.float32)  # noqa: E731
    y, pullback = jax.vjp(run, x, w)
    dx, dw = pullback(jnp.asarray(G, jnp.float32))
    assert (y.dtype, dx.dtype, dw.dtype) == (jnp.float32, x.dtype, w.dtype)
    np.testing.assert_allclose(y, np.asarray(x, float) @ np.asarray(w, float), rtol=1e-5, atol=1e-5)
    for found, expected in [(dx, G @ W.T), (dw, np.einsum("btd,btn->dn", X, G))]:
        np.testing.assert_allclose(np.asarray(found, float), expected, rtol=tolerance, atol=tolerance * 4)
    _, moved = jax.jvp(run, (x, w), (x, w))
    np.testing.assert_allclose(moved, 2 * X @ W, rtol=tolerance, atol=tolerance * 4)


@pytest.mark.parametrize(("rows", "parts"), [(1, 1), (100, 100), (130, 65), (131, 1), (0, 128)])
def test_the_derivative_of_weights_is_a_sum_over_parts_of_the_rows(rows, parts):
    x, g = RNG.normal(size=(rows, 2, 8)), RNG.normal(size=(rows, 2, 6))
    run = lambda w: product(jnp.asarray(x, jnp.float32), w, LAST)  # noqa: E731
    back = lambda g: jax.vjp(run, jnp.asarray(W, jnp.float32))[1](g)[0]  # noqa: E731
    np.testing.assert_allclose(back(jnp.asarray(g, jnp.float32)), np.einsum("btd,btn->dn", x, g), rtol=1e-5, atol=1e-4)
    assert re.search(rf"dot_general .* batching_dims = \[0\] .* -> tensor<{parts}x", jax.jit(back).lower(g).as_text())


def test_a_bias_is_added_in_float32():
    bias = np.float32(1 + 2**-12)  # 1 in bfloat16
    layer = linear(8, 6, dtype="bfloat16", bias_init=nnx.initializers.constant(bias), rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(layer(jnp.zeros((2, 8))), np.full((2, 6), bias))


def test_products_of_low_precision_have_derivatives_of_low_precision():
    """Every product of a gradient multiplies two bfloat16 arrays, though what comes out of a layer is float32."""
    layer = linear(8, 6, dtype="bfloat16", rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(layer)
    b, c = jnp.asarray(RNG.normal(size=(8, 2, 4)), jnp.float32), jnp.asarray(RNG.normal(size=(2, 4, 8)), jnp.float32)

    def loss(params, b, c, x):
        y = nnx.merge(graphdef, params)(x)
        z = real_out(complex_in(x, b, jnp.dtype("bfloat16")), c, jnp.dtype("bfloat16"))
        assert y.dtype == z.dtype == jnp.float32
        return (y**2).sum() + (z**2).sum()

    found = products(jax.grad(loss, (0, 1, 2, 3)), params, b, c, jnp.asarray(X, jnp.float32))
    assert len(found) == 9  # one forward and two backward of each of the three
    assert set(found) == {("bf16", "bf16")}


@pytest.mark.parametrize(("name", "count"), [("bmru", 3), ("pmru", 3), ("lru", 2), ("s5", 2), ("s4d", 1)])
def test_the_products_of_a_cell_are_of_its_dtype_in_both_directions(name, count):
    graphdef, params, rest = nnx.split(mru.cells.get(name)(8, 8, dtype="bfloat16", rngs=0), nnx.Param, ...)
    loss = lambda params, x: (nnx.merge(graphdef, params, rest)(x)[0] ** 2).sum()  # noqa: E731
    found = products(jax.grad(loss, (0, 1)), params, jnp.asarray(X, jnp.float32))
    assert found.count(("bf16", "bf16")) == len(found) == 3 * count


def products(f, *args):
    """The dtypes of both operands of every matrix product of a program."""
    text = jax.jit(f).lower(*args).as_text()
    pairs = re.findall(r"stablehlo\.dot_general .* : \(tensor<([^>]*)>, tensor<([^>]*)>\)", text)
    return [tuple(operand.rsplit("x", 1)[1] for operand in pair) for pair in pairs]
