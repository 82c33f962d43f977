"""The walks by other backends of Pallas: the numbers where one is interpreted, and that both are lowered."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import loop

import mru
from benchmarks import tpu_walk

SHAPE = (8, 24, 256)
RNG = np.random.default_rng(0)
A, B, H0 = RNG.uniform(0, 1, SHAPE), RNG.normal(size=SHAPE), RNG.normal(size=SHAPE[::2])
KINDS = {
    "affine": (mru.Affine, (A, B), lambda a, b, h: a * h + b),
    "clamp": (mru.Clamp, (B - A, B + A), lambda lo, hi, h: np.minimum(np.maximum(h, lo), hi)),
}


def single(x: np.ndarray) -> jax.Array:
    return jnp.asarray(x, jnp.float32)


@pytest.mark.parametrize("name", KINDS)
def test_a_walk_on_a_tpu_equals_a_loop_in_double_precision(name):
    kind, fields, step = KINDS[name]
    wanted = loop(lambda t, h: step(*(x[:, t] for x in fields), h), SHAPE[1], H0)
    found = tpu_walk.states(kind(*map(single, fields)), single(H0), tile=8, interpret=True)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_a_walk_is_lowered_for_tpus(name):
    kind, fields, _ = KINDS[name]
    walk = jax.jit(lambda fields, h0: tpu_walk.states(kind(*fields), h0, tile=8))
    exported = jax.export.export(walk, platforms=["tpu"])([single(x) for x in fields], single(H0))
    assert "tpu_custom_call" in exported.mlir_module()


@pytest.mark.skipif(jax.version.__version_info__ < (0, 11), reason="Mosaic GPU is used as it is since jax 0.11")
@pytest.mark.parametrize("name", KINDS)
def test_a_walk_is_lowered_for_mosaic_gpu(name):
    from benchmarks import mosaic_walk

    kind, fields, _ = KINDS[name]
    walk = jax.jit(lambda fields, h0: mosaic_walk.states(kind(*fields), h0, tile=8, under_way=2))
    lowered = walk.trace([single(x) for x in fields], single(H0)).lower(lowering_platforms=("cuda",))
    assert "mosaic_gpu" in lowered.as_text()
