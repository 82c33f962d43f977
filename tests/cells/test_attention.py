import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference import affine, cell_parameters, patterns, shake

from mru.cells import Attention, _softmax, attention

pytestmark = pytest.mark.usefixtures("quick_compile")
D, N, T = 3, 12, 30


def rotated(x, positions, base):
    """Pairs of channels as complex numbers, (..., T, heads, P), turned by their positions."""
    half = x.shape[-1] // 2
    angle = positions[..., None, None] * base ** (-np.arange(half) / half)
    z = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angle)
    return np.concatenate([z.real, z.imag], -1)


def reference(p, x, reset, heads, window, base):
    """Outputs and the caches after the last step, by a loop over steps with a list of what each sequence has seen."""
    outs, caches = [], []
    for xs, first in zip(x, reset, strict=True):
        q, k, v = ((xs @ p[f"{name}/kernel"]).reshape(T, heads, -1) for name in ("query", "key", "value"))
        seen, y = [], []
        for t in range(T):
            seen = [] if first[t] else seen
            place = np.array([len(seen)])
            seen = [*seen, (rotated(k[t : t + 1], place, base)[0], v[t])]
            keys, values = (np.stack(s) for s in zip(*seen[-window:], strict=True))
            scores = np.einsum("hp,shp->hs", rotated(q[t : t + 1], place, base)[0], keys) / np.sqrt(N / heads)
            weights = np.exp(scores)
            weights /= weights.sum(-1, keepdims=True)
            y.append(np.einsum("hs,shp->hp", weights, values).ravel())
        outs.append(affine(p, "out", np.stack(y)))
        rings = np.zeros((2, window, heads, N // heads))
        for place, entry in list(enumerate(seen))[-window:]:
            rings[:, place % window] = entry
        caches.append((len(seen), *rings))
    return np.stack(outs), [np.stack(c) for c in zip(*caches, strict=True)]


@pytest.mark.parametrize("block", [128, 7])  # all queries at once, and a last block that is not full
@pytest.mark.parametrize(("heads", "window", "base"), [(2, 8, 10_000.0), (3, 64, 50.0), (1, 1, 10.0)])
def test_output_is_the_equation(monkeypatch, block, heads, window, base):
    monkeypatch.setattr(_softmax, "BLOCK", block)
    cell = shake(Attention(D, N, heads=heads, max_length=window, base=base, rngs=0))
    x, reset = np.random.default_rng(0).normal(size=(5, T, D)).astype(np.float32), patterns(T)
    expected, cache = reference(cell_parameters(cell), x.astype(float), reset, heads, window, base)

    @jax.jit
    def run(x):
        whole = cell(x, reset=reset)
        early, middle = cell(x[:, :11], reset=reset[:, :11])
        late, last = cell(x[:, 11:], middle, reset[:, 11:])
        return whole, (jnp.concatenate([early, late], 1), last)

    for y, state in run(x):
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
        for mine, theirs in zip((state["count"], state["keys"], state["values"]), cache, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


def test_attention_is_that_of_jax():
    """`jax.nn.dot_product_attention` with a window, of what our projections give."""
    cell = shake(Attention(D, N, heads=3, max_length=5, rngs=0))
    x, p = np.random.default_rng(0).normal(size=(2, T, D)).astype(np.float32), cell_parameters(cell)
    q, k, v = ((x @ p[f"{name}/kernel"]).reshape(2, T, 3, 4) for name in ("query", "key", "value"))
    q, k = (rotated(a, np.arange(T), 10_000.0) for a in (q, k))
    q, k, v = (jnp.asarray(a, jnp.float32) for a in (q, k, v))
    mixed = jax.nn.dot_product_attention(q, k, v, is_causal=True, local_window_size=(4, 0))
    np.testing.assert_allclose(cell(x)[0], affine(p, "out", np.asarray(mixed).reshape(2, T, N)), rtol=1e-4, atol=1e-5)


def test_only_distances_count():
    """The same steps at the start of a stream, and behind three million others that the window has left."""
    cell = shake(Attention(D, N, max_length=4, rngs=0))
    x, far = np.random.default_rng(0).normal(size=(12, D)).astype(np.float32), cell.initial_state()
    far = far | {"count": jnp.int32(3_000_001), "keys": far["keys"] + 1, "values": far["values"] - 1}
    near, moved = (jax.jit(lambda s: cell(x, s)[0])(s) for s in (cell.initial_state(), far))
    np.testing.assert_allclose(moved[3:], near[3:], rtol=2e-3, atol=2e-3)
    assert abs(np.asarray(moved - near)[:3]).max() > 0.1  # there the two differ in what they see


def test_angles_are_precise_at_large_positions():
    position = np.array([0, 1, 4095, 4096, 65_535, 1_000_003, 16_777_215])
    angle = np.asarray(attention._angles(jnp.asarray(position), 8, 10_000.0, jnp.float32), np.float64)
    exact = position[:, None] * 10_000.0 ** (-np.arange(8) / 8)
    np.testing.assert_allclose(np.exp(1j * angle), np.exp(1j * exact), atol=3e-3)
    np.testing.assert_allclose(np.exp(1j * angle[:5]), np.exp(1j * exact[:5]), atol=3e-4)


def test_gradient_is_that_of_finite_differences(monkeypatch):
    """Over blocks, a reset, a carried state and the state that is left."""
    monkeypatch.setattr(_softmax, "BLOCK", 4)
    with jax.enable_x64(True):
        cell = shake(Attention(D, N, max_length=5, rngs=0))
        graphdef, params = nnx.split(cell)
        rng, reset = np.random.default_rng(0), np.arange(11) == 6
        _, state = cell(rng.normal(size=(7, D)))
        floats = {name: state[name] for name in ("keys", "values")}
        point = jax.tree.map(lambda a: jnp.asarray(a, "float64"), (params, rng.normal(size=(11, D)), floats))
        direction = jax.tree.map(lambda a: rng.normal(size=a.shape), point)

        @jax.jit
        def loss(point):
            params, x, floats = point
            y, last = nnx.merge(graphdef, params)(x, floats | {"count": state["count"]}, reset)
            return (y**2).sum() + (last["keys"] * jnp.cos(last["values"])).sum()

        def moved(size):
            return loss(jax.tree.map(lambda a, d: a + size * d, point, direction))

        found = jax.tree.map(lambda g, d: (g * d).sum(), jax.jit(jax.grad(loss))(point), direction)
        np.testing.assert_allclose(sum(jax.tree.leaves(found)), (moved(1e-5) - moved(-1e-5)) / 2e-5, rtol=1e-7)


def test_a_bad_sequence_reaches_no_other(monkeypatch):
    """Of three in a line of several blocks, the one in the middle; in values, and in gradients both ways."""
    monkeypatch.setattr(_softmax, "BLOCK", 4)
    cell, rng, t = shake(Attention(D, N, max_length=6, rngs=0)), np.random.default_rng(0), np.arange(22)
    x, weight = rng.normal(size=(2, 22, D)).astype(np.float32)
    reset, inside = (t == 7) | (t == 13), (t >= 7) & (t < 13)

    @jax.jit
    def run(x, weight):
        y, pullback, state = jax.vjp(lambda x: cell(x, reset=reset), x, has_aux=True)
        return y, pullback(weight)[0], state

    y, bar, state = run(x, weight)
    for spoil_input, spoil_weight in ((1, 0), (0, 1), (1, 1)):
        bad = [np.where((t == 9)[:, None] & bool(s), np.nan, a) for a, s in ((x, spoil_input), (weight, spoil_weight))]
        spoiled_y, spoiled_bar, spoiled_state = run(*bad)
        np.testing.assert_array_equal(spoiled_y[~inside], y[~inside])
        np.testing.assert_array_equal(spoiled_bar[~inside], bar[~inside])
        np.testing.assert_array_equal(spoiled_state["keys"], state["keys"])
        assert np.isnan(spoiled_y[9:13]).all() == bool(spoil_input)  # and it is not hidden from its own
        np.testing.assert_array_equal(spoiled_y[7:9], y[7:9])
        assert np.isnan(spoiled_bar[9]).all()


def test_memory_does_not_grow_with_the_square_of_the_length():
    """At T = 65,536 the scores of all pairs of steps would be 17 GB; both passes are compiled, not run."""
    cell, time = Attention(4, 4, rngs=0), 65_536
    graphdef, params = nnx.split(cell)
    loss = jax.jit(jax.grad(lambda p, x: nnx.merge(graphdef, p)(x)[0].sum(), (0, 1)))
    compiled = loss.lower(params, jax.ShapeDtypeStruct((time, 4), jnp.float32)).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 100 * 2**20


@pytest.mark.parametrize(
    ("size", "options", "message"),
    [
        (6, {}, "state_size must be a multiple of 4, pairs of channels for each of 2 heads, got 6"),
        (4, {"heads": 0}, "heads must be an integer of at least 1, got 0"),
        (4, {"max_length": 2.5}, "max_length must be an integer of at least 1, got 2.5"),
        (4, {"base": 0.0}, "base of at least 1, and finite, got 0.0"),
        (4, {"base": float("nan")}, "base of at least 1, and finite, got nan"),
    ],
)
def test_options_are_checked(size, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Attention(D, size, rngs=0, **options)


def test_a_batch_of_nothing():
    cell, x = Attention(D, 4, rngs=0), jnp.ones((0, 5, D))
    assert cell(x)[0].shape == (0, 5, D)
    assert cell.step(x[:, 0])[0].shape == (0, D)
    assert jax.grad(lambda x: cell(x)[0].sum())(x).shape == (0, 5, D)
