"""One step after the other: `jax.lax.scan`. O(T) depth, one pass over memory."""

import jax
import jax.numpy as jnp
from jax import Array

from mru.operators import Affine, Clamp, Latch


def sequential(op: Affine | Latch | Clamp, cut: Array | None, reverse: bool) -> Array:
    """All prefix values of an operator whose initial states are folded in (see `mru.scan.engine`)."""
    leaves, tree = jax.tree.flatten(op)
    # A leaf (N,) is constant in time; the loop closes over it.
    moving = [None if x.ndim == 1 else jnp.moveaxis(x, -2, 0) for x in leaves]
    flags = None if cut is None else jnp.moveaxis(cut, -1, 0)[..., None]

    def body(h, now):
        now, flag = now
        f = tree.unflatten([x if m is None else m for x, m in zip(leaves, now, strict=True)])
        h = f.apply(h if flag is None else jnp.where(flag, 0, h))
        return h, h

    value = op.constant()
    start = jnp.zeros_like(value[..., 0, :])
    _, h = jax.lax.scan(body, start, (moving, flags), reverse=reverse)
    return jnp.moveaxis(h, 0, -2)
