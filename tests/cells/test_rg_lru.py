import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference import affine, assert_gradients, cell_parameters, loop, patterns, shake, sigmoid, softplus

from mru.cells import RGLRU, StateParam
from mru.cells.rg_lru import bounded_sqrt

pytestmark = pytest.mark.usefixtures("quick_compile")
D, N, T = 3, 5, 30


def oracle(p, x, reset):
    """Every state and output, from the equations."""
    r, i, u = sigmoid(affine(p, "recurrence_gate", x)), sigmoid(affine(p, "input_gate", x)), affine(p, "input", x)
    a = np.exp(-8 * softplus(p["rate"]) * r)
    b = np.sqrt(1 - a**2) * i * u
    h = loop(lambda t, h: a[..., t, :] * h + b[..., t, :], x.shape[-2], p.get("start", np.zeros(N)), reset)
    return h, affine(p, "out", h)


def test_output_is_the_equation():
    cell = shake(RGLRU(D, N, learn_initial_state=True, rngs=nnx.Rngs(0)))
    x, reset = np.random.default_rng(0).normal(size=(5, T, D)).astype(np.float32), patterns(T)
    h, expected = oracle(cell_parameters(cell), x, reset)
    y, state = jax.jit(lambda x: cell(x, reset=reset))(x)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state, h[:, -1], rtol=1e-4, atol=1e-5)


def test_gradients_are_finite_differences_of_the_equation():
    cell = shake(RGLRU(D, N, rngs=nnx.Rngs(0)))
    assert_gradients(cell, lambda *args: oracle(*args)[1])


def test_initialisation_is_a_range_of_memories():
    p = cell_parameters(RGLRU(D, 20_000, rngs=0))
    a = np.exp(-8 * softplus(p["rate"]))  # at r = 1
    assert 0.9 - 1e-5 < a.min() < 0.9005
    assert 0.9985 < a.max() < 0.999 + 1e-5
    np.testing.assert_allclose(np.quantile(a, [0.25, 0.5, 0.75]), 0.9 + 0.099 * np.array([0.25, 0.5, 0.75]), atol=2e-3)


def test_the_rate_is_a_parameter_of_the_state():
    special = {path[-1] for path, v in nnx.to_flat_state(nnx.state(RGLRU(D, N, rngs=0))) if isinstance(v, StateParam)}
    assert special == {"rate"}


def test_the_derivative_of_the_square_root_is_bounded():
    x = jnp.array([0.0, 1e-30, 1e-9, 2.5e-7, 1e-4, 0.25, 1.0])
    np.testing.assert_array_equal(bounded_sqrt(x), jnp.sqrt(x))
    slope = jax.vmap(jax.grad(bounded_sqrt))(x)
    np.testing.assert_allclose(slope, [1000, 1000, 1000, 1000, 50, 1, 0.5], rtol=1e-5)
    assert np.isinf(jax.grad(jnp.sqrt)(0.0))


@pytest.mark.parametrize("given", [None, "input"], ids=["promoted", "products in that dtype"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("bias", [-8.0, -20.0, -80.0, -200.0])
def test_gradients_are_finite_where_a_goes_to_one(bias, dtype, given):
    """At -20 the coefficient rounds to 1 with 1 - a^2 > 0, at -200 the gate itself is 0 and so is 1 - a^2."""
    cell = RGLRU(D, N, dtype=dtype if given else None, rngs=nnx.Rngs(0))
    cell.recurrence_gate.bias[...] = jnp.full(N, bias)
    graphdef, params = nnx.split(cell)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 12, D)), dtype)
    op = cell.operator(x)
    assert (op.a == 1).all() == (bias < -10)

    def loss(params, x):
        return (nnx.merge(graphdef, params)(x)[0].astype(jnp.float32) ** 2).sum()

    bars = jax.jit(jax.grad(loss, (0, 1)))(params, x)
    assert all(np.isfinite(np.asarray(bar, np.float32)).all() for bar in jax.tree.leaves(bars))


def test_without_the_bound_they_are_not():
    def scale(u, root):
        return root(-jnp.expm1(-0.1 * nnx.sigmoid(u)))

    assert np.isnan(jax.grad(scale)(-200.0, jnp.sqrt))
    assert jax.grad(scale)(-200.0, bounded_sqrt) == 0
