import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference import cell_parameters, patterns, shake, sigmoid, softplus

import mru.cells.s6
from mru.cells import S6

pytestmark = pytest.mark.usefixtures("quick_compile")
D, N, T = 18, 3, 9  # more than 16 features: dt has two channels of its own


def oracle(p, x, reset, conv=4):
    """Outputs and last state, by the equations in float64: one sequence, one step after the other."""
    channels = p["skip"].size
    rank = p["dt/kernel"].shape[0]
    a, seen, h, ys = -np.exp(p["log_a"]), np.zeros((conv, channels)), np.zeros((channels, N)), []
    for x_t, first in zip(x.astype(np.float64), reset, strict=True):
        if first:
            seen, h = np.zeros_like(seen), np.zeros_like(h)
        seen = np.concatenate([seen[1:], (x_t @ p["up/kernel"])[None]])
        u = (p["taps"] * seen).sum(0) + p["taps_bias"]
        u = u * sigmoid(u)
        s, b, c = np.split(u @ p["select/kernel"], [rank, rank + N])
        dt = softplus(s @ p["dt/kernel"] + p["dt_bias"])
        h = np.exp(dt[:, None] * a) * h + dt[:, None] * b * u[:, None]
        z = x_t @ p["gate/kernel"]
        ys.append(((h * c).sum(1) + p["skip"] * u) * (z * sigmoid(z)) @ p["out/kernel"])
    return np.stack(ys), h, seen[1:]


def make(**options):
    return shake(S6(D, N, rngs=nnx.Rngs(0), **options), scale=0.2)


@pytest.mark.parametrize("options", [{}, {"expand": 1, "conv": 2}, {"expand": 3, "method": "sequential"}], ids=str)
def test_output_is_the_equation(options):
    cell, x, reset = make(**options), np.random.default_rng(0).normal(size=(5, T, D)).astype(np.float32), patterns(T)
    p = cell_parameters(cell)
    assert p["dt/kernel"].shape == (2, options.get("expand", 2) * D)
    y, (h, seen) = jax.jit(lambda x: cell(x, reset=reset))(x)
    for k in range(5):
        for ours, theirs in zip((y, h, seen), oracle(p, x[k], reset[k], options.get("conv", 4)), strict=True):
            np.testing.assert_allclose(ours[k], theirs, rtol=1e-4, atol=1e-5)


def test_gradient_is_the_slope():
    """Of the oracle, at an entry of every parameter and of the input, over a reset."""
    cell, rng = make(), np.random.default_rng(0)
    x, weight, reset = rng.normal(size=(T, D)), rng.normal(size=(T, D)), np.arange(T) == 4
    graphdef, params = nnx.split(cell)

    @jax.jit
    def gradient(params, x):
        return jax.grad(lambda params, x: (weight * nnx.merge(graphdef, params)(x, reset=reset)[0]).sum(), (0, 1))(
            params, x
        )

    with jax.enable_x64(True):
        found, x_bar = gradient(jax.tree.map(lambda v: jnp.asarray(v, "float64"), params), jnp.asarray(x))
    flat = {"/".join(map(str, path)): np.asarray(v[...]) for path, v in nnx.to_flat_state(found)}
    p = cell_parameters(cell)
    assert flat.keys() == p.keys()

    def slope(change):
        """Of the loss, by what `change` does to the parameters and the input."""
        plus, minus = ((weight * oracle(*change(step), reset)[0]).sum() for step in (1e-5, -1e-5))
        return (plus - minus) / 2e-5

    def moved(v, place, step):
        v = v.copy()
        v[place] += step
        return v

    for name, bar in flat.items():
        place = tuple(n // 2 for n in bar.shape)
        expected = slope(lambda step, name=name, place=place: (p | {name: moved(p[name], place, step)}, x))
        np.testing.assert_allclose(bar[place], expected, rtol=1e-5, atol=1e-7, err_msg=name)
    np.testing.assert_allclose(x_bar[3, 1], slope(lambda step: (p, moved(x, (3, 1), step))), rtol=1e-5)


def test_pieces_are_the_whole(monkeypatch):
    """Outputs, last state and gradients, with and without steps that are left over, and resets at the joints."""
    cell, rng = make(), np.random.default_rng(0)
    graphdef, params = nnx.split(cell)
    for time in (T, 8):
        x, weight = rng.normal(size=(2, 2, time, D)).astype(np.float32)
        reset = np.stack([np.isin(np.arange(time), [4, 6]), np.isin(np.arange(time), [3, time - 1])])

        def loss(params, x, weight=weight, reset=reset):
            y, state = nnx.merge(graphdef, params)(x, reset=reset)
            return (weight * y).sum() + sum((h * h).sum() for h in state), (y, state)

        found = []
        for piece in (time, 4):
            monkeypatch.setattr(mru.cells.s6, "_PIECE", piece)
            found.append(jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, x))
        whole, pieces = found
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), pieces, whole)


def test_starts_as_the_source_says():
    cell = S6(32, 4, expand=32, rngs=nnx.Rngs(0))
    dt = softplus(np.asarray(cell.dt_bias[...], np.float64))
    assert dt.min() >= 0.999e-3
    assert dt.max() <= 0.1001
    spread = np.log10(dt)
    np.testing.assert_allclose([spread.mean(), spread.std()], [-2, 2 / np.sqrt(12)], atol=0.05)  # log-uniform
    np.testing.assert_allclose(np.exp(cell.log_a[...]), np.tile([1, 2, 3, 4], (1024, 1)), rtol=1e-6)
    np.testing.assert_array_equal(cell.skip[...], 1)
    for weight, bound in [(cell.dt.kernel[...], 2**-0.5), (cell.taps[...], 0.5)]:
        assert 0.97 * bound < np.abs(weight).max() <= bound


@pytest.mark.parametrize(("option", "least"), [("expand", 1), ("conv", 2)])
def test_options_are_checked(option, least):
    for wrong in (least - 1, 2.5):
        message = f"{option} must be an integer of at least {least}, got {wrong!r}"
        with pytest.raises(ValueError, match=re.escape(message)):
            S6(D, N, rngs=0, **{option: wrong})


@pytest.mark.parametrize(("size", "bound"), [((2, 8192, 64), 25), ((8, 16384, 1024), 15)], ids=str)
def test_memory_of_the_layer_is_a_small_multiple_of_its_input(size, bound):
    """Both passes, compiled; of a short sequence there are fewer pieces."""
    graphdef, params = nnx.split(nnx.eval_shape(lambda: S6(size[-1], 16, rngs=nnx.Rngs(0))))

    def both(params, x, g):
        y, pullback = jax.vjp(lambda params, x: nnx.merge(graphdef, params)(x)[0], params, x)
        return y, pullback(g)

    x = jax.ShapeDtypeStruct(size, jnp.float32)
    jax.config.update("jax_disable_most_optimizations", False)  # the memory of what users run
    program = jax.jit(both).lower(params, x, x).compile()
    assert program.memory_analysis().temp_size_in_bytes <= bound * 4 * np.prod(size)
