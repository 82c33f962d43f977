"""Norms of a model: layer, RMS, and batch norm with running statistics."""

from __future__ import annotations

from typing import TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from mru.model import row_kernels

# Share of the running statistics that a train step keeps, as S5 was trained, and what is added to a variance.
_MOMENTUM, _EPSILON = 0.95, 1e-5


class BatchNorm(nnx.Module):
    """scale * (x - mean) / sqrt(variance + 1e-5) + bias, each feature by itself.

    In training, mean and variance are those of all real steps of the batch, over all devices that share it, and the
    running ones move 5 % of the way to them. Otherwise they are the running ones, so that a step, a chunk or another
    batch changes nothing.

    Source: Ioffe, Szegedy 2015, arXiv 1502.03167; over batch and time as S5 (arXiv 2208.04933) and LRU have it.
    """

    def __init__(self, features: int, *, dtype: DTypeLike | None, rngs: nnx.Rngs):
        """Initialise.

        Args:
            features: D.
            dtype: Dtype of the outputs; that of the inputs, float32 at least, if None. Statistics are float32.
            rngs: Not used: it is an argument of every norm.
        """
        self.scale, self.bias = (nnx.Param(jnp.full(features, value, jnp.float32)) for value in (1, 0))
        self.mean, self.variance = (nnx.BatchStat(jnp.full(features, value, jnp.float32)) for value in (0, 1))
        self.dtype = dtype

    def __call__(self, x: Array, real: Array | None, training: bool) -> Array:
        """Map (..., D) to (..., D); see `normed`."""
        dtype = jnp.promote_types(x.dtype, jnp.float32)
        out, x = self.dtype or dtype, x.astype(dtype)
        mean, variance = self.mean[...], self.variance[...]
        if training:
            mean, variance = self._of_batch(x, real)
            for running, found in ((self.mean, mean), (self.variance, variance)):
                found = jax.lax.stop_gradient(found).astype(jnp.float32)
                running[...] = _MOMENTUM * running[...] + (1 - _MOMENTUM) * found
        factor = self.scale[...] * jax.lax.rsqrt(variance + _EPSILON)
        return ((x - mean) * factor + self.bias[...]).astype(out)

    def _of_batch(self, x: Array, real: Array | None) -> tuple[Array, Array]:
        where = None if real is None else jnp.broadcast_to(real, x.shape[:-1])[..., None]
        axes = tuple(range(x.ndim - 1))
        # Both in one pass. Taken from the running mean, the squares lose no digits where the mean is large.
        centre = self.mean[...]
        moved, squared = (jnp.mean(v, axes, where=where) for v in (x - centre, (x - centre) ** 2))
        return centre + moved, jnp.maximum(squared - moved**2, 0)


Norm: TypeAlias = nnx.LayerNorm | nnx.RMSNorm | BatchNorm

NORMS: dict[str, type[Norm]] = {"layer": nnx.LayerNorm, "rms": nnx.RMSNorm, "batch": BatchNorm}


def make_norm(kind: str, features: int, *, dtype: DTypeLike | None, rngs: nnx.Rngs) -> Norm:
    """A norm of `features` by its name in `NORMS`.

    Raises:
        ValueError: There is none of this name.
    """
    if kind not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {kind!r}")
    return NORMS[kind](features, dtype=dtype, rngs=rngs)


def normed(norm: Norm, x: Array, real: Array | None = None, training: bool = False) -> Array:
    """What a norm makes of its input.

    Args:
        norm: Norm.
        x: (..., T, D), or one step (..., D).
        real: Which steps are no padding, bool (..., T); None for all. Only the statistics of a batch depend on it.
        training: Whether batch norm takes the statistics of this batch, and moves its running ones.
    """
    return norm(x, real, training) if isinstance(norm, BatchNorm) else norm(x)


def kept_and_normed(norm: Norm, x: Array, uses: int, real: Array | None, training: bool) -> tuple[Array, ...]:
    """x as it is, for the residual path, and what a norm makes of it, for each of its uses once.

    Args:
        norm: Norm.
        x: (..., T, D).
        uses: How many there are. On GPUs their cotangents and that of x are added within one kernel.
        real: See `normed`.
        training: See `normed`. Only then is that kernel used, which has reverse mode only.
    """
    if training and not isinstance(norm, BatchNorm) and row_kernels.obstacle(x.shape, x.dtype) is None:
        return row_kernels.with_pullback(norm, x, uses)
    return x, *[normed(norm, x, real, training)] * uses
