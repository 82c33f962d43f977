"""What an operator gets for its fields, `compose` and `apply`: users' own, and the library's that say no more."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import own_operators
import pytest
from jax import Array
from own_operators import NAMES, MaxPlus, Permuted

import mru
from mru.operators import field

pytestmark = pytest.mark.usefixtures("quick_compile")
jit_scan = jax.jit(mru.scan, static_argnames=("reverse", "method"))
METHODS = ["sequential", "associative", "auto", "autodiff"]
BATCH, CHANNELS = (2,), 3


def close(ours, theirs, **tolerance):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, **{"rtol": 2e-4, "atol": 2e-4} | tolerance), ours, theirs
    )


def setup(name, time, batch=BATCH, seed=0):
    rng = np.random.default_rng(seed)
    op, step = own_operators.draw(name, rng, batch, time, CHANNELS)
    h0, restart = (own_operators.state(name, rng, *batch, CHANNELS) for _ in range(2))
    reset = rng.random((*batch, time)) < 0.3
    return op, step, h0, restart, reset


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("time", [1, 6, 7])
@pytest.mark.parametrize("name", NAMES)
def test_states_are_those_of_a_loop(name, time, method):
    op, step, h0, restart, reset = setup(name, time)
    for reverse in (False, True):
        close(jit_scan(op, h0, reverse=reverse, method=method), own_operators.loop(op, step, h0, None, None, reverse))
        ours = jit_scan(op, h0, reset=reset, reset_state=restart, reverse=reverse, method=method)
        close(ours, own_operators.loop(op, step, h0, reset, restart, reverse))


@pytest.mark.parametrize("name", NAMES)
def test_without_a_batch_and_without_a_state(name):
    op, step, *_ = setup(name, 5, batch=())
    zero = jax.tree.map(np.zeros_like, own_operators.state(name, np.random.default_rng(0), CHANNELS))
    close(mru.scan(op), own_operators.loop(op, step, zero, None, None, False))


def gradients(op, h0, restart, weight, reset, reverse, method):
    leaves, tree = jax.tree.flatten(op)
    moving = [x for x in leaves if jnp.issubdtype(x.dtype, jnp.inexact)]

    def loss(moving, h0, restart):
        given = iter(moving)
        op = tree.unflatten([next(given) if jnp.issubdtype(x.dtype, jnp.inexact) else x for x in leaves])
        h = mru.scan(op, h0, reset=reset, reset_state=restart, reverse=reverse, method=method)
        return sum(jax.tree.leaves(jax.tree.map(lambda h, w: (h * w).sum(), h, weight)))

    return jax.grad(loss, (0, 1, 2))(moving, h0, restart)


jit_gradients = jax.jit(gradients, static_argnames=("reverse", "method"))


def differences(op, step, h0, restart, weight, reset, reverse):
    """The same by central differences of the float64 loop, number by number."""
    leaves, tree = jax.tree.flatten(op)
    wide = [np.asarray(x, np.float64) if x.dtype == np.float32 else np.asarray(x) for x in leaves]
    h0, restart = (jax.tree.map(lambda x: np.asarray(x, np.float64), x) for x in (h0, restart))

    def loss():
        h = own_operators.loop(tree.unflatten(wide), step, h0, reset, restart, reverse)
        return sum(jax.tree.leaves(jax.tree.map(lambda h, w: (h * w).sum(), h, weight)))

    def of(x):
        bar = np.zeros_like(x)
        for i in np.ndindex(x.shape):
            held, values = x[i], []
            for sign in (1, -1):
                x[i] = held + sign * 1e-6
                values.append(loss())
            x[i], bar[i] = held, (values[0] - values[1]) / 2e-6
        return bar

    return [of(x) for x in wide if x.dtype == np.float64], jax.tree.map(of, h0), jax.tree.map(of, restart)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_a_loop(name):
    op, step, h0, restart, reset = setup(name, 5)
    weight = jax.tree.map(lambda x: np.random.default_rng(1).normal(size=(*BATCH, 5, CHANNELS)), h0)
    for reverse in (False, True):
        expected = differences(op, step, h0, restart, weight, reset, reverse)
        for method in METHODS:
            close(jit_gradients(op, h0, restart, weight, reset, reverse, method), expected)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NAMES)
def test_a_bad_sequence_reaches_no_other(name, method):
    op, _, h0, restart, _ = setup(name, 9)
    t = np.arange(9)
    reset, inside = np.tile((t == 3) | (t == 6), (2, 1)), (t >= 3) & (t < 6)
    weight = jax.tree.map(lambda x: np.ones((*BATCH, 9, CHANNELS), np.float32), h0)

    def spoil(x):
        axis = 1
        if x.dtype != np.float32 or x.ndim < 3 or x.shape[axis] != 9:
            return x
        return np.where(inside.reshape(1, 9, *[1] * (x.ndim - 2)), np.nan, x).astype(x.dtype)

    states = [
        jit_scan(tree, h0, reset=reset, reset_state=restart, method=method) for tree in (jax.tree.map(spoil, op), op)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[:, ~inside], b[:, ~inside], rtol=1e-6), *states)
    bars = [jit_gradients(tree, h0, restart, weight, reset, False, method)[0] for tree in (jax.tree.map(spoil, op), op)]
    for a, b in zip(*bars, strict=True):
        if a.ndim >= 3 and a.shape[1] == 9:
            np.testing.assert_allclose(a[:, ~inside], b[:, ~inside], rtol=1e-5, atol=1e-5)


def test_second_derivatives():
    op, _, h0, restart, reset = setup("permuted", 4)

    def loss(factor, method):
        h = mru.scan(Permuted(op.index, factor, op.offset), h0, reset=reset, reset_state=restart, method=method)
        return jnp.sin(h).sum()

    def second(method):
        return jax.jit(jax.grad(lambda x: jnp.sin(jax.grad(lambda x: loss(x, method))(x)).sum()))(op.factor)

    close(second("sequential"), second("autodiff"))


def test_a_scan_may_be_mapped_and_carried_on():
    op, step, h0, *_ = setup("pairs", 6)
    each = jax.jit(jax.vmap(mru.scan))(op, h0)
    close(each, own_operators.loop(op, step, h0, None, None, False))
    first = mru.scan(jax.tree.map(lambda x: x[:, :4], op), h0)
    last = jax.tree.map(lambda x: x[:, -1], first)
    close(jax.tree.map(lambda x: x[:, 4:], each), mru.scan(jax.tree.map(lambda x: x[:, 4:], op), last))


class WithJacobian(MaxPlus):
    """The same, whose backward pass is one affine scan."""

    def compose(self, earlier):
        return WithJacobian(*vars(super().compose(earlier)).values())

    def jacobian(self, h):
        return (h + self.a >= self.b).astype(h.dtype)


@pytest.mark.parametrize("method", ["sequential", "associative"])
def test_a_jacobian_gives_the_same_gradients(method):
    op, _, h0, restart, reset = setup("max-plus", 7)
    weight = np.random.default_rng(1).normal(size=(*BATCH, 7, CHANNELS)).astype(np.float32)
    args = h0, restart, weight, reset, False, method
    close(jit_gradients(WithJacobian(op.a, op.b), *args), jit_gradients(op, *args))


def test_what_a_field_may_be_is_said_at_the_field():
    class Strict(mru.Operator):
        gain: Array = field(kinds="f")
        flag: Array = field(kinds="b")
        scale: Array | float = field(scalar=True, default=1.0)

        def apply(self, h):
            return jnp.where(self.flag, self.gain * self.scale, h)

        def compose(self, earlier):
            return Strict(jnp.where(self.flag, self.gain, earlier.gain), self.flag | earlier.flag, self.scale)

    ones = jnp.ones((4, 2))
    np.testing.assert_array_equal(mru.scan(Strict(ones, ones > 0, 2.0)), 2 * np.ones((4, 2)))
    for wrong, message in [
        (Strict(ones * 1j, ones > 0), "gain of Strict must be real, got gain complex64"),
        (Strict(ones, ones), "flag of Strict must be boolean"),
        (Strict(ones, ones > 0, ones), r"scale of a Strict must be a scalar, got shape \(4, 2\)"),
        (Strict(ones, ones[:, :1] > 0), None),
        (Strict(ones, jnp.ones((4, 3), bool)), r"must broadcast to \(..., T, N\)"),
        (Strict(None, ones > 0), "got None as gain"),
    ]:
        if message is None:
            assert mru.scan(wrong).shape == (4, 2)
            continue
        with pytest.raises(ValueError, match=message):
            mru.scan(wrong)


def test_a_state_of_another_structure_is_refused():
    op, *_ = setup("pairs", 4)
    with pytest.raises(ValueError, match=r"h0 must be \{'y': \(2, 3\), 'z': \(2, 3\)\}, got \(2, 3\)"):
        mru.scan(op, jnp.zeros((2, 3)))


def test_what_is_owed_and_missing_is_named():
    class Empty(mru.Operator):
        a: Array

    for missing, call in [("apply", {"method": "sequential"}), ("compose", {"method": "associative"})]:
        with pytest.raises(NotImplementedError, match=f"Empty must define {missing}"):
            mru.scan(Empty(jnp.ones((4, 2))), **call)


def test_no_kernel_is_asked_of_it():
    with pytest.raises(ValueError, match="method 'pallas' can not run this: MaxPlus is no KernelOperator"):
        mru.scan(MaxPlus(jnp.ones((4, 2)), jnp.ones((4, 2))), method="pallas")


@pytest.mark.parametrize("method", ["associative", "sequential"])
def test_blocks_that_are_constant_are_not_materialised(method):
    """In both passes: no array has blocks and a time axis, whole or halved; those of a batch (2,) sum cotangents."""
    op, _, h0, restart, reset = setup("constant pairs", 64)
    weight = jax.tree.map(lambda x: np.ones((*BATCH, 64, CHANNELS), np.float32), h0)
    run = functools.partial(gradients, reset=reset, reverse=False, method=method)
    shapes = set(re.findall(r"f32\[([\d,]+)\]", str(jax.make_jaxpr(run)(op, h0, restart, weight))))
    assert "3,2,2" in shapes
    assert "2,64,3" in shapes
    assert {shape for shape in shapes if shape.endswith("3,2,2")} <= {"3,2,2", "2,3,2,2"}
