"""Blocks as others have published them: norms, what follows the cells, and a convolution before them."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference import shake, sigmoid
from stacks import INPUTS, OUTPUTS, close, compiled_ways, features, trees_close

from mru import SequenceBlock, SequenceModel, cells
from mru.model.activations import ACTIVATIONS, Activation
from mru.model.norms import BatchNorm

pytestmark = pytest.mark.usefixtures("quick_compile")
D, T = 6, 8
PUBLISHED = [
    {"norm": "batch", "activation": "half_glu1", "conv": 4, "expansion": 0},
    {"norm": "batch", "prenorm": False, "activation": "half_glu2", "conv": 9, "final_norm": False},
    {"norm": "rms", "prenorm": False, "activation": "full_glu", "conv": 2},
]
ids = functools.partial(pytest.mark.parametrize, "options", PUBLISHED, ids=lambda x: f"{x['norm']}-{x['activation']}")


def make(**kwargs):
    """A model whose running statistics are not those it starts with."""
    kwargs = {"cells": ("mingru",), "width": D, "state_size": 4, "positions": 4} | kwargs
    model, rng = shake(SequenceModel(INPUTS, OUTPUTS, **kwargs, rngs=0), scale=0.1), np.random.default_rng(1)
    statistics = nnx.state(model, nnx.BatchStat)
    nnx.update(model, jax.tree.map(lambda x: x + jnp.asarray(rng.uniform(0.1, 0.5, x.shape), x.dtype), statistics))
    return model


@functools.cache
def compiled(**kwargs):
    return compiled_ways(make(**kwargs))


# One model, four ways to run it


@ids()
def test_whole_chunks_steps_and_packed_agree(options):
    model, call, step = compiled(pooling="none", **options)
    x = features(2, T)
    logits, state = call(x)
    early, middle = call(x[:, :4])
    late, last = call(x[:, 4:], middle)
    trees_close((jnp.concatenate([early, late], 1), last), (logits, state))
    carried, stepped = model.initial_state((2,)), []
    for t in range(T):
        out, carried = step(x[:, t], carried)
        stepped.append(out)
    trees_close((jnp.stack(stepped, 1), carried), (logits, state))
    reset = jnp.zeros((2, T), bool).at[:, 4].set(True)
    packed, end = call(x, middle, reset=reset)
    alone, end_alone = call(x[:, 4:])
    trees_close((packed[:, 4:], end), (alone, end_alone))
    trees_close(packed[:, :4], call(x[:, :4], middle)[0])


@pytest.mark.parametrize("bidirectional", [False, True])
def test_padding_changes_no_logit(bidirectional):
    _, call, _ = compiled(bidirectional=bidirectional, **PUBLISHED[0])
    x, lengths = features(2, T), jnp.array([4, 1])
    padded = (np.arange(T) >= np.asarray(lengths)[:, None])[..., None]
    logits, _ = call(jnp.where(padded, jnp.nan, x), lengths=lengths)
    close(logits[0], call(x[0, :4])[0])
    close(logits[1], call(x[1, :1])[0])


# The parts, by their equations


def np_norm(kind, x, norm):
    x, scale = np.asarray(x, np.float64), np.asarray(norm.scale[...], np.float64)
    if kind == "rms":
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale
    bias = np.asarray(norm.bias[...], np.float64)
    if kind == "layer":
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * scale + bias
    mean, variance = (np.asarray(v[...], np.float64) for v in (norm.mean, norm.variance))
    return (x - mean) / np.sqrt(variance + 1e-5) * scale + bias


def np_linear(x, layer):
    return np.asarray(x, np.float64) @ np.asarray(layer.kernel[...], np.float64) + np.asarray(layer.bias[...])


def np_gelu(x):
    """Its tanh form."""
    return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def np_activation(kind, y, layer):
    u = np_gelu(np.asarray(y, np.float64))
    if kind == "gelu":
        return u
    gate = sigmoid(np_linear(u, layer.gate))
    return {"half_glu1": u, "half_glu2": y, "full_glu": None if layer.value is None else np_linear(u, layer.value)}[
        kind
    ] * gate


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activation_is_the_equation(kind):
    layer = shake(Activation(kind, D, dropout=nnx.Dropout(0.5), dtype=None, rngs=nnx.Rngs(0)))
    y = np.random.default_rng(0).normal(size=(T, D)).astype(np.float32)
    close(layer(y), np_activation(kind, y, layer))
    dropped = layer(y, nnx.Rngs(0))
    assert (kind == "gelu") == np.allclose(dropped, layer(y))  # whose dropout is that of the branch


@pytest.mark.parametrize("kind", ["layer", "rms", "batch"])
@pytest.mark.parametrize("prenorm", [True, False])
def test_block_is_the_equation(kind, prenorm):
    cell = cells.MinGRU(D, 4, rngs=nnx.Rngs(0))
    parts = {"norm": kind, "prenorm": prenorm, "activation": "half_glu1", "conv": 3}
    block = shake(SequenceBlock([cell], expansion=2, dropout=0.5, **parts, rngs=1))
    if kind == "batch":
        for norm in (block.norm, block.mlp_norm):
            norm.mean[...], norm.variance[...] = jnp.linspace(-1, 1, D), jnp.linspace(0.3, 2, D)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(T, D)), jnp.float32)
    y, _ = jax.jit(lambda x: block(x, (None, None)))(x)
    inside = np_norm(kind, x, block.norm) if prenorm else np.asarray(x, np.float64)
    taps, padded = np.asarray(block.conv.taps[...], np.float64), np.concatenate([np.zeros((2, D)), inside])
    inside = sum(taps[k] * padded[k : k + T] for k in range(3)) + np.asarray(block.conv.bias[...])
    out = x + np_activation("half_glu1", cell(jnp.asarray(inside, jnp.float32))[0], block.activation)
    out = out if prenorm else np_norm(kind, out, block.norm)
    inside = np_norm(kind, out, block.mlp_norm) if prenorm else out
    gate = np_linear(inside, block.mlp.gate)
    out = out + np_linear(gate * sigmoid(gate) * np_linear(inside, block.mlp.value), block.mlp.out)
    close(y, out if prenorm else np_norm(kind, out, block.mlp_norm))


# Batch norm in training


def test_batch_norm_takes_the_statistics_of_the_real_steps_and_moves_its_own():
    norm, rng = shake(BatchNorm(D, dtype=None, rngs=nnx.Rngs(0))), np.random.default_rng(0)
    x = (rng.normal(size=(3, T, D)) * np.linspace(0.1, 5, D) + 1000 * np.arange(D)).astype(np.float32)
    real = np.arange(T) < np.array([3, T, 1])[:, None]
    mean, variance = np.zeros(D), np.ones(D)
    for _ in range(200):
        y = norm(jnp.asarray(np.where(real[..., None], x, 7e3)), jnp.asarray(real), True)
        rows = x[real].astype(np.float64)
        mean, variance = 0.95 * mean + 0.05 * rows.mean(0), 0.95 * variance + 0.05 * rows.var(0)
    np.testing.assert_allclose(norm.mean[...], mean, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(norm.variance[...], variance, rtol=1e-3, atol=1e-3)
    scale, bias = np.asarray(norm.scale[...]), np.asarray(norm.bias[...])
    expected = (rows - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5) * scale + bias
    np.testing.assert_allclose(y[real], expected, rtol=2e-3, atol=3e-3)
    close(norm(jnp.asarray(x), None, False), np_norm("batch", x, norm), rtol=1e-3, atol=1e-3)


def test_gradient_of_batch_norm_is_the_slope():
    """Through mean and variance of the batch, in float64."""
    rng = np.random.default_rng(0)
    x, weight, real = rng.normal(size=(2, 3, D)), rng.normal(size=(2, 3, D)), np.array([[1, 1, 0], [1, 1, 1]], bool)

    def loss(x):
        rows = x[real]
        return (weight[real] * (rows - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5)).sum()

    def ours(x):
        norm = BatchNorm(D, dtype=None, rngs=nnx.Rngs(0))
        norm.mean[...] = jnp.full(D, 0.5)
        return jnp.sum(jnp.where(real[..., None], weight * norm(x, jnp.asarray(real), True), 0))

    with jax.enable_x64(True):
        gradient = np.asarray(jax.jit(jax.grad(ours))(jnp.asarray(x)))
    for place in np.ndindex(2, 3, D):
        change = np.zeros_like(x)
        change[place] = 1e-5
        slope = (loss(x + change) - loss(x - change)) / 2e-5
        np.testing.assert_allclose(gradient[place], slope, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("prenorm", [True, False])
def test_training_moves_the_statistics_of_a_model_and_evaluation_does_not(prenorm):
    """Each of the three norms, and the same with rematerialised blocks."""
    x, found = features(3, T), []

    @jax.jit
    def both(variables, x):
        # Each with variables of its own: a merge shares those that it is given.
        trained, evaluated = (nnx.merge(graphdef, jax.tree.map(lambda v: v, variables)) for _ in range(2))
        logits, _ = trained(x, rngs=0)
        evaluated(x)
        return logits, nnx.state(trained, nnx.BatchStat), nnx.state(evaluated, nnx.BatchStat)

    for remat in (False, True):
        model = make(norm="batch", prenorm=prenorm, activation="gelu", expansion=1, remat=remat)
        graphdef, variables = nnx.split(model)
        logits, after, same = both(variables, x)
        before = jax.tree.leaves(nnx.state(model, nnx.BatchStat))
        for a, b in zip(jax.tree.leaves(same), before, strict=True):
            np.testing.assert_array_equal(a, b)
        assert len(jax.tree.leaves(after)) == 2 * (2 + 1)  # of the block and after it
        assert all((a != b).all() for a, b in zip(jax.tree.leaves(after), before, strict=True))
        found.append((logits, after))
    trees_close(*found)


def test_statistics_stay_float32_in_a_bfloat16_model():
    model = make(norm="batch", dtype="bfloat16")
    logits, _ = model(features(2, T), rngs=0)
    assert logits.dtype == jnp.float32
    assert {x.dtype.name for x in jax.tree.leaves(nnx.state(model, nnx.BatchStat))} == {"float32"}
    assert model.norm(jnp.ones((2, D), jnp.bfloat16), None, False).dtype == jnp.bfloat16


# Errors


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"norm": "group"}, "norm must be one of layer, rms, batch, got 'group'"),
        ({"activation": "relu"}, "activation must be one of gelu, half_glu1, half_glu2, full_glu, or None, got 'relu'"),
        ({"conv": 1}, "conv must be 0, or an integer of at least 2, got 1"),
        ({"conv": 2.5}, "conv must be 0, or an integer of at least 2, got 2.5"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make(**kwargs)
