import functools
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from reference import shake
from stacks import INPUTS, OUTPUTS, close, compiled_ways, features, trees_close

from mru import SequenceBlock, SequenceModel, cells
from mru.model import pooling
from mru.model.positions import sinusoidal_positions

pytestmark = pytest.mark.usefixtures("quick_compile")
T = 7
POOLINGS = ["mean", "last", "none"]


def make(inputs=INPUTS, cells=("lru+bmru", "mingru"), **kwargs):
    return SequenceModel(
        **{
            "inputs": inputs,
            "outputs": OUTPUTS,
            "cells": cells,
            "width": 6,
            "state_size": 4,
            "positions": 4,
            "rngs": nnx.Rngs(0),
            **kwargs,
        }
    )


@functools.cache
def compiled(**kwargs):
    return compiled_ways(shake(make(**kwargs), scale=0.1))


# One model, four ways to run it


@pytest.mark.parametrize("pooling", POOLINGS)
def test_whole_chunks_and_steps_agree(pooling):
    model, call, step = compiled(pooling=pooling)
    x = features(2, T)
    logits, state = call(x)
    assert logits.shape == ((2, T, OUTPUTS) if pooling == "none" else (2, OUTPUTS))
    assert logits.dtype == jnp.float32
    np.testing.assert_array_equal(state.position, [T, T])
    early, middle = call(x[:, :3])
    late, last = call(x[:, 3:], middle)
    trees_close((jnp.concatenate([early, late], 1) if pooling == "none" else late, last), (logits, state))
    stepped, carried = [], model.initial_state((2,))
    for t in range(T):
        out, carried = step(x[:, t], carried)
        stepped.append(out)
        if pooling != "none":
            close(out, call(x[:, : t + 1])[0] if t in (2, 6) else out)  # those of a sequence that ends here
    trees_close((jnp.stack(stepped, 1) if pooling == "none" else stepped[-1], carried), (logits, state))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_packed_sequences_are_separate_sequences(pooling):
    _, call, _ = compiled(pooling=pooling)
    x, carried = features(2, T), call(features(2, 3, seed=1))[1]
    for firsts in ([4], [0, 4]):
        reset = jnp.tile(jnp.isin(jnp.arange(T), jnp.array(firsts)), (2, 1))
        logits, state = call(x, carried, reset=reset)
        head = call(x[:, :4]) if 0 in firsts else call(x[:, :4], carried)
        tail, last = call(x[:, 4:])
        trees_close((logits, state), (jnp.concatenate([head[0], tail], 1) if pooling == "none" else tail, last))


def test_a_bad_sequence_reaches_no_other():
    model, _, _ = compiled(pooling="none")
    x, reset = features(9), jnp.isin(jnp.arange(9), jnp.array([3, 6]))
    inside = (np.arange(9) >= 3) & (np.arange(9) < 6)

    @jax.jit
    def run(x):
        (logits, _), pullback = jax.vjp(lambda x: model(x, reset=reset), x)
        return logits, pullback((jnp.ones_like(logits), jax.tree.map(_no_cotangent, model(x)[1])))[0]

    clean, spoilt = run(x), run(jnp.where(inside[:, None], jnp.nan, x))
    for a, b in zip(spoilt, clean, strict=True):
        close(a[~inside], b[~inside])


def _no_cotangent(v):
    return jnp.zeros_like(v) if jnp.issubdtype(v.dtype, jnp.inexact) else np.zeros(v.shape, jax.dtypes.float0)


def test_batch_axes():
    _, call, _ = compiled()
    x = features(2, 3, T)
    logits, state = call(x)
    assert logits.shape == (2, 3, OUTPUTS)
    assert {v.shape[:2] for v in jax.tree.leaves(state)} == {(2, 3)}
    close(call(x[1, 2])[0], logits[1, 2])


# Padding


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_padding_changes_no_logit(pooling, bidirectional):
    _, call, _ = compiled(cells=("mingru+pmru",), expansion=0, pooling=pooling, bidirectional=bidirectional)
    x, lengths = features(3, T), jnp.array([3, T, 1])
    padded = np.arange(T) >= np.asarray(lengths)[:, None]
    for garbage in (1e3 * features(3, T, seed=9), jnp.full((3, T, INPUTS), jnp.nan)):
        logits, _ = call(jnp.where(padded[..., None], garbage, x), lengths=lengths)
        for i, length in enumerate([3, T, 1]):
            mine = logits[i, :length] if pooling == "none" else logits[i]
            close(mine, call(x[i, :length])[0])


def test_garbage_in_the_padding_reaches_no_gradient():
    model, _, _ = compiled()
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    x, lengths = features(2, T), jnp.array([3, 5])
    padded = (np.arange(T) >= np.asarray(lengths)[:, None])[..., None]

    @jax.jit
    def gradient(x):
        return jax.grad(lambda params: nnx.merge(graphdef, params, rest)(x, lengths=lengths)[0].sum())(params)

    clean, spoilt = gradient(jnp.where(padded, 0, x)), gradient(jnp.where(padded, jnp.nan, x))
    jax.tree.map(np.testing.assert_array_equal, spoilt, clean)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(clean))


def test_padding_has_no_gradient():
    model, _, _ = compiled()
    x, lengths = features(2, T), jnp.array([3, 5])
    gradient = jax.jit(jax.grad(lambda x: model(x, lengths=lengths)[0].sum()))(x)
    padded = np.arange(T) >= np.asarray(lengths)[:, None]
    np.testing.assert_array_equal(gradient[padded], 0)
    assert (abs(np.asarray(gradient[~padded])).sum(-1) > 0).all()


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_padding_of_packed_sequences(pooling, bidirectional):
    _, call, _ = compiled(cells=("mingru+pmru",), expansion=0, pooling=pooling, bidirectional=bidirectional)
    x = features(2, T)
    reset = jnp.zeros((2, T), bool).at[:, 2].set(True).at[1, 6].set(True)  # the last of them in the padding
    logits, _ = call(x, reset=reset, lengths=jnp.array([6, 5]))
    close(logits[0], call(x[0, 2:6])[0])
    close(logits[1], call(x[1, 2:5])[0])


# Parts


@pytest.mark.parametrize("channels", [2, 6])
def test_positions_are_the_formula(channels):
    position = np.array([[0, 1, 2], [1000, 7, 0]])
    frequency = [1.0] if channels == 2 else [1.0, 1e-2, 1e-4]
    angle = position[..., None] * np.array(frequency)
    expected = np.concatenate([np.sin(angle), np.cos(angle)], -1)
    np.testing.assert_allclose(sinusoidal_positions(jnp.asarray(position), channels), expected, atol=1e-4)


def test_positions_count_from_each_reset_and_over_chunks():
    model, _, _ = compiled(cells=("mingru",), pooling="none")
    positionless, _, _ = compiled(cells=("mingru",), pooling="none", positions=0)
    assert positionless.position_encoder is None
    seen = []

    def record(position, *rest):
        seen.append(np.asarray(position))
        return sinusoidal_positions(position, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mru.model.sequence.sinusoidal_positions", record)
        _, state = model(features(4))
        _, state = model(features(5), state, reset=jnp.array([False, False, True, False, False]))
        model.step(features(), state)
    assert [s.tolist() for s in seen] == [[0, 1, 2, 3], [4, 5, 0, 1, 2], 3]


def layer_norm(x, norm):
    x = np.asarray(x, float)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * np.asarray(norm.scale[...]) + np.asarray(norm.bias[...])


def linear(x, layer):
    return x @ np.asarray(layer.kernel[...], float) + (0 if layer.bias is None else np.asarray(layer.bias[...]))


@pytest.mark.parametrize("expansion", [0.0, 1.6])
@pytest.mark.parametrize("names", [["mingru"], ["lru", "pmru"]])
def test_block_is_the_equation(names, expansion):
    parts = [cells.get(name)(6, 4, rngs=nnx.Rngs(i)) for i, name in enumerate(names)]
    block = shake(SequenceBlock(parts, expansion=expansion, dropout=0.5, rngs=nnx.Rngs(9)))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(T, 6)), jnp.float32)
    states = tuple(c.initial_state() for c in parts)
    y, last = block(x, states, None, None)
    normed = layer_norm(x, block.norm)
    outs = [c(jnp.asarray(normed, jnp.float32)) for c in parts]
    expected = x + sum(np.asarray(o[0]) for o in outs)  # side by side: their sum
    if expansion:
        normed = layer_norm(expected, block.mlp_norm)
        gate = linear(normed, block.mlp.gate)
        assert gate.shape[-1] == 10  # the nearest to 9.6
        expected = expected + linear(gate / (1 + np.exp(-gate)) * linear(normed, block.mlp.value), block.mlp.out)
    else:
        assert block.mlp is None
    close(y, expected)
    trees_close(last, tuple(o[1] for o in outs))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_model_is_encoder_blocks_norm_pooling_head(pooling):
    model, call, _ = compiled(pooling=pooling)
    x = features(T)
    z = linear(x, model.encoder) + linear(sinusoidal_positions(jnp.arange(T), 4), model.position_encoder)
    z = jnp.asarray(z, jnp.float32)
    for block in model.blocks:
        z, _ = block(z, tuple(c.initial_state() for c in block.cells), None, None)
    z = layer_norm(z, model.norm)
    z = {"mean": z.mean(0), "last": z[-1], "none": z}[pooling]
    close(call(x)[0], linear(z, model.head))


def test_cells_of_each_block():
    model = make(cells=("lru+bmru", "s5"), options={"s5": {"discretization": "bilinear", "blocks": 2}})
    assert [[type(c).__name__ for c in block.cells] for block in model.blocks] == [["LRU", "BMRU"], ["S5"]]
    assert model.blocks[1].cells[0].discretization == "bilinear"
    both = make(cells=("lru",), bidirectional=True).blocks[0].cells[0]
    assert isinstance(both, cells.Bidirectional)
    assert (both.forward.nu[...] != both.backward.nu[...]).any()


def test_cells_by_text_class_function_and_list():
    def wide(width, state_size, *, dtype, rngs):  # takes no method
        return cells.MinGRU(width, 2 * state_size, dtype=dtype, rngs=rngs)

    def kinds(given, **kwargs):
        return [[type(cell).__name__ for cell in block.cells] for block in make(cells=given, **kwargs).blocks]

    expected = [["LRU", "BMRU"], ["MinGRU"]]
    for given in ("lru+bmru,mingru", " lru + bmru , mingru", iter(["lru+bmru", "mingru"]), ([cells.LRU, "bmru"], wide)):
        assert kinds(given) == expected
    assert kinds([["lru+bmru"], wide]) == expected
    assert make(cells=[wide]).blocks[0].cells[0].state_size == 8
    assert make(cells=["lru"], method="sequential").blocks[0].cells[0].method == "sequential"
    assert make(cells=[cells.LRU], options={"lru": {"r_min": 0.5}}).blocks[0].cells[0].features == 6
    assert isinstance(make(cells=[wide], bidirectional=True).blocks[0].cells[0].backward, cells.MinGRU)


def test_an_error_inside_a_users_cell_keeps_its_cause():
    def broken(width, state_size, **kwargs):
        return 1 + "1"

    with pytest.raises(ValueError, match="cell 'broken'") as caught:
        make(cells=[broken])
    assert isinstance(caught.value.__cause__, TypeError)


def test_a_seed_is_as_good_as_rngs():
    mine, theirs = (nnx.state(make(rngs=rngs), nnx.Param) for rngs in (3, nnx.Rngs(3)))
    jax.tree.map(np.testing.assert_array_equal, mine, theirs)
    model, _, _ = compiled(dropout=0.5)
    np.testing.assert_array_equal(model(features(T), rngs=1)[0], model(features(T), rngs=nnx.Rngs(1))[0])


def test_step_starts_from_the_initial_state():
    model, call, _ = compiled()
    x = features(2, T)
    first, state = model.step(x[:, 0])
    trees_close((first, state), model.step(x[:, 0], model.initial_state((2,))))
    close(first, call(x[:, :1])[0])


def test_number_of_parameters():
    model = make(cells=("mingru",), width=6, state_size=4, positions=4, expansion=2.0)
    count = sum(v.size for v in jax.tree.leaves(nnx.state(model, nnx.Param)))
    cell, mlp = 2 * (6 * 4 + 4) + (4 * 6 + 6), 2 * (6 * 12 + 12) + (12 * 6 + 6)
    norms, ends = 3 * 2 * 6, (INPUTS * 6 + 6) + 4 * 6 + (6 * OUTPUTS + OUTPUTS)
    assert count == cell + mlp + norms + ends


def test_fan_in_of_the_encoder_counts_the_positions():
    model = make(inputs=64, positions=192, width=512, cells=("mingru",), state_size=1)
    for kernel in (model.encoder.kernel, model.position_encoder.kernel):
        np.testing.assert_allclose(np.asarray(kernel[...]).std(), 1 / 16, rtol=0.05)


# Options


def test_dropout_only_with_rngs_and_seeded():
    model, call, _ = compiled(dropout=0.5)
    x = features(2, T)
    plain = call(x)[0]
    np.testing.assert_array_equal(call(x)[0], plain)
    close(compiled()[1](x)[0], plain)  # the same parameters: dropout adds none
    run = jax.jit(lambda seed: model(x, rngs=nnx.Rngs(dropout=jax.random.key(seed)))[0])
    np.testing.assert_array_equal(run(1), run(1))
    assert (run(1) != run(2)).any()
    assert (run(1) != plain).any()


def test_dropout_scales_what_it_keeps():
    model = SequenceBlock([cells.MinGRU(400, 4, rngs=nnx.Rngs(0))], expansion=0, dropout=0.25, rngs=nnx.Rngs(0))
    x, state = jnp.asarray(np.random.default_rng(0).normal(size=(5, 400)), jnp.float32), (jnp.zeros(4),)
    branch = model(x, state, None, None)[0] - x
    ratio = np.asarray((model(x, state, None, nnx.Rngs(dropout=0))[0] - x) / branch)
    kept = ratio > 0.5
    assert 0.7 < kept.mean() < 0.8
    np.testing.assert_allclose(np.median(ratio[kept]), 4 / 3, rtol=1e-3)
    np.testing.assert_allclose(ratio[~kept], 0, atol=1e-3)


@pytest.mark.parametrize("activation", [None, "half_glu1"])
def test_tied_dropout_drops_a_channel_of_a_sequence_at_all_steps_or_none(activation):
    parts = {"expansion": 0, "activation": activation, "rngs": nnx.Rngs(0)}
    model = SequenceBlock([cells.MinGRU(400, 4, rngs=nnx.Rngs(0))], dropout=0.25, tied_dropout=True, **parts)
    x, state = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5, 400)), jnp.float32), (jnp.zeros((3, 4)),)
    y = model(x, state, None, nnx.Rngs(dropout=0))[0]
    dropped = np.isclose(y, x, rtol=0, atol=1e-7)
    assert 0.2 < dropped.mean() < (0.3 if activation is None else 0.5)  # a gate's input is dropped too
    np.testing.assert_array_equal(dropped, np.broadcast_to(dropped[:, :1], dropped.shape))
    assert (dropped[0] != dropped[1]).any()


@pytest.mark.parametrize("rngs", [None, 0])
@pytest.mark.parametrize("cells", [("mingru", "lru"), ("gru+pmru",)])
def test_remat_changes_no_number(cells, rngs):
    """In training the same masks are drawn, and streams of random numbers move on."""
    x, found = features(2, T), []
    for remat in (False, True):
        model = make(remat=remat, dropout=0.3, cells=cells)
        graphdef, params, rest = nnx.split(model, nnx.Param, ...)

        def loss(params, graphdef=graphdef, rest=rest):
            streams = None if rngs is None else nnx.Rngs(dropout=rngs)
            y = nnx.merge(graphdef, params, rest)(x, rngs=streams)[0]
            return (y**2).sum(), None if streams is None else streams.dropout.count[...]

        found.append(jax.jit(jax.value_and_grad(loss, has_aux=True))(params))
    trees_close(*found)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of XLA's scheduler for CPUs")
def test_remat_takes_less_than_half_the_memory():
    """In training on a CPU, where XLA would compute again as early as it can."""
    x = features(4, 256)

    def temporary(remat):
        graphdef, params, rest = nnx.split(make(remat=remat, cells=("lru",) * 4), nnx.Param, ...)

        def loss(params):
            return (nnx.merge(graphdef, params, rest)(x, rngs=0)[0] ** 2).sum()

        return jax.jit(jax.grad(loss)).lower(params).compile().memory_analysis().temp_size_in_bytes

    assert temporary(True) < temporary(False) / 2


def test_bfloat16_is_close_to_float32_and_keeps_the_parameters():
    kwargs = {"cells": ("lru+pmru",), "width": 32, "state_size": 16}
    model = make(dtype="bfloat16", **kwargs)
    x = features(2, T)
    logits, state = jax.jit(lambda x: model(x))(x)
    assert {v.dtype.name for v in jax.tree.leaves(nnx.state(model, nnx.Param))} == {"float32"}
    assert {v.dtype.name for v in jax.tree.leaves(state)} == {"float32", "complex64", "int32"}
    assert logits.dtype == jnp.float32
    plain = make(**kwargs)
    full = jax.jit(lambda x: plain(x)[0])(x)
    np.testing.assert_allclose(logits, full, atol=0.06)
    assert (logits != full).any()
    hidden = jax.eval_shape(lambda x: model.blocks[0](x, model.initial_state((2,)).cells[0], None, None)[0],
                            jax.ShapeDtypeStruct((2, T, 32), jnp.bfloat16))  # fmt: skip
    assert hidden.dtype == jnp.bfloat16
    carried, step = model.initial_state((2,)), jax.jit(lambda x, state: model.step(x, state))
    for t in range(T):
        out, carried = step(x[:, t], carried)
    np.testing.assert_allclose(out, logits, atol=0.03)


def test_the_pooled_sum_is_float32_in_a_bfloat16_model(monkeypatch):
    seen = {}

    def record(x, total, segments):
        seen["x"] = x
        return pooling.mean(x, total, segments)

    monkeypatch.setitem(pooling.POOLINGS, "mean", record)
    model = make(dtype="bfloat16", cells=("mingru",), positions=0)
    _, state = model(jnp.ones((400, INPUTS)) + 0.1 * features(400))
    # Hundreds of like numbers: with 8 bits the sum is off by some percent.
    np.testing.assert_allclose(state.total, np.asarray(seen["x"], np.float64).sum(0), rtol=1e-5, atol=1e-3)
    assert (seen["x"].astype(jnp.bfloat16) == seen["x"]).all()  # though each was computed in bfloat16


@pytest.mark.parametrize("remat", [False, True])
def test_capture_names_block_place_cell_and_quantity(remat):
    model, call, _ = compiled(remat=remat)
    x = features(2, T)

    @jax.jit
    def run(x):
        capture = {}
        return *model(x, capture=capture), capture

    logits, state, capture = run(x)
    expected = {f"0/0/LRU/{k}" for k in ("input", "state", "b")}
    expected |= {f"0/1/BMRU/{k}" for k in ("input", "state", "candidate", "threshold", "write")}
    expected |= {f"1/0/MinGRU/{k}" for k in ("input", "state", "a", "b")}
    assert capture.keys() == expected
    assert {v.shape for k, v in capture.items() if not k.endswith("/input")} == {(2, T, 4)}
    block = model.blocks[0]
    np.testing.assert_array_equal(capture["0/0/LRU/input"], capture["0/1/BMRU/input"])
    states = block.cells[0](capture["0/0/LRU/input"])[1]
    close(states, state.cells[0][0])
    np.testing.assert_array_equal(capture["0/1/BMRU/state"][:, -1], state.cells[0][1])
    write = abs(capture["0/1/BMRU/candidate"]) >= capture["0/1/BMRU/threshold"]
    np.testing.assert_array_equal(capture["0/1/BMRU/write"], write)
    close(logits, call(x)[0])


def test_capture_of_both_directions():
    both = {}
    make(cells=("pmru",), bidirectional=True)(features(T), capture=both)
    inner = {f"{d}/{k}" for d in ("forward", "backward") for k in ("state", "lo", "hi", "write")}
    assert both.keys() == {f"0/0/Bidirectional/{name}" for name in inner | {"input"}}


@pytest.mark.parametrize("positions", [0, 4])
def test_tokens_are_embedded(positions):
    model, call, _ = compiled(inputs=0, vocabulary=5, positions=positions, pooling="none", cells=("mingru",))
    tokens = jnp.array([[0, 4, 2, 2, 1, 3, 0]])
    logits, state = call(tokens)
    assert logits.shape == (1, T, OUTPUTS)
    stepped, carried = model.step(tokens[:, 0], model.initial_state((1,)))
    close(stepped, logits[:, 0])
    z = jnp.asarray(model.encoder.embedding[...])[tokens]
    if positions:
        z = z + linear(sinusoidal_positions(jnp.arange(T), positions), model.position_encoder)
    for block in model.blocks:
        z, _ = block(jnp.asarray(z, jnp.float32), tuple(c.initial_state((1,)) for c in block.cells), None, None)
    close(linear(layer_norm(z, model.norm), model.head), logits)
    assert jax.tree.structure(carried) == jax.tree.structure(state)


def test_methods_agree():
    x = features(2, T)
    one, two = (make(method=method, cells=("s5+bmru",)) for method in ("sequential", "associative"))
    close(jax.jit(lambda x: one(x)[0])(x), jax.jit(lambda x: two(x)[0])(x))


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_lowers_for_accelerators(platform):
    model = make(cells=("lru+bmru", "pmru"), dtype="bfloat16", remat=True)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params, x, lengths):
        return (nnx.merge(graphdef, params, rest)(x, lengths=lengths)[0] ** 2).sum()

    exported = jax.export.export(jax.jit(jax.value_and_grad(loss)), platforms=[platform])(
        params, features(2, T), jnp.array([3, 7])
    )
    assert exported.platforms == (platform,)


# Errors


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"cells": ()}, "at least one block, got none"),
        ({"cells": ("lru", "bmr")}, "unknown cell 'bmr'; known cells: alpha_cmru, attention, bmru"),
        ({"cells": ("lru+",)}, "unknown cell ''"),
        ({"vocabulary": 3}, "either inputs or vocabulary must be positive, got 3 and 3"),
        ({"inputs": 0}, "either inputs or vocabulary must be positive, got 0 and 0"),
        ({"positions": 3}, "even number of channels, got 3"),
        ({"positions": -2}, "even number of channels, got -2"),
        ({"pooling": "max"}, "mean, last, none, got 'max'"),
        ({"dropout": 1.0}, "dropout must be in [0, 1), got 1.0"),
        ({"options": {"s5": {}}}, "cells that the model does not have: s5"),
        ({"options": {"lru": {"speed": 3}}}, "options of cell 'lru'"),
        ({"width": 0}, "width must be an integer of at least 1, got 0"),
        ({"width": -6}, "width must be an integer of at least 1, got -6"),
        ({"width": 6.0}, "width must be an integer of at least 1, got 6.0"),
        ({"state_size": 0}, "state_size must be an integer of at least 1, got 0"),
        ({"outputs": 0}, "outputs must be an integer of at least 1, got 0"),
        ({"outputs": -2}, "outputs must be an integer of at least 1, got -2"),
        ({"inputs": -1}, "inputs must be an integer of at least 0, got -1"),
        ({"inputs": 0, "vocabulary": -1}, "vocabulary must be an integer of at least 0, got -1"),
        ({"expansion": float("inf")}, "expansion must be at least 0 and finite, got inf"),
        ({"expansion": float("nan")}, "expansion must be at least 0 and finite, got nan"),
        ({"expansion": -1.0}, "expansion must be at least 0 and finite, got -1.0"),
        ({"dropout": float("nan")}, "dropout must be in [0, 1), got nan"),
        ({"dtype": "int32"}, "dtype must be floating point, such as 'float32' or 'bfloat16', or None, got 'int32'"),
        ({"cells": ()}, "cells must name at least one block, got none"),
        ({"dtype": "x"}, "dtype must be floating point, such as 'float32' or 'bfloat16', or None, got 'x'"),
        ({"rngs": 0.5}, "rngs must be an nnx.Rngs or an int seed, got float"),
        ({"cells": ""}, "at least one block, got none"),
        ({"cells": iter(())}, "at least one block, got none"),
        ({"cells": {"lru": 1}}, "cells must be a list such as"),
        ({"cells": cells.LRU}, "cells must be a list such as"),
        ({"cells": ["lru", 3]}, "each of cells must be a name, a class of cells"),
        ({"cells": ["lru", []]}, "each of cells must be a name, a class of cells"),
        ({"cells": [cells.LRU(6, 4, rngs=nnx.Rngs(0))]}, "a list of these, got LRU"),
        ({"cells": [lambda *a, **k: None]}, "must make a cell of 6 features, as is the width, got None"),
        ({"cells": [lambda width, n, **k: cells.LRU(5, n, **k)]}, "6 features, as is the width, got LRU of 5"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make(**kwargs)


@pytest.mark.parametrize(
    ("x", "kwargs", "expected", "given"),
    [
        (np.ones((2, T, 5), np.float32), {}, "(..., T, 3)", "float32 (2, 7, 5)"),
        (np.ones(3, np.float32), {}, "(..., T, 3)", "float32 (3,)"),
        (np.ones((2, 0, 3), np.float32), {}, "(..., T, 3), none of them 0", "float32 (2, 0, 3)"),
        (np.ones((0, T, 3), np.float32), {}, "(..., T, 3), none of them 0", "float32 (0, 7, 3)"),
        (np.ones((2, T, 3), np.int32), {}, "floating-point features", "int32 (2, 7, 3)"),
        (np.ones((2, T, 3), np.float32), {"lengths": np.ones(3, np.int32)}, "lengths must be int (2,)", "int32 (3,)"),
        (np.ones((2, T, 3), np.float32), {"lengths": np.ones(2, np.float32)}, "int (2,)", "float32 (2,)"),
        (np.ones((2, T, 3), np.float32), {"lengths": np.array([3, 8])}, "from 1 to T = 7", "got 3 to 8"),
        (np.ones((2, T, 3), np.float32), {"lengths": np.array([0, 7])}, "from 1 to T = 7", "got 0 to 7"),
        (np.ones((2, T, 3), np.float32), {"lengths": jnp.array([-1, 7])}, "from 1 to T = 7", "got -1 to 7"),
        (np.ones((2, T, 3), np.float32), {"reset": np.zeros((2, 3), bool)}, "bool (2, 7)", "bool (2, 3)"),
        (np.ones((2, T, 3), np.float32), {"reset": np.zeros((2, T), np.int32)}, "bool (2, 7)", "int32 (2, 7)"),
    ],
)
def test_bad_inputs_are_named(x, kwargs, expected, given):
    with pytest.raises(ValueError, match=re.escape(expected)) as caught:
        compiled()[0](x, **kwargs)
    assert given in str(caught.value)


def test_bad_tokens_and_steps_are_named():
    model = make(inputs=0, vocabulary=5)
    with pytest.raises(ValueError, match=re.escape("int tokens (..., T), got float32 (7,)")):
        model(np.ones(T, np.float32))
    with pytest.raises(ValueError, match=re.escape("int tokens (..., T), got int32 ()")):
        model(np.int32(3))
    for wrong, given in (([0, 5, 1], "0 to 5"), ([4, -1, 0], "-1 to 4")):
        with pytest.raises(ValueError, match=f"tokens must be from 0 to 4, as the vocabulary has 5, got {given}"):
            model(np.array(wrong))
        with pytest.raises(ValueError, match=f"tokens must be from 0 to 4, as the vocabulary has 5, got {given}"):
            model.step(np.array(wrong))
    model, _, _ = compiled()
    with pytest.raises(ValueError, match=re.escape("(..., 3), got float32 (2, 5)")):
        model.step(np.ones((2, 5), np.float32), model.initial_state((2,)))


def test_states_that_can_not_be_carried():
    model, _, _ = compiled()
    x = features(2, T)
    with pytest.raises(ValueError, match="state and lengths exclude each other"):
        model(x, model.initial_state((2,)), lengths=jnp.array([3, 4]))
    both, _, _ = compiled(bidirectional=True)
    with pytest.raises(ValueError, match="bidirectional"):
        both(x, both.initial_state((2,)))
    with pytest.raises(ValueError, match="step by step"):
        both.step(x[:, 0], both.initial_state((2,)))
    with pytest.raises(ValueError, match=re.escape("ModelState of batch shape (2,), got (3,)")):
        model(x, model.initial_state((3,)))
    with pytest.raises(ValueError, match=re.escape("ModelState of batch shape (2,), got tuple")):
        model.step(x[:, 0], tuple(model.initial_state((2,))))
    state = model.initial_state((2,))
    for wrong in (state._replace(total=jnp.zeros((2, 1))), state._replace(position=jnp.zeros(2))):
        with pytest.raises(ValueError, match=re.escape("state must have an integer position and a total (2, 6), got")):
            model.step(x[:, 0], wrong)


def test_a_block_needs_cells_of_one_width():
    for parts, given in (([], "none"), ([cells.LRU(n, 4, rngs=nnx.Rngs(0)) for n in (6, 5)], "LRU of 6, LRU of 5")):
        with pytest.raises(ValueError, match=f"all of the same features, got {given}"):
            SequenceBlock(parts, expansion=0, dropout=0, rngs=0)


# What can not be read inside jit


def test_lengths_inside_jit_are_taken_as_the_nearest_possible():
    _, call, _ = compiled()
    x = features(3, T)
    close(call(x, lengths=jnp.array([-2, 0, T + 9]))[0], call(x, lengths=jnp.array([1, 1, T]))[0])


def test_unknown_tokens_inside_jit_are_nan_from_there_on():
    _, call, _ = compiled(inputs=0, vocabulary=5, pooling="none", cells=("mingru",))
    tokens = jnp.array([[0, 1, 2, 3, 4, 0, 1], [0, 1, -1, 3, 4, 0, 1], [0, 1, 2, 3, 5, 0, 1]])
    logits, _ = call(tokens)
    bad = np.isnan(np.asarray(logits))
    assert bad.all(-1).sum(1).tolist() == [0, 5, 3]
    assert bad.any(-1).sum(1).tolist() == [0, 5, 3]
    close(logits[1, :2], logits[0, :2])


def test_tokens_in_the_padding_are_never_read():
    model, call, _ = compiled(inputs=0, vocabulary=5, cells=("mingru",))
    tokens, lengths = np.array([[0, 1, 2, -1, 99]]), jnp.array([3])
    expected = call(jnp.asarray(tokens[:, :3]))[0]
    close(model(tokens, lengths=lengths)[0], expected)
    close(call(jnp.asarray(tokens), lengths=lengths)[0], expected)


# Inside other people's code


class Classifier(nnx.Module):
    """Someone's own module around a cell."""

    def __init__(self, rngs):
        self.memory = cells.BMRU(INPUTS, 8, rngs=rngs)
        self.head = nnx.Linear(INPUTS, OUTPUTS, rngs=rngs)

    def __call__(self, x):
        return self.head(self.memory(x)[0].mean(-2))


def test_a_cell_trains_inside_another_nnx_module():
    model = Classifier(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(0.01), wrt=nnx.Param)
    x, labels = features(16, T), jnp.arange(16) % OUTPUTS

    @nnx.jit
    def train(model, optimizer):
        def loss(model):
            return optax.softmax_cross_entropy_with_integer_labels(model(x), labels).mean()

        value, grads = nnx.value_and_grad(loss)(model)
        optimizer.update(model, grads)
        return value

    before = jax.tree.map(jnp.copy, nnx.state(model, cells.Scheduled))
    losses = [float(train(model, optimizer)) for _ in range(20)]
    assert losses[-1] < losses[0] - 0.01
    trees_close(nnx.state(model, cells.Scheduled), before)  # no optimiser moves a scheduled scalar


def test_a_cell_trains_inside_linen():
    class Network(linen.Module):
        @linen.compact
        def __call__(self, x):
            y, _ = nnx.bridge.to_linen(cells.PMRU, INPUTS, 8, name="memory")(x)
            return linen.Dense(OUTPUTS)(y.mean(-2))

    network, x = Network(), features(4, T)
    variables = network.init(jax.random.key(0), x)
    params, rest = variables["params"], {k: v for k, v in variables.items() if k != "params"}

    def loss(params):
        return (network.apply({"params": params, **rest}, x) ** 2).mean()

    before, grads = jax.jit(jax.value_and_grad(loss))(params)
    assert max(float(abs(g).max()) for g in jax.tree.leaves(grads["memory"])) > 0
    assert loss(jax.tree.map(lambda p, g: p - 0.05 * g, params, grads)) < before


def test_a_pickled_model_is_the_same_model():
    model = make(cells=("s5+bmru", "attention"), activation="half_glu2", conv=2)
    x = features(2, 3)
    for mine, theirs in zip(pickle.loads(pickle.dumps(model))(x), model(x), strict=True):
        jax.tree.map(np.testing.assert_array_equal, mine, theirs)
