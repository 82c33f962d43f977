import functools
import re
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from reference import loop, np_sign, patterns, soft_step

from mru import Affine, Clamp, Latch, Play, Relay, scan

METHODS = ["sequential", "associative", "auto"]
# JAX does not promise that what is exported of a kernel runs later, and wants to be told that this is known.
KERNELS = [jax.export.DisabledSafetyCheck.custom_call("__gpu$xla.gpu.triton")]
jit_scan = jax.jit(scan, static_argnames=("reverse", "method"))


@dataclass(frozen=True)
class Case:
    """An operator of the scan: how to draw its fields, and its map written out.

    Attributes:
        draw: Random generator, shape -> fields by name, NumPy.
        build: Fields -> operator.
        map: (fields of one step, state) -> state, in NumPy.
        soft: The same in JAX, in the form whose derivative is the one that is documented.
        exact: The states are selections, which do not round.
    """

    draw: Callable
    build: Callable
    map: Callable
    soft: Callable | None = None
    exact: bool = False


def normal(rng, shape, dtype):
    x = rng.normal(size=(2, *shape))
    return (x[0] + 1j * x[1] if dtype is complex else x[0]).astype(np.complex64 if dtype is complex else np.float32)


def affine(dtype, constant):
    def draw(rng, shape):
        a = normal(rng, shape[-1:] if constant else shape, dtype)
        return {"a": (0.8 * a / np.maximum(1, abs(a))).astype(a.dtype), "b": normal(rng, shape, dtype)}

    return Case(draw, lambda f: Affine(**f), lambda f, h: f["a"] * h + f["b"])


def latch(dtype):
    def draw(rng, shape):
        return {"write": (rng.random(shape) < 0.4).astype(dtype), "value": normal(rng, shape, float)}

    def soft(f, h):
        w = f["write"].astype(h.dtype)
        return w * f["value"] + (1 - w) * h

    return Case(
        draw, lambda f: Latch(**f), lambda f, h: np.where(f["write"] != 0, f["value"], h), soft, exact=dtype is bool
    )


def clamp():
    def draw(rng, shape):
        centre, radius = normal(rng, shape, float), abs(normal(rng, shape, float))
        return {"lo": centre - radius, "hi": centre + radius}

    return Case(draw, lambda f: Clamp(**f), lambda f, h: np.minimum(np.maximum(h, f["lo"]), f["hi"]), exact=True)


def relay(leak, width):
    def draw(rng, shape):
        threshold = normal(rng, shape, float)
        return {"candidate": normal(rng, shape, float), "threshold": threshold + np.float32(0.3) * np.sign(threshold)}

    def step(f, h):
        c, beta = f["candidate"], abs(f["threshold"])
        z = np.where(abs(c) >= beta, 1.0, 0.0)
        return z * (np_sign(c) + (leak or 0) * h) + (1 - z) * h

    def soft(f, h):
        c, beta = f["candidate"], jnp.abs(f["threshold"])
        z = soft_step(jnp.abs(c) - beta, width)
        return z * (2 * soft_step(c, width) - 1 + (leak or 0) * h) + (1 - z) * h

    return Case(draw, lambda f: Relay(**f, leak=leak, width=width), step, soft)


def play():
    def draw(rng, shape):
        return {"centre": normal(rng, shape, float), "radius": normal(rng, shape, float)}

    def step(f, h):
        r = np.logaddexp(f["radius"], 0)
        return np.minimum(np.maximum(h, f["centre"] - r), f["centre"] + r)

    def soft(f, h):
        r = jnp.logaddexp(f["radius"], 0)
        return jnp.minimum(jnp.maximum(h, f["centre"] - r), f["centre"] + r)

    return Case(draw, lambda f: Play(**f), step, soft)


CASES = {
    "affine": affine(float, False),
    "complex affine": affine(complex, False),
    "constant a": affine(float, True),
    "constant complex a": affine(complex, True),
    "latch": latch(bool),
    "latch float": latch(np.float32),
    "clamp": clamp(),
    "relay": relay(None, 1.0),
    "relay leak 0": relay(0.0, 1.0),
    "relay leak 0.3": relay(0.3, 2.0),
    "play": play(),
}
every_case = pytest.mark.parametrize("name", CASES)


def at(fields, t):
    """The fields of step t; a coefficient that is constant in time as it is."""
    return {k: v if v.ndim == 1 else v[..., t, :] for k, v in fields.items()}


def oracle(case, fields, h0, reset=None, reset_state=None, reverse=False):
    """The states in float64 or complex128, from the maps."""
    wide = {k: v if v.dtype == bool else v.astype(np.result_type(v, np.float64)) for k, v in fields.items()}
    time = max(v.shape[-2] for v in wide.values() if v.ndim > 1)
    h0 = h0.astype(np.result_type(h0, np.float64))
    return loop(lambda t, h: case.map(at(wide, t), h), time, h0, reset, reset_state, reverse)


def state_like(rng, fields, shape):
    return normal(rng, shape, complex if any(np.iscomplexobj(v) for v in fields.values()) else float)


@pytest.mark.parametrize("time", [1, 2, 7, 16])
@every_case
def test_states_match_the_loop(name, time):
    case, rng, reset = CASES[name], np.random.default_rng(time), patterns(time)
    shape = (len(reset), time, 2)  # each reset pattern is an element of the batch
    fields = case.draw(rng, shape)
    h0, start = state_like(rng, fields, shape[::2]), state_like(rng, fields, shape[::2])
    kinds = {"reset to": {"reset": reset, "reset_state": start}}
    if time == 7:
        kinds |= {"none": {}, "reset": {"reset": reset}}

    @jax.jit
    def run(fields, h0):
        op = case.build(fields)
        return {
            (method, kind, reverse): scan(op, h0, **kinds[kind], reverse=reverse, method=method)
            for method in (METHODS if time == 2 else METHODS[:2])
            for kind in kinds
            for reverse in (False, True)
        }

    for (method, kind, reverse), h in run(fields, h0).items():
        expected = oracle(case, fields, h0, **kinds[kind], reverse=reverse)
        assert h.dtype == h0.dtype
        message = f"{method} {kind} reverse={reverse}"
        if case.exact:
            np.testing.assert_array_equal(h, expected, err_msg=message)
        else:
            np.testing.assert_allclose(h, expected, rtol=1e-5, atol=1e-5, err_msg=message)


@given(
    name=st.sampled_from(list(CASES)),
    batch=st.lists(st.integers(1, 3), max_size=2),
    time=st.integers(1, 9),
    channels=st.integers(1, 3),
    reset_axes=st.integers(0, 2),
    reverse=st.booleans(),
    method=st.sampled_from(METHODS),
    seed=st.integers(0, 99),
)
@settings(max_examples=25)
def test_any_shape(name, batch, time, channels, reset_axes, reverse, method, seed):
    case, rng = CASES[name], np.random.default_rng(seed)
    fields = case.draw(rng, (*batch, time, channels))
    h0 = state_like(rng, fields, (*batch, channels))
    reset = rng.random((*batch[len(batch) - min(reset_axes, len(batch)) :], time)) < 0.3  # broadcast over the rest
    start = state_like(rng, fields, (channels,))
    h = jit_scan(case.build(fields), h0, reset=reset, reset_state=start, reverse=reverse, method=method)
    assert h.shape == (*batch, time, channels)
    np.testing.assert_allclose(h, oracle(case, fields, h0, reset, start, reverse), rtol=1e-5, atol=1e-5)


def test_two_steps_by_hand():
    op = Affine(jnp.array([[2.0], [3.0]]), jnp.array([[10.0], [100.0]]))
    np.testing.assert_array_equal(scan(op), [[10], [130]])  # the initial state is zero by default
    np.testing.assert_array_equal(scan(op, jnp.ones(1)), [[12], [136]])
    np.testing.assert_array_equal(scan(op, jnp.ones(1), reverse=True), [[216], [103]])
    np.testing.assert_array_equal(scan(op, jnp.ones(1), reset=np.array([False, True])), [[12], [103]])
    reset = {"reset": np.array([False, True]), "reset_state": jnp.full(1, 5.0)}
    np.testing.assert_array_equal(scan(op, jnp.ones(1), **reset), [[12], [115]])
    np.testing.assert_array_equal(scan(op, jnp.ones(1), **reset, reverse=True), [[240], [115]])


# Gradients


def split(fields):
    """The fields that are differentiated, and the others."""
    return {k: v for k, v in fields.items() if v.dtype != bool}, {k: v for k, v in fields.items() if v.dtype == bool}


@pytest.mark.usefixtures("quick_compile")
@every_case
def test_gradients_match_those_of_the_loop(name):
    case, time = CASES[name], 4
    rng, reset = np.random.default_rng(7), patterns(time)
    shape = (len(reset), time, 2)
    fields = case.draw(rng, shape)
    h0, start, weight = (state_like(rng, fields, s) for s in (shape[::2], shape[::2], shape))
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda v: v if v.dtype == bool else v.astype(np.result_type(v, float)), fields)
        smooth, rest = split(wide)
        arguments = jax.tree.map(jnp.asarray, (smooth, *(np.asarray(v, np.result_type(v, float)) for v in (h0, start))))

        def loss(states):
            return jnp.sum(weight * jnp.sin(states) if name == "affine" else weight * states).real

        def by_scan(smooth, h0, start, method, reverse, reset):
            kind = {} if reset is None else {"reset": reset, "reset_state": start}
            return loss(scan(case.build(smooth | rest), h0, reverse=reverse, method=method, **kind))

        def by_loop(smooth, h0, start, reverse, reset):
            step = case.soft or (lambda f, h: case.build(f).apply(h))
            return loss(loop(lambda t, h: step(at(smooth | rest, t), h), time, h0, reset, start, reverse, jnp))

        expected = jax.jit(jax.grad(by_loop, (0, 1, 2)), static_argnums=3)
        grads = jax.jit(jax.grad(by_scan, (0, 1, 2)), static_argnums=(3, 4))
        for reverse, r in [(False, None), (False, reset), (True, reset)]:
            theirs = expected(*arguments, reverse, r)
            for method in METHODS[:1] if r is None else METHODS[:2]:
                mine = grads(*arguments, method, reverse, r)
                jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9), mine, theirs)


@pytest.mark.usefixtures("quick_compile")
@pytest.mark.parametrize("method", METHODS[:2])
@pytest.mark.parametrize("name", ["affine", "complex affine", "constant a", "clamp"])
def test_gradients_match_finite_differences(name, method):
    case, rng = CASES[name], np.random.default_rng(11)
    fields = case.draw(rng, (5, 2))
    h0, start = state_like(rng, fields, (2,)), state_like(rng, fields, (2,))
    with jax.enable_x64(True):
        arguments = jax.tree.map(lambda v: jnp.asarray(v, np.result_type(v, float)), (fields, h0, start))

        def states(fields, h0, start):
            reset = np.arange(5) == 3
            return scan(case.build(fields), h0, reset=reset, reset_state=start, method=method)

        # The second order of the affine maps: the gradient of the gradient.
        check_grads(jax.jit(states), arguments, order=1 if name == "clamp" else 2, modes=["rev"], eps=1e-5)


@pytest.mark.parametrize("method", METHODS[:2])
def test_gradient_of_the_gradient_by_hand(method):
    # h_2 = a^2 h_0 + (a + 1) b has second derivatives 2 h_0, 1 and 2 a in (aa), (ab), (a h_0).
    def last(v):
        a, b, h0 = v
        return scan(Affine(jnp.full((2, 1), a), jnp.full((2, 1), b)), h0[None], method=method)[-1, 0]

    hessian = jax.jit(jax.jacrev(jax.jacrev(last)))(jnp.array([0.5, 3.0, 7.0]))
    np.testing.assert_allclose(hessian, [[14, 1, 1], [1, 0, 0], [1, 0, 0]])


def test_clamp_passes_the_gradient_to_the_active_bound():
    op = Clamp(jnp.array([[0.0], [3.0], [2.0]]), jnp.array([[9.0], [8.0], [2.5]]))  # hold, raise to lo, lower to hi

    @jax.jit
    def weighted(op, h0):
        return (scan(op, h0) * jnp.array([[1.0], [10], [100]])).sum()

    grads, h0_bar = jax.grad(weighted, (0, 1))(op, jnp.ones(1))
    np.testing.assert_array_equal(grads.lo.ravel(), [0, 10, 0])
    np.testing.assert_array_equal(grads.hi.ravel(), [0, 0, 100])
    np.testing.assert_array_equal(h0_bar, [1])


# Exactness


def exact_operators(rng, shape):
    zero_one = (rng.random(shape) < 0.9).astype(np.float32)
    value = normal(rng, shape, float)
    return {
        "latch": Latch(zero_one == 0, value),
        "latch float": Latch(1 - zero_one, value),
        "clamp": CASES["clamp"].build(CASES["clamp"].draw(rng, shape)),
        "affine": Affine(zero_one, (1 - zero_one) * value),
    }


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", ["latch", "latch float", "clamp", "affine"])
def test_parallel_is_bitwise_sequential(kind, reverse):
    rng = np.random.default_rng(0)
    op = exact_operators(rng, (37, 200))[kind]
    h0, reset = normal(rng, (200,), float), np.isin(np.arange(37), [5, 19])
    sequential, parallel = (
        np.asarray(jit_scan(op, h0, reset=reset, reverse=reverse, method=method)) for method in METHODS[:2]
    )
    np.testing.assert_array_equal(sequential.view(np.int32), parallel.view(np.int32))


@pytest.mark.parametrize("method", METHODS[:2])
@pytest.mark.parametrize("kind", ["latch", "clamp", "affine", "constant a"])
def test_a_held_value_is_held_for_100_000_steps(kind, method):
    time, rng = 100_000, np.random.default_rng(0)
    wobble = rng.uniform(0.2, 2, (time, 1)).astype(np.float32)
    op = {
        "latch": Latch(np.zeros((time, 1), bool), wobble),
        "clamp": Clamp(-wobble, wobble),
        "affine": Affine(np.ones((time, 1), np.float32), np.zeros((time, 1), np.float32)),
        "constant a": Affine(np.ones(1, np.float32), np.zeros((time, 1), np.float32)),
    }[kind]
    held = np.float32(0.1)
    h = jit_scan(op, held[None], method=method)
    assert np.unique(np.asarray(h)).tolist() == [held]


# Non-finite values


@pytest.mark.usefixtures("quick_compile")
@every_case
def test_a_bad_sequence_reaches_no_other(name):
    case, time = CASES[name], 9
    rng, t = np.random.default_rng(5), np.arange(time)
    ends = {False: (t == 3) | (t == 6), True: (t == 2) | (t == 5)}  # sequences 0-2, 3-5, 6-8, in both directions
    inside = (t >= 3) & (t < 6)
    fields = case.draw(rng, (time, 2))
    h0, weight = state_like(rng, fields, (2,)), state_like(rng, fields, (time, 2))

    def spoil(v, bad):
        return v if v.dtype == bool or v.ndim == 1 else np.where(inside[:, None], v.dtype.type(bad), v)

    @functools.partial(jax.jit, static_argnums=(3, 4))
    def run(fields, h0, weight, method, reverse):
        smooth, rest = split(fields)

        def states(smooth, h0):
            op = case.build(smooth | rest)
            return scan(op, h0, reset=ends[reverse], reset_state=jnp.zeros(2), reverse=reverse, method=method)

        h, pullback = jax.vjp(states, smooth, h0)
        return h, *pullback(weight)

    for method in METHODS[:2]:
        for reverse in (False, True):
            clean, clean_bar, clean_h0 = run(fields, h0, weight, method, reverse)
            assert np.isfinite(clean).all()
            for bad in (np.nan, np.inf):
                poison = {k: spoil(v, bad) for k, v in fields.items()}
                h, bar, h0_bar = run(poison, h0, spoil(weight, bad), method, reverse)
                np.testing.assert_array_equal(h[~inside], clean[~inside])
                np.testing.assert_array_equal(h0_bar, clean_h0)
                for k in bar:
                    if bar[k].ndim > 1:
                        np.testing.assert_array_equal(bar[k][~inside], clean_bar[k][~inside], err_msg=f"{k} {method}")


# Precision


@pytest.mark.usefixtures("quick_compile")
@every_case
def test_bfloat16_is_accumulated_in_float32(name):
    case, rng = CASES[name], np.random.default_rng(2)
    if "complex" in name:
        pytest.skip("there is no complex bfloat16")
    fields = case.draw(rng, (200, 4))
    low = {k: v if v.dtype == bool else jnp.asarray(v, jnp.bfloat16) for k, v in fields.items()}
    rounded = {k: np.asarray(v, v.dtype if v.dtype == bool else np.float32) for k, v in low.items()}
    for method in METHODS[:2]:
        h = jit_scan(case.build(low), jnp.zeros(4, jnp.bfloat16), method=method)
        assert h.dtype == jnp.float32
        np.testing.assert_allclose(h, oracle(case, rounded, np.zeros(4)), rtol=1e-5, atol=1e-5)
    smooth, rest = split(low)
    grads = jax.jit(jax.grad(lambda smooth: scan(case.build(smooth | rest)).sum()))(smooth)
    assert all(g.dtype == jnp.bfloat16 for g in grads.values())


# What is compiled


def equations(jaxpr):
    """All equations of a jaxpr and of those inside it, with the jaxpr that each stands in."""
    for equation in jaxpr.eqns:
        yield jaxpr, equation
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def traced(case, fields, method, reset, reverse=False):
    """Jaxpr of the states and of the gradient in fields, h0 and reset_state."""
    smooth, rest = split(fields)
    channels = next(iter(fields.values())).shape[-1]

    def loss(smooth, h0, start):
        kind = {"reset": reset, "reset_state": start} if reset is not None else {}
        h = scan(case.build(smooth | rest), h0, method=method, reverse=reverse, **kind)
        return (abs(h) ** 2).sum()

    h0 = np.zeros(channels, np.result_type(np.float32, *smooth.values()))
    return jax.make_jaxpr(jax.value_and_grad(loss, (0, 1, 2)))(smooth, h0, h0).jaxpr


@pytest.mark.parametrize("method", METHODS[:2])
@every_case
def test_the_initial_state_adds_no_element_to_the_scan(name, method):
    time = 37
    fields = CASES[name].draw(np.random.default_rng(0), (time, 3))
    for reset in (None, np.arange(time) == 5):
        shapes = {v.aval.shape for _, e in equations(traced(CASES[name], fields, method, reset)) for v in e.outvars}
        assert (time, 3) in shapes
        assert not any(time + 1 in shape for shape in shapes)


@pytest.mark.parametrize("method", METHODS[:2])
@pytest.mark.parametrize("name", ["constant a", "constant complex a"])
def test_a_constant_coefficient_is_never_materialised(name, method):
    """What is computed from `a` alone keeps the size of `a`: powers of it, never one copy a step."""
    time, channels = 64, 3
    fields = CASES[name].draw(np.random.default_rng(0), (time, channels))

    def check(jaxpr, constant):
        for e in jaxpr.eqns:
            known = [not hasattr(v, "count") or v in constant for v in e.invars]
            inner = [getattr(v, "jaxpr", v) for v in e.params.values() if hasattr(getattr(v, "jaxpr", v), "eqns")]
            for body in inner:
                if len(body.invars) == len(e.invars):
                    check(body, {v for v, k in zip(body.invars, known, strict=True) if k})
            if e.invars and all(known) and any(hasattr(v, "count") for v in e.invars):
                constant.update(e.outvars)
                assert all(np.size(np.empty(v.aval.shape)) <= channels for v in e.outvars), e

    for reset in (None, np.arange(time) == 5):
        jaxpr = traced(CASES[name], fields, method, reset)
        check(jaxpr, {jaxpr.invars[0]})


@pytest.mark.parametrize("method", ["sequential", "associative", "pallas"])
def test_the_states_of_a_relay_without_a_leak_are_kept_as_int8(method):
    fields = jax.tree.map(jnp.asarray, CASES["relay"].draw(np.random.default_rng(0), (2, 5, 3)))

    def kept(leak):
        _, pullback = jax.vjp(lambda fields: scan(Relay(**fields, leak=leak), method=method), fields)
        return sorted(str(x.dtype) for x in jax.tree.leaves(pullback) if x.shape == (2, 5, 3))

    assert kept(None) == ["float32", "float32", "int8"]  # candidate, threshold, states
    assert kept(0.5) == ["float32"] * 3


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
@every_case
def test_lowers_for_accelerators(name, platform):
    case, time = CASES[name], 5
    fields = case.draw(np.random.default_rng(0), (2, time, 3))
    smooth, rest = split(fields)
    h0 = np.zeros(3, np.result_type(np.float32, *smooth.values()))

    def loss(smooth, h0):
        states = [
            scan(case.build(smooth | rest), h0, reset=np.arange(time) == 2, method=method, reverse=method == "auto")
            for method in METHODS
        ]
        return sum((abs(h) ** 2).sum() for h in states)

    both = jax.jit(jax.value_and_grad(loss, (0, 1)))
    exported = jax.export.export(both, platforms=[platform], disabled_checks=KERNELS)(smooth, h0)
    assert exported.platforms == (platform,)


@pytest.mark.parametrize("name", ["affine", "complex affine", "latch", "clamp"])
def test_what_is_exported_takes_a_batch_of_any_size(name):
    (batch,), case = jax.export.symbolic_shape("batch"), CASES[name]
    fields = case.draw(np.random.default_rng(0), (2, 5, 3))
    op = case.build(fields)
    any_size = jax.tree.map(lambda x: jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype), op)
    exported = jax.export.export(jax.jit(scan), platforms=["cpu"])(any_size)
    np.testing.assert_array_equal(exported.call(op), jax.jit(scan)(op))
    expected = oracle(case, fields, np.zeros((2, 3), exported.out_avals[0].dtype))
    np.testing.assert_allclose(exported.call(op), expected, rtol=1e-5, atol=1e-5)


def test_auto_is_parallel_on_accelerators_and_sequential_on_cpu():
    op = Clamp(np.zeros((8, 1), np.float32), np.ones((8, 1), np.float32))
    for platform, loops in [("cpu", True), ("tpu", False), ("cuda", False)]:
        exported = jax.export.export(jax.jit(scan), platforms=[platform], disabled_checks=KERNELS)(op)
        assert ("stablehlo.while" in exported.mlir_module()) == loops


@pytest.mark.usefixtures("quick_compile")
def test_vmap_and_jit():
    rng, reset = np.random.default_rng(0), patterns(7)
    for name, case in CASES.items():
        fields = case.draw(rng, (len(reset), 7, 2))
        h0 = state_like(rng, fields, (len(reset), 2))
        axes = {k: None if v.ndim == 1 else 0 for k, v in fields.items()}
        mapped = jax.jit(jax.vmap(lambda f, h, r: scan(case.build(f), h, reset=r), (axes, 0, 0)))(fields, h0, reset)  # noqa: B023
        np.testing.assert_allclose(mapped, oracle(case, fields, h0, reset), rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("name", ["affine", "clamp"])
def test_outside_of_jit_nothing_is_compiled_twice(name, caplog):
    """For notebooks: the first call of a kind compiles its loops, and later ones find them."""
    fields = CASES[name].draw(np.random.default_rng(0), (1, 37, 5))
    fields = {k: jnp.asarray(v) for k, v in fields.items()}

    def both():
        h, pullback = jax.vjp(lambda fields: scan(CASES[name].build(fields)), fields)
        jax.block_until_ready(pullback(h))

    for compiles in (True, False):
        caplog.clear()
        with jax.log_compiles():
            both()
        assert any("Finished XLA compilation" in message for message in caplog.messages) == compiles


def test_leak_and_width_may_be_traced():
    case, fields = CASES["relay leak 0.3"], CASES["relay leak 0.3"].draw(np.random.default_rng(0), (6, 2))
    run = jax.jit(lambda leak, width: scan(Relay(**fields, leak=leak, width=width)))
    np.testing.assert_allclose(run(0.3, 2.0), oracle(case, fields, np.zeros(2)), rtol=1e-5)
    np.testing.assert_allclose(run(0.0, 2.0), oracle(CASES["relay"], fields, np.zeros(2)), rtol=1e-5)


# Errors

ONES = np.ones((2, 5, 3), np.float32)
GOOD = Affine(ONES, ONES)


@pytest.mark.parametrize(
    ("op", "kwargs", "expected", "given"),
    [
        (GOOD, {"method": "magic"}, "'associative', 'auto', 'autodiff', 'pallas', 'sequential'", "'magic'"),
        (GOOD, {"h0": np.zeros((2, 4))}, "(2, 3)", "(2, 4)"),
        (GOOD, {"h0": np.zeros((3, 3))}, "(2, 3)", "(3, 3)"),
        (GOOD, {"h0": 0.0}, "(2, 3)", "()"),
        (GOOD, {"reset_state": np.zeros(2)}, "reset_state must have shape (2, 3)", "(2,)"),
        (GOOD, {"reset": np.zeros((2, 5))}, "bool (2, 5)", "(2, 5)"),
        (GOOD, {"reset": np.zeros((2, 4), bool)}, "bool (2, 5)", "bool (2, 4)"),
        (GOOD, {"reset": np.zeros((3, 5), bool)}, "bool (2, 5)", "bool (3, 5)"),
        (Affine(ONES, ONES[:, :4]), {}, "broadcast to (..., T, N)", "b float32 (2, 4, 3)"),
        (Affine(ONES[0, 0], ONES[0, 0]), {}, "(..., T, N) with T >= 1", "b float32 (3,)"),
        (Affine(ONES[:, :0], ONES[:, :0]), {}, "(..., T, N) with T >= 1", "(2, 0, 3)"),
        (Affine(ONES.astype(int), ONES.astype(int)), {}, "must be floating point", "int32"),
        (Latch(ONES.astype(int), ONES), {}, "must be floating point", "write int32"),
        (Clamp(ONES * 1j, ONES * 1j), {}, "must be real", "complex64"),
        (ONES, {}, "an mru.Operator, such as an Affine", "ndarray"),
    ],
    ids=lambda v: "" if not isinstance(v, str) else v,
)
def test_errors_name_the_expected_and_the_given(op, kwargs, expected, given):
    with pytest.raises(ValueError, match=re.escape(expected)) as caught:
        scan(op, **kwargs)
    assert given in str(caught.value)


@pytest.mark.parametrize("method", ["sequential", "associative", "pallas"])
def test_a_real_field_beside_a_complex_one(method):
    a, b = jnp.full((5, 2), 0.5), jnp.arange(10.0).reshape(5, 2) + 1j
    for real in (lambda a: (a, b), lambda a: (a[0], b), lambda a: (a + 0.5j, b.real)):
        h, pullback = jax.vjp(lambda a: scan(Affine(*real(a)), method=method), a)  # noqa: B023
        values = [np.broadcast_to(x, (5, 2)).astype(complex) for x in real(np.asarray(a))]
        expected = loop(lambda t, h: values[0][t] * h + values[1][t], 5, np.zeros(2, complex))  # noqa: B023
        np.testing.assert_allclose(h, expected, rtol=1e-6)
        (bar,) = pullback(jnp.ones_like(h))
        assert bar.dtype == jnp.float32


@pytest.mark.filterwarnings("error")  # JAX warns where it drops an imaginary part by itself
@pytest.mark.parametrize("method", ["sequential", "associative"])
def test_a_real_gate_of_complex_values(method):
    write, value = jnp.array([[1.0], [0.0], [1.0]]), jnp.array([[1 + 2j], [3 - 1j], [-2 + 1j]])
    h, pullback = jax.vjp(lambda write: scan(Latch(write, value), method=method), write)
    np.testing.assert_array_equal(h[:, 0], [1 + 2j, 1 + 2j, -2 + 1j])
    (bar,) = pullback(jnp.full((3, 1), 1 - 1j))
    # g = 2 - 2j, 1 - 1j, 1 - 1j, that of the first step with what the second passes on; Re(g (value - h)).
    np.testing.assert_allclose(bar[:, 0], [6, -1, -4])


@pytest.mark.parametrize("method", ["sequential", "associative", "pallas"])
@pytest.mark.parametrize("leak", [None, 0.0])
def test_a_nan_state_held_by_a_relay_makes_the_gradient_nan(method, leak):
    c, beta, reset = jnp.full((4, 1), 0.1), jnp.ones((4, 1)), jnp.array([False, False, True, False])
    start = {"h0": jnp.full(1, jnp.nan), "reset": reset, "reset_state": jnp.ones(1)}
    bar = jax.jit(jax.grad(lambda c: scan(Relay(c, beta, leak), method=method, **start).sum()))(c)
    np.testing.assert_array_equal(jnp.isnan(bar[:, 0]), [True, True, False, False])


@pytest.mark.parametrize("time", [1, 2, 9])
@pytest.mark.parametrize("reverse", [False, True])
def test_many_complex_channels_with_a_constant_coefficient(time, reverse):
    """They have a loop of their own on a CPU: beside one in complex128, and derivatives of the associative form."""
    rng = np.random.default_rng(time)
    a, b, h0, g = (normal(rng, shape, complex) for shape in [(99,), (2, time, 99), (2, 99), (2, time, 99)])
    a = (0.9 * a / np.maximum(1, abs(a))).astype(np.complex64)
    expected, h = np.empty(b.shape, complex), h0.astype(complex)
    for t in range(time)[:: -1 if reverse else 1]:
        expected[:, t] = h = a * h + b[:, t]

    def run(a, b, h0, method):
        return scan(Affine(a, b), h0, reverse=reverse, method=method)

    h, pull = jax.vjp(functools.partial(run, method="sequential"), a, b, h0)
    np.testing.assert_allclose(h, expected, rtol=1e-5, atol=1e-5)
    _, other = jax.vjp(functools.partial(run, method="autodiff"), a, b, h0)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), pull(g), other(g))
    jaxpr = str(jax.make_jaxpr(functools.partial(run, method="sequential"))(a, b, h0))
    assert (f"f32[2,{time},2,99]" in jaxpr) == (time > 1)  # as real numbers


@pytest.mark.parametrize("method", ["sequential", "associative", "pallas"])
def test_the_cotangent_of_a_constant_in_half_precision(method):
    x = jnp.ones((12, 3))
    bar = jax.jit(jax.grad(lambda a: scan(Affine(a.astype(jnp.bfloat16) * 2, x), method=method).sum()))
    np.testing.assert_allclose(
        bar(jnp.full(3, 0.25)), 2 * sum(t * (12 - t) * 0.5 ** (t - 1) for t in range(1, 12)), rtol=1e-2
    )


@pytest.mark.parametrize("method", ["sequential", "associative", "pallas"])
def test_nothing_to_scan(method):
    for shape in ((0, 5, 3), (2, 5, 0)):
        h, pullback = jax.vjp(lambda op: scan(op, method=method), Affine(jnp.ones(shape), jnp.ones(shape)))
        assert h.shape == shape
        assert pullback(h)[0].a.shape == shape


def test_wrong_kinds_of_numbers_are_refused():
    x = jnp.ones((4, 2))
    for name in ("h0", "reset_state"):
        with pytest.raises(ValueError, match=f"{name} must be real, as the fields are, got complex64"):
            scan(Affine(x, x), **{name: jnp.ones(2) + 1j})
    with pytest.raises(ValueError, match="fields of Affine must be arrays, got None as a"):
        scan(Affine(None, x))


@pytest.mark.parametrize(("bad", "constant"), [(("a", 1), False), (("a", 3), False)] + [
    (("b", step), constant) for step in (1, 3) for constant in (False, True)
])  # fmt: skip
def test_second_derivatives_do_not_reach_past_a_reset(bad, constant):
    """A NaN in one sequence changes nothing of the other, with a coefficient that is constant in time or not."""
    field, step = bad
    inside = slice(2) if step > 1 else slice(2, None)

    def loss(scale, value):
        fields = {"a": jnp.full((4, 1), 0.5), "b": jnp.ones((4, 1))}
        fields[field] = fields[field].at[step].set(value)
        fields["a"] = fields["a"][0] * scale if constant else fields["a"].at[inside].multiply(scale)
        reset = jnp.array([False, False, True, False])
        return (scan(Affine(**fields), jnp.ones(1), reset=reset)[inside] ** 2).sum()

    second = jax.jit(jax.grad(jax.grad(loss)))
    # h = 1.5, 1.75 where s = 1: h_1 = s / 2 + 1, h_2 = s h_1 / 2 + 1, so that h_1' = h_2'' = 1 / 2 and h_2' = 1.
    assert second(1.0, jnp.nan) == pytest.approx(2 * 0.25 + 2 * 1 + 2 * 1.75 * 0.5)


def test_python_scalars_widen_nothing():
    with jax.enable_x64(True):
        x = jnp.ones((4, 2), jnp.float32)
        assert scan(Affine(0.9, x)).dtype == scan(Relay(x, 0.5)).dtype == jnp.float32
