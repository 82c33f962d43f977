import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference import shake

from mru import cells

pytestmark = pytest.mark.usefixtures("quick_compile")
D, N, T = 3, 4, 9
BOUNDS = [(0, 3), (3, 8), (8, 9)]


def both(name, seed=0):
    one, two = (cells.get(name)(D, N, learn_initial_state=True, rngs=nnx.Rngs(seed + i)) for i in (0, 1))
    return cells.Bidirectional(shake(one, 1), shake(two, 2))


def inputs(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("name", ["bmru", "lru", "pmru"])
def test_sum_of_both_directions_by_hand(name):
    cell, x = both(name), inputs(2, T, D)
    y, state = jax.jit(lambda x: cell(x))(x)
    forward, last = cell.forward(x)
    np.testing.assert_allclose(y, forward + cell.backward(x[:, ::-1])[0][:, ::-1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state, last, rtol=1e-5)
    assert cell.initial_state((2,)).shape == last.shape


@pytest.mark.parametrize("first", [True, False])
def test_resets_separate_sequences_in_both_directions(first):
    x = inputs(2, T, D)
    module = both("mingru")
    cell = jax.jit(lambda *args: module(*args))
    reset = jnp.tile(jnp.isin(jnp.arange(T), jnp.array([3, 8, 0 if first else 3])), (2, 1))
    separate = [cell(x[:, a:b])[0] for a, b in BOUNDS]
    np.testing.assert_allclose(cell(x, None, reset)[0], jnp.concatenate(separate, 1), rtol=1e-4, atol=1e-5)
    bad = jnp.where(jnp.isin(jnp.arange(T), jnp.arange(3, 8))[:, None], jnp.nan, x)
    y = np.asarray(cell(bad, None, reset)[0])
    np.testing.assert_allclose(y[:, [0, 1, 2, 8]], jnp.concatenate(separate[::2], 1), rtol=1e-4, atol=1e-5)


def test_mirrored_input_and_cells_give_the_mirrored_output():
    cell, x = both("lru"), inputs(T, D)
    mirrored = cells.Bidirectional(cell.backward, cell.forward)
    np.testing.assert_allclose(mirrored(x[::-1])[0], cell(x)[0][::-1], rtol=1e-4, atol=1e-5)


def test_carried_state_is_that_of_the_forward_cell():
    cell, x = both("mingru"), inputs(T, D)
    carried = jnp.full(N, 0.3)
    np.testing.assert_allclose(
        cell(x, carried)[0] - cell(x)[0], cell.forward(x, carried)[0] - cell.forward(x)[0], atol=1e-5
    )


def test_capture_is_in_forward_time():
    cell, x, capture = both("pmru"), inputs(T, D), {}
    cell(x, capture=capture)
    inner = {}
    cell.backward(x[::-1], capture=inner)
    assert {"forward/state", "backward/state", "backward/lo"} <= capture.keys()
    np.testing.assert_array_equal(capture["backward/state"], inner["state"][::-1])


@pytest.mark.parametrize("name", ["lru", "pmru"])
def test_a_class_builds_both_directions_of_itself(name):
    cell = cells.get(name).bidirectional(D, N, learn_initial_state=True, rngs=0)
    assert type(cell) is cells.Bidirectional
    rngs = nnx.Rngs(0)
    for half in (cell.forward, cell.backward):  # each draws its own parameters
        expected = cells.get(name)(D, N, learn_initial_state=True, rngs=rngs)
        jax.tree.map(np.testing.assert_array_equal, nnx.state(half), nnx.state(expected))


def test_resets_may_be_a_list():
    cell, x = cells.Bidirectional(cells.LRU(D, N, rngs=0), cells.LRU(D, N, rngs=1)), jnp.ones((4, D))
    expected, _ = cell(x, reset=jnp.array([False, False, True, False]))
    np.testing.assert_array_equal(cell(x, reset=[False, False, True, False])[0], expected)


def test_step_and_widths_are_refused():
    cell = both("lru")
    with pytest.raises(ValueError, match="step by step"):
        cell.step(jnp.ones(D), cell.initial_state())
    with pytest.raises(ValueError, match="got 3 and 4"):
        cells.Bidirectional(cells.LRU(3, N, rngs=nnx.Rngs(0)), cells.LRU(4, N, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=r"\(\.\.\., T, 3\)"):
        cell(jnp.ones((T, D + 1)))
