"""The walks by other backends of Pallas: the numbers where one is interpreted, and that both are lowered."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import loop

import mru
from benchmarks import backends, tpu_walk

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


def test_walks_are_compared():
    """One that is interpreted, and one that is wrong."""
    walk = functools.partial(tpu_walk.states, tile=8, interpret=True)
    rows = list(backends.rows((8, 16, 128), {"right": walk, "wrong": lambda op, h0: walk(op, h0) + 1}))
    assert [(row["operator"], row["method"]) for row in rows] == [
        (name, method) for name in KINDS for method in ("mru auto", "right", "wrong")
    ]
    for row in rows:
        assert row["floor_bytes"] == 3 * 4 * 8 * 16 * 128
        assert row["roofline"] > 0
        assert row["largest_difference"] == pytest.approx(float(row["method"] == "wrong"), abs=1e-5)
        assert f"{1 / row['roofline']:.2f}x" in backends.line(row)
    with pytest.raises(SystemExit, match="needs a GPU or a TPU, and JAX runs on cpu here"):
        backends.forms("cpu")
