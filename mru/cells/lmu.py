"""LMU, the Legendre memory unit, one step after the other."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from mru.cells._base import as_rngs
from mru.cells._legendre import host_bytes, legendre
from mru.cells._linear import linear
from mru.cells._recurrent import RecurrentCell
from mru.operators.base import State


class LMU(RecurrentCell, name="lmu"):
    """A Legendre memory m that its own readout h writes to: u_t = e_x x + e_h h_{t-1} + e_m m_{t-1}, y_t = h_t.

        m_t = A_d m_{t-1} + B_d u_t                       (zero-order hold; see pLMU for A and B)
        h_t = tanh(W_x x_t + W_h h_{t-1} + W_m m_t)

    As what is written depends on what was read, the steps run one after the other, O(d^2) each. The state is (h, m):
    D + N numbers, N = channels x d, where d is the order. A and B are not learned.

    Our reading: the hidden state h has D channels and is the output; there may be several signals u (`channels`), each
    with a memory of its own; `state_size` is N. At the start e_m is zero, e_x and e_h are LeCun uniform, and W_x, W_h
    and W_m Glorot normal. There is no bias.

    Source: Voelker, Kajic, Eliasmith 2019, "Legendre Memory Units", NeurIPS 32.
    """

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
            method: Ignored: the steps run one after the other.
            dtype: Dtype of the matrix products, without those of the memory; that of the inputs and parameters,
                promoted, if None.
            rngs: Source of the initial parameters, or a seed.
        """
        super().__init__(features, state_size)
        self.legendre = legendre("LMU", self.state_size, channels, theta)
        rngs, d, n = as_rngs(rngs), self.features, self.state_size

        def matrix(inputs: int, outputs: int, start: nnx.Initializer) -> nnx.Linear:
            return linear(inputs, outputs, use_bias=False, dtype=dtype, kernel_init=start, rngs=rngs)

        lecun, glorot = nnx.initializers.lecun_uniform(), nnx.initializers.glorot_normal()
        self.input_signal = matrix(d, channels, lecun)
        self.hidden_signal = matrix(d, channels, lecun)
        self.memory_signal = matrix(n, channels, nnx.initializers.zeros_init())
        self.input = matrix(d, d, glorot)
        self.hidden = matrix(d, d, glorot)
        self.memory = matrix(n, d, glorot)

    @classmethod
    def host_bytes(cls, features: int, state_size: int, *, channels: int = 1, **options: object) -> int:
        """The matrices of a memory."""
        return host_bytes(state_size, channels)

    def initial_state(self, batch_shape: tuple[int, ...] = ()) -> State:
        """Zeros: (h (*batch_shape, D), m (*batch_shape, N))."""
        return tuple(jnp.zeros((*batch_shape, size), jnp.float32) for size in (self.features, self.state_size))

    def update(self, x: Array, h: State) -> State:
        """(h, m) after a step."""
        hidden, m = h
        u = self.input_signal(x) + self.hidden_signal(hidden) + self.memory_signal(m)
        m = self.legendre.step(m, u.astype(m.dtype))
        return jnp.tanh(self.input(x) + self.hidden(hidden) + self.memory(m)), m

    def readout(self, h: State, x: Array) -> Array:
        """h."""
        return h[0]
