import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from own_cells import LSTM

import mru
from mru.training.checkpoint import flatten

pytestmark = pytest.mark.usefixtures("quick_compile")

CELLS = {
    "a scan": lambda: mru.cells.get("bmru")(6, 10, rngs=0),
    "a complex scan": lambda: mru.cells.get("lru")(6, 10, rngs=0),
    "a recurrence": lambda: mru.cells.get("gru")(6, 10, rngs=0),
    "somebody's own": lambda: LSTM(6, 10, rngs=0),
    "a model": lambda: mru.SequenceModel(3, 2, cells="pmru,lru+bmru", width=6, state_size=10, rngs=0),
}


def parameters(module):
    return {name: np.asarray(x) for name, x in flatten(nnx.state(module, nnx.Param)).items()}


def parts(w):
    return np.stack([w.real, w.imag]).astype(np.float64) if np.iscomplexobj(w) else w.astype(np.float64)


@pytest.fixture(params=CELLS, ids=lambda name: name.replace(" ", "-"))
def module(request):
    return CELLS[request.param]()


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_levels_and_errors(module, bits):
    """Whole multiples of one step, of which the largest number is the last; no error above half of it."""
    before = parameters(module)
    after = parameters(mru.quantized(module, bits))
    matrices = [name for name, w in before.items() if w.ndim >= 2]
    assert 0 < len(matrices) < len(before)
    for name, w in before.items():
        assert after[name].dtype == w.dtype
        if name not in matrices:
            np.testing.assert_array_equal(after[name], w)
            continue
        found, wanted = parts(after[name]), parts(w)
        levels = 2 ** (bits - 1) - 1
        step = np.abs(wanted).max() / levels
        np.testing.assert_allclose(found / step, np.round(found / step), atol=1e-4)
        assert np.abs(found).max() == pytest.approx(step * levels, rel=1e-6)
        assert np.abs(found - wanted).max() <= step / 2 * (1 + 1e-5)
        assert 3 <= len(np.unique(np.round(found / step))) <= 2**bits - 1
    for name, w in parameters(module).items():
        np.testing.assert_array_equal(w, before[name])  # the module itself is as it was


def test_the_quantised_module_computes_with_what_it_holds(module):
    coarse = mru.quantized(module, 3)
    x = jax.random.normal(jax.random.key(0), (2, 5, module.inputs if hasattr(module, "inputs") else 6))
    assert not np.allclose(coarse(x)[0], module(x)[0], atol=1e-4)
    graphdef, params, rest = nnx.split(module, nnx.Param, ...)
    same = nnx.merge(graphdef, mru.quantized(params, 3), rest)
    np.testing.assert_array_equal(same(x)[0], coarse(x)[0])


def test_noise_is_normal_and_in_proportion_to_the_range():
    w = np.random.default_rng(0).uniform(-3, 3, (200, 300)).astype(np.float32)
    held = nnx.State({"w": nnx.Param(jnp.asarray(w))})

    def written(seed, noise):
        return np.asarray(mru.quantized(held, 4, noise=noise, key=jax.random.key(seed))["w"][...], np.float64)

    exact = written(0, 0.0)
    error = (written(0, 0.05) - exact) / np.abs(w).max()
    assert abs(error.mean()) < 4 * 0.05 / np.sqrt(error.size)
    assert error.std() == pytest.approx(0.05, rel=4 / np.sqrt(2 * error.size))
    assert np.mean((error / 0.05) ** 4) == pytest.approx(3, abs=4 * np.sqrt(96 / error.size))
    np.testing.assert_array_equal(written(0, 0.05), written(0, 0.05))
    assert np.mean(written(0, 0.05) == written(1, 0.05)) < 0.01
    np.testing.assert_array_equal(written(0, 0.0), written(1, 0.0))


def test_a_gradient_passes_straight_through(module):
    """It is that of the loss at the quantised parameters."""
    graphdef, params, rest = nnx.split(module, nnx.Param, ...)
    x = jax.random.normal(jax.random.key(0), (2, 5, module.inputs if hasattr(module, "inputs") else 6))
    key = jax.random.key(1)

    def loss(params):
        return jnp.sum(jnp.sin(nnx.merge(graphdef, params, rest)(x)[0]))

    through = jax.grad(lambda params: loss(mru.quantized(params, 4, noise=0.1, key=key)))(params)
    there = jax.grad(loss)(mru.quantized(params, 4, noise=0.1, key=key))
    found, expected = flatten(through), flatten(there)
    assert any(np.abs(g).max() > 1e-3 for g in expected.values())
    for name, g in expected.items():
        np.testing.assert_allclose(found[name], g, rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_matrix_of_zeros_stays_one():
    held = nnx.State({"w": nnx.Param(jnp.zeros((2, 2)))})
    np.testing.assert_array_equal(mru.quantized(held, 4, noise=0.1, key=jax.random.key(0))["w"][...], 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bits": 1}, "bits must be an integer from 2 to 24, got 1"),
        ({"bits": 4.0}, "bits must be an integer from 2 to 24, got 4.0"),
        ({"bits": 4, "noise": -0.1}, "noise must be at least 0 and finite, got -0.1"),
        ({"bits": 4, "noise": 0.1}, r"noise = 0.1 needs a key, such as jax.random.key\(0\)"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        mru.quantized(CELLS["a scan"](), **arguments)
