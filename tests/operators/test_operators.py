import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mru import Affine, Clamp, Latch, Play, Relay

KINDS = ["affine", "complex", "latch", "latch float", "clamp"]
# Few distinct values, so that ties, equal bounds and zeros are drawn often.
NUMBERS = st.one_of(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), st.floats(-3, 3, width=32, allow_subnormal=False))


@st.composite
def operators(draw, kind, count):
    """`count` operators with fields of shape (1, 1), and a state."""

    def number():
        x = draw(NUMBERS)
        return jnp.full((1, 1), x + 1j * draw(NUMBERS) if kind == "complex" else x)

    def one():
        if kind in ("affine", "complex"):
            return Affine(number(), number())
        if kind == "clamp":
            lo, hi = number(), number()
            return Clamp(jnp.minimum(lo, hi), jnp.maximum(lo, hi))
        write = jnp.full((1, 1), draw(st.booleans()))
        return Latch(write if kind == "latch" else write.astype(jnp.float32), number())

    return [one() for _ in range(count)], number()


def plain(op, h):
    """f(h) in NumPy complex128 or float64, from the definition of the map."""
    h = np.asarray(h)
    if isinstance(op, Affine):
        return np.asarray(op.a).astype(np.complex128) * h + np.asarray(op.b)
    if isinstance(op, Latch):
        return np.where(np.asarray(op.write) != 0, op.value, h)
    return np.clip(h, op.lo, op.hi)


def close(kind, x, y):
    if kind in ("affine", "complex"):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4)
    else:
        np.testing.assert_array_equal(x, y)  # selections do not round


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_apply_is_the_map(kind, data):
    (f,), h = data.draw(operators(kind, 1))
    close(kind, f.apply(h), plain(f, h))


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_composition(kind, data):
    (f, g, k), h = data.draw(operators(kind, 3))
    close(kind, f.compose(g).apply(h), plain(f, plain(g, h)))
    left, right = f.compose(g).compose(k), f.compose(g.compose(k))
    close(kind, left.apply(h), plain(f, plain(g, plain(k, h))))
    for x, y in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        close(kind, x, y)
    assert jax.tree.map(jnp.shape, left) == jax.tree.map(jnp.shape, f)
    assert jax.tree.map(jnp.result_type, left) == jax.tree.map(jnp.result_type, f)


IDENTITIES = {
    "affine": Affine(jnp.ones((1, 1)), jnp.zeros((1, 1))),
    "complex": Affine(jnp.ones((1, 1), jnp.complex64), jnp.zeros((1, 1), jnp.complex64)),
    "latch": Latch(jnp.zeros((1, 1), bool), jnp.full((1, 1), 7.0)),
    "latch float": Latch(jnp.zeros((1, 1)), jnp.full((1, 1), 7.0)),
    "clamp": Clamp(jnp.full((1, 1), -jnp.inf), jnp.full((1, 1), jnp.inf)),
}


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_identity(kind, data):
    (f,), h = data.draw(operators(kind, 1))
    identity = IDENTITIES[kind]
    np.testing.assert_array_equal(identity.apply(h), h)
    np.testing.assert_array_equal(type(f)(*map(jnp.asarray, f.identity)).apply(h), h)
    for composed in (f.compose(identity), identity.compose(f)):
        close(kind, composed.apply(h), plain(f, h))


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data(), where=st.booleans())
def test_fold_makes_constant_maps(kind, data, where):
    (f, g), h = data.draw(operators(kind, 2))
    folded = f.fold(h, jnp.full((1, 1), where))
    if where:
        close(kind, folded.constant(), plain(f, h))
        # A prefix that begins with a folded map is constant; an Affine's `a` is then not read.
        close(kind, g.compose(folded).constant(), plain(g, plain(f, h)))
        if kind not in ("affine", "complex"):
            np.testing.assert_array_equal(folded.apply(h + 1), plain(f, h))
    else:
        for x, y in zip(jax.tree.leaves(folded), jax.tree.leaves(f), strict=True):
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        (Affine(jnp.array([0, -0.0, 0.5]), jnp.arange(3.0)), [0, 0, 1]),
        (Affine(jnp.array([0, 0.5, 0.5j]), jnp.arange(3.0) * 1j), [0, 1, 1]),
        (Latch(jnp.array([True, False]), jnp.array([0.0, 7.0])), [0, 1]),
        (Latch(jnp.array([1.0, 0.0]), jnp.array([0.0, 7.0])), [0, 1]),
        (Clamp(jnp.array([0.0, 0.0, -jnp.inf]), jnp.array([0.0, 1.0, jnp.inf])), [0, 1, 1]),
    ],
    ids=["affine", "complex", "latch", "latch float", "clamp"],
)
def test_reaches_where_the_state_matters(op, expected):
    np.testing.assert_array_equal(op.reaches(), np.array(expected, bool))
    low, high = op.apply(jnp.zeros_like(op.constant())), op.apply(jnp.ones_like(op.constant()))
    np.testing.assert_array_equal(low != high, np.array(expected, bool))
    np.testing.assert_array_equal(low[~op.reaches()], op.constant()[~op.reaches()])


def smooth(op, h):
    """The map in its differentiable form."""
    return op.write * op.value + (1 - op.write) * h if isinstance(op, Latch) else op.apply(h)


def at_distinct_points(kind, size=12):
    """An operator (T, 1) and states at which no bound or threshold is met exactly."""
    rng = np.random.default_rng(3)
    x, y, h = rng.normal(size=(3, size, 1)) + (1j * rng.normal(size=(3, size, 1)) if kind == "complex" else 0)
    x, y, h = map(jnp.asarray, (x, y, 2 * h))
    if kind in ("affine", "complex"):
        return Affine(x, y), h
    return (Clamp(x, x + abs(y)) if kind == "clamp" else Latch((x > 0).astype(float), y)), h


@pytest.mark.parametrize("kind", ["affine", "complex", "latch float", "clamp"])
def test_jacobian_and_cotangent_are_the_derivatives(kind):
    with jax.enable_x64(True):
        op, h = at_distinct_points(kind)
        g = jnp.linspace(-1, 2, h.size)[:, None] + (0.5j if kind == "complex" else 0)
        op_bar, h_bar = jax.vjp(smooth, op, h)[1](g)
        np.testing.assert_allclose(op.jacobian(h) * g, h_bar, rtol=1e-12)
        for mine, theirs in zip(jax.tree.leaves(op.cotangent(h, g)), jax.tree.leaves(op_bar), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-12)
        # And without any autodiff: a finite difference in the state, complex-analytic where that is complex.
        difference = (plain(op, h + 1e-6) - plain(op, h - 1e-6)) / 2e-6
        np.testing.assert_allclose(jnp.broadcast_to(op.jacobian(h), h.shape), difference, rtol=1e-6, atol=1e-6)


def test_cotangent_of_a_constant_coefficient_is_summed_over_time_and_batch():
    h, g = jnp.arange(12.0).reshape(2, 3, 2), jnp.ones((2, 3, 2)) * jnp.array([1.0, -2.0])
    cotangent = Affine(jnp.ones(2), h).cotangent(h, g)
    np.testing.assert_array_equal(cotangent.a, [30.0, -72.0])
    np.testing.assert_array_equal(cotangent.b, g)


def test_boolean_write_has_no_cotangent():
    latch = Latch(jnp.array([[True], [False]]), jnp.ones((2, 1)))
    cotangent = latch.cotangent(jnp.zeros((2, 1)), jnp.full((2, 1), 3.0))
    assert cotangent.write is None
    np.testing.assert_array_equal(cotangent.value, [[3.0], [0.0]])


def test_edge_of_the_band_holds():
    clamp = Clamp(jnp.array([[1.0], [-2.0]]), jnp.array([[2.0], [1.0]]))
    np.testing.assert_array_equal(clamp.jacobian(jnp.ones((2, 1))), 1)
    for bound in jax.tree.leaves(clamp.cotangent(jnp.ones((2, 1)), jnp.ones((2, 1)))):
        np.testing.assert_array_equal(bound, 0)


@pytest.mark.parametrize("leak", [None, 0.0, 0.3])
def test_relay_is_a_latch_or_an_affine(leak):
    candidate = [-2.0, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 2.0]
    c, beta, h = (jnp.asarray(v)[:, None] for v in zip(*itertools.product(candidate, [0.0, 1.0, -1.0], [-1.0, 0.25])))
    relay = Relay(c, beta, leak)
    z = (np.abs(c) >= np.abs(beta)).astype(float)
    s = np.where(c >= 0, 1.0, -1.0)
    expected = z * (s + (leak or 0) * h) + (1 - z) * h
    np.testing.assert_array_equal(relay.write, z)
    np.testing.assert_allclose(relay.apply(h), expected, rtol=1e-6)
    np.testing.assert_allclose(relay.lower().apply(h), expected, rtol=1e-6)
    assert isinstance(relay.lower(), Latch if leak is None else Affine)


def test_relay_width_reaches_both_surrogates():
    def both(c):
        latch = Relay(c, jnp.full((1, 1), 0.5), None, 2.0).lower()
        return jnp.stack([latch.write, latch.value])

    slope = jax.jacobian(both)(jnp.full((1, 1), -0.2)).ravel()
    surrogate = [2 / (1 + (np.pi * 2 * u) ** 2) for u in (-0.3, -0.2)]
    np.testing.assert_allclose(slope, [-surrogate[0], 2 * surrogate[1]], rtol=1e-5)


def test_no_two_operators_have_equal_structures():
    """Or `jit` may take the program of one for the other."""
    x = jnp.ones((1, 1))
    ops = [kind(x, x) for kind in (Affine, Latch, Clamp, Play)] + [Relay(x, x, 0.0, 1.0), Relay(x, x)]
    structures = [jax.tree.structure(op) for op in ops]
    assert [[a == b for a in structures] for b in structures] == np.eye(len(ops), dtype=bool).tolist()
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(ops[0])[0]]
    assert paths == [".a", ".b"]


@pytest.mark.parametrize("op", [*IDENTITIES.values(), Relay(jnp.ones((1, 1)), jnp.ones((1, 1)))], ids=str)
def test_operators_are_pytrees(op):
    leaves, tree = jax.tree.flatten(op)
    assert type(tree.unflatten(leaves)) is type(op)
    assert all(isinstance(leaf, jax.Array | float) for leaf in leaves)
