"""One step of a selective scan, forward and backward, as its loop and its kernel take it.

Shapes: B batch, T time, D channels, N states for each of them. D is innermost here: states are (..., N, D), where those
of `Selective` are (..., D, N).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

# States are kept once in so many steps for the backward pass, which computes those between again. What is kept is then
# N / 16 times as large as the input.
_CHUNK = 16


def chunk_of(time: int) -> int:
    """Steps of a chunk, a power of two."""
    return min(_CHUNK, 1 << (time - 1).bit_length())


class Maps(NamedTuple):
    """The fields of a `Selective`, or their cotangents: of all steps, with one batch axis, or of a single step.

    Attributes:
        dt: (..., D).
        a: (N, D).
        b: (..., N).
        c: (..., N).
        x: (..., D).
    """

    dt: Array
    a: Array
    b: Array
    c: Array
    x: Array


class Arguments(NamedTuple):
    """What a scan can be differentiated in: its maps, and the states (B, N, D) that it and its sequences start from."""

    maps: Maps
    h0: Array
    reset_state: Array | None


def widened(maps: Maps, dtype: jnp.dtype) -> Maps:
    """The maps in the precision of the states."""
    return Maps(*(x.astype(dtype) for x in maps))


def selected(reset: Array | None, reset_state: Array | None, h: Array) -> Array:
    """The states before a step, (..., N, D): those of `reset_state` where a sequence starts, boolean (...)."""
    return h if reset is None or reset_state is None else jnp.where(reset[..., None, None], reset_state, h)


def after(maps: Maps, h: Array) -> Array:
    """The states after a step, given those before it."""
    return _decay(maps) * h + _tall(maps.b) * _wide(maps.dt * maps.x)


def output(maps: Maps, h: Array) -> Array:
    """The output (..., D), given the states after a step."""
    return (_tall(maps.c) * h).sum(-2)


def backward(maps: Maps, h: Array, g: Array, incoming: Array) -> tuple[Maps, Array]:
    """The cotangents of a step's maps, that of `a` not yet summed over the batch, and of the states before it.

    Args:
        maps: The maps of the step.
        h: The states before it, (..., N, D).
        g: The cotangent of its output, (..., D).
        incoming: The cotangent of the states after it, from the steps that follow.
    """
    decay, drive = _decay(maps), _wide(maps.dt * maps.x)
    bar = incoming + _tall(maps.c) * _wide(g)
    through = decay * bar
    rate = through * h
    into = (_tall(maps.b) * bar).sum(-2)
    return Maps(
        dt=(maps.a * rate).sum(-2) + maps.x * into,
        a=_wide(maps.dt) * rate,
        b=(bar * drive).sum(-1),
        c=((decay * h + _tall(maps.b) * drive) * _wide(g)).sum(-1),
        x=maps.dt * into,
    ), through


def divided(reset: Array | None, through: Array, to_reset_state: Array | None) -> tuple[Array, Array | None]:
    """The cotangent of the states before a step: what goes to the step before it, and all that `reset_state` gets."""
    if reset is None or to_reset_state is None:
        return through, None
    first, zero = reset[..., None, None], jnp.zeros_like(through)
    return jnp.where(first, zero, through), to_reset_state + jnp.where(first, through, zero)


def _decay(maps: Maps) -> Array:
    """exp(dt a), as a power of two: GPUs have an instruction for these."""
    return jnp.exp2(_wide(maps.dt) * (maps.a * math.log2(math.e)))


def _wide(x: Array) -> Array:
    """(..., D) beside states."""
    return x[..., None, :]


def _tall(x: Array) -> Array:
    """(..., N) beside states."""
    return x[..., :, None]
