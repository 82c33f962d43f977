"""Operators with nothing but fields, `compose` and `apply`, users' and the library's, and their maps in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import mru
from mru.operators import PairAffine, ScoredRoute, field


class MaxPlus(mru.Operator):
    """h -> max(h + a, b)."""

    a: Array
    b: Array

    def compose(self, earlier):
        return MaxPlus(self.a + earlier.a, jnp.maximum(earlier.b + self.a, self.b))

    def apply(self, h):
        return jnp.maximum(h + self.a, self.b)


class Pairs(mru.Operator):
    """(y, z) -> M (y, z) + f, a 2x2 block a channel: a state of two arrays, and blocks that may be constant.

    `blocks` is (..., T, N, 2, 2) or, constant in time, (N, 2, 2); `force` is a dict of two arrays (..., T, N).
    """

    blocks: Array = field(axes=3, constant=True)
    force: dict

    def compose(self, earlier):
        blocks = jnp.einsum("...ij,...jk->...ik", self.blocks, earlier.blocks)
        moved = self._times(earlier.force["y"], earlier.force["z"])
        return Pairs(blocks, {name: moved[name] + self.force[name] for name in ("y", "z")})

    def apply(self, h):
        moved = self._times(h["y"], h["z"])
        return {name: moved[name] + self.force[name] for name in ("y", "z")}

    def _times(self, y, z):
        m = self.blocks
        return {"y": m[..., 0, 0] * y + m[..., 0, 1] * z, "z": m[..., 1, 0] * y + m[..., 1, 1] * z}

    def zero_state(self):
        zero = jnp.zeros(jnp.broadcast_shapes(self.force["y"].shape, self.blocks.shape[:-2]), self.dtype)
        return {"y": zero, "z": zero}


class Permuted(mru.Operator):
    """h -> factor * h[index] + offset, rows of a column one-hot matrix times a diagonal: channels read each other."""

    index: Array = field(kinds="i")
    factor: Array
    offset: Array

    def compose(self, earlier):
        def pick(x):
            return jnp.take_along_axis(x, self.index, -1)

        return Permuted(
            pick(earlier.index), self.factor * pick(earlier.factor), self.factor * pick(earlier.offset) + self.offset
        )

    def apply(self, h):
        return self.factor * jnp.take_along_axis(h, self.index, -1) + self.offset

    def zero_state(self):
        return jnp.zeros_like(self.offset)


def draw(name, rng, batch, time, channels):
    """An operator, and a function (operator in NumPy, step, state) -> state in NumPy."""

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    shape = (*batch, time, channels)
    if name == "max-plus":
        return MaxPlus(normal(*shape), normal(*shape)), lambda op, t, h: np.maximum(h + t(op.a), t(op.b))
    if name == "permuted":
        op = Permuted(rng.integers(0, channels, shape), 0.8 * normal(*shape), normal(*shape))
        return op, lambda op, t, h: t(op.factor) * np.take_along_axis(h, t(op.index), -1) + t(op.offset)
    if name == "scored route":  # whose derivative in the scores is no limit of differences
        return ScoredRoute(normal(*shape, channels), 0.8 * normal(*shape), normal(*shape)), None
    constant = name.startswith("constant")
    blocks = 0.3 * normal(*(() if constant else shape[:-1]), channels, 2, 2)

    def pairs(op, t, h):
        m = op.blocks if constant else t(op.blocks, 4)
        return {
            "y": m[..., 0, 0] * h["y"] + m[..., 0, 1] * h["z"] + t(op.force["y"]),
            "z": m[..., 1, 0] * h["y"] + m[..., 1, 1] * h["z"] + t(op.force["z"]),
        }

    def pair_affine(op, t, h):
        a = op.a if constant else jax.tree.map(t, op.a)
        return tuple(a[k][0] * h[0] + a[k][1] * h[1] + t(op.b[k]) for k in (0, 1))

    if "affine" in name:
        entries = tuple(tuple(blocks[..., k, j] for j in (0, 1)) for k in (0, 1))
        return PairAffine(entries, (normal(*shape), normal(*shape))), pair_affine
    return Pairs(blocks, {"y": normal(*shape), "z": normal(*shape)}), pairs


NAMES = ["max-plus", "constant pairs", "permuted", "pair affine", "constant pair affine"]


def state(name, rng, *shape):
    """A state of an operator."""
    x, y = rng.normal(size=(2, *shape)).astype(np.float32)
    if "affine" in name:
        return x, y
    return {"y": x, "z": y} if "pairs" in name else x


def loop(op, step, h0, reset, reset_state, reverse):
    """Every state, by a loop in float64; leaves (..., T, N)."""
    op = jax.tree.map(lambda x: np.asarray(x, np.float64 if x.dtype == np.float32 else None), op)
    h = jax.tree.map(lambda x: np.asarray(x, np.float64), h0)
    restart = jax.tree.map(lambda x: np.asarray(x, np.float64), reset_state)
    leaf = jax.tree.leaves(op)[-1]
    time, states = leaf.shape[-2], {}
    for t in reversed(range(time)) if reverse else range(time):
        if reset is not None:
            flags = reset[..., t, None]
            h = jax.tree.map(lambda r, x, f=flags: np.where(f, r, x), restart, h)
        states[t] = h = step(op, lambda x, axes=2, t=t: np.take(x, t, -axes), h)
    return jax.tree.map(lambda *x: np.stack(x, -2), *(states[t] for t in range(time)))
