"""The selective scan: its loop, and its kernel, interpreted without a GPU; and what neither of them stores."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import patterns
from test_kernels import H200, kernel_calls
from test_scan import KERNELS, equations

import mru
from mru.engine import selective
from mru.engine.kernel import selective as selective_kernel
from mru.engine.selective import selective_scan
from mru.operators import Selective

pytestmark = pytest.mark.usefixtures("quick_compile")
every_method = pytest.mark.parametrize("method", ["sequential", "pallas"])
FIELDS = ("dt", "a", "b", "c", "x")


def draw(batch, time, channels, states, seed=0):
    """Fields, initial state, reset state, and the cotangents of outputs and last state."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    lead = (batch, time)
    fields = {
        "dt": np.abs(normal(*lead, channels)) / 3,
        "a": -np.abs(normal(channels, states)),
        "b": normal(*lead, states),
        "c": normal(*lead, states),
        "x": normal(*lead, channels),
    }
    h0, start = normal(batch, channels, states), normal(batch, channels, states)
    return fields, h0, start, normal(*lead, channels), normal(batch, channels, states)


def oracle(fields, h0, reset, start):
    """Outputs, last state and every state, by the equation in float64."""
    dt, a, b, c, x = (np.asarray(fields[name], np.float64) for name in FIELDS)
    h, ys, hs = np.asarray(h0, np.float64), [], []
    for t in range(x.shape[1]):
        h = np.where(reset[:, t, None, None], start, h)
        h = np.exp(dt[:, t, :, None] * a) * h + (dt * x)[:, t, :, None] * b[:, t, None, :]
        hs.append(h)
        ys.append((c[:, t, None, :] * h).sum(-1))
    return np.stack(ys, 1), h, np.stack(hs, 1)


def plain_loop(fields, h0, reset, start):
    """The same in JAX, step by step, for it to differentiate."""

    def step(h, now):
        dt, b, c, x, first = now
        h = jnp.where(first[:, None, None], start, h)
        h = jnp.exp(dt[..., None] * fields["a"]) * h + (dt * x)[..., None] * b[:, None]
        return h, (c[:, None] * h).sum(-1)

    steps = [jnp.moveaxis(v, 1, 0) for v in (*(fields[k] for k in ("dt", "b", "c", "x")), reset)]
    last, y = jax.lax.scan(step, h0, steps)
    return jnp.moveaxis(y, 0, 1), last


def by_method(fields, h0, reset, start, method):
    return selective_scan(Selective(**fields), h0, reset=reset, reset_state=start, method=method)


@functools.partial(jax.jit, static_argnames="f")
def run(f, fields, h0, start, reset, g, g_last):
    """Outputs, last state, and the cotangents of all that is differentiated."""
    out, pullback = jax.vjp(lambda fields, h0, start: f(fields, h0, reset, start), fields, h0, start)
    return out, pullback((g, g_last))


METHODS = {name: functools.partial(by_method, method=name) for name in ("sequential", "pallas", "auto")}


# 37 steps: two whole chunks of 16, and one cut short within the first of its parts; 40 channels fill two blocks of 16
# and half of a third; 5 states are padded to 8.
@pytest.mark.parametrize("size", [(5, 37, 40, 16), (5, 1, 3, 5)], ids=str)
@every_method
def test_both_passes_are_those_of_the_equation(size, method):
    fields, h0, start, g, g_last = draw(*size)
    reset = patterns(size[1])
    (y, last), bars = run(METHODS[method], fields, h0, start, reset, g, g_last)
    expected_y, expected_last, _ = oracle(fields, h0, reset, start)
    np.testing.assert_allclose(y, expected_y, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(last, expected_last, rtol=1e-5, atol=1e-5)
    _, expected = run(plain_loop, fields, h0, start, reset, g, g_last)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-4), bars, expected)


@every_method
def test_without_resets_a_batch_or_an_initial_state(method):
    fields, *_ = draw(1, 7, 3, 4)
    op = Selective(**{k: jnp.asarray(v if k == "a" else v[0]) for k, v in fields.items()})
    y, last = jax.jit(functools.partial(selective_scan, method=method))(op)
    expected_y, expected_last, _ = oracle(fields, np.zeros((1, 3, 4)), np.zeros((1, 7), bool), 0)
    np.testing.assert_allclose(y, expected_y[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(last, expected_last[0], rtol=1e-5, atol=1e-6)


@every_method
def test_gradient_is_the_slope_in_float64(method):
    fields, h0, start, g, g_last = draw(2, 5, 3, 2)
    reset = np.array([[0, 0, 0, 1, 0], [0, 1, 0, 0, 0]], bool)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: np.asarray(x, np.float64), (fields, h0, start, g, g_last))
        (y, _), bars = run(METHODS[method], *wide[:3], reset, *wide[3:])
        assert y.dtype == "float64"

        def loss(given):
            y, last, _ = oracle(given[0], given[1], reset, given[2])
            return (wide[3] * y).sum() + (wide[4] * last).sum()

        leaves, tree = jax.tree.flatten(wide[:3])
        for k, bar in enumerate(jax.tree.leaves(bars)):
            for place in [(0,) * bar.ndim, tuple(n - 1 for n in bar.shape)]:
                values = []
                for step in (1e-5, -1e-5):
                    moved = [np.array(x) for x in leaves]
                    moved[k][place] += step
                    values.append(loss(tree.unflatten(moved)))
                np.testing.assert_allclose(bar[place], (values[0] - values[1]) / 2e-5, rtol=1e-6, atol=1e-8)


@every_method
def test_a_bad_sequence_reaches_no_other(method):
    fields, h0, start, g, g_last = draw(1, 40, 3, 4)
    reset = np.isin(np.arange(40), [10, 30])[None]
    inside = (np.arange(40) >= 10) & (np.arange(40) < 30)
    (y, last), (bars, h0_bar, _) = run(METHODS[method], fields, h0, start, reset, g, g_last)
    for bad in (np.nan, np.inf):

        def spoil(x, bad=bad):
            return np.where(inside[:, None], np.float32(bad), x)

        poison = {k: v if k == "a" else spoil(v) for k, v in fields.items()}
        found = run(METHODS[method], poison, h0, start, reset, spoil(g), g_last)
        (y_bad, last_bad), (bars_bad, h0_bad, _) = found
        np.testing.assert_array_equal(y_bad[:, ~inside], y[:, ~inside])
        np.testing.assert_array_equal(last_bad, last)
        np.testing.assert_array_equal(h0_bad, h0_bar)
        for k in ("dt", "b", "c", "x"):
            np.testing.assert_array_equal(bars_bad[k][:, ~inside], bars[k][:, ~inside])


@every_method
def test_bfloat16_is_accumulated_in_float32(method):
    fields, h0, start, g, g_last = draw(1, 200, 4, 4)
    low = {k: jnp.asarray(v, jnp.bfloat16) for k, v in fields.items()}
    none = np.zeros((1, 200), bool)
    (y, _), (bars, *_) = run(METHODS[method], low, h0, start, none, g, g_last)
    assert y.dtype == jnp.float32
    assert {x.dtype for x in jax.tree.leaves(bars)} == {jnp.dtype("bfloat16")}
    expected = oracle({k: np.asarray(v, np.float32) for k, v in low.items()}, h0, none, start)[0]
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_every_state_by_the_general_scan():
    fields, h0, start, _, _ = draw(5, 9, 3, 4)
    reset = patterns(9)
    expected = oracle(fields, h0, reset, start)[2]
    for method in ("sequential", "associative", "autodiff"):
        scan = jax.jit(functools.partial(mru.scan, reset=reset, reset_state=start, method=method))
        np.testing.assert_allclose(scan(Selective(**fields), h0), expected, rtol=1e-5, atol=1e-5)
    op, h = Selective(**fields), expected[:, 3]
    now = Selective(*(v if k == "a" else v[:, 4] for k, v in fields.items()))
    np.testing.assert_allclose(now.apply(np.where(reset[:, 4, None, None], start, h)), expected[:, 4], rtol=1e-4)
    np.testing.assert_allclose(op.readout(expected), oracle(fields, h0, reset, start)[0], rtol=1e-4, atol=1e-5)


def test_vmap_and_more_batch_axes():
    fields, h0, *_ = draw(6, 5, 3, 2)
    expected = oracle(fields, h0, np.zeros((6, 5), bool), 0)
    axes = Selective(0, None, 0, 0, 0)
    for method in ("sequential", "pallas"):
        scan = functools.partial(selective_scan, method=method)
        found = jax.jit(jax.vmap(scan, (axes, 0)))(Selective(**fields), h0)
        many = {k: v if k == "a" else v.reshape(3, 2, *v.shape[1:]) for k, v in fields.items()}
        y, last = jax.jit(scan)(Selective(**many), h0.reshape(3, 2, 3, 2))
        for ours, theirs in zip((*found, y.reshape(6, 5, 3), last.reshape(6, 3, 2)), expected[:2] * 2, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_what_does_not_fit_is_named():
    fields, h0, *_ = draw(2, 5, 3, 4)
    op = Selective(**fields)
    for given, options, message in [
        (op, {"method": "associative"}, r"method must be one of \['auto', 'pallas', 'sequential'\], got 'associative'"),
        (mru.Affine(op.dt, op.x), {}, "op must be a Selective, got Affine"),
        (Selective(**(fields | {"a": fields["b"]})), {}, r"dt and x .*, a \(D, N\), .* got .* a \(2, 5, 4\)"),
        (Selective(**(fields | {"a": fields["a"][:, :2]})), {}, r"a \(D, N\), b and c .* got .* a \(3, 2\)"),
        (Selective(**(fields | {"b": fields["b"][:, :, :2]})), {}, r"b and c \(..., T, N\), got .* b \(2, 5, 2\)"),
        (Selective(**(fields | {"b": None})), {}, "got None as b"),
        (op, {"h0": h0[:, :2]}, r"h0 must have shape \(2, 3, 4\), got \(2, 2, 4\)"),
        (op, {"reset": np.zeros((2, 4), bool)}, r"reset must be bool \(2, 5\), got bool \(2, 4\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            selective_scan(given, **options)


def test_nothing_of_no_size():
    fields, *_ = draw(2, 5, 3, 4)
    op = Selective(**{k: v if k == "a" else v[:0] for k, v in fields.items()})
    y, last = selective_scan(op)
    assert (y.shape, last.shape) == ((0, 5, 3), (0, 3, 4))


# What is stored


def both(method, op, g):
    y, pullback = jax.vjp(lambda op: selective_scan(op, method=method)[0], op)
    return y, pullback(g)


def abstract(batch, time, channels, states):
    def array(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    wide, tall = array(batch, time, channels), array(batch, time, states)
    return Selective(wide, array(channels, states), tall, tall, wide), wide


# The small one has its constants counted in full: no whole sequence of states would fit below the bound.
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the bounds are those of programs for a CPU")
@pytest.mark.parametrize("size", [(2, 512, 64, 16), (8, 16384, 1024, 16)], ids=str)
def test_memory_is_a_small_multiple_of_the_input(size):
    op, g = abstract(*size)
    program = jax.jit(functools.partial(both, "auto")).lower(op, g).compile()
    assert program.memory_analysis().temp_size_in_bytes <= 2 * 4 * np.prod(size[:3])
    alone = jax.jit(lambda op: selective_scan(op)[0]).lower(op).compile()
    assert alone.memory_analysis().temp_size_in_bytes <= 0.2 * 4 * np.prod(size[:3])


@every_method
def test_no_state_of_every_step_is_ever_made(method):
    size = (2, 256, 48, 16)
    jaxpr = jax.make_jaxpr(functools.partial(both, method))(*abstract(*size)).jaxpr
    sizes = [v.aval.size for _, e in equations(jaxpr) for v in e.outvars if hasattr(v.aval, "size")]
    assert max(sizes) == np.prod(size[:3])  # the input's own; the states would be 16 times as many


# The kernel


def pretend_cuda(monkeypatch):
    for module in (selective, selective_kernel):
        monkeypatch.setattr(module, "on_cuda", lambda: True)


@pytest.fixture
def retraced():
    jax.clear_caches()
    yield
    jax.clear_caches()


@pytest.mark.usefixtures("retraced")
def test_auto_takes_the_kernel_where_it_can_and_says_why_not(monkeypatch, caplog):
    trace = jax.make_jaxpr(functools.partial(both, "auto"))
    assert not kernel_calls(trace(*abstract(2, 64, 32, 16)).jaxpr) or selective_kernel.on_cuda()
    pretend_cuda(monkeypatch)
    jax.clear_caches()
    selective._fall_back.cache_clear()
    caplog.set_level("WARNING", "mru.engine.selective")
    assert len(kernel_calls(trace(*abstract(8, 16384, 1024, 16)).jaxpr)) == 2  # one forward and one backward
    assert not caplog.records
    for size, reason in [((1, 8, 4, 512), "at most 256 states"), ((16, 2**17, 1024, 1), "2,147,483,648")]:
        assert not kernel_calls(trace(*abstract(*size)).jaxpr)
        assert reason in caplog.text
        with pytest.raises(ValueError, match=reason):
            jax.make_jaxpr(functools.partial(both, "pallas"))(*abstract(*size))


@pytest.mark.usefixtures("retraced")
@pytest.mark.parametrize("vmap", [False, True])
@pytest.mark.parametrize("size", [(8, 64, 1024, 16), (2, 37, 40, 5), (1, 1, 3, 64)], ids=str)
def test_lowers_for_nvidia_gpus(size, vmap, monkeypatch):
    """Under `jax.vmap` too, as several models that are trained side by side."""
    fields, h0, start, g, g_last = draw(*size)
    arguments = fields, h0, start, np.zeros(size[:2], bool), g, g_last
    both = functools.partial(run, METHODS["auto"])
    if vmap:
        arguments, both = jax.tree.map(lambda x: np.stack([x, x]), arguments), jax.vmap(both)
    pretend_cuda(monkeypatch)
    with jax.sharding.use_abstract_mesh(H200):
        program = jax.export.export(jax.jit(both), platforms=["cuda"], disabled_checks=KERNELS)
        module = program(*arguments).mlir_module()
    assert module.count("@__gpu$xla.gpu.triton(") == 2


@pytest.mark.usefixtures("retraced")
def test_each_device_scans_its_own_sequences(monkeypatch):
    mesh = jax.sharding.AbstractMesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    op, g = abstract(4, 64, 32, 16)
    with jax.sharding.use_abstract_mesh(mesh):
        calls = kernel_calls(jax.make_jaxpr(functools.partial(both, "pallas"))(op, g).jaxpr)
    assert {call.outvars[0].aval.shape[0] for call in calls} == {2}  # of four
