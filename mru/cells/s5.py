"""S5, the simplified state-space layer, in one direction and in both."""

from __future__ import annotations

import math
from typing import Any, NoReturn, SupportsIndex

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from mru.cells._base import Cell, StateParam, as_rngs, named
from mru.cells._discretize import check_steps, log_steps, zero_order_hold
from mru.cells._hippo import hippo_normal
from mru.cells._linear import complex_in, product_dtype, real_out
from mru.cells._scan import ScanCell
from mru.cells.bidirectional import ends
from mru.engine.front import scan
from mru.operators import Affine, Operator
from mru.operators.base import State

DISCRETIZATIONS = ("zoh", "bilinear")
C_INITS = ("trunc_standard_normal", "lecun_normal", "complex_normal")


class S5(ScanCell, name="s5"):
    """h' = Lambda h + B x, y = 2 Re(C h) + d x: a diagonal state-space model of all features, discretised.

    Lambda starts as the eigenvalues of `blocks` copies of HiPPO-LegS's normal part V Lambda V^-1, of which one of each
    conjugate pair is kept (`conjugate_symmetry`); B = V^-1 B' and C = C' V. The log of the step is uniform between
    those of step_min and step_max. With zero-order hold a = exp(Lambda step) and b = Lambda^-1 (a - 1) B x; bilinear,
    with u = Lambda step / 2, a = (1 + u) / (1 - u) and b = step / (1 - u) B x.

    As in the authors' code B' (N, D) is LeCun normal with fan-in N, that is of variance 1/N, d normal, and the parts
    of C follow `c_init`:

        trunc_standard_normal   of C', truncated normal with variance 1/N each, so that E|C'|^2 = 2/N
        lecun_normal            of C', truncated normal with variance 1/(N D) each: small outputs at the start
        complex_normal          of C itself, normal with variance 1/2 each, so that E|C|^2 = 1: large outputs

    Source: Smith, Warrington, Linderman 2022, arXiv 2208.04933.
    """

    def __init__(
        self,
        features: int,
        state_size: int,
        *,
        blocks: int = 1,
        discretization: str = "zoh",
        conjugate_symmetry: bool = True,
        step_min: float = 0.001,
        step_max: float = 0.1,
        step_rescale: float = 1.0,
        c_init: str = "trunc_standard_normal",
        clip_eigenvalues: bool = False,
        learn_initial_state: bool = False,
        method: str = "auto",
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs | int,
    ):
        """Initialise.

        Args:
            features: D.
            state_size: N. With conjugate symmetry the carried state has N / 2 complex channels.
            blocks: J, number of HiPPO blocks that N is divided into.
            discretization: "zoh" or "bilinear".
            conjugate_symmetry: Keep one eigenvalue of each conjugate pair.
            step_min: Smallest step at the start.
            step_max: Largest step at the start.
            step_rescale: Factor on all steps, such as 2 for a model trained at twice the sampling rate.
            c_init: Distribution of C at the start, one of the three above.
            clip_eigenvalues: Keep the real part of Lambda below -1e-4, so that training can not make the recurrence
                unstable.
            learn_initial_state: Learn it, from zero.
            method: Method of `mru.scan`.
            dtype: Dtype of the matrix products; that of the inputs and parameters, promoted, if None.
            rngs: Source of the initial parameters, or a seed.
        """
        _check_options(discretization, c_init, step_min, step_max, step_rescale)
        self._set_sizes(features, state_size)  # checks them
        pairs = 2 if conjugate_symmetry else 1
        if not isinstance(blocks, SupportsIndex) or blocks < 1 or state_size % (pairs * blocks):
            raise ValueError(f"S5 state_size must be a multiple of {pairs} x {blocks} blocks, got {state_size}")
        super().__init__(
            features,
            state_size,
            learn_initial_state=learn_initial_state,
            state_dtype=jnp.complex64,
            channels=state_size // pairs,
            method=method,
        )
        rngs = as_rngs(rngs)
        size = state_size // blocks
        values, vectors = hippo_normal(size)
        values, vectors = values[size - size // pairs :], vectors[:, size - size // pairs :]
        b = nnx.initializers.lecun_normal()(rngs.params(), (state_size, features), jnp.float32)
        b = jnp.einsum("nk,jnd->djk", vectors.conj(), b.reshape(blocks, size, features)).reshape(features, -1)
        self.lambda_real = StateParam(jnp.tile(jnp.asarray(values.real, jnp.float32), blocks))
        self.lambda_imag = StateParam(jnp.tile(jnp.asarray(values.imag, jnp.float32), blocks))
        self.b = StateParam(jnp.stack([b.real, b.imag], 1).astype(jnp.float32))
        self.c = nnx.Param(_output_matrix(c_init, vectors, blocks, features, rngs))
        self.d = nnx.Param(jax.random.normal(rngs.params(), (features,), jnp.float32))
        self.log_step = StateParam(log_steps(self.channels, step_min, step_max, rngs))
        self.discretization = discretization
        self.step_rescale = step_rescale
        self.clip_eigenvalues = clip_eigenvalues
        self.readout_scale = float(pairs)
        self.dtype = product_dtype(dtype)

    @classmethod
    def bidirectional(cls, *args: Any, rngs: nnx.Rngs | int, **options: Any) -> Cell:
        """Both directions with one A and B, see `BidirectionalS5`."""
        return BidirectionalS5(*args, rngs=rngs, **options)

    @classmethod
    def host_bytes(cls, features: int, state_size: int, *, blocks: int = 1, **options: Any) -> int:
        """The matrices of a HiPPO block as its eigenvectors are found: two real ones, and two complex ones."""
        return 48 * (state_size // max(blocks, 1)) ** 2

    def discretize(self, steps: Array | None = None, dtype: DTypeLike = jnp.float32) -> tuple[Array, Array]:
        """The coefficient a and the input scale s of h -> a h + s (B x).

        Args:
            steps: Factor on the steps for every sample, (..., T); 1 if None.
            dtype: Real dtype of the computation.

        Returns:
            Both complex (N,), or (..., T, N) with `steps`.
        """
        real, imag = self.lambda_real[...].astype(dtype), self.lambda_imag[...].astype(dtype)
        lam = jax.lax.complex(jnp.minimum(real, -1e-4) if self.clip_eigenvalues else real, imag)
        dt = self.step_rescale * jnp.exp(self.log_step[...].astype(dtype))
        if steps is not None:
            dt = steps[..., None].astype(dtype) * dt
        if self.discretization == "bilinear":
            half = lam * dt / 2
            return (1 + half) / (1 - half), dt / (1 - half)
        return zero_order_hold(lam, dt)

    def __call__(
        self,
        x: Array,
        state: State | None = None,
        reset: Array | None = None,
        *,
        steps: Array | None = None,
        capture: dict[str, Array] | None = None,
    ) -> tuple[Array, State]:
        """See `Cell.__call__`.

        Args:
            x: (..., T, D), floating point.
            state: State carried over from the steps before; the cell's initial state if None.
            reset: Boolean (..., T), true where a new sequence starts.
            steps: Time since the sample before, (..., T), in units of the learned step: for samples at irregular times.
            capture: See `Cell.__call__`.
        """
        x = self._checked(x, time=True)
        return self._run(self.operator(x, steps), x, state, reset, capture)

    def step(self, x: Array, state: State | None = None, *, steps: Array | None = None) -> tuple[Array, State]:
        """See `Cell.step`; `steps` (...) is the time since the step before, in units of the learned step."""
        x = self._checked(x, time=False)
        x, steps = x[..., None, :], None if steps is None else jnp.asarray(steps)[..., None]
        y, state = self._run(self.operator(x, steps), x, state)
        return y[..., 0, :], state

    def operator(self, x: Array, steps: Array | None = None) -> Operator:
        """h -> a h + s (B x), a constant in time unless the samples have `steps` of their own."""
        if steps is not None:
            steps = jnp.asarray(steps)
            if steps.shape != x.shape[:-1] or not jnp.issubdtype(steps.dtype, jnp.floating):
                raise ValueError(f"steps must be floating point {x.shape[:-1]}, got {steps.dtype} {steps.shape}")
        dtype = jnp.promote_types(x.dtype, jnp.float32)
        a, scale = self.discretize(steps, dtype)
        if steps is not None:
            return Affine(a, scale * complex_in(x, self.b[...], self.dtype))
        b = scale * jax.lax.complex(*self.b[...].astype(dtype).swapaxes(0, 1))  # (D, N), of which there are fewer
        return Affine(a, complex_in(x, jnp.stack([b.real, b.imag], 1), self.dtype))

    def readout(self, h: Array, x: Array) -> Array:
        """2 Re(C h) + d x, or Re(C h) + d x without conjugate symmetry."""
        return (
            self.readout_scale * real_out(h, self.c[...], self.dtype).astype(x.dtype) + self.d[...].astype(x.dtype) * x
        )


class BidirectionalS5(S5):
    """S5 in both directions, as its authors have it: A, B, the steps and d are shared, each direction has its own C.

    y = 2 Re(C h + C~ h~) + d x, where h~ runs from the last step to the first. It has no `step`; the state that it
    takes and returns is the forward one, and the backward one starts from the initial state at the end of a sequence.
    Where samples have `steps` of their own, h~ takes the time to the sample after; of the last one, where there is
    none, the time since the sample before.
    """

    def __init__(self, features: int, state_size: int, *, rngs: nnx.Rngs | int, **options: Any):
        """See `S5`, whose options it has."""
        rngs = as_rngs(rngs)
        super().__init__(features, state_size, rngs=rngs, **options)
        self.c_backward = nnx.Param(S5(features, state_size, rngs=rngs, **options).c[...])

    def __call__(
        self,
        x: Array,
        state: State | None = None,
        reset: Array | None = None,
        *,
        steps: Array | None = None,
        capture: dict[str, Array] | None = None,
    ) -> tuple[Array, State]:
        """See `S5.__call__`."""
        x = self._checked(x, time=True)
        op = self.operator(x, steps)
        inner: dict[str, Array] | None = None if capture is None else {}
        y, state = self._run(op, x, state, reset, inner)
        last, start = None if reset is None else ends(jnp.asarray(reset)), self.initial_state()
        if steps is not None:
            op = self.operator(x, _until_next(jnp.asarray(steps), last))
        h = scan(op, start, reset=last, reset_state=start, reverse=True, method=self.method)
        if capture is not None and inner is not None:
            capture.update({f"forward/{k}": v for k, v in inner.items()})
            capture.update({f"backward/{k}": v for k, v in named("state", h).items()})
        z = self.readout_scale * real_out(h, self.c_backward[...], self.dtype)
        return y + z.astype(x.dtype), state

    def step(self, x: Array, state: State | None = None, *, steps: Array | None = None) -> NoReturn:
        """Not available.

        Raises:
            ValueError: Always: the backward half of a step needs the steps after it.
        """
        raise ValueError("a bidirectional cell cannot run step by step: its output needs the steps still to come")


def _until_next(steps: Array, last: Array | None) -> Array:
    """The time to the sample after, (..., T), given that since the one before, and which samples are the last ones."""
    following = jnp.concatenate([steps[..., 1:], steps[..., -1:]], -1)
    return following if last is None else jnp.where(last, steps, following)


def _check_options(discretization: str, c_init: str, step_min: float, step_max: float, step_rescale: float) -> None:
    if discretization not in DISCRETIZATIONS:
        raise ValueError(f"S5 discretization must be 'zoh' or 'bilinear', got {discretization!r}")
    if c_init not in C_INITS:
        raise ValueError(f"S5 c_init must be one of {', '.join(C_INITS)}, got {c_init!r}")
    check_steps("S5", step_min, step_max)
    if not 0 < step_rescale < math.inf:
        raise ValueError(f"S5 needs a positive, finite step_rescale, got {step_rescale}")


def _output_matrix(kind: str, vectors: Any, blocks: int, features: int, rngs: nnx.Rngs) -> Array:
    """C at the start, real (2, channels, D), for the kept eigenvectors (size, kept) of one block."""
    size, kept = vectors.shape
    if kind == "complex_normal":
        return math.sqrt(0.5) * jax.random.normal(rngs.params(), (2, blocks * kept, features), jnp.float32)
    scale = 1.0 if kind == "trunc_standard_normal" else 1 / features
    draw = nnx.initializers.variance_scaling(scale, "fan_in", "truncated_normal")  # variance scale / N
    parts = draw(rngs.params(), (blocks * size, 2 * features), jnp.float32).reshape(blocks, size, 2, features)
    c = jax.lax.complex(parts[:, :, 0], parts[:, :, 1])
    c = jnp.einsum("jnd,nk->jkd", c, vectors).reshape(blocks * kept, features)
    return jnp.stack([c.real, c.imag]).astype(jnp.float32)
