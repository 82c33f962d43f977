"""Cells that run one step after the other: against plain loops in float64, and what their backward pass keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from own_cells import LSTM, CachedAttention
from reference import affine, cell_parameters, patterns, shake, sigmoid

from mru import cells

pytestmark = pytest.mark.usefixtures("quick_compile")
D, N, T = 3, 5, 30


def lstm_loop(p, x, reset):
    """h and c after every step, (..., T, N)."""
    states, zeros = [], np.zeros((*x.shape[:-2], N))
    h, c = zeros, zeros
    for t in range(x.shape[-2]):
        h, c = (np.where(reset[..., t, None], 0, s) for s in (h, c))
        gates = affine(p, "input", x[..., t, :]) + h @ p["recurrent/kernel"]
        i, f, o, g = np.split(gates, 4, -1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        states.append((h, c))
    return [np.stack(s, -2) for s in zip(*states, strict=True)]


def test_an_lstm_is_the_equation():
    cell = shake(LSTM(D, N, rngs=0))
    x, reset, p = np.random.default_rng(0).normal(size=(5, T, D)).astype(np.float32), patterns(T), cell_parameters(cell)
    h, c = lstm_loop(p, x.astype(float), reset)
    capture = {}
    y, state = cell(x, reset=reset, capture=capture)
    np.testing.assert_allclose(y, affine(p, "out", h), rtol=1e-4, atol=1e-5)
    for mine, theirs in zip(state, (h, c), strict=True):
        np.testing.assert_allclose(mine, theirs[:, -1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(capture["state/1"], c, rtol=1e-4, atol=1e-5)


def test_attention_reads_the_last_steps_of_its_sequence():
    """Against softmax attention that sees all steps at once, with a mask of the window and of the resets."""
    cell, window = shake(CachedAttention(D, N, max_length=8, rngs=0)), 8
    x, reset, p = np.random.default_rng(0).normal(size=(5, T, D)).astype(np.float32), patterns(T), cell_parameters(cell)
    query, value, key = affine(p, "query", x), affine(p, "value", x), x @ p["key/kernel"]
    t, sequence = np.arange(T), np.cumsum(reset, -1)
    seen = (t <= t[:, None]) & (t > t[:, None] - window) & (sequence[:, None] == sequence[..., None])
    weights = np.where(seen, np.exp(query @ np.swapaxes(key, -1, -2) / np.sqrt(N)), 0)
    y, state = cell(x, reset=reset)
    expected = affine(p, "out", weights @ value / weights.sum(-1, keepdims=True))
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    since = [t[reset[b]][-1] if reset[b].any() else 0 for b in range(5)]
    np.testing.assert_array_equal(state["count"], T - np.array(since))


def test_gradient_is_that_of_finite_differences():
    with jax.enable_x64(True):
        cell = shake(LSTM(D, N, rngs=0))
        reset = np.arange(7) == 4
        x, direction = np.random.default_rng(0).normal(size=(2, 7, D))

        @jax.jit
        def loss(x):
            y, (h, c) = cell(x, reset=reset)
            return (y**2).sum() + (h * c).sum()

        slope = (loss(x + 1e-5 * direction) - loss(x - 1e-5 * direction)) / 2e-5
        np.testing.assert_allclose((jax.grad(loss)(x) * direction).sum(), slope, rtol=1e-8)


def test_backward_pass_keeps_the_states_and_nothing_else_of_a_step():
    cell, time, batch = LSTM(D, N, rngs=0), 50, 4
    graphdef, params = nnx.split(cell)
    x = jnp.ones((batch, time, D))
    _, pullback = jax.vjp(lambda p, x: nnx.merge(graphdef, p)(x)[0], params, x)
    kept = sum(leaf.size for leaf in jax.tree.leaves(pullback) if jnp.ndim(leaf) > 2)
    # The states before the steps for the update and those after them for the readout; x for the update.
    assert kept <= batch * time * (3 * N + D)


def test_a_state_of_another_kind_is_refused_by_name():
    class Drops(LSTM):
        def update(self, x, h):
            return super().update(x, h)[0]

    class Grows(LSTM):
        def update(self, x, h):
            return tuple(jnp.concatenate([s, s], -1) for s in super().update(x, h))

    for kind, given in ((Drops, r"\(5,\)"), (Grows, r"\(\(10,\), \(10,\)\)")):
        for call in (lambda cell: cell(jnp.ones((4, D))), lambda cell: cell.step(jnp.ones(D))):
            with pytest.raises(
                ValueError, match=rf"{kind.__name__}\.update .* of shapes \(\(5,\), \(5,\)\), got {given}"
            ):
                call(kind(D, N, rngs=0))


def test_both_directions_of_a_state_of_two_arrays():
    one, two = (shake(LSTM(D, N, rngs=seed), seed) for seed in (1, 2))
    cell, x, capture = cells.Bidirectional(one, two), np.ones((2, T, D), np.float32), {}
    y, state = cell(x, capture=capture)
    forward, last = one(x)
    np.testing.assert_allclose(y, forward + two(x[:, ::-1])[0][:, ::-1], rtol=1e-5)
    assert jax.tree.structure(state) == jax.tree.structure(last)
    inner = {}
    two(x[:, ::-1], capture=inner)
    np.testing.assert_array_equal(capture["backward/state/1"], inner["state/1"][:, ::-1])


def test_captured_states_of_more_axes_are_in_forward_time():
    one, two = (CachedAttention(D, N, max_length=4, rngs=seed) for seed in (1, 2))
    capture = {}
    cells.Bidirectional(one, two)(np.ones((2, 6, D), np.float32), capture=capture)
    np.testing.assert_array_equal(capture["forward/state/count"][0], [1, 2, 3, 4, 5, 6])
    np.testing.assert_array_equal(capture["backward/state/count"][0], [6, 5, 4, 3, 2, 1])
    assert capture["backward/state/keys"].shape == (2, 6, 4, N)
    np.testing.assert_array_equal((capture["backward/state/keys"][0, :, 1] != 0).any(-1), [1, 1, 1, 1, 1, 0])
