"""A stack of sequence blocks from token or feature to logits, in parallel or one step at a time.

Shapes: `...` any leading batch axes, T time, D width of the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from mru import cells as cell_registry
from mru.cells._linear import linear

POOLINGS = ("mean", "last", "none")


def sinusoidal_positions(position: Array, channels: int) -> Array:
    """Sines and cosines of the position at `channels / 2` frequencies falling geometrically from 1 to 1e-4.

    Args:
        position: Integer (..., T).
        channels: An even number.

    Returns:
        (..., T, channels), float32.
    """
    half = channels // 2
    frequency = jnp.exp(-jnp.log(1e4) * jnp.arange(half) / max(half - 1, 1))
    angle = position[..., None].astype(jnp.float32) * frequency
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], -1)


class ModelState(NamedTuple):
    """What a model carries from one chunk of a sequence to the next.

    Attributes:
        position: Steps since the sequence started, int32 (...).
        total: Sum over these steps of what is pooled, float32 (..., D); it is 0 unless the pooling is "mean".
        cells: The states of the cells, one tuple a block.
    """

    position: Array
    total: Array
    cells: tuple[tuple[Array, ...], ...]


class GatedMLP(nnx.Module):
    """W_o (silu(W_g x) * W_v x)."""

    def __init__(self, width: int, hidden: int, *, dtype: DTypeLike | None, rngs: nnx.Rngs):
        self.gate = nnx.Linear(width, hidden, dtype=dtype, rngs=rngs)
        self.value = nnx.Linear(width, hidden, dtype=dtype, rngs=rngs)
        self.out = nnx.Linear(hidden, width, dtype=dtype, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Map (..., D) to (..., D)."""
        return self.out(nnx.silu(self.gate(x)) * self.value(x))


class SequenceBlock(nnx.Module):
    """Pre-norm residual block: the summed outputs of its cells, then a gated MLP.

    x += dropout(sum of cells(norm(x))); x += dropout(mlp(norm(x))).
    """

    def __init__(
        self,
        cells: Sequence[cell_registry.Cell],
        *,
        expansion: float,
        dropout: float,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        """Initialise.

        Args:
            cells: Cells that stand side by side, all with the same `features`.
            expansion: Hidden width of the MLP as a multiple of D; 0 for none.
            dropout: Rate, applied to both residual branches.
            dtype: Dtype of the computation.
            rngs: Source of the initial parameters.
        """
        width = cells[0].features
        self.cells = nnx.List(cells)
        self.norm = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        hidden = round(expansion * width)
        self.mlp_norm = nnx.data(nnx.LayerNorm(width, dtype=dtype, rngs=rngs) if hidden else None)
        self.mlp = nnx.data(GatedMLP(width, hidden, dtype=dtype, rngs=rngs) if hidden else None)
        self.dropout = nnx.Dropout(dropout)

    def __call__(
        self,
        x: Array,
        states: tuple[Array, ...],
        reset: Array | None,
        rngs: nnx.Rngs | None,
        capture: dict[str, Array] | None = None,
    ) -> tuple[Array, tuple[Array, ...]]:
        """(..., T, D) -> (..., T, D) and the states of the cells; dropout only where `rngs` is given."""
        inner: list[dict[str, Array] | None] = [None if capture is None else {} for _ in self.cells]
        normed = self.norm(x)
        outs, states = zip(
            *(c(normed, s, reset, capture=i) for c, s, i in zip(self.cells, states, inner, strict=True)), strict=True
        )
        for number, (cell, found) in enumerate(zip(self.cells, inner, strict=True)):
            if capture is not None and found is not None:
                capture.update({f"{number}/{type(cell).__name__}/{k}": v for k, v in found.items()})
        return self._residual(x, sum(outs), rngs), states

    def step(self, x: Array, states: tuple[Array, ...]) -> tuple[Array, tuple[Array, ...]]:
        """One step: (..., D) -> (..., D) and the states of the cells."""
        normed = self.norm(x)
        outs, states = zip(*(c.step(normed, s) for c, s in zip(self.cells, states, strict=True)), strict=True)
        return self._residual(x, sum(outs), None), states

    def _residual(self, x, mixed, rngs):
        x = x + self.dropout(mixed, deterministic=rngs is None, rngs=rngs)
        if self.mlp is None:
            return x
        return x + self.dropout(self.mlp(self.mlp_norm(x)), deterministic=rngs is None, rngs=rngs)


class SequenceModel(nnx.Module):
    """Encoder, blocks of named cells, pooling, head."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        cells: Sequence[str],
        width: int = 128,
        state_size: int = 128,
        vocabulary: int = 0,
        positions: int = 0,
        expansion: float = 2.0,
        dropout: float = 0.0,
        pooling: str = "mean",
        bidirectional: bool = False,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        method: str = "auto",
        remat: bool = False,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        """Initialise.

        Args:
            inputs: Features of the input, (..., T, inputs); 0 if it is tokens.
            outputs: Features of the output.
            cells: One registry name a block, such as ["s5", "bmru"]; "lru+bmru" puts two side by side and sums them.
            width: D.
            state_size: N of every cell.
            vocabulary: Number of tokens, for int inputs (..., T); 0 if the input is features.
            positions: Channels of sinusoidal positions concatenated to the input, an even number; 0 for none. What an
                MRU holds does not say when it was written: positions do.
            expansion: Hidden width of the gated MLP of a block as a multiple of `width`; 0 for no MLP.
            dropout: Rate on the residual branches.
            pooling: What the head reads: "mean" over the real steps, the "last" of them, or every step ("none").
            bidirectional: Every cell in both directions; the model then has no `step` and carries no state.
            options: Further arguments of the cells by registry name, such as {"s5": {"discretization": "bilinear"}}.
            method: Method of `mru.scan`.
            remat: Recompute the blocks in the backward pass instead of storing what is inside them.
            dtype: Dtype of the computation, such as "bfloat16"; parameters, states and logits stay float32.
            rngs: Source of the initial parameters.

        Raises:
            ValueError: An argument is out of its range, or a cell or one of its options is unknown.
        """
        if not cells:
            raise ValueError("cells must name at least one block, got none")
        if (inputs > 0) == (vocabulary > 0):
            raise ValueError(f"either inputs or vocabulary must be positive, got {inputs} and {vocabulary}")
        if positions < 0 or positions % 2:
            raise ValueError(f"positions must be an even number of channels, got {positions}")
        if pooling not in POOLINGS:
            raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}, got {pooling!r}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        options = options or {}
        used = {name for block in cells for name in block.split("+")}
        if unknown := set(options) - used:
            raise ValueError(f"options name cells that the model does not have: {', '.join(sorted(unknown))}")

        dtype = None if dtype is None else jnp.dtype(dtype)

        def cell(name):
            kind = cell_registry.get(name)
            try:
                return kind(width, state_size, method=method, dtype=dtype, rngs=rngs, **options.get(name, {}))
            except TypeError as error:
                raise ValueError(f"options of cell {name!r}: {error}") from None

        def layer(name):
            return cell_registry.Bidirectional(cell(name), cell(name)) if bidirectional else cell(name)

        self.inputs, self.vocabulary, self.outputs = inputs, vocabulary, outputs
        self.width, self.positions, self.pooling, self.remat = width, positions, pooling, remat
        self.bidirectional = bidirectional
        self.dtype = dtype
        self.encoder = (
            nnx.Embed(vocabulary, width, dtype=dtype, rngs=rngs)
            if vocabulary
            # Fan-in counts the positions: the two products are one, of the concatenated input.
            else linear(inputs, width, dtype=dtype, kernel_init=_lecun(inputs + positions), rngs=rngs)
        )
        fan_in = positions + (width if vocabulary else inputs)
        self.position_encoder = nnx.data(
            linear(positions, width, use_bias=False, dtype=dtype, kernel_init=_lecun(fan_in), rngs=rngs)
            if positions
            else None
        )
        self.blocks = nnx.List(
            SequenceBlock(
                [layer(name) for name in block.split("+")], expansion=expansion, dropout=dropout, dtype=dtype, rngs=rngs
            )
            for block in cells
        )
        self.norm = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        self.head = linear(width, outputs, dtype=dtype, rngs=rngs)

    def initial_state(self, batch_shape: tuple[int, ...] = ()) -> ModelState:
        """The state before the first step of a batch of sequences."""
        return ModelState(
            jnp.zeros(batch_shape, jnp.int32),
            jnp.zeros((*batch_shape, self.width)),
            tuple(tuple(cell.initial_state(batch_shape) for cell in block.cells) for block in self.blocks),
        )

    def __call__(
        self,
        x: Array,
        state: ModelState | None = None,
        *,
        reset: Array | None = None,
        lengths: Array | None = None,
        rngs: nnx.Rngs | None = None,
        capture: dict[str, Array] | None = None,
    ) -> tuple[Array, ModelState]:
        """Run over a whole sequence, or the next chunk of one.

        Args:
            x: Features (..., T, inputs), or tokens (..., T) if the model has a vocabulary.
            state: What the call on the chunk before returned; the initial state if None.
            reset: Boolean (..., T), true where a new sequence starts; pooling covers the last sequence.
            lengths: Number of real steps, int (...), at least 1; the steps after them are padding, which changes no
                logit of a pooled model. Not together with `state`: the state returned is that after the padding.
            rngs: Stream "dropout"; dropout is applied only where this is given.
            capture: If given, it is filled with the intermediates of all cells, by name such as "1/0/BMRU/write":
                block, place in the block, cell, quantity.

        Returns:
            Logits, float32, (..., outputs) or, without pooling, (..., T, outputs); and the state after the last step.

        Raises:
            ValueError: A shape or dtype does not fit; the message gives the expected and the given one.
        """
        self._check(x, time=True)
        batch = x.shape[:-1] if self.vocabulary else x.shape[:-2]
        time = x.shape[len(batch)]
        if state is not None and (self.bidirectional or lengths is not None):
            raise ValueError(
                "state can not be carried into a bidirectional model" if self.bidirectional else
                "state and lengths exclude each other: a padded batch is whole sequences"
            )  # fmt: skip
        lengths = None if lengths is None else jnp.asarray(lengths)
        if lengths is not None and (lengths.shape != batch or not jnp.issubdtype(lengths.dtype, jnp.integer)):
            raise ValueError(f"lengths must be int {batch}, got {lengths.dtype} {lengths.shape}")
        reset = None if reset is None else jnp.asarray(reset)
        if reset is not None and (reset.dtype != bool or reset.shape != (*batch, time)):
            raise ValueError(f"reset must be bool {(*batch, time)}, got {reset.dtype} {reset.shape}")
        state = self.initial_state(batch) if state is None else state
        steps = jnp.arange(time, dtype=jnp.int32)
        if reset is not None and lengths is not None:
            reset = reset & (steps < lengths[..., None])  # in the padding nothing starts
        start, position = _positions(steps, state.position, reset)
        if lengths is not None and self.bidirectional:
            # Padding becomes a sequence of its own, which the backward cells leave behind.
            padding = steps == lengths[..., None]
            reset = padding if reset is None else reset | padding
        if lengths is not None and not self.vocabulary:
            # Select before the encoder: a NaN in the padding times a cotangent of zero is a NaN in its gradient.
            x = jnp.where((steps < lengths[..., None])[..., None], x, 0)
        x = self.encoder(x)
        if self.position_encoder is not None:
            x = x + self.position_encoder(sinusoidal_positions(position, self.positions))
        x = x if self.dtype is None else x.astype(self.dtype)
        new_states = []
        call = _rematerialised if self.remat and capture is None else SequenceBlock.__call__
        for number, (block, block_state) in enumerate(zip(self.blocks, state.cells, strict=True)):
            found: dict[str, Array] | None = None if capture is None else {}
            x, block_state = call(block, x, block_state, reset, rngs, found)
            new_states.append(block_state)
            if capture is not None and found is not None:
                capture.update({f"{number}/{k}": v for k, v in found.items()})
        x = self.norm(x).astype(jnp.float32)
        total = state.total
        if self.pooling == "mean":
            carried = start < 0
            keep = steps >= start[..., None]
            end = time if lengths is None else lengths[..., None]
            total = jnp.where(carried[..., None], total, 0) + jnp.where(
                (keep & (steps < end))[..., None], x, 0
            ).sum(-2)  # fmt: skip
            count = position[..., -1] + 1 if lengths is None else lengths - jnp.maximum(start, 0)
            x = total / jnp.broadcast_to(count, batch)[..., None]
        elif self.pooling == "last":
            x = (
                x[..., -1, :]
                if lengths is None
                else jnp.take_along_axis(x, lengths[..., None, None] - 1, -2)[..., 0, :]
            )
        state = ModelState(jnp.broadcast_to(position[..., -1] + 1, batch), total, tuple(new_states))
        return self.head(x), state

    def step(self, x: Array, state: ModelState) -> tuple[Array, ModelState]:
        """Run one step.

        Args:
            x: Features (..., inputs), or tokens (...).
            state: What the step before returned, or `initial_state(...)`.

        Returns:
            Logits (..., outputs), those of a sequence that ends here, and the state.
        """
        self._check(x, time=False)
        x = self.encoder(x)
        if self.position_encoder is not None:
            x = x + self.position_encoder(sinusoidal_positions(state.position, self.positions))
        x = x if self.dtype is None else x.astype(self.dtype)
        new_states = []
        for block, block_state in zip(self.blocks, state.cells, strict=True):
            x, block_state = block.step(x, block_state)
            new_states.append(block_state)
        x = self.norm(x).astype(jnp.float32)
        position, total = state.position + 1, state.total
        if self.pooling == "mean":
            total = total + x
            x = total / position[..., None]
        return self.head(x), ModelState(position, total, tuple(new_states))

    def _check(self, x: Array, time: bool) -> None:
        axis = "T, " if time else ""
        given = f"got {getattr(x, 'dtype', type(x).__name__)} {jnp.shape(x)}"
        if self.vocabulary:
            fits = jnp.issubdtype(jnp.result_type(x), jnp.integer) and jnp.ndim(x) >= time
            expected = f"int tokens (..., {axis[:-2]})".replace(", )", ")")
        else:
            fits = jnp.issubdtype(jnp.result_type(x), jnp.floating) and jnp.shape(x)[-1:] == (self.inputs,)
            fits = fits and jnp.ndim(x) >= 1 + time
            expected = f"floating-point features (..., {axis}{self.inputs})"
        if not fits or 0 in jnp.shape(x):
            raise ValueError(f"the model takes {expected}, {given}")


def _rematerialised(block, x, states, reset, rngs, capture):
    """`block(...)` under `jax.checkpoint`, which wants a pure function: the block's variables and a key go in."""
    graphdef, variables = nnx.split(block)

    def run(variables, x, states, reset, key):
        rngs = None if key is None else nnx.Rngs(dropout=key)
        return nnx.merge(graphdef, variables)(x, states, reset, rngs)

    return jax.checkpoint(run)(variables, x, states, reset, None if rngs is None else rngs.dropout())


def _lecun(fan_in: int):
    return nnx.initializers.normal(fan_in**-0.5)


def _positions(steps: Array, offset: Array, reset: Array | None) -> tuple[Array, Array]:
    """First step of the last sequence (...), -1 if it was carried in, and the steps since each one's start (..., T)."""
    if reset is None:
        return jnp.full(offset.shape, -1), offset[..., None] + steps
    latest = jax.lax.cummax(jnp.where(reset, steps, -1), axis=reset.ndim - 1)
    return latest[..., -1], jnp.where(latest < 0, offset[..., None] + steps, steps - latest)
