"""Complex arrays as planes of real ones, and what that spares the gradient of LRU layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import mru
from mru.engine.planes import from_planes, planes

RNG = np.random.default_rng(0)
X = (RNG.normal(size=(3, 4, 5)) + 1j * RNG.normal(size=(3, 4, 5))).astype(np.complex64)
W = RNG.normal(size=(3, 4, 2, 5)).astype(np.float32)
PLANES = np.stack([X.real, X.imag], -2)


def test_they_are_the_real_and_the_imaginary_parts():
    np.testing.assert_array_equal(planes(X), PLANES)
    np.testing.assert_array_equal(from_planes(PLANES), X)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint])
def test_gradients_are_those_of_the_parts(wrap):
    # JAX's gradient of a real function of a complex number is d/d real - i d/d imag.
    found = jax.grad(wrap(lambda x: (planes(x) ** 2 * W).sum()))(X)
    bars = 2 * PLANES * W
    np.testing.assert_allclose(found, bars[..., 0, :] - 1j * bars[..., 1, :], rtol=1e-6)
    found = jax.grad(wrap(lambda x: (from_planes(x) * X).real.sum()))(PLANES)
    np.testing.assert_allclose(found, np.stack([X.real, -X.imag], -2), rtol=1e-6)


def test_derivatives_forwards_and_of_derivatives():
    tangent = X[::-1]
    both = np.stack([tangent.real, tangent.imag], -2)
    _, found = jax.jvp(lambda x: (planes(x) ** 3 * W).sum(), (X,), (tangent,))
    np.testing.assert_allclose(found, (3 * PLANES**2 * W * both).sum(), rtol=1e-5)
    _, found = jax.jvp(jax.grad(lambda x: (from_planes(planes(x) * W).real ** 3).sum()), (X,), (tangent,))
    np.testing.assert_allclose(found, 6 * X.real * W[:, :, 0] ** 3 * tangent.real, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_any_axis_is_mapped_over(axis):
    found = jax.vmap(planes, in_axes=axis)(X)
    parts = np.moveaxis(X, axis, 0)
    np.testing.assert_array_equal(found, np.stack([parts.real, parts.imag], -2))
    np.testing.assert_array_equal(jax.vmap(from_planes)(found), parts)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the bound is that of a program for a CPU")
def test_the_gradient_of_lru_layers_takes_few_copies():
    """Recorded, in arrays of the size of the states, of which four layers keep four; 10.3 with derivatives of JAX."""
    layers = [mru.cells.get("lru")(64, 64, rngs=nnx.Rngs(i)) for i in range(4)]
    graphdef, params = nnx.split(layers)

    def loss(params, x):
        for layer in nnx.merge(graphdef, params):
            x, _ = layer(x)
        return (x**2).sum()

    shape = (4, 256, 64)
    program = jax.jit(jax.grad(loss)).lower(params, jnp.zeros(shape)).compile()
    assert program.memory_analysis().temp_size_in_bytes <= 8.3 * 1.1 * 8 * np.prod(shape)
