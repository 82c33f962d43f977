"""What every cell of the registry promises; a new cell is covered by being registered, as the tests' own two are."""

import functools
import inspect
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import own_cells
import pytest
from flax import nnx
from reference import shake, soft_step

from mru import Affine, Clamp, Latch, Play, Relay, cells
from mru.operators import PairAffine, ScoredRoute

D, N = 3, 4
TOLERANCES = {
    "float32": {"rtol": 2e-4, "atol": 2e-4},
    "bfloat16": {"rtol": 2e-2, "atol": 4e-2},
    "float64": {"rtol": 1e-10, "atol": 1e-10},
}
every_dtype = pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
pytestmark = pytest.mark.usefixtures("quick_compile")
# Lengths, and where each is cut into pieces that are lengths themselves: few programs have to be compiled.
PIECES = {1: [0, 1], 2: [0, 1, 2], 7: [0, 2, 4, 6, 7], 64: [0, 7, 14, 16, 18, 25, 32, 39, 46, 53, 60, 62, 63, 64]}
every_cell = pytest.mark.parametrize("name", cells.names())
OWN = {own_cells.LSTM, own_cells.CachedAttention}


def make(name, **kwargs):
    return cells.get(name)(D, N, rngs=nnx.Rngs(0), **kwargs)


def learns_its_start(name):
    return "learn_initial_state" in inspect.signature(cells.get(name).__init__).parameters


@functools.cache
def compiled(name, dtype="float32"):
    """A cell away from its initial parameters, its start learned, and its parallel and step forms, jitted."""
    learned = {"learn_initial_state": True} if learns_its_start(name) else {}
    return with_forms(shake(make(name, dtype=None if dtype == "float32" else jnp.dtype(dtype), **learned)))


def with_forms(cell):
    nnx.update(cell, jax.tree.map(lambda v: 0.7 * v, nnx.state(cell, cells.Scheduled)))
    graphdef, variables = nnx.split(cell)
    call = jax.jit(lambda v, *args: nnx.merge(graphdef, v)(*args))
    step = jax.jit(lambda v, *args: nnx.merge(graphdef, v).step(*args))
    return cell, functools.partial(call, variables), functools.partial(step, variables)


def inputs(shape, dtype="float32", seed=0):
    return jnp.asarray(2 * np.random.default_rng(seed).normal(size=shape), dtype)


def by_steps(cell, step, x, state, reset=None):
    """Outputs and last state of a plain loop; a reset restores the initial state."""
    start, np_or_jnp, outs = cell.initial_state(x.shape[:-2]), jnp, []
    if not isinstance(x, jax.core.Tracer):  # NumPy slices and selects in less time than JAX does outside of a program
        start, np_or_jnp, x = jax.tree.map(np.asarray, start), np, np.asarray(x)

    def pick(flag, start, h):
        flag = flag.reshape(*flag.shape, *[1] * (h.ndim - flag.ndim))  # one flag an element of the batch
        return np_or_jnp.where(flag, start, h)

    for t in range(x.shape[-2]):
        if reset is not None:
            state = jax.tree.map(functools.partial(pick, np.asarray(reset[..., t])), start, state)
        y, state = step(x[..., t, :], state)
        outs.append(y)
    return np_or_jnp.stack(outs, -2), state


def close(mine, theirs, dtype="float32"):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(np.asarray(a, _wide(a)), np.asarray(b, _wide(b)), **TOLERANCES[dtype]),
        mine,
        theirs,
    )


def _wide(x):
    return np.complex128 if jnp.iscomplexobj(x) else np.float64


@every_dtype
@pytest.mark.parametrize("time", PIECES)
@every_cell
def test_parallel_steps_and_chunks_agree(name, time, dtype):
    cell, call, step = compiled(name, dtype)
    x, carried = inputs((2, time, D), dtype), cell.initial_state((2,))
    _, carried = step(inputs((2, D), dtype, seed=1), carried)  # not the initial state
    y, state = call(x, carried)
    assert y.dtype == dtype
    assert [h.dtype for h in jax.tree.leaves(state)] == [h.dtype for h in jax.tree.leaves(carried)]
    assert {h.dtype.name for h in jax.tree.leaves(state)} <= {"float32", "complex64", "int32"}
    close((y, state), by_steps(cell, step, x, carried), dtype)
    chunks, last = [], carried
    for first, end in itertools.pairwise(PIECES[time]):
        chunk, last = call(x[:, first:end], last)
        chunks.append(chunk)
    close((jnp.concatenate(chunks, 1), last), (y, state), dtype)


@every_dtype
@pytest.mark.parametrize("time", PIECES)
@every_cell
def test_packed_sequences_are_separate_sequences(name, time, dtype):
    cell, call, step = compiled(name, dtype)
    x = inputs((2, time, D), dtype)
    _, carried = step(inputs((2, D), dtype, seed=1), cell.initial_state((2,)))
    reset = jnp.tile(jnp.isin(jnp.arange(time), jnp.array(PIECES[time][:-1])), (2, 1))
    y, state = call(x, carried, reset)
    close((y, state), by_steps(cell, step, x, carried, reset), dtype)
    pieces, last = [], None
    for first, end in itertools.pairwise(PIECES[time]):
        piece, last = call(x[:, first:end], cell.initial_state((2,)))
        pieces.append(piece)
    close((y, state), (jnp.concatenate(pieces, 1), last), dtype)


@every_cell
def test_reset_patterns_differ_within_a_batch(name):
    cell, call, step = compiled(name)
    x = inputs((2, 7, D))
    reset = jnp.array([[0, 0, 1, 0, 0, 0, 1], [1, 0, 0, 0, 1, 1, 0]], bool)
    start = cell.initial_state((2,))
    close(call(x, start, reset), by_steps(cell, step, x, start, reset))


@every_cell
def test_batch_axes(name):
    cell, call, _ = compiled(name)
    x = inputs((3, 2, 6, D))
    y, state = call(x)
    assert y.shape == x.shape
    assert all(h.shape[:2] == (3, 2) for h in jax.tree.leaves(state))
    close(call(x[1]), (y[1], jax.tree.map(lambda h: h[1], state)))
    eager = cell(x[1, 1])
    close(eager, (y[1, 1], jax.tree.map(lambda h: h[1, 1], state)))


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
    assert isinstance(learned.start, cells.StateParam)
    assert all((h != 0).any() for h in jax.tree.leaves(start))
    x = inputs((2, 6, D))
    _, far = step(inputs((2, D), seed=5), start)
    restored = call(x, far, jnp.arange(6) == jnp.zeros((2, 1), int))
    close(restored, call(x, start))  # the cell's initial state, not the one that was carried in


@every_cell
def test_an_initial_state_shares_no_array(name):
    """Neither with a parameter nor within itself: a program may be given it to overwrite (`donate_argnums`)."""
    cell = compiled(name)[0]
    places = [x.unsafe_buffer_pointer() for x in jax.tree.leaves((cell.initial_state(), nnx.state(cell)))]
    assert len(set(places)) == len(places)


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
    if isinstance(op, ScoredRoute):
        soft, hard = jax.nn.softmax(op.scores, -2), jax.nn.one_hot(op.target, op.scores.shape[-1], axis=-2)
        return jnp.einsum("...ij,...j->...i", hard + soft - jax.lax.stop_gradient(soft), op.factor * h) + op.offset
    assert isinstance(op, Affine | Clamp | PairAffine), f"say here what the derivative of a {type(op).__name__} is"
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
        floats = [h for h in jax.tree.leaves(state) if jnp.issubdtype(h.dtype, jnp.inexact)]
        return (weight * y).sum() + sum(jnp.real((0.3 - 0.2j) * h).sum() for h in floats)

    def parallel(params, x, state):
        return loss(*nnx.merge(graphdef, params, rest)(x, state, reset))

    def looped(params, x, state, streamed):
        cell = nnx.merge(graphdef, params, rest)

        def step(x, state):
            if streamed:
                return cell.step(x, state)
            before = jax.tree.map(lambda h: h[..., None, :], state)
            h = differentiable(cell.operator(x[..., None, :]), before)
            return cell.readout(h, x[..., None, :])[..., 0, :], jax.tree.map(lambda h: h[..., 0, :], h)

        return loss(*by_steps(cell, step, x, state, reset))

    def gradient(f):
        found = jax.jit(jax.grad(f, (0, 1, 2), allow_int=True))(params, x, carried)
        # A state's integers have a gradient of no numbers.
        return jax.tree.map(lambda g: np.zeros(g.shape) if g.dtype == jax.dtypes.float0 else g, found)

    expected = gradient(functools.partial(looped, streamed=True))
    close(gradient(parallel), expected)
    if isinstance(cell, cells.ScanCell):
        close(gradient(functools.partial(looped, streamed=False)), expected)
    for path, leaf in nnx.to_flat_state(expected[0]):
        assert (leaf[...] != 0).any(), f"nothing reaches {path}: the comparison would be empty"


@every_cell
def test_a_bad_sequence_reaches_no_other(name):
    _, call, _ = compiled(name)
    x, weight, t = inputs((9, D)), inputs((9, D), seed=2), np.arange(9)
    reset, inside = (t == 3) | (t == 6), (t >= 3) & (t < 6)

    @jax.jit
    def run(x, weight):
        y, pullback, state = jax.vjp(lambda x: call(x, None, reset), x, has_aux=True)
        return (y, state), pullback(weight)[0]

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
    for wrong in (jnp.zeros(5, bool), jnp.zeros((2, 6), bool), jnp.zeros(6, int)):
        with pytest.raises(ValueError, match=re.escape("bool (6,)")) as caught:
            cell(jnp.ones((6, D)), reset=wrong)
        assert f"got {wrong.dtype} {wrong.shape}" in str(caught.value)


@every_cell
def test_wrong_states_are_named(name):
    cell = make(name)
    state = cell.initial_state(())
    leaves, structure = jax.tree.flatten(state)
    for call in (lambda s: cell(jnp.ones((6, D)), s), lambda s: cell.step(jnp.ones(D), s)):
        for place, leaf in enumerate(leaves):
            other = jnp.zeros(leaf.shape, jnp.bfloat16 if leaf.dtype == jnp.float32 else jnp.float32)
            for wrong in (leaf[None], other, *([leaf[:-1]] if leaf.ndim else [])):
                with pytest.raises(ValueError, match=re.escape(f"{leaf.shape} and dtype {leaf.dtype}")) as caught:
                    call(structure.unflatten([*leaves[:place], wrong, *leaves[place + 1 :]]))
                assert f"got {wrong.shape} {wrong.dtype}" in str(caught.value)
        with pytest.raises(ValueError, match="state of structure"):
            call({"nothing": state})


@pytest.mark.parametrize("size", [0, -4, 2.5, float("nan"), "4", None])
@pytest.mark.parametrize("argument", ["features", "state_size"])
@every_cell
def test_sizes_are_checked(name, argument, size):
    with pytest.raises(ValueError, match=re.escape(f"{argument} must be an integer of at least 1, got {size!r}")):
        cells.get(name)(**{"features": D, "state_size": N, argument: size}, rngs=nnx.Rngs(0))


@every_cell
def test_float64_inputs_are_computed_in_float64(name):
    """Parallel, steps, chunks and packed sequences agree; and no parameter is used in float32."""
    cell, *_ = compiled(name)  # of float32 parameters
    with jax.enable_x64(True):
        _, call, step = with_forms(cell)
        reset, x = jnp.array([[0, 1, 0, 0, 1, 0], [1, 0, 0, 1, 0, 0]], bool), inputs((2, 6, D), "float64")
        _, carried = step(x[:, 5], cell.initial_state((2,)))
        _, carried = step(x[:, 4], carried)
        assert {h.dtype.name for h in jax.tree.leaves(carried)} <= {"float64", "complex128", "int32"}
        y, state = call(x, carried, reset)
        assert y.dtype == "float64"
        close((y, state), by_steps(cell, step, x, carried, reset), "float64")
        early, middle = call(x[:, :3], carried, reset[:, :3])
        late, last = call(x[:, 3:], middle, reset[:, 3:])
        close((jnp.concatenate([early, late], 1), last), (y, state), "float64")
        exact, params, rest = nnx.split(cell, nnx.Param, ...)
        exact = nnx.merge(exact, jax.tree.map(lambda p: p.astype("float64"), params), rest)
        close(jax.jit(lambda *args: exact(*args))(x, carried, reset), (y, state), "float64")
        single = jax.eval_shape(call, x.astype("float32"))
        assert {h.dtype.name for h in jax.tree.leaves(single)} <= {"float32", "complex64", "int32"}


@every_cell
@pytest.mark.filterwarnings("error")
def test_float64_of_numpy_is_taken_without_a_word(name):
    """It is float32 to JAX, where that is not told otherwise."""
    x = np.asarray(inputs((2, D)), np.float64)
    cell = compiled(name)[0]
    y, state = jax.eval_shape(lambda: cell(x))
    assert (y.dtype, state) == (jnp.float32, jax.eval_shape(lambda: cell.initial_state()))
    y, state = jax.eval_shape(lambda: cell.step(x[0]))
    assert (y.dtype, state) == (jnp.float32, jax.eval_shape(lambda: cell.initial_state()))


@every_cell
def test_parameters_do_not_depend_on_x64(name):
    learned = {"learn_initial_state": True} if learns_its_start(name) else {}
    expected = nnx.state(make(name, **learned))
    with jax.enable_x64(True):
        found = nnx.state(make(name, **learned))
    for (path, mine), (_, theirs) in zip(nnx.to_flat_state(found), nnx.to_flat_state(expected), strict=True):
        assert mine.dtype == theirs.dtype == "float32", path
    close(found, expected)


@every_cell
def test_nnx_rnn_runs_it(name):
    """With the numbers of the parallel call, as it carries what that returns."""
    cell, call, _ = compiled(name)
    x = inputs((2, 6, D))
    rnn = nnx.RNN(cells.RNNCell(cell), return_carry=True, rngs=False)
    graphdef, variables = nnx.split(rnn)

    @jax.jit
    def in_chunks(variables, x):
        rnn = nnx.merge(graphdef, variables)
        middle, early = rnn(x[:, :3])
        last, late = rnn(x[:, 3:], initial_carry=middle)
        return jnp.concatenate([early, late], 1), last

    close(in_chunks(variables, x), call(x))


@every_cell
def test_step_starts_from_the_initial_state(name):
    cell, _, step = compiled(name)
    x = inputs((2, D))
    close(cell.step(x), step(x, cell.initial_state((2,))))


@every_cell
def test_a_seed_is_enough(name):
    kind = cells.get(name)
    close(nnx.state(kind(D, N, rngs=3)), nnx.state(kind(D, N, rngs=nnx.Rngs(3))))
    draws = [leaf.ravel()[0] for leaf in jax.tree.leaves(nnx.state(kind(D, N, rngs=3), nnx.Param))]
    assert len(set(map(float, draws))) > 2  # every layer draws its own
    with pytest.raises(ValueError, match=r"rngs must be an nnx\.Rngs or an int seed, got str"):
        kind(D, N, rngs="3")


@pytest.mark.parametrize("dtype", [jnp.int32, "complex64", "floaty"])
@every_cell
def test_dtypes_are_checked(name, dtype):
    with pytest.raises(ValueError, match="dtype must be floating point, such as 'float32' or 'bfloat16', or None, got"):
        make(name, dtype=dtype)


@every_cell
def test_scheduled_scalars_are_no_parameters(name):
    cell = make(name)
    for path, variable in nnx.to_flat_state(nnx.state(cell)):
        if path[-1] in ("epsilon", "width"):
            assert isinstance(variable, cells.Scheduled)
            assert not isinstance(variable, nnx.Param)
            assert variable[...].shape == ()
            assert (variable.ramp is None) == (path[-1] == "width")
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
    cell, call, _ = compiled(name)
    graphdef, variables = nnx.split(cell)
    x = inputs((2, 6, D))

    @jax.jit
    def run(variables, x):
        capture = {}
        return nnx.merge(graphdef, variables)(x, capture=capture), capture

    (y, state), capture = run(variables, x)
    close((y, state), call(x))
    held = [value[:, -1] for name, value in capture.items() if name.split("/")[0] == "state"]
    close(held, jax.tree.leaves(state))
    assert {v.shape[:2] for v in capture.values()} == {(2, 6)}
    assert len(held) == 1 or {"state/0", "state/1"} <= capture.keys() or "state/count" in capture


def test_unknown_name_lists_the_known():
    with pytest.raises(ValueError, match=r"'bmr'.*alpha_cmru, attention, bmru"):
        cells.get("bmr")
    assert cells.names() == sorted(cells.names())
    for name in cells.names():
        found = cells.get(name)
        assert found.registry_name == name
        assert found in OWN or getattr(cells, found.__name__) is found
