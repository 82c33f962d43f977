"""What `tests/engine/test_own_operators.py` and `test_sharded.py` do not see of it: the maps themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import mru
from mru.operators import PairAffine

NUMBERS = st.floats(-3, 3, width=32, allow_subnormal=False)


def entries(blocks):
    """Arrays (2, ..., 2) as the entries of blocks."""
    return tuple(tuple(jnp.asarray(row[..., k]) for k in (0, 1)) for row in blocks)


def drawn(data, count):
    """`count` maps of one channel and one step, with their blocks and offsets in NumPy, and a state."""
    draws = [data.draw(arrays(np.float32, (2, 3), elements=NUMBERS)) for _ in range(count)]
    ops = [PairAffine(entries(m[:, None, None, :2]), tuple(m[k, 2:, None] for k in (0, 1))) for m in draws]
    return ops, [m.astype(np.float64) for m in draws], data.draw(arrays(np.float32, 2, elements=NUMBERS))


def plain(m, h):
    return m[:, :2] @ h + m[:, 2]


def applied(op, h):
    return np.concatenate([x.ravel() for x in op.apply(tuple(jnp.full((1, 1), x) for x in h))])


@given(data=st.data())
def test_composition_is_one_map_after_the_other(data):
    (f, g, k), (mf, mg, mk), h = drawn(data, 3)
    np.testing.assert_allclose(applied(f, h), plain(mf, h), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(applied(f.compose(g), h), plain(mf, plain(mg, h)), rtol=1e-4, atol=1e-3)
    for whole in (f.compose(g).compose(k), f.compose(g.compose(k))):
        np.testing.assert_allclose(applied(whole, h), plain(mf, plain(mg, plain(mk, h))), rtol=1e-4, atol=1e-2)
        assert jax.tree.map(jnp.shape, whole) == jax.tree.map(jnp.shape, f)


def test_constant_blocks_stay_constant_in_compositions():
    one = jnp.ones((7, 3))
    op = PairAffine(entries(np.ones((2, 3, 2))), (one, one))
    for entry in jax.tree.leaves(op.compose(op).a):
        np.testing.assert_array_equal(entry, [2, 2, 2])


def test_decay_is_the_larger_eigenvalue():
    a = np.random.default_rng(0).normal(size=(200, 2, 2)).astype(np.float32)
    a[0], a[1], a[2] = np.eye(2), [[1, 0], [0.5, 1]], 0  # twice the same eigenvalue
    zero = jnp.zeros((1, 200))
    found = abs(np.linalg.eigvals(a.astype(np.float64)))
    assert (found[:, 0] == found[:, 1]).mean() > 0.1  # complex pairs
    assert (found[:, 0] != found[:, 1]).mean() > 0.1  # real ones
    np.testing.assert_allclose(
        PairAffine(entries(np.moveaxis(a, 1, 0)), (zero, zero)).decay(), found.max(-1), rtol=2e-3
    )


def test_bfloat16_is_accumulated_in_float32():
    rng, time = np.random.default_rng(0), 200
    a, b = (jnp.asarray(0.4 * rng.normal(size=s), jnp.bfloat16) for s in ((2, 3, 2), (2, time, 3)))
    wide, h, expected = np.moveaxis(np.asarray(a, np.float64), 0, 1), np.zeros((3, 2)), []
    for t in range(time):
        h = np.einsum("nij,nj->ni", wide, h) + np.asarray(b, np.float64)[:, t].T
        expected.append(h)
    for method in ("sequential", "associative"):
        found = mru.scan(PairAffine(entries(a), tuple(b)), method=method)
        assert [x.dtype for x in found] == [jnp.float32] * 2
        np.testing.assert_allclose(np.stack(found, -1), expected, rtol=1e-5, atol=1e-5)


def test_wrong_fields_are_named():
    one = jnp.ones((5, 3))
    with pytest.raises(ValueError, match=r"a\[0\]\[0\] of PairAffine must be floating point, got a\[0\]\[0\] int32"):
        mru.scan(PairAffine(entries(np.ones((2, 3, 2), int)), (one, one)))
    with pytest.raises(ValueError, match=r"must broadcast to \(..., T, N\), got .*b\[1\] float32 \(5, 4\)"):
        mru.scan(PairAffine(entries(np.ones((2, 3, 2))), (one, jnp.ones((5, 4)))))
    with pytest.raises(ValueError, match="PairAffine is no KernelOperator"):
        mru.scan(PairAffine(entries(np.ones((2, 3, 2))), (one, one)), method="pallas")
