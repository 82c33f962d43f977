"""What every cell of the registry promises; a new cell is covered by being registered."""

import functools
import inspect
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference import shake, soft_step

from mru import Affine, Clamp, Latch, Play, Relay, cells

D, N = 3, 4
DTYPES = {"float32": {"rtol": 2e-4, "atol": 2e-4}, "bfloat16": {"rtol": 2e-2, "atol": 4e-2}}
pytestmark = pytest.mark.usefixtures("quick_compile")
every_cell = pytest.mark.parametrize("name", cells.names())


def make(name, **kwargs):
    return cells.get(name)(D, N, rngs=nnx.Rngs(0), **kwargs)


def learns_its_start(name):
    return "learn_initial_state" in inspect.signature(cells.get(name).__init__).parameters


@functools.cache
def compiled(name, dtype="float32"):
    """A cell away from its initial parameters, its start learned, and its parallel and step forms, jitted."""
    learned = {"learn_initial_state": True} if learns_its_start(name) else {}
    cell = shake(make(name, dtype=None if dtype == "float32" else jnp.dtype(dtype), **learned))
    nnx.update(cell, jax.tree.map(lambda v: 0.7 * v, nnx.state(cell, cells.Scheduled)))
    graphdef, variables = nnx.split(cell)
    call = jax.jit(lambda v, *args: nnx.merge(graphdef, v)(*args))
    step = jax.jit(lambda v, *args: nnx.merge(graphdef, v).step(*args))
    return cell, functools.partial(call, variables), functools.partial(step, variables)


def inputs(shape, dtype="float32", seed=0):
    return jnp.asarray(2 * np.random.default_rng(seed).normal(size=shape), dtype)


def by_steps(cell, step, x, state, reset=None):
    """Outputs and last state of a plain loop; a reset restores the initial state."""
    outs, start = [], cell.initial_state(x.shape[:-2])
    for t in range(x.shape[-2]):
        if reset is not None:
            flag = reset[..., t]
            pick = jax.vmap(jnp.where) if flag.ndim else jnp.where  # one flag an element of the batch
            state = jax.tree.map(functools.partial(pick, flag), start, state)
        y, state = step(x[..., t, :], state)
        outs.append(y)
    return jnp.stack(outs, -2), state


def close(mine, theirs, dtype="float32"):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(np.asarray(a, _wide(a)), np.asarray(b, _wide(b)), **DTYPES[dtype]),
        mine,
        theirs,
    )


def _wide(x):
    return np.complex128 if jnp.iscomplexobj(x) else np.float64


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("time", [1, 6, 7])
@every_cell
def test_parallel_steps_and_chunks_agree(name, time, dtype):
    cell, call, step = compiled(name, dtype)
    x, carried = inputs((2, time, D), dtype), cell.initial_state((2,))
    _, carried = step(inputs((2, D), dtype, seed=1), carried)  # not the initial state
    y, state = call(x, carried)
    assert y.dtype == dtype
    assert {h.dtype.name for h in jax.tree.leaves(state)} <= {"float32", "complex64"}
    close((y, state), by_steps(cell, step, x, carried), dtype)
    if time > 1:
        early, middle = call(x[:, : time % 6 or 3], carried)
        late, last = call(x[:, time % 6 or 3 :], middle)
        close((jnp.concatenate([early, late], 1), last), (y, state), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("time", "firsts"), [(1, [0]), (6, [3]), (7, [0, 1, 4])], ids=str)
@every_cell
def test_packed_sequences_are_separate_sequences(name, time, firsts, dtype):
    cell, call, step = compiled(name, dtype)
    x = inputs((2, time, D), dtype)
    _, carried = step(inputs((2, D), dtype, seed=1), cell.initial_state((2,)))
    reset = jnp.tile(jnp.isin(jnp.arange(time), jnp.array(firsts)), (2, 1))
    y, state = call(x, carried, reset)
    close((y, state), by_steps(cell, step, x, carried, reset), dtype)
    bounds = [0, *(f for f in firsts if f > 0), time]
    pieces = []
    for first, end in itertools.pairwise(bounds):
        piece, last = call(x[:, first:end], cell.initial_state((2,)) if first in firsts else carried)
        pieces.append(piece)
    close((y, state), (jnp.concatenate(pieces, 1), last), dtype)


@every_cell
def test_reset_patterns_differ_within_a_batch(name):
    cell, call, step = compiled(name)
    x = inputs((2, 7, D))
    reset = jnp.array([[0, 0, 1, 0, 0, 0, 1], [1, 0, 0, 0, 1, 1, 0]], bool)
    close(call(x, None, reset), by_steps(cell, step, x, cell.initial_state((2,)), reset))


@every_cell
def test_batch_axes(name):
    cell, call, _ = compiled(name)
    x = inputs((2, 3, 6, D))
    y, state = call(x)
    assert y.shape == x.shape
    assert all(h.shape[:2] == (2, 3) for h in jax.tree.leaves(state))
    close(call(x[1]), (y[1], jax.tree.map(lambda h: h[1], state)))
    close(call(x[1, 2]), (y[1, 2], jax.tree.map(lambda h: h[1, 2], state)))
    eager = cell(x[1, 2])
    close(eager, (y[1, 2], jax.tree.map(lambda h: h[1, 2], state)))


@every_cell
def test_initial_state_is_zero_or_learned(name):
    if not learns_its_start(name):
        pytest.skip("this cell has no learned initial state")
    zero = make(name, learn_initial_state=False)
    assert all((h == 0).all() for h in jax.tree.leaves(zero.initial_state((2,))))
    learned, call, step = compiled(name)
    start = learned.initial_state((2,))
    extra = set(nnx.to_flat_state(nnx.state(learned, nnx.Param)).paths) - set(
        nnx.to_flat_state(nnx.state(zero, nnx.Param)).paths
    )
    assert extra == {("start",)}
    assert all((h != 0).any() for h in jax.tree.leaves(start))
    x = inputs((2, 6, D))
    _, far = step(inputs((2, D), seed=5), start)
    restored = call(x, far, jnp.arange(6) == jnp.zeros((2, 1), int))
    close(restored, call(x, start))  # the cell's initial state, not the one that was carried in


def differentiable(op, h):
    """The map with the derivative that is documented: gates by their surrogates."""
    if isinstance(op, Relay):
        z = soft_step(jnp.abs(op.candidate) - jnp.abs(op.threshold), op.width)
        value = 2 * soft_step(op.candidate, op.width) - 1
        return z * (value + (0 if op.leak is None else op.leak) * h) + (1 - z) * h
    if isinstance(op, Latch):
        return op.write * op.value + (1 - op.write) * h
    if isinstance(op, Play):
        r = jnp.logaddexp(op.radius, 0)
        return jnp.minimum(jnp.maximum(h, op.centre - r), op.centre + r)
    assert isinstance(op, Affine | Clamp), f"say here what the derivative of a {type(op).__name__} is"
    return op.apply(h)


@every_cell
def test_gradients_are_those_of_the_loop(name):
    """In all parameters, the inputs and the carried state, over a reset."""
    cell, _, step = compiled(name)
    graphdef, params, rest = nnx.split(cell, nnx.Param, ...)
    x, reset = inputs((2, 5, D)), np.tile(np.arange(5) == 3, (2, 1))
    _, carried = step(inputs((2, D), seed=1), cell.initial_state((2,)))
    weight = inputs((2, 5, D), seed=2)

    def loss(y, state):
        return (weight * y).sum() + sum(jnp.real((0.3 - 0.2j) * h).sum() for h in jax.tree.leaves(state))

    def parallel(params, x, state):
        return loss(*nnx.merge(graphdef, params, rest)(x, state, reset))

    def looped(params, x, state, streamed):
        cell = nnx.merge(graphdef, params, rest)

        def step(x, state):
            if streamed or not isinstance(cell, cells.ScanCell):
                return cell.step(x, state)
            h = differentiable(cell.operator(x[..., None, :]), state[..., None, :])
            return cell.readout(h, x[..., None, :])[..., 0, :], h[..., 0, :]

        return loss(*by_steps(cell, step, x, state, reset))

    by_loop = jax.jit(jax.grad(looped, (0, 1, 2)), static_argnums=3)
    expected = by_loop(params, x, carried, False)
    close(jax.jit(jax.grad(parallel, (0, 1, 2)))(params, x, carried), expected)
    close(by_loop(params, x, carried, True), expected)
    for path, leaf in nnx.to_flat_state(expected[0]):
        assert (leaf[...] != 0).any(), f"nothing reaches {path}: the comparison would be empty"


@every_cell
def test_a_bad_sequence_reaches_no_other(name):
    _, call, _ = compiled(name)
    x, weight, t = inputs((9, D)), inputs((9, D), seed=2), np.arange(9)
    reset, inside = (t == 3) | (t == 6), (t >= 3) & (t < 6)

    @jax.jit
    def run(x, weight):
        (y, state), pullback = jax.vjp(lambda x: call(x, None, reset), x)
        return (y, state), pullback((weight, jnp.zeros_like(state)))[0]

    (clean, clean_state), clean_bar = run(x, weight)
    assert np.isfinite(clean_bar).all()
    for bad in (np.nan, np.inf):
        (y, state), bar = run(jnp.where(inside[:, None], bad, x), jnp.where(inside[:, None], bad, weight))
        close((y[~inside], state, bar[~inside]), (clean[~inside], clean_state, clean_bar[~inside]))


@every_cell
def test_wrong_inputs_are_named(name):
    cell = make(name)
    state = cell.initial_state(())
    for x, expected, given in [
        (jnp.ones((6, D + 1)), f"(..., T, {D})", f"(6, {D + 1})"),
        (jnp.ones(D), f"(..., T, {D})", f"({D},)"),
        (jnp.ones((0, D)), "T >= 1", f"(0, {D})"),
        (jnp.ones((6, D), int), "floating-point", "int32"),
        ([[1.0] * D], "floating-point", "list"),
    ]:
        with pytest.raises(ValueError, match=re.escape(expected)) as caught:
            cell(x)
        assert given in str(caught.value)
    with pytest.raises(ValueError, match=re.escape(f"(..., {D})")) as caught:
        cell.step(jnp.ones(D + 1), state)
    assert f"({D + 1},)" in str(caught.value)
    if not isinstance(cell, cells.ScanCell):
        return
    other = jnp.zeros(state.shape, jnp.bfloat16 if state.dtype == jnp.float32 else jnp.float32)
    for wrong in (state[:-1], state[None], other):
        for call in (lambda s: cell(jnp.ones((6, D)), s), lambda s: cell.step(jnp.ones(D), s)):
            with pytest.raises(ValueError, match=re.escape(f"{state.shape} and dtype {state.dtype}")) as caught:
                call(wrong)
            assert f"{wrong.shape} {wrong.dtype}" in str(caught.value)
    with pytest.raises(ValueError, match=re.escape("bool (6,)")):
        cell(jnp.ones((6, D)), reset=jnp.zeros(5, bool))


@pytest.mark.parametrize("argument", ["features", "state_size"])
@every_cell
def test_sizes_are_checked(name, argument):
    with pytest.raises(ValueError, match=r"\b0\b"):
        cells.get(name)(**{"features": D, "state_size": N, argument: 0}, rngs=nnx.Rngs(0))


@every_cell
def test_scheduled_scalars_are_no_parameters(name):
    cell = make(name)
    for path, variable in nnx.to_flat_state(nnx.state(cell)):
        if path[-1] in ("epsilon", "width"):
            assert isinstance(variable, cells.Scheduled)
            assert not isinstance(variable, nnx.Param)
            assert variable[...].shape == ()
        else:
            assert isinstance(variable, nnx.Param), path


@every_cell
def test_parameters_are_real_float32(name):
    for path, variable in nnx.to_flat_state(nnx.state(make(name, dtype=jnp.dtype("bfloat16")))):
        assert variable[...].dtype == jnp.float32, path


@every_cell
def test_same_seed_same_cell(name):
    close(nnx.state(make(name)), nnx.state(make(name)))


@every_cell
def test_capture_holds_the_states(name):
    cell, _, _ = compiled(name)
    x, capture = inputs((2, 6, D)), {}
    y, state = cell(x, capture=capture)
    close((y, state), cell(x))
    if isinstance(cell, cells.ScanCell):
        np.testing.assert_array_equal(capture["state"][:, -1], state)
        assert {v.shape for v in capture.values()} == {(2, 6, cell.channels)}


def test_unknown_name_lists_the_known():
    with pytest.raises(ValueError, match=r"'bmr'.*alpha_cmru, bmru, cmru"):
        cells.get("bmr")
    assert cells.names() == sorted(cells.names())
    for name in cells.names():
        assert cells.get(name).registry_name == name
        assert getattr(cells, cells.get(name).__name__) is cells.get(name)
