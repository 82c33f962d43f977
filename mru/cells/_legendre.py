"""The Legendre memory: a linear system that keeps the last theta steps of a signal as Legendre coefficients.

theta m' = A m + B u with A_ij = (2i + 1) (-1 if i < j else (-1)^(i - j + 1)) and B_i = (2i + 1) (-1)^i, discretised
with zero-order hold and a step of 1: m_t = A_d m_{t-1} + B_d u_t. Nothing of it is learned. Its matrices are made in
float64 NumPy, once for each order and theta, and are constants of the compiled program. A is never diagonalised: the
condition of its eigenvectors is 4e12 at order 24.

Shapes: `...` any leading batch axes, T time, C channels of the signal, each with a memory of its own, d order.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg  # type: ignore[import-untyped]  # comes with JAX, which needs it
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from mru.cells._base import Cell, as_rngs, at_least_one
from mru.cells._linear import linear

# Steps convolved at a time. What an FFT takes is longer; what sums over all pairs of steps is shorter.
FFT_BLOCK, PAIRS_BLOCK = 4096, 64
# In float32 proper: in TF32, which GPUs would take, rounding errors grow in the recurrence.
_product = functools.partial(jnp.einsum, precision="highest")


@functools.lru_cache(maxsize=32)
def discretized(order: int, theta: float) -> tuple[np.ndarray, np.ndarray]:
    """A_d (d, d) and B_d (d,), float64."""
    i, j = np.arange(order)[:, None], np.arange(order)
    a = (2 * i + 1.0) * np.where(i < j, -1.0, (-1.0) ** (i - j + 1))
    b = (2 * i + 1.0) * (-1.0) ** i
    # exp of [[A, B], [0, 0]] is [[A_d, B_d], [0, 1]]: no inverse of A is needed.
    both = np.zeros((order + 1, order + 1))
    both[:order] = np.concatenate([a, b], 1) / theta
    found = scipy.linalg.expm(both)
    return found[:order, :order], found[:order, order]


@functools.lru_cache(maxsize=128)
def power(order: int, theta: float, exponent: int) -> np.ndarray:
    """A_d to a power of two, float64."""
    if exponent == 1:
        return discretized(order, theta)[0]
    root = power(order, theta, exponent // 2)
    return root @ root


@functools.lru_cache(maxsize=8)
def impulse_response(order: int, theta: float, length: int) -> np.ndarray:
    """A_d^k B_d for k from 0 to length - 1, (length, d), float64, twice as many with each product."""
    rows = discretized(order, theta)[1][None]
    while len(rows) < length:
        rows = np.concatenate([rows, rows @ power(order, theta, len(rows)).T])
    return rows[:length]


@dataclasses.dataclass(frozen=True)
class Legendre:
    """The memories of C channels; a state is (..., C d), one channel after the other.

    Args:
        order: d.
        theta: Steps that are kept.
        channels: C.
    """

    order: int
    theta: float
    channels: int

    def step(self, m: Array, u: Array) -> Array:
        """A_d m + B_d u, (..., C d), of a state and a signal (..., C)."""
        a, b = (self._constant(x, u.dtype) for x in discretized(self.order, self.theta))
        return self._flat(_product("...cj,ij->...ci", self._split(m), a) + u[..., None] * b)

    def states(self, m: Array | None, u: Array, reset: Array | None) -> Array:
        """The state after each step, (..., T, C d).

        Steps are taken in blocks, and only the last state of one goes to the next. Inside a block the signal is
        convolved with the impulse response: by FFT, or, where sequences start, by sums over the pairs of steps that
        are of one sequence. (Through an FFT a NaN would reach every step.)

        Args:
            m: State before, (..., C d); None for zero.
            u: Signal, (..., T, C).
            reset: Bool (..., T), true where a sequence starts, from zero; None for nowhere.
        """
        time, axis = u.shape[-2], u.ndim - 2
        block = min(time, FFT_BLOCK if reset is None else PAIRS_BLOCK)
        if m is None and block == time and reset is None:
            return self._flat(self._by_fft(u))
        start = jnp.zeros((*u.shape[:-2], self.channels * self.order), u.dtype) if m is None else m.astype(u.dtype)

        def one(m: Array, now: Any) -> tuple[Array, Array]:
            h = self._block(m, *now)
            return h[..., -1, :, :], self._flat(h)

        steps = tuple(None if x is None else _in_blocks(x, block, axis) for x in (u, reset))
        _, h = jax.lax.scan(one, self._split(start), steps)
        h = jax.lax.collapse(jnp.moveaxis(h, 0, axis), axis, axis + 2)
        return jax.lax.slice_in_dim(h, 0, time, axis=axis)

    def _block(self, m: Array, u: Array, reset: Array | None) -> Array:
        """The states (..., L, C, d) of a block of L steps, given the state (..., C, d) before it."""
        carried = self._carried(m, u.shape[-2])
        if reset is None:
            return self._by_fft(u) + carried
        begun = (jnp.cumsum(reset, -1) > 0)[..., None, None]
        return self._by_pairs(u, reset) + jnp.where(begun, 0, carried)

    def _carried(self, m: Array, length: int) -> Array:
        """A_d^k m for k from 1 to length, (..., length, C, d), twice as many with each product."""
        rows = m[..., None, :, :]
        rows = _product("...j,ij->...i", rows, self._power(1, m.dtype))
        while (have := rows.shape[-3]) < length:
            rest = rows[..., : length - have, :, :]
            later = _product("...j,ij->...i", rest, self._power(have, m.dtype))
            rows = jnp.concatenate([rows, later], -3)
        return rows

    def _by_fft(self, u: Array) -> Array:
        """The convolution of a signal (..., L, C) with the impulse response, (..., L, C, d)."""
        length = u.shape[-2]
        size = 2 ** math.ceil(math.log2(2 * length))
        spectrum = np.fft.rfft(impulse_response(self.order, self.theta, length), size, axis=0)
        response = self._constant(spectrum, jnp.result_type(u.dtype, jnp.complex64))
        product = jnp.fft.rfft(u, size, axis=-2)[..., None] * response[:, None]
        return jnp.fft.irfft(product, size, axis=-3)[..., :length, :, :].astype(u.dtype)

    def _by_pairs(self, u: Array, reset: Array) -> Array:
        """The same, where the sums do not reach over a reset (..., L)."""
        length = u.shape[-2]
        t, lag = np.arange(length)[:, None], np.arange(length)
        start = jax.lax.cummax(jnp.where(reset, np.arange(length), 0), axis=reset.ndim - 1)
        before = jnp.take(u, np.maximum(t - lag, 0), axis=-2)  # (..., L, lag, C)
        before = jnp.where((t - lag >= start[..., None])[..., None], before, 0)
        response = self._constant(impulse_response(self.order, self.theta, length), u.dtype)
        return _product("...tkc,kd->...tcd", before, response)

    def _power(self, exponent: int, dtype: DTypeLike) -> Array:
        return self._constant(power(self.order, self.theta, exponent), dtype)

    @staticmethod
    def _constant(x: np.ndarray, dtype: DTypeLike) -> Array:
        return jnp.asarray(x.astype(dtype))

    def _split(self, m: Array) -> Array:
        return m.reshape(*m.shape[:-1], self.channels, self.order)

    def _flat(self, m: Array) -> Array:
        return m.reshape(*m.shape[:-2], self.channels * self.order)


def _in_blocks(x: Array, block: int, axis: int) -> Array:
    """Time cut into blocks, which come first; what is missing of the last one is 0."""
    blocks = -(-x.shape[axis] // block)
    x = jnp.pad(x, [(0, blocks * block - n if a == axis else 0) for a, n in enumerate(x.shape)])
    return jnp.moveaxis(x.reshape(*x.shape[:axis], blocks, block, *x.shape[axis + 1 :]), axis, 0)


def legendre(name: str, state_size: int, channels: int, theta: float) -> Legendre:
    """The memories of a cell with N = channels x order state channels.

    Raises:
        ValueError: The channels do not divide N, or theta is not positive and finite.
    """
    channels = at_least_one("channels", channels)
    if state_size % channels:
        raise ValueError(f"{name} state_size must be a multiple of its {channels} channels, got {state_size}")
    if not 0 < theta < math.inf:
        raise ValueError(f"{name} needs a positive, finite theta, got {theta}")
    return Legendre(state_size // channels, float(theta), channels)


def host_bytes(state_size: int, channels: int) -> int:
    """What is made on the host for an order: the matrix, its exponential, and what the exponential is made from."""
    return 8 * 8 * (state_size // max(channels, 1)) ** 2


class LegendreCell(Cell):
    """A cell that reads a Legendre memory of u = tanh(W_u x + b_u): o = tanh(W_m (what it reads) + W_x x + b)."""

    def __init__(
        self,
        features: int,
        state_size: int,
        *,
        channels: int = 1,
        theta: float = 128.0,
        method: str = "auto",
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs | int,
    ):
        """Initialise.

        Args:
            features: D.
            state_size: N = channels x order.
            channels: Signals that are kept, each in a memory of its own; the order is N / channels.
            theta: Steps that are kept, positive.
            method: Ignored: a dense matrix is no operator of a scan.
            dtype: Dtype of the matrix products, without those of the memory; that of the inputs and parameters,
                promoted, if None.
            rngs: Source of the initial parameters, or a seed.
        """
        self._set_sizes(features, state_size)
        self.legendre = legendre(type(self).__name__, self.state_size, channels, theta)
        rngs = as_rngs(rngs)
        self.signal = linear(features, channels, dtype=dtype, rngs=rngs)
        self.memory = linear(self.state_size, features, use_bias=False, dtype=dtype, rngs=rngs)
        self.skip = linear(features, features, dtype=dtype, rngs=rngs)

    @classmethod
    def host_bytes(cls, features: int, state_size: int, *, channels: int = 1, **options: object) -> int:
        """The matrices of a memory."""
        return host_bytes(state_size, channels)

    def kept(self, x: Array) -> Array:
        """u (..., C), at least float32."""
        u = jnp.tanh(self.signal(x))
        return u.astype(jnp.promote_types(u.dtype, jnp.float32))

    def readout(self, h: Array, x: Array) -> Array:
        """tanh(W_m h + W_x x + b), in the dtype of `x`."""
        return jnp.tanh(self.memory(h) + self.skip(x)).astype(x.dtype)
