"""PD-SSM: a transition that sends each channel to one channel, times a complex diagonal, chosen by the input."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.scipy.special import logit
from jax.typing import DTypeLike

from mru.cells._base import StateParam, as_rngs, at_least_one
from mru.cells._linear import complex_in, linear, product_dtype, real_out
from mru.cells._scan import ScanCell
from mru.operators import Operator, ScoredRoute


class PDSSM(ScanCell, name="pd_ssm"):
    """h_t = P(x) D(x) h_{t-1} + B x, y = Re(C h) + d x, complex; P has a single 1 in each column, D is diagonal.

    Column j of P has its 1 at the largest entry of column j of sum_k softmax(S x)_k M_k, with K learned N x N matrices
    M_k; its derivative is that of the column's softmax (straight through). With u = gelu(W x + b) of `hidden` units,
    |D| = sigma(W_m u + b_m) and the phase of D is 2 pi sigma(W_p u + b_p). One layer can emulate any automaton of N
    states: P moves between them. Such maps compose by index, so the scan's cost is linear in N; to find P takes
    K N^2 a step.

    What we could not read in the source is our choice: K = 16; M_k = half a random permutation plus normal numbers of
    deviation 0.1, so that the maps differ at the start and few of them merge channels; u of N units; b_m and b_p so
    that D starts near the diagonal of LRU, uniform on the ring r_min <= |D| <= r_max with phase in [0, max_phase]; B
    times a learned gamma, and C, as in LRU.

    Trained on short sequences, an automaton drifts on long ones: D is not quite 1, and B x adds up. With `exact` they
    are 1 and 0, the limit of the equation: the learned initial state is only moved about, for any number of steps.

    Source: Terzic et al. 2025, arXiv 2509.22284.
    """

    def __init__(
        self,
        features: int,
        state_size: int,
        *,
        transitions: int = 16,
        hidden: int | None = None,
        r_min: float = 0.9,
        r_max: float = 0.999,
        max_phase: float = 6.28,
        exact: bool = False,
        learn_initial_state: bool = False,
        method: str = "auto",
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs | int,
    ):
        """Initialise.

        Args:
            features: D.
            state_size: N, complex channels.
            transitions: K, matrices that P is mixed from, at least 1.
            hidden: Units of the network that gives D; N if None.
            r_min: Smallest |D| at the start, in (0, r_max). A state outlasts some 1 / (1 - |D|) steps.
            r_max: Largest |D| at the start, below 1.
            max_phase: Largest phase of D at the start, radians, positive, below 2 pi.
            exact: D = 1 and B = 0; it needs a learned initial state.
            learn_initial_state: Learn it, from normal numbers.
            method: Method of `mru.scan`; "autodiff" has no derivative of P and refuses to be trained.
            dtype: Dtype of the matrix products; that of the inputs and parameters, promoted, if None.
            rngs: Source of the initial parameters, or a seed.

        Raises:
            ValueError: A size is not an integer of at least 1, the ring or the phase is out of its range, or an exact
                cell does not learn its initial state.
        """
        self._set_sizes(features, state_size)  # checks them
        units = state_size if hidden is None else hidden
        at_least_one("PDSSM transitions", transitions)
        at_least_one("PDSSM hidden", units)
        if not 0 < r_min < r_max < 1:
            raise ValueError(f"PDSSM needs 0 < r_min < r_max < 1, got r_min {r_min} and r_max {r_max}")
        if not 0 < max_phase < 2 * math.pi:
            raise ValueError(f"PDSSM needs 0 < max_phase < 2 pi, got {max_phase}")
        if exact and not learn_initial_state:
            raise ValueError("PDSSM exact needs learn_initial_state: it moves that state about, and would hold zeros")
        rngs = as_rngs(rngs)

        def normal(*shape: int) -> Array:
            return jax.random.normal(rngs.params(), shape, jnp.float32)

        def uniform(low: float, high: float) -> Array:
            return jax.random.uniform(rngs.params(), (state_size,), jnp.float32, low, high)

        def sigmoid_layer(start: Array) -> nnx.Linear:
            return linear(units, state_size, dtype=dtype, bias_init=lambda *_: logit(start), rngs=rngs)

        super().__init__(
            features,
            state_size,
            learn_initial_state=learn_initial_state,
            start=normal(state_size, 2) if learn_initial_state else None,
            state_dtype=jnp.complex64,
            method=method,
        )
        self.mix = linear(features, transitions, dtype=dtype, rngs=rngs)
        identity = jnp.eye(state_size, dtype=jnp.float32)
        permuted = jax.vmap(lambda key: jax.random.permutation(key, identity))
        self.transitions = StateParam(
            0.5 * permuted(jax.random.split(rngs.params(), transitions))
            + 0.1 * normal(transitions, state_size, state_size)
        )
        self.exact = exact
        if not exact:
            self.hidden = linear(features, units, dtype=dtype, rngs=rngs)
            size = jnp.sqrt(uniform(r_min**2, r_max**2))
            self.magnitude, self.phase = sigmoid_layer(size), sigmoid_layer(uniform(1e-7, max_phase / (2 * math.pi)))
            self.log_gamma = StateParam(0.5 * jnp.log1p(-(size**2)))
            self.b = StateParam(normal(features, 2, state_size) / math.sqrt(2 * features))
        self.c = nnx.Param(normal(2, state_size, features) / math.sqrt(state_size))
        self.d = nnx.Param(normal(features))
        self.dtype = product_dtype(dtype)

    def operator(self, x: Array) -> Operator:
        """h -> P (D h) + B x."""
        dtype = jnp.promote_types(x.dtype, jnp.float32)
        mix = jax.nn.softmax(self.mix(x).astype(dtype))
        # In full precision: which entry is the largest must not depend on how the sum is rounded.
        scores = jnp.einsum("...k,kij->...ij", mix, self.transitions[...].astype(dtype), precision="highest")
        return ScoredRoute(scores, *self._diagonal(x, dtype))

    def _diagonal(self, x: Array, dtype: DTypeLike) -> tuple[Array, Array]:
        """D(x) and B x, complex (..., T, N)."""
        if self.exact:
            one = jnp.ones((*x.shape[:-1], self.state_size), jnp.promote_types(dtype, jnp.complex64))
            return one, jnp.zeros_like(one)
        u = nnx.gelu(self.hidden(x))
        magnitude, phase = nnx.sigmoid(self.magnitude(u)), 2 * math.pi * nnx.sigmoid(self.phase(u))
        b = self.b[...].astype(dtype) * jnp.exp(self.log_gamma[...].astype(dtype))
        factor = jax.lax.complex(magnitude * jnp.cos(phase), magnitude * jnp.sin(phase))
        return factor, complex_in(x, b, self.dtype)

    def readout(self, h: Array, x: Array) -> Array:
        """Re(C h) + d x."""
        return real_out(h, self.c[...], self.dtype) + self.d[...] * x
