"""O(log T) depth by `jax.lax.associative_scan`, and a form of it for coefficients that are constant in time.

The initial state is folded into the first map (so there are T elements, never T + 1) and the reset state into every map
at a reset; there, at a cut, nothing earlier is composed in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from mru.engine.adjoint import cotangents, decoded, encoded, is_coded, previous, states_before, time_of, widen
from mru.operators import Affine, Clamp, Latch, Operator, lowered


def states(
    op: Operator, h0: Array, reset: Array | None, reset_state: Array | None, reverse: bool, keep: bool
) -> tuple[Array, Array | None]:
    """Every state, and what is kept; see `mru.engine.front`."""
    h = _states(op, h0, reset, reset_state, reverse)
    return h, encoded(h, h0, reset_state) if keep and is_coded(op) else None


def _states(op, h0, reset, reset_state, reverse):
    op = lowered(widen(op, h0.dtype))
    time = op.constant().shape[-2]
    starts = (jnp.arange(time) == (time - 1 if reverse else 0))[:, None]
    state = h0[..., None, :]
    if reset is not None and reset_state is not None:
        flags = reset[..., None]
        starts, state = starts | flags, jnp.where(flags, reset_state[..., None, :], state)
    return _prefixes(op.fold(state, starts), reset, reverse)


def pullback(
    op: Operator, h0: Array, reset: Array | None, reset_state: Array | None, reverse: bool, h: Array, g: Array
) -> tuple[Operator, Array, Array | None]:
    """The cotangents of (op, h0, reset_state); see `mru.engine.front`."""
    h = decoded(h, h0, reset_state)
    before = states_before(h, h0, reset, reset_state, reverse)
    jacobian = widen(op, h.dtype).jacobian(before)
    # g_t += J_{t+1} g_{t+1}, unless a sequence starts at t + 1: an affine scan, in the other direction.
    zero = jnp.zeros_like(h0)
    ahead = jacobian if jacobian.ndim == 1 else previous(jacobian, zero, not reverse)
    cut = None
    if reset is not None:
        cut = previous(reset[..., None], jnp.zeros_like(reset[..., :1]), not reverse)[..., 0]
        if ahead.ndim > 1:
            # Folding the zero state in multiplies by it, and 0 * NaN of the sequence ahead would enter this one.
            ahead = jnp.where(cut[..., None], 0, ahead)
    g = _states(Affine(ahead, g), zero, cut, zero, not reverse)
    return cotangents(op, before, g, reset, reverse)


def composed(
    build: Callable[..., Operator], arrays: Any, cut: Array | None, reverse: bool
) -> tuple[Operator, Array | None]:
    """The composition of all maps, (..., N), and whether one of them was at a cut; see `mru.engine.sharded`."""

    def take(maps, where):
        return jax.tree.map(lambda x: x if x.ndim == 1 else x[..., where, :], maps)

    def level(maps):
        time = time_of(maps)
        if time == 1:
            return maps
        if time % 2:  # the first step joins at the end: all pairs then share the coefficient, where it is constant
            first, rest = (slice(-1, None), slice(-1)) if reverse else (slice(1), slice(1, None))
            return _join(take(maps, first), level(take(maps, rest)))
        even, odd = take(maps, slice(0, None, 2)), take(maps, slice(1, None, 2))
        return level(_join(odd, even) if reverse else _join(even, odd))

    return take(level((build(arrays), None if cut is None else cut[..., None])), 0)


def _join(earlier, later):
    """Two maps as one, each with its flag: true if nothing before the map may reach past it."""
    (f, cut_f), (g, cut_g) = earlier, later
    if cut_g is None:
        return g.compose(f), None
    # Select, never multiply by zero: a non-finite value before the cut must not reach past it; before the composition
    # too, whose derivative would multiply by it.
    f = jax.tree.map(lambda x: x if x.ndim == 1 else jnp.where(cut_g, jnp.zeros((), x.dtype), x), f)
    return jax.tree.map(lambda x, y: y if x.ndim == 1 else jnp.where(cut_g, x, y), g, g.compose(f)), cut_f | cut_g


def _prefixes(op: Affine | Latch | Clamp, cut: Array | None, reverse: bool) -> Array:
    """The values of all prefixes of an operator whose initial states are folded in."""
    if isinstance(op, Affine) and op.a.ndim == 1:
        return _constant_coefficient(op, cut, reverse)
    flags = None if cut is None else jnp.broadcast_to(cut, op.constant().shape[:-1])[..., None]
    axis = op.constant().ndim - 2
    return jax.lax.associative_scan(_join, (op, flags), reverse=reverse, axis=axis)[0].constant()


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
            pairs = later + a * jnp.where(flags[..., 1::2, :], 0, earlier)
            pair_flags = flags[..., :-1:2, :] | flags[..., 1::2, :]
        odd = level(a * a, pairs, pair_flags)
        rest = b[..., 2::2, :]
        before = odd[..., : rest.shape[-2], :]
        even = rest + a * (before if flags is None else jnp.where(flags[..., 2::2, :], 0, before))
        even = jnp.concatenate([b[..., :1, :], even], -2)
        half = odd.shape[-2]
        woven = jnp.stack([even[..., :half, :], odd], -2).reshape(*b.shape[:-2], 2 * half, b.shape[-1])
        return woven if b.shape[-2] % 2 == 0 else jnp.concatenate([woven, even[..., -1:, :]], -2)

    h = level(op.a, b, flags)
    return jnp.flip(h, -2) if reverse else h
