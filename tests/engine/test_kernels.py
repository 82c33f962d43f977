"""The GPU kernels: interpreted without a GPU, and as they are on one."""

import functools
import logging
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_scan import CASES, KERNELS, equations, every_case, oracle, split, state_like

from mru import Affine, Clamp, Latch, Play, Relay, scan
from mru.engine import kernel, methods, vjp
from mru.engine.kernel import plan as kernel_plan
from mru.engine.kernel import walk as kernel_walk

pytestmark = pytest.mark.usefixtures("quick_compile")
H200 = jax.sharding.AbstractMesh(
    (1,),
    ("x",),
    abstract_device=jax.sharding.AbstractDevice(device_kind="NVIDIA H200", num_cores=None, platform="gpu"),
)
jit_scan = jax.jit(scan, static_argnames=("reverse", "method"))


def pretend_cuda(monkeypatch):
    """As on a machine with a GPU."""
    for module in (kernel, kernel_plan, kernel_walk):
        monkeypatch.setattr(module, "on_cuda", lambda: True)


@pytest.fixture
def retraced():
    """Nothing that was traced before what a test replaces, and nothing after it that holds the replacement."""
    jax.clear_caches()
    yield
    jax.clear_caches()


def draw(name, batch, time, channels, resets=0.05, seed=0):
    """Fields, initial state, reset state, cotangent of the states, and resets."""
    case, rng = CASES[name], np.random.default_rng(seed)
    fields = case.draw(rng, (batch, time, channels))
    h0, start, weight = (
        state_like(rng, fields, s) for s in ((batch, channels), (batch, channels), (batch, time, channels))
    )
    return fields, h0, start, weight, rng.random((batch, time)) < resets


def run(name, fields, h0, start, weight, reset, method, reverse):
    """States, and the cotangents of what is differentiated."""
    smooth, rest = split(fields)

    def states(smooth, h0, start):
        kind = {} if reset is None else {"reset": reset, "reset_state": start}
        return scan(CASES[name].build(smooth | rest), h0, **kind, reverse=reverse, method=method)

    h, pullback = jax.vjp(states, smooth, h0, start)
    return h, pullback(jnp.asarray(weight))


jit_run = jax.jit(run, static_argnames=("name", "method", "reverse"))


def compare(name, arguments, reverse):
    *most, reset = arguments
    h, bars = jit_run(name, *most, reset, method="pallas", reverse=reverse)
    fields, h0, start, _ = most
    expected = oracle(CASES[name], fields, h0, reset, None if reset is None else start, reverse=reverse)
    np.testing.assert_allclose(h, expected, rtol=1e-5, atol=1e-5)
    _, theirs = jit_run(name, *most, reset, method="sequential", reverse=reverse)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5), bars, theirs)


# Four chunks of several rounds, the last one cut short, with channels that do not fill a program; half of the cases in
# reverse. The tests of these run one program for each case.
CHUNKED = 2, 134, 33


def in_reverse(name):
    return list(CASES).index(name) % 2 == 0


@every_case
def test_chunks_match_the_loop(name):
    compare(name, draw(name, *CHUNKED), reverse=in_reverse(name))


@pytest.mark.parametrize("name", ["affine", "complex affine", "clamp", "relay leak 0.3"])
def test_a_bad_sequence_reaches_no_other_across_chunks(name):
    fields, h0, start, weight, _ = draw(name, *CHUNKED)
    batch, time, _ = CHUNKED
    order = np.arange(time)[:: -1 if in_reverse(name) else 1]  # when each step is taken
    reset, inside = np.tile(np.isin(order, [20, 90]), (batch, 1)), (order >= 20) & (order < 90)
    run = functools.partial(jit_run, name, method="pallas", reverse=in_reverse(name))

    def spoil(v, bad):
        return np.where(inside[:, None], v.dtype.type(bad), v)

    h, (bar, h0_bar, _) = run(fields, h0, start, weight, reset)
    for bad in (np.nan, np.inf):
        poison = {k: spoil(v, bad) for k, v in fields.items()}
        h_bad, (bar_bad, h0_bad, _) = run(poison, h0, start, spoil(weight, bad), reset)
        np.testing.assert_array_equal(h_bad[:, ~inside], h[:, ~inside])
        np.testing.assert_array_equal(h0_bad, h0_bar)
        for k in bar:
            np.testing.assert_array_equal(bar_bad[k][:, ~inside], bar[k][:, ~inside])


@pytest.mark.parametrize("name", ["affine", "constant complex a", "latch float", "play"])
def test_a_single_walk_matches_the_loop(name):
    *arguments, _ = draw(name, 2, 9, 3)
    compare(name, [*arguments, None], reverse=False)


@pytest.mark.usefixtures("retraced")
@pytest.mark.parametrize("enough", [1, 4])
def test_plans_without_chunks_match_the_loop(enough, monkeypatch):
    monkeypatch.setattr(kernel_plan, "_ENOUGH", enough)
    compare("complex affine", draw("complex affine", 2, 64 + enough, 64), reverse=True)


@pytest.mark.usefixtures("retraced")
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("name", "few"), [("affine", 0), ("affine", 64), ("constant a", 0), ("constant a", 64), ("complex affine", 0)]
)
def test_groups_of_chunks_match_the_loop(name, few, reverse, monkeypatch):
    """Eras of which each hands its last state to the next one; the last era, group, chunk and part cut short."""
    monkeypatch.setattr(kernel_plan, "_FEW", few)
    plan = kernel_plan.plan(jnp.zeros((1, 3)), 1000, Affine(jnp.zeros(3), jnp.zeros((1000, 3))))
    assert (plan.era > 1) == (plan.parts > 1) == (few > 0)
    chunk = plan.parts * 8  # of eight steps is a part where a kernel is interpreted
    chunks = 2 * plan.era * plan.group + (plan.era > 1) * plan.group + 3
    compare(name, draw(name, 1, chunk * chunks + 3, 3, resets=0.002), reverse=reverse)


@pytest.mark.parametrize("kind", [Affine, Clamp])
@pytest.mark.parametrize("shape", [(8, 16384, 512), (1, 262144, 256), (100, 784, 128), (32, 1024, 512), (999, 9, 256)])
def test_the_plan_fills_the_chip(shape, kind):
    batch, time, channels = shape
    start = jnp.zeros((batch, channels))
    divided = kernel_plan.plan(start, time, kind(start, start))
    grid = kernel_plan.Grid.of(divided, time, channels, 8)
    programs = batch * grid.blocks * grid.chunks
    assert programs >= 384  # each of which reads a tile ahead, if there are no more
    if divided.chunks > 1:
        assert time // divided.chunks >= 32  # not so short that the carry pass would count
        assert programs <= 132 * 32  # as many as the chip holds at once


@pytest.mark.parametrize(("kind", "dtype"), [(Play, "float32"), (Affine, "complex64")])
def test_chunks_of_much_computing_and_of_complex_channels_have_a_warp_for_32(kind, dtype):
    start = jnp.zeros((1, 256), dtype)
    divided = kernel_plan.plan(start, 65536, kind(start, start))
    assert divided.chunks > 1
    assert divided.lanes == 32 * divided.warps


@pytest.mark.parametrize("shape", [(8, 16384, 512), (32, 1024, 512), (100, 784, 128)])
def test_complex_maps_look_back_if_no_coefficient_is_constant(shape):
    """Those of LRU and S5 are constant, and walk by other plans."""
    batch, time, channels = shape
    start = jnp.zeros((batch, channels), jnp.complex64)
    fields = jax.ShapeDtypeStruct(shape, jnp.complex64)
    assert kernel_plan.plan(start, time, Affine(fields, fields)).looks_back
    assert not kernel_plan.plan(start, time, Affine(start[0], fields)).looks_back


@pytest.mark.parametrize("name", ["latch", "relay", "clamp"])
@pytest.mark.parametrize("reverse", [False, True])
def test_selections_are_exact(name, reverse):
    fields, h0, start, _, reset = draw(name, 2, 200, 33, resets=0.01)
    h, other = (
        jit_scan(CASES[name].build(fields), h0, reset=reset, reset_state=start, reverse=reverse, method=method)
        for method in ("pallas", "sequential")
    )
    np.testing.assert_array_equal(np.asarray(h).view(np.int32), np.asarray(other).view(np.int32))


def test_what_is_never_written_is_held_through_all_chunks():
    time, held = 400, np.float32(0.1)
    wobble = np.random.default_rng(0).uniform(0.2, 2, (time, 3)).astype(np.float32)
    for op in [
        Latch(np.zeros((time, 3), bool), wobble),
        Clamp(-wobble, wobble),
        Affine(np.ones(3, np.float32), np.zeros((time, 3), np.float32)),
        Relay(0 * wobble, wobble, leak=0.0),
    ]:
        assert np.unique(jit_scan(op, np.full(3, held), method="pallas")).tolist() == [held]


@pytest.mark.parametrize("name", ["affine", "relay"])
def test_bfloat16_is_accumulated_in_float32(name):
    fields, h0, *_ = draw(name, 1, 200, 4)
    low = {k: jnp.asarray(v, jnp.bfloat16) for k, v in fields.items()}
    rounded = {k: np.asarray(v, np.float32) for k, v in low.items()}

    @jax.jit
    def value_and_gradient(low):
        h, pullback = jax.vjp(lambda low: scan(CASES[name].build(low), h0, method="pallas"), low)
        return h, pullback(jnp.ones_like(h))[0]

    h, grads = value_and_gradient(low)
    assert h.dtype == jnp.float32
    assert {g.dtype for g in grads.values()} == {jnp.dtype("bfloat16")}
    np.testing.assert_allclose(h, oracle(CASES[name], rounded, h0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("where", ["lo", "hi", "h0"])
def test_a_clamp_passes_a_nan_on_through_all_chunks(where):
    given = {"lo": jnp.zeros((128, 1)), "hi": jnp.ones((128, 1)), "h0": jnp.zeros(1)}
    given[where] = given[where].at[10 if given[where].ndim == 2 else 0].set(jnp.nan)
    h = jit_scan(Clamp(given["lo"], given["hi"]), given["h0"], method="pallas")
    np.testing.assert_array_equal(jnp.isnan(h[:, 0]), np.arange(128) >= (0 if where == "h0" else 10))
    # PTX drops a NaN in these two, which an interpreted kernel does not show.
    jaxpr = jax.make_jaxpr(functools.partial(scan, method="pallas"))(Clamp(given["lo"], given["hi"])).jaxpr
    inside = [e for call in kernel_calls(jaxpr) for _, e in equations(call.params["jaxpr"])]
    assert {e.primitive.name for e in inside if e.outvars[0].aval.dtype == jnp.float32}.isdisjoint({"max", "min"})
    assert any(e.primitive.name == "select_n" for e in inside)


@pytest.mark.parametrize("time", [2**25, 2**31 - 1])
def test_chunks_of_long_sequences_are_counted_in_32_bits(time):
    chunks = 2112
    grid = kernel_plan.Grid(time, 1, chunks, 32, kernel_plan.Plan(1, 128, chunks))
    firsts = jax.jit(grid.first_tile)(jnp.arange(chunks + 1, dtype=jnp.int32))
    np.testing.assert_array_equal(firsts, [chunk * -(-time // 32) // chunks for chunk in range(chunks + 1)])


@pytest.mark.skipif(kernel.on_cuda(), reason="only an interpreted kernel can call back")
@pytest.mark.usefixtures("retraced")
@pytest.mark.parametrize(
    ("op", "lowered"),
    [(lambda x: Latch(x != 0, x), Latch), (lambda x: Play(x, -1e9 * x), Clamp)],
    ids=["latch", "play"],
)
def test_lanes_without_a_channel_do_not_keep_a_chunk_going(op, lowered, monkeypatch):
    """What is written in every step ends the first pass over a chunk at its first tile, for any number of channels."""
    asked = []
    reaches = lowered.reaches

    def counted(maps):
        jax.debug.callback(lambda: asked.append(1))
        return reaches(maps)

    monkeypatch.setattr(lowered, "reaches", counted)
    counts = []
    for channels in (32, 31):
        asked.clear()
        x = jnp.ones((1, 256, channels))
        jax.block_until_ready(jax.jit(lambda op: scan(op, method="pallas"))(op(x)))
        jax.effects_barrier()
        counts.append(len(asked))
    assert counts[0] == counts[1] > 0


def test_vmap():
    fields, h0, *_ = draw("affine", 3, 9, 2)
    mapped = jax.jit(jax.vmap(lambda f, h: scan(Affine(**f), h, method="pallas")))(fields, h0)
    np.testing.assert_allclose(mapped, oracle(CASES["affine"], fields, h0), rtol=1e-5, atol=1e-5)


def side_by_side(name, batch, time, channels):
    """The arguments of `run` for two models, what is constant in time among them, and which of them have an axis."""
    many = [draw(name, batch, time, channels, seed=seed) for seed in (0, 1)]
    return jax.tree.map(lambda *x: np.stack(x), *many)


@pytest.mark.parametrize("name", ["constant complex a", "relay leak 0.3"])
def test_vmap_of_both_passes_is_that_of_each_model(name):
    """In chunks, and over a batch of sequences for each of two models that have constants of their own."""
    arguments = side_by_side(name, 2, 70, 5)
    both = functools.partial(run, name, method="pallas", reverse=False)
    mapped = jax.jit(jax.vmap(both))(*arguments)
    for i in range(2):
        *most, reset = jax.tree.map(lambda x, i=i: x[i], arguments)
        one = jit_run(name, *most, reset, method="sequential", reverse=False)
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=2e-5, atol=2e-5), mapped, one)


def test_gradient_of_the_gradient_by_hand():
    # h_2 = a^2 h_0 + (a + 1) b has second derivatives 2 h_0, 1 and 2 a in (aa), (ab), (a h_0).
    def last(v):
        a, b, h0 = v
        return scan(Affine(jnp.full((2, 1), a), jnp.full((2, 1), b)), h0[None], method="pallas")[-1, 0]

    gradient = jax.grad(last)
    v = jnp.array([0.5, 3.0, 7.0])
    for i, row in enumerate([[14, 1, 1], [1, 0, 0], [1, 0, 0]]):
        np.testing.assert_allclose(jax.jit(jax.grad(lambda v, i=i: gradient(v)[i]))(v), row)


# What runs, and where


def kernel_calls(jaxpr):
    return [equation for _, equation in equations(jaxpr) if equation.primitive.name == "pallas_call"]


def sizes(equations):
    return [v.aval.size for equation in equations for v in equation.outvars]


def test_any_batch_fits_the_grid():
    """CUDA takes no more than 65,535 programs along any axis of a grid but the first."""
    many = jax.tree.map(lambda _: jax.ShapeDtypeStruct((70_000, 64, 96), jnp.float32), Affine(0, 0))
    long = jax.tree.map(lambda _: jax.ShapeDtypeStruct((1, 2**25, 1), jnp.float32), Affine(0, 0))
    for op in (many, long):
        calls = kernel_calls(jax.make_jaxpr(functools.partial(scan, method="pallas"))(op).jaxpr)
        assert calls
        for call in calls:
            first, *rest = call.params["grid_mapping"].grid
            assert first < 2**31
            assert max(rest) < 2**16


def test_gates_are_computed_in_the_kernel_and_not_stored():
    shape = (2, 256, 64)
    op, h = Relay(jnp.ones(shape), jnp.ones(shape), 0.5), jnp.ones(shape)
    forward = jax.make_jaxpr(functools.partial(scan, method="pallas"))(op).jaxpr
    whole = [e for _, e in equations(forward) if any(v.aval.size == h.size for v in e.outvars if hasattr(v, "aval"))]
    calls = kernel_calls(forward)
    assert len(calls) == 3  # compose the chunks, follow them, walk them
    assert sizes(calls).count(h.size) == 1  # the states
    assert {e.primitive.name for e in whole} <= {
        "pallas_call",
        "reshape",
        "custom_vjp_call",
        "custom_jvp_call",
        "jit",
        "pjit",
    }
    backward = jax.make_jaxpr(lambda op, h: vjp._pullback("pallas", False, op, h[:, 0], None, None, h, h))(op, h)
    assert sizes(kernel_calls(backward.jaxpr)).count(h.size) == 2  # the cotangents of candidate and threshold


@pytest.mark.usefixtures("retraced")
def test_auto_takes_the_kernel_where_it_can_and_says_why_not(monkeypatch, caplog):
    shape = (2, 64, 3)
    assert not kernel_calls(jax.make_jaxpr(scan)(Affine(jnp.ones(shape), jnp.ones(shape))).jaxpr) or kernel.on_cuda()
    pretend_cuda(monkeypatch)
    jax.clear_caches()
    methods._fall_back.cache_clear()
    assert kernel_calls(jax.make_jaxpr(lambda op: scan(op))(Affine(jnp.ones(shape), jnp.ones(shape))).jaxpr)
    caplog.set_level(logging.WARNING, "mru.engine.methods")
    assert not caplog.records
    latch = Latch(jnp.ones(shape, bool), jnp.ones(shape, jnp.complex64))
    assert not kernel_calls(jax.make_jaxpr(lambda op: scan(op))(latch).jaxpr)
    assert "complex Latch" in caplog.text
    long = jax.tree.map(lambda x: jax.ShapeDtypeStruct((4, 2**23, 64), x.dtype), Affine(jnp.ones(()), jnp.ones(())))
    assert not kernel_calls(jax.make_jaxpr(lambda op: scan(op))(long).jaxpr)
    assert "2,147,483,648" in caplog.text
    with pytest.raises(ValueError, match="method 'pallas' can not run this: kernels have no complex Latch"):
        scan(latch, method="pallas")
    pallas = jax.make_jaxpr(lambda op: scan(op, method="pallas"))
    with pytest.raises(ValueError, match="2,147,483,648"):
        pallas(long)
    mesh = jax.sharding.AbstractMesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    with jax.sharding.use_abstract_mesh(mesh):
        assert kernel_calls(pallas(long).jaxpr)  # each device has half of it


@pytest.mark.usefixtures("retraced")
@pytest.mark.parametrize("vmap", [False, True])
@pytest.mark.parametrize("name", ["affine", "constant complex a", "latch", "clamp", "relay leak 0.3", "play"])
def test_lowers_for_nvidia_gpus(name, vmap, monkeypatch):
    """Under `jax.vmap` too, as several models that are trained side by side: "auto" is the kernel there as well."""
    arguments = side_by_side(name, 2, 70, 33) if vmap else draw(name, 2, 70, 33)
    pretend_cuda(monkeypatch)
    both = functools.partial(run, name, method="auto", reverse=False)
    both = jax.jit(jax.vmap(both) if vmap else both)
    with jax.sharding.use_abstract_mesh(H200):
        module = jax.export.export(both, platforms=["cuda"], disabled_checks=KERNELS)(*arguments).mlir_module()
    # One call a pass where programs look back; else one that composes, one that follows, one that walks.
    assert module.count("@__gpu$xla.gpu.triton(") == (2 if name == "affine" else 6)


@pytest.mark.usefixtures("retraced")
def test_a_kernel_is_exported_with_what_readme_says(monkeypatch):
    readme = (pathlib.Path(__file__).parents[2] / "README.md").read_text()
    (said,) = re.findall(r"`disabled_checks=(\[jax\.export.*\])`", readme)
    op = Affine(jnp.ones((2, 70, 33)), jnp.ones((2, 70, 33)))
    pretend_cuda(monkeypatch)
    with jax.sharding.use_abstract_mesh(H200):
        jax.export.export(jax.jit(scan), platforms=["cuda"], disabled_checks=eval(said))(op)
        with pytest.raises(ValueError, match="no compatibility guarantees"):
            jax.export.export(jax.jit(scan), platforms=["cuda"])(op)
        jax.export.export(jax.jit(functools.partial(scan, method="associative")), platforms=["cuda"])(op)
