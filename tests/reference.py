"""Plain forms that the library is tested against: loops over time, gates with surrogates, reset patterns."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


def surrogate(u, width=1.0):
    """Derivative of the step function, NumPy."""
    return width / (1 + (np.pi * width * u) ** 2)


def soft_step(u, width=1.0):
    """H(u) whose derivative is the surrogate: that of its integral, arctan(pi w u) / pi."""
    smooth = jnp.arctan(jnp.pi * width * u) / jnp.pi
    return jnp.where(u >= 0, 1.0, 0.0) + smooth - jax.lax.stop_gradient(smooth)


def np_sign(u):
    return np.where(u >= 0, 1.0, -1.0)


def loop(step, time, h0, reset=None, reset_state=None, reverse=False, xp=np):
    """Every state of h_t = step(t, h_{t-1}), stacked on the axis before the last."""
    states, h = [None] * time, h0
    for t in reversed(range(time)) if reverse else range(time):
        if reset is not None:
            h = xp.where(reset[..., t, None], h0 if reset_state is None else reset_state, h)
        states[t] = h = step(t, h)
    return xp.stack(states, -2)


def patterns(time):
    """Reset patterns (5, T): none, some, all, first, last."""
    t = np.arange(time)
    return np.stack([t < 0, (t % 3 == 1) | (t == 5), t >= 0, t == 0, t == time - 1])


def cell_parameters(cell):
    """The variables of a cell as float64 NumPy arrays, by path such as "candidate/kernel"."""
    flat = nnx.to_flat_state(nnx.state(cell))
    return {"/".join(map(str, path)): np.asarray(v[...], np.float64) for path, v in flat}


def shake(module, seed=0, scale=0.3):
    """Adds noise to every `Param`, so that no test rests on an initial value such as zero or one."""
    rng = np.random.default_rng(seed)
    state = nnx.state(module, nnx.Param)
    nnx.update(module, jax.tree.map(lambda x: x + scale * rng.normal(size=x.shape).astype(x.dtype), state))
    return module


def states_of(cell, x, state=None):
    """The states (..., T, N) of a cell."""

    @jax.jit
    def run(x):
        capture = {}
        cell(x, state, capture=capture)
        return capture["state"]

    return run(x)


def softplus(u):
    return np.logaddexp(u, 0)


def sigmoid(u):
    return 1 / (1 + np.exp(-u))


def affine(p, name, x):
    """x W + b of the linear layer `name`."""
    return x @ p[f"{name}/kernel"] + p[f"{name}/bias"]


def assert_gradients(cell, outputs, time=6):
    """The gradient of each parameter of a cell, at its first and last number, is a central difference of `outputs`.

    Args:
        cell: Cell.
        outputs: (parameters as of `cell_parameters`, x (5, T, D), reset) -> outputs, NumPy.
        time: T.
    """
    rng, reset, p = np.random.default_rng(0), patterns(time), cell_parameters(cell)
    x, weight = rng.normal(size=(2, len(reset), time, cell.features))
    graphdef, variables = nnx.split(cell)
    with jax.enable_x64(True):
        bars = jax.jit(jax.grad(lambda v: (weight * nnx.merge(graphdef, v)(x, reset=reset)[0]).sum()))(variables)

    def loss(name, index, change):
        moved = p[name].copy()
        moved[index] += change
        return (weight * outputs(p | {name: moved}, x, reset)).sum()

    for path, bar in nnx.to_flat_state(bars):
        name = "/".join(map(str, path))
        for index in ((0,) * p[name].ndim, (-1,) * p[name].ndim):
            difference = (loss(name, index, 1e-6) - loss(name, index, -1e-6)) / 2e-6
            np.testing.assert_allclose(bar[...][index], difference, rtol=1e-5, atol=1e-6, err_msg=f"{name} {index}")
