"""What a model is stacked from: residual blocks of cells, what stands before and after them, and a gated MLP."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from mru.cells import Cell, State
from mru.cells._base import as_rngs
from mru.cells._convolution import CausalConvolution, check_steps_seen
from mru.cells._linear import product
from mru.model import row_kernels
from mru.model.activations import Activation
from mru.model.norms import kept_and_normed, make_norm, normed


class GatedMLP(nnx.Module):
    """W_o (silu(W_g x) * W_v x)."""

    def __init__(self, width: int, hidden: int, *, dtype: DTypeLike | None, rngs: nnx.Rngs):
        layer = functools.partial(nnx.Linear, dtype=dtype, dot_general=product, rngs=rngs)
        self.gate, self.value, self.out = layer(width, hidden), layer(width, hidden), layer(hidden, width)

    def __call__(self, x: Array, again: Array, training: bool) -> Array:
        """Map (..., D) to (..., D).

        Args:
            x: What W_g multiplies.
            again: The same, for W_v, so that each of the two has a cotangent of its own.
            training: Whether derivatives may have reverse mode only: on GPUs they are a kernel then.
        """
        dtype = self.gate.dtype or jnp.promote_types(x.dtype, self.gate.kernel[...].dtype)
        hidden = self.gate.out_features
        if not training or row_kernels.obstacle((*x.shape[:-1], hidden), dtype) is not None:
            return self.out(nnx.silu(self.gate(x)) * self.value(again))
        # XLA would join the two products, only to copy their results apart again.
        x, again = jax.lax.optimization_barrier((x.astype(dtype), again.astype(dtype)))
        gate, value = (
            product(y, layer.kernel[...].astype(dtype), (((x.ndim - 1,), (0,)), ((), ())))
            for y, layer in ((x, self.gate), (again, self.value))
        )
        biases = (layer.bias[...] for layer in (self.gate, self.value) if layer.bias is not None)
        return self.out(row_kernels.gated(gate, value, *biases))


class SequenceBlock(nnx.Module):
    """Residual block: the summed outputs of its cells, then a gated MLP.

    Pre-norm:   x += dropout(act(sum of cells(conv(norm(x))))); x += dropout(mlp(norm(x))).
    Post-norm:  x = norm(x + dropout(act(sum of cells(conv(x))))); x = norm(x + dropout(mlp(x))).
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        *,
        expansion: float,
        dropout: float,
        tied_dropout: bool = False,
        norm: str = "layer",
        prenorm: bool = True,
        activation: str | None = None,
        conv: int = 0,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs | int,
    ):
        """Initialise.

        Args:
            cells: Cells that stand side by side, all with the same `features`.
            expansion: Hidden width of the MLP as a multiple of D, rounded to the nearest; 0 for none.
            dropout: Rate, applied to both residual branches.
            tied_dropout: Whether a channel is dropped at all steps of a sequence or at none.
            norm: "layer", "rms" or "batch"; see `mru.model.norms`.
            prenorm: Whether each branch normalises what it reads, or else the sum with what it adds.
            activation: What follows the cells, see `mru.model.activations.Activation`; None for nothing.
            conv: Steps that a causal convolution of each channel before the cells sees; 0 for none.
            dtype: Dtype of the computation.
            rngs: Source of the initial parameters, or a seed.

        Raises:
            ValueError: There is no cell, their features differ, or an argument is out of its range.
        """
        if len({cell.features for cell in cells}) != 1:
            given = ", ".join(f"{type(cell).__name__} of {cell.features}" for cell in cells) or "none"
            raise ValueError(f"a block needs cells, all of the same features, got {given}")
        if not 0 <= expansion < math.inf:
            raise ValueError(f"expansion must be at least 0 and finite, got {expansion}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        check_steps_seen(conv, none=True)
        rngs = as_rngs(rngs)
        width = cells[0].features
        self.cells, self.prenorm = nnx.List(cells), prenorm
        self.norm = make_norm(norm, width, dtype=dtype, rngs=rngs)
        hidden = round(expansion * width)
        self.mlp_norm = nnx.data(make_norm(norm, width, dtype=dtype, rngs=rngs) if hidden else None)
        self.mlp = nnx.data(GatedMLP(width, hidden, dtype=dtype, rngs=rngs) if hidden else None)
        self.conv = nnx.data(CausalConvolution(width, conv, rngs=rngs) if conv else None)
        self.dropout = nnx.Dropout(dropout, broadcast_dims=(-2,) if tied_dropout else ())
        after = None
        if activation is not None:
            after = Activation(activation, width, dropout=self.dropout, dtype=dtype, rngs=rngs)
        self.activation = nnx.data(after)

    def initial_state(self, batch_shape: tuple[int, ...] = ()) -> tuple[State, ...]:
        """The states of the cells before the first step of a batch of sequences, and last that of a convolution."""
        states = tuple(cell.initial_state(batch_shape) for cell in self.cells)
        return states if self.conv is None else (*states, self.conv.initial_state(batch_shape))

    def __call__(
        self,
        x: Array,
        states: tuple[State | None, ...],
        reset: Array | None = None,
        rngs: nnx.Rngs | None = None,
        capture: dict[str, Array] | None = None,
        real: Array | None = None,
    ) -> tuple[Array, tuple[State, ...]]:
        """Run over a whole sequence, or the next chunk of one.

        Args:
            x: (..., T, D).
            states: As `initial_state` has them, any pytrees; None for the initial state of one.
            reset: Boolean (..., T), true where a new sequence starts.
            rngs: Stream "dropout", in training: dropout is applied, and batch norm takes the statistics of the batch
                and moves its running ones, only where this is given.
            capture: If given, it is filled with the input and the intermediates of the cells, by name such as
                "0/BMRU/write".
            real: Boolean (..., T), which steps are no padding; None for all.

        Returns:
            (..., T, D), and the states after the last step.
        """
        x, inside = kept_and_normed(self.norm, x, 1, real, rngs is not None) if self.prenorm else (x, x)
        outs, new_states, after = [], [], []
        if self.conv is not None:
            states, seen = states[:-1], states[-1]
            inside, seen = self.conv(inside, seen, reset)
            after = [seen]
        for number, (cell, state) in enumerate(zip(self.cells, states, strict=True)):
            inner: dict[str, Array] | None = None if capture is None else {}
            out, state = cell(inside, state, reset, capture=inner)
            outs.append(out)
            new_states.append(state)
            if capture is not None and inner is not None:
                found = {"input": inside, **inner}
                capture.update({f"{number}/{type(cell).__name__}/{name}": value for name, value in found.items()})
        return self._residual(x, _sum(outs), rngs, real), (*new_states, *after)

    def step(self, x: Array, states: tuple[State, ...]) -> tuple[Array, tuple[State, ...]]:
        """One step: (..., D) -> (..., D) and the states."""
        inside, after = normed(self.norm, x) if self.prenorm else x, []
        if self.conv is not None:
            states, seen = states[:-1], states[-1]
            inside, seen = self.conv.step(inside, seen)
            after = [seen]
        outs, new_states = zip(*(c.step(inside, s) for c, s in zip(self.cells, states, strict=True)), strict=True)
        return self._residual(x, _sum(outs), None, None), (*new_states, *after)

    def _residual(self, x: Array, mixed: Array, rngs: nnx.Rngs | None, real: Array | None) -> Array:
        training = rngs is not None
        if self.activation is not None:
            mixed = self.activation(mixed, rngs)
        x = x + self.dropout(mixed, deterministic=not training, rngs=rngs)
        if not self.prenorm:
            x = normed(self.norm, x, real, training)
        if self.mlp is None or self.mlp_norm is None:
            return x
        x, inside, again = kept_and_normed(self.mlp_norm, x, 2, real, training) if self.prenorm else (x, x, x)
        x = x + self.dropout(self.mlp(inside, again, training), deterministic=not training, rngs=rngs)
        return x if self.prenorm else normed(self.mlp_norm, x, real, training)


def rematerialised(
    block: SequenceBlock,
    x: Array,
    states: tuple[State | None, ...],
    reset: Array | None,
    rngs: nnx.Rngs | None,
    real: Array | None,
) -> tuple[Array, tuple[State, ...]]:
    """`block(x, states, reset, rngs, real=real)`, computed again in the backward pass instead of stored."""
    graphdef, variables = nnx.split(block)

    # A pure function is wanted: variables and a random stream go in, and what training moves comes out.
    def run(
        x: Array,
        variables: Any,
        states: tuple[State | None, ...],
        reset: Array | None,
        real: Array | None,
        stream: tuple[Array, Array] | None,
    ) -> tuple[Array, tuple[State, ...], Any]:
        # Made anew, as a merge shares the variables that it is given, and batch norm moves them.
        block, rngs = nnx.merge(graphdef, jax.tree.map(lambda x: x, variables)), None
        if stream is not None:
            key, count = stream
            rngs = nnx.Rngs(dropout=key)
            rngs.dropout.count = nnx.RngCount(jnp.asarray(count), tag="dropout")
        x, states = block(x, states, reset, rngs, real=real)
        return x, states, None if rngs is None else (nnx.state(block, nnx.BatchStat), rngs.dropout.count[...])

    if rngs is None:
        x, states, _ = jax.checkpoint(run)(x, variables, states, reset, real, None)
        return x, states
    stream = rngs.dropout.key[...], jnp.asarray(rngs.dropout.count[...])
    x, states, (statistics, count) = _computed_again(run, x, variables, states, reset, real, stream)
    nnx.update(block, statistics)
    rngs.dropout.count[...] = count  # so that the same masks are drawn as by the block itself
    return x, states


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _computed_again(run: Callable[..., Any], x: Array, *rest: Any) -> Any:
    """run(x, *rest), whose derivative computes it again, not before it has the cotangent of the first result.

    With `jax.checkpoint`, XLA's scheduler for CPUs computes again as early as it can, and saves next to no memory.
    """
    return run(x, *rest)


def _computed_again_forward(run: Callable[..., Any], x: Array, *rest: Any) -> Any:
    return run(x, *rest), (x, rest)


def _computed_again_backward(run: Callable[..., Any], residuals: Any, cotangents: Any) -> Any:
    x, rest = residuals
    # Zeros, which XLA does not know.
    bits = jax.lax.bitcast_convert_type(cotangents[0].astype(jnp.float32), jnp.int32)
    zeros = jnp.minimum(bits & jnp.iinfo(jnp.int32).max, 0)
    return jax.vjp(run, x + zeros.astype(x.dtype), *rest)[1](cotangents)


_computed_again.defvjp(_computed_again_forward, _computed_again_backward)


def _sum(outs: Sequence[Array]) -> Array:
    return functools.reduce(operator.add, outs)
