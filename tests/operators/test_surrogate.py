import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import surrogate

from mru.operators.surrogate import sign, step

U = np.array([-30.0, -1.0, -0.25, -1e-6, -0.0, 0.0, 1e-6, 0.3, 1.0, 30.0])


def test_forward_is_exact_and_one_at_zero():
    np.testing.assert_array_equal(step(jnp.asarray(U, jnp.float32)), [0, 0, 0, 0, 1, 1, 1, 1, 1, 1])
    np.testing.assert_array_equal(sign(jnp.asarray(U, jnp.float32)), [-1, -1, -1, -1, 1, 1, 1, 1, 1, 1])


@pytest.mark.parametrize("width", [0.2, 1.0, 3.0])
@pytest.mark.parametrize(("gate", "height"), [(step, 1), (sign, 2)])
def test_derivative_is_the_formula(gate, height, width):
    with jax.enable_x64(True):
        u = jnp.asarray(U)
        slope = height * width / (1 + (np.pi * width * U) ** 2)
        np.testing.assert_allclose(jax.vmap(jax.grad(gate), (0, None))(u, width), slope, rtol=1e-12)
        np.testing.assert_allclose(jax.jvp(lambda u: gate(u, width), (u,), (2 * u,))[1], 2 * U * slope, rtol=1e-12)
        np.testing.assert_allclose(height * surrogate(U, width), slope, rtol=1e-12)  # what the cells' tests use


@pytest.mark.parametrize("width", [0.2, 1.0, 3.0])
def test_derivative_integrates_to_the_height_of_the_step(width):
    with jax.enable_x64(True):
        u = jnp.linspace(-2000, 2000, 2_000_001)
        area = jnp.trapezoid(jax.vmap(jax.grad(step), (0, None))(u, width), u)
    np.testing.assert_allclose(area, 1, atol=2e-3 / width)


def test_width_is_not_differentiated():
    assert jax.grad(lambda w: step(jnp.float32(0.3), w))(1.0) == 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("width", [1.0, np.float32(1)])
def test_dtype_is_kept(dtype, width):
    u = jnp.asarray(U, dtype)
    width = jnp.asarray(width)
    for gate in (step, sign):
        y, pullback = jax.vjp(gate, u, width)
        assert y.dtype == dtype
        assert pullback(y)[0].dtype == dtype
