"""A stack of sequence blocks from token or feature to logits, in parallel or one step at a time.

Shapes: `...` any leading batch axes, T time, D width of the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from mru.cells import Cell, State
from mru.cells._base import as_rngs
from mru.cells._linear import linear, product_dtype
from mru.model.blocks import SequenceBlock, rematerialised
from mru.model.factories import Blocks, Factory, blocks_of, make, name_of
from mru.model.inputs import batch_shape_of, check_sizes, encoders, known_tokens
from mru.model.norms import make_norm, normed
from mru.model.pooling import POOLINGS
from mru.model.positions import sinusoidal_positions
from mru.model.segments import Segments


class ModelState(NamedTuple):
    """What a model carries from one chunk of a sequence to the next.

    Attributes:
        position: Steps since the sequence started, int32 (...).
        total: Sum over these steps of what is pooled, at least float32, (..., D); 0 unless the pooling is "mean".
        cells: The states of the cells, one tuple a block, one entry a cell: any pytree of arrays (...) + its own axes.
            In a block with a convolution, what that saw is one entry more.
    """

    position: Array
    total: Array
    cells: tuple[tuple[State, ...], ...]


class SequenceModel(nnx.Module):
    """Encoder, blocks of cells, norm, pooling, head.

    >>> import jax.numpy as jnp, mru
    >>> model = mru.SequenceModel(4, 3, cells="lru,pmru", width=8, state_size=8, rngs=0)
    >>> logits, state = model(jnp.ones((2, 5, 4)))  # 2 sequences of 5 steps
    >>> logits, state = model.step(jnp.ones((2, 4)), state)  # one step more
    >>> logits.shape, state.position.tolist()
    ((2, 3), [6, 6])
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        cells: Blocks,
        width: int = 128,
        state_size: int = 128,
        vocabulary: int = 0,
        positions: int = 0,
        expansion: float = 2.0,
        dropout: float = 0.0,
        tied_dropout: bool = False,
        pooling: str = "mean",
        bidirectional: bool = False,
        norm: str = "layer",
        prenorm: bool = True,
        final_norm: bool = True,
        activation: str | None = None,
        conv: int = 0,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        method: str = "auto",
        remat: bool = False,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs | int,
    ):
        """Initialise.

        Args:
            inputs: Features of the input, (..., T, inputs); 0 if it is tokens.
            outputs: Features of the output.
            cells: One entry a block, such as ["s5", "bmru"], or as one text "s5,bmru". An entry is a registry name, a
                class of cells, or a function (width, state_size, *, dtype, rngs) that makes a cell, and may take
                `method`; "lru+bmru", or a list, puts several side by side and sums them.
            width: D.
            state_size: N of every cell.
            vocabulary: Number of tokens, for int inputs (..., T); 0 if the input is features.
            positions: Channels of sinusoidal positions concatenated to the input, an even number; 0 for none. What an
                MRU holds does not say when it was written: positions do.
            expansion: Hidden width of the gated MLP of a block as a multiple of `width`; 0 for no MLP.
            dropout: Rate on the residual branches.
            tied_dropout: Whether dropout drops a channel at all steps of a sequence or at none.
            pooling: What the head reads: "mean" over the real steps, the "last" of them, or every step ("none").
            bidirectional: Every cell in both directions; the model then has no `step` and carries no state.
            norm: "layer", "rms", or "batch", with running statistics (see `mru.model.norms.BatchNorm`).
            prenorm: Each branch of a block normalises what it reads; if not, the sum with what it adds.
            final_norm: Normalise once more after the last block.
            activation: What follows the cells of a block: "gelu", or with a gate "half_glu1", "half_glu2" or "full_glu"
                (see `mru.model.activations.Activation`); None for nothing.
            conv: Steps that a causal convolution of each channel before the cells sees, at least 2; 0 for none. Also in
                a bidirectional model it looks back alone.
            options: Further arguments of the cells by registry name, such as {"s5": {"discretization": "bilinear"}}.
            method: Method of `mru.scan`; of one kind of cell by its options, such as {"brc": {"method": "newton"}}.
            remat: Recompute the blocks in the backward pass instead of storing what is inside them.
            dtype: Dtype of the computation, such as "bfloat16"; parameters, states and logits stay float32. If None,
                that of the inputs and parameters, promoted: float64 inputs are computed with in float64.
            rngs: Source of the initial parameters, or a seed.

        Raises:
            ValueError: An argument is out of its range, or a cell or one of its options is unknown.
        """
        blocks = blocks_of(cells)
        options = options or {}
        if unknown := set(options) - {name_of(factory) for block in blocks for factory in block}:
            raise ValueError(f"options name cells that the model does not have: {', '.join(sorted(unknown))}")
        if pooling not in POOLINGS:
            raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}, got {pooling!r}")
        check_sizes(inputs, outputs, width, state_size, vocabulary, positions)
        dtype, rngs = product_dtype(dtype), as_rngs(rngs)

        def cell(factory: Factory) -> Cell:
            given = options.get(name_of(factory), {})
            common = {"method": method, "dtype": dtype, "rngs": rngs}
            return make(factory, width, state_size, options=given, bidirectional=bidirectional, **common)

        self.inputs, self.vocabulary, self.outputs = inputs, vocabulary, outputs
        self.width, self.positions, self.pooling, self.remat = width, positions, pooling, remat
        self.bidirectional, self.dtype = bidirectional, dtype
        self.encoder, positional = encoders(inputs, vocabulary, positions, width, dtype=dtype, rngs=rngs)
        self.position_encoder = nnx.data(positional)
        parts: dict[str, Any] = {"expansion": expansion, "dropout": dropout, "tied_dropout": tied_dropout}
        parts |= {"norm": norm, "prenorm": prenorm, "activation": activation, "conv": conv}
        parts |= {"dtype": dtype, "rngs": rngs}
        self.blocks = nnx.List(SequenceBlock([cell(f) for f in block], **parts) for block in blocks)
        self.norm = nnx.data(make_norm(norm, width, dtype=dtype, rngs=rngs) if final_norm else None)
        self.head = linear(width, outputs, dtype=dtype, rngs=rngs)

    def initial_state(self, batch_shape: tuple[int, ...] = ()) -> ModelState:
        """The state before the first step of a batch of sequences."""
        return ModelState(
            jnp.zeros(batch_shape, jnp.int32),
            jnp.zeros((*batch_shape, self.width), jnp.float32),
            tuple(block.initial_state(batch_shape) for block in self.blocks),
        )

    def __call__(
        self,
        x: Array,
        state: ModelState | None = None,
        *,
        reset: Array | None = None,
        lengths: Array | None = None,
        rngs: nnx.Rngs | int | None = None,
        capture: dict[str, Array] | None = None,
    ) -> tuple[Array, ModelState]:
        """Run over a whole sequence, or the next chunk of one.

        Args:
            x: Features (..., T, inputs), or tokens (..., T) if the model has a vocabulary.
            state: What the call on the chunk before returned; the initial state if None.
            reset: Boolean (..., T), true where a new sequence starts; pooling covers the last sequence.
            lengths: Number of real steps, int (...), from 1 to T; the steps after them are padding, which changes no
                logit of a pooled model. Not together with `state`: the state returned is that after the padding.
            rngs: Stream "dropout", or a seed, in training: dropout is applied, and batch norm takes the statistics of
                the batch and moves its running ones, only where this is given.
            capture: If given, it is filled with the inputs and intermediates of all cells, by name such as
                "1/0/BMRU/write": block, place in the block, cell, quantity.

        Returns:
            Logits, at least float32, (..., outputs) or, without pooling, (..., T, outputs); and the state after the
            last step.

        Raises:
            ValueError: A shape or dtype does not fit, a token is outside of the vocabulary or a length outside of
                1 to T; the message gives the expected and the given one. Inside `jit`, where values can not be read,
                such a length is taken as the nearest of 1 to T, and such a token makes NaN of every logit it reaches.
        """
        batch_shape = batch_shape_of(x, self.inputs, time=True)
        if state is not None and self.bidirectional:
            raise ValueError("state can not be carried into a bidirectional model")
        if state is not None and lengths is not None:
            raise ValueError("state and lengths exclude each other: a padded batch is whole sequences")
        begins, state = state is None, self._state(state, batch_shape)
        time = jnp.shape(x)[len(batch_shape)]
        segments = Segments.of(state.position, time, reset=reset, lengths=lengths, bidirectional=self.bidirectional)
        rngs = None if rngs is None else as_rngs(rngs)
        x = self._encode(segments.blank_padding(jnp.asarray(x)), segments.position)
        cells = []
        for number, (block, states) in enumerate(zip(self.blocks, state.cells, strict=True)):
            if begins:  # a cell may have less to do where it knows that nothing was before
                states = (None,) * len(states)
            if self.remat and capture is None:
                x, states = rematerialised(block, x, states, segments.reset, rngs, segments.real)
            else:
                inner: dict[str, Array] = {}
                x, states = block(x, states, segments.reset, rngs, None if capture is None else inner, segments.real)
                if capture is not None:
                    capture.update({f"{number}/{name}": value for name, value in inner.items()})
            cells.append(states)
        x, total = POOLINGS[self.pooling](self._normed(x, segments.real, rngs is not None), state.total, segments)
        return self.head(x), ModelState(segments.position[..., -1] + 1, total, tuple(cells))

    def step(self, x: Array, state: ModelState | None = None) -> tuple[Array, ModelState]:
        """Run one step.

        Args:
            x: Features (..., inputs), or tokens (...).
            state: What the step before returned; the initial state if None.

        Returns:
            Logits (..., outputs), those of a sequence that ends here, and the state.

        Raises:
            ValueError: As a call does.
        """
        state = self._state(state, batch_shape_of(x, self.inputs, time=False))
        x = self._encode(jnp.asarray(x), state.position)
        cells = []
        for block, states in zip(self.blocks, state.cells, strict=True):
            x, states = block.step(x, states)
            cells.append(states)
        x = self._normed(x)
        position, total = state.position + 1, state.total
        if self.pooling == "mean":
            total = total + x
            x = total / position[..., None]
        return self.head(x), ModelState(position, total, tuple(cells))

    def _encode(self, x: Array, position: Array) -> Array:
        x = self.encoder(known_tokens(x, self.vocabulary) if self.vocabulary else x)
        if self.position_encoder is not None:
            precise = jnp.promote_types(x.dtype, jnp.float32)
            x = x + self.position_encoder(sinusoidal_positions(position, self.positions, precise))
        return x if self.dtype is None else x.astype(self.dtype)

    def _normed(self, x: Array, real: Array | None = None, training: bool = False) -> Array:
        """What is pooled, in float32 at least: a sum over many steps in bfloat16 would stop growing."""
        x = x if self.norm is None else normed(self.norm, x, real, training)
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))

    def _state(self, state: ModelState | None, batch_shape: tuple[int, ...]) -> ModelState:
        if state is None:
            return self.initial_state(batch_shape)
        if not isinstance(state, ModelState) or jnp.shape(state.position) != batch_shape:
            given = jnp.shape(state.position) if isinstance(state, ModelState) else type(state).__name__
            raise ValueError(f"state must be a ModelState of batch shape {batch_shape}, got {given}")
        shape, kind = (*batch_shape, self.width), jnp.result_type(state.position)
        if jnp.shape(state.total) != shape or not jnp.issubdtype(kind, jnp.integer):
            raise ValueError(
                f"state must have an integer position and a total {shape}, got {kind} and {jnp.shape(state.total)}"
            )
        return state
