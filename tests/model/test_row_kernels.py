"""Derivatives that a kernel takes of norms and of the gated product, interpreted, against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import mru
from mru.model import norms, row_kernels
from mru.model.blocks import SequenceBlock

pytestmark = pytest.mark.usefixtures("quick_compile")


def draw(shape, count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, *shape))


def layer_norm(x, scale, bias):
    centred = x - x.mean(-1, keepdims=True)
    return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * scale + bias


def rms_norm(x, scale):
    return x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale


def gated(gate, value, gate_bias, value_bias):
    gate = gate + gate_bias
    return gate / (1 + jnp.exp(-gate)) * (value + value_bias)


def close(found, exact, tolerance=2e-5):
    for x, y in zip(found, exact, strict=True):
        np.testing.assert_allclose(np.asarray(x, np.float64), y, rtol=tolerance, atol=tolerance * np.abs(y).max())


# Fewer rows than programs, more than one block for each, and columns that are no power of two.
@pytest.mark.parametrize("shape", [(5,), (1, 3, 33), (2, 1500, 16)])
@pytest.mark.parametrize("f", [layer_norm, rms_norm])
def test_norms(f, shape, monkeypatch):
    monkeypatch.setattr(row_kernels, "_PROGRAMS", 3)
    x, kept, *gs = draw(shape, 4)
    scale, bias = 1 + draw(shape[-1:], 2, seed=1) / 2
    same = (scale, bias) if f is layer_norm else (scale,)
    with jax.enable_x64(True):
        exact = jax.vjp(lambda x, *same: (x, f(x, *same)), x, *same)[1]((kept, sum(gs)))
    low = [jnp.asarray(v, jnp.float32) for v in (x, scale, bias, kept, *gs)]
    if f is rms_norm:
        low[2] = None
    close(row_kernels.norm_pullback(*low, epsilon=1e-6), exact)


@pytest.mark.parametrize("shape", [(5,), (2, 700, 33)])
def test_the_gated_product(shape, monkeypatch):
    monkeypatch.setattr(row_kernels, "_PROGRAMS", 3)
    gate, value, g = draw(shape, 3)
    given = gate, value, *draw(shape[-1:], 2, seed=1)
    with jax.enable_x64(True):
        exact = jax.vjp(gated, *given)[1](g)
    low = [jnp.asarray(v, jnp.float32) for v in (*given, g)]
    close(row_kernels.gated_pullback(tuple(low[:4]), low[4]), exact)
    np.testing.assert_allclose(row_kernels.gated(*low[:4]), gated(*given), rtol=1e-5, atol=1e-5)


def test_several_at_once():
    """As runs side by side in one program have them."""
    x, kept, g = (jnp.asarray(v, jnp.float32) for v in draw((3, 4, 5), 3))
    scale = jnp.asarray(draw((3, 5), 1)[0], jnp.float32)

    def one(x, scale, kept, g):
        return row_kernels.norm_pullback(x, scale, scale, kept, g, epsilon=1e-6)

    for i, found in enumerate(zip(*jax.vmap(one)(x, scale, kept, g), strict=True)):
        close(found, one(x[i], scale[i], kept[i], g[i]), 1e-6)


@pytest.mark.parametrize(("norm", "dtype", "tolerance"), [("layer", None, 2e-5), ("rms", "bfloat16", 0.05)])
def test_a_block_has_the_same_derivatives(norm, dtype, tolerance, monkeypatch):
    """In training, with the kernels and without; in bfloat16 they are computed in float32."""
    x = jnp.asarray(draw((2, 9, 6), 1)[0], jnp.float32)
    cell = mru.cells.get("lru")(6, 4, dtype=dtype, rngs=nnx.Rngs(0))
    block = SequenceBlock([cell], expansion=1.5, dropout=0.5, norm=norm, dtype=dtype, rngs=1)
    graphdef, params, rest = nnx.split(block, nnx.Param, ...)

    def gradient():
        def loss(params, x):
            y, _ = nnx.merge(graphdef, params, rest)(x, (None,), rngs=nnx.Rngs(dropout=0))
            return (y.astype(jnp.float32) ** 2).sum()

        return [np.asarray(v, np.float32) for v in jax.tree.leaves(jax.jit(jax.grad(loss, (0, 1)))(params, x))]

    without, asked = gradient(), []
    monkeypatch.setattr(row_kernels, "obstacle", lambda shape, dtype: asked.append((shape[-1], jnp.dtype(dtype).name)))
    close(gradient(), without, tolerance)
    assert asked == [(6, "float32"), (6, "float32"), (9, dtype or "float32")]


def test_where_there_is_no_kernel(monkeypatch):
    assert row_kernels.on_cuda() or "no CUDA device" in row_kernels.obstacle((2, 3, 4), jnp.float32)
    monkeypatch.setattr(row_kernels, "on_cuda", lambda: True)
    monkeypatch.setattr(row_kernels.backend, "obstacle", lambda: None)
    assert row_kernels.obstacle((2, 3, 4), jnp.float32) is None
    for shape, dtype in (((2, 3, 4), "float16"), ((3, 4096), "float32"), ((2**20, 2048), "float32")):
        assert "at most" in row_kernels.obstacle(shape, jnp.dtype(dtype))
    monkeypatch.setattr(row_kernels.backend, "obstacle", lambda: "gone")
    assert row_kernels.obstacle((2, 3, 4), jnp.float32) == "gone"
    # Outside of training all derivatives are XLA's, which have forward mode.
    norm = norms.make_norm("layer", 4, dtype=None, rngs=nnx.Rngs(0))
    monkeypatch.setattr(row_kernels.backend, "obstacle", lambda: None)
    x = jnp.ones((3, 4))
    jax.jvp(lambda x: norms.kept_and_normed(norm, x, 1, None, False), (x,), (x,))


def test_several_devices_have_no_kernel(monkeypatch):
    monkeypatch.setattr(row_kernels, "on_cuda", lambda: True)
    mesh = jax.sharding.AbstractMesh((2,), ("data",))
    with jax.sharding.use_abstract_mesh(mesh):
        assert "every device" in row_kernels.obstacle((2, 4), jnp.float32)
