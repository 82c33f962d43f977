import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference import patterns, shake

from mru.cells._convolution import CausalConvolution

pytestmark = pytest.mark.usefixtures("quick_compile")
E, T = 3, 9


def oracle(taps, bias, x, seen, reset):
    """Outputs and what was seen, one sequence, one step after the other, in float64."""
    seen, ys = np.asarray(seen, np.float64), []
    for x_t, first in zip(np.asarray(x, np.float64), reset, strict=True):
        seen = np.concatenate([np.zeros_like(seen) if first else seen, x_t[None]])
        ys.append((taps * seen).sum(0) + bias)
        seen = seen[1:]
    return np.stack(ys), seen


@pytest.mark.parametrize("steps", [2, 5, 12])
def test_output_is_the_equation(steps):
    """Over resets, from a state, as a whole and step by step; also where it sees more than there is."""
    conv, rng = shake(CausalConvolution(E, steps, rngs=nnx.Rngs(0))), np.random.default_rng(0)
    taps, bias = (np.asarray(v[...], np.float64) for v in (conv.taps, conv.bias))
    x, seen, reset = rng.normal(size=(5, T, E)), rng.normal(size=(5, steps - 1, E)), patterns(T)
    x, seen = jnp.asarray(x, jnp.float32), jnp.asarray(seen, jnp.float32)
    y, last = jax.jit(lambda x, seen: conv(x, seen, reset))(x, seen)
    for k in range(5):
        for ours, theirs in zip((y[k], last[k]), oracle(taps, bias, x[k], seen[k], reset[k]), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    carried, stepped = seen[0], []  # of which the pattern has no reset
    for t in range(T):
        out, carried = conv.step(x[0, t], carried)
        stepped.append(out)
    np.testing.assert_allclose(jnp.stack(stepped), y[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(carried, last[0])
    np.testing.assert_allclose(
        conv(x[0])[0], oracle(taps, bias, x[0], np.zeros((steps - 1, E)), reset[0])[0], atol=1e-6
    )


def test_nothing_bad_crosses_a_reset():
    conv, reset = CausalConvolution(E, 4, rngs=nnx.Rngs(0)), np.arange(T) == 5
    x = jnp.where(np.arange(T)[:, None] < 5, jnp.nan, jnp.ones((T, E)))
    y, _ = conv(x, jnp.full((3, E), jnp.inf), reset)
    assert np.isfinite(y[5:]).all()
    gradient = jax.grad(lambda x: conv(x, None, reset)[0][5:].sum())(x)
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[:5], 0)


def test_starts_as_it_says():
    conv = CausalConvolution(400, 4, rngs=nnx.Rngs(0))
    taps = np.abs(conv.taps[...])
    assert 0.49 < taps.max() <= 0.5
    assert 0.24 < taps.mean() < 0.26
    np.testing.assert_array_equal(conv.bias[...], 0)
    np.testing.assert_array_equal(conv.initial_state((2,)), np.zeros((2, 3, 400)))
