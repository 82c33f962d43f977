"""O(log T) depth by `jax.lax.associative_scan`, and a form of it for coefficients that are constant in time."""

import jax
import jax.numpy as jnp
from jax import Array

from mru.operators import Affine, Clamp, Latch


def associative(op: Affine | Latch | Clamp, cut: Array | None, reverse: bool) -> Array:
    """All prefix values of an operator whose initial states are folded in (see `mru.scan.engine`)."""
    if isinstance(op, Affine) and op.a.ndim == 1:
        return _constant_coefficient(op, cut, reverse)
    if cut is None:
        prefix = jax.lax.associative_scan(lambda f, g: g.compose(f), op, reverse=reverse, axis=op.constant().ndim - 2)
        return prefix.constant()

    def compose(earlier, later):
        (f, cut_f), (g, cut_g) = earlier, later
        # Select, never multiply by zero: a non-finite value before the cut must not reach past it.
        joined = jax.tree.map(lambda x, y: jnp.where(cut_g, x, y), g, g.compose(f))
        return joined, cut_f | cut_g

    axis = op.constant().ndim - 2
    flags = jnp.broadcast_to(cut, op.constant().shape[:-1])[..., None]
    prefix, _ = jax.lax.associative_scan(compose, (op, flags), reverse=reverse, axis=axis)
    return prefix.constant()


def _constant_coefficient(op: Affine, cut: Array | None, reverse: bool) -> Array:
    """h_t = a h_{t-1} + b_t with `a` (N,): at each level of the tree the coefficient is one power of `a`."""
    b = jnp.flip(op.b, -2) if reverse else op.b
    flags = None if cut is None else cut[..., None]
    if reverse and flags is not None:
        flags = jnp.flip(flags, -2)

    def level(a, b, flags):
        if b.shape[-2] == 1:
            return b
        earlier, later = b[..., :-1:2, :], b[..., 1::2, :]
        if flags is None:
            pairs, pair_flags = later + a * earlier, None
        else:
            pairs = jnp.where(flags[..., 1::2, :], later, later + a * earlier)
            pair_flags = flags[..., :-1:2, :] | flags[..., 1::2, :]
        odd = level(a * a, pairs, pair_flags)
        rest = b[..., 2::2, :]
        even = rest + a * odd[..., : rest.shape[-2], :]
        if flags is not None:
            even = jnp.where(flags[..., 2::2, :], rest, even)
        even = jnp.concatenate([b[..., :1, :], even], -2)
        half = odd.shape[-2]
        woven = jnp.stack([even[..., :half, :], odd], -2).reshape(*b.shape[:-2], 2 * half, b.shape[-1])
        return woven if b.shape[-2] % 2 == 0 else jnp.concatenate([woven, even[..., -1:, :]], -2)

    h = level(op.a, b, flags)
    return jnp.flip(h, -2) if reverse else h
