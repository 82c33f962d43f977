"""What a model is given, features or tokens: how they are checked, and the layers that encode them."""

from __future__ import annotations

import numbers

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from mru.cells._linear import linear
from mru.model.embedding import Embedding
from mru.model.segments import concrete


def check_sizes(inputs: int, outputs: int, width: int, state_size: int, vocabulary: int, positions: int) -> None:
    """Require that a model can have these sizes, arguments of `SequenceModel`.

    Raises:
        ValueError: It can not.
    """
    sizes = {"outputs": (outputs, 1), "width": (width, 1), "state_size": (state_size, 1)}
    for name, (size, least) in (sizes | {"inputs": (inputs, 0), "vocabulary": (vocabulary, 0)}).items():
        if not isinstance(size, numbers.Integral) or size < least:
            raise ValueError(f"{name} must be an integer of at least {least}, got {size!r}")
    if (inputs > 0) == (vocabulary > 0):
        raise ValueError(f"either inputs or vocabulary must be positive, got {inputs} and {vocabulary}")
    if not isinstance(positions, numbers.Integral) or positions < 0 or positions % 2:
        raise ValueError(f"positions must be an even number of channels, got {positions}")


def encoders(
    inputs: int, vocabulary: int, positions: int, width: int, *, dtype: DTypeLike | None, rngs: nnx.Rngs
) -> tuple[nnx.Linear | Embedding, nnx.Linear | None]:
    """The encoder of features or tokens, and that of the positions, if there are any.

    Fan-in counts the positions: the two products are one, of the concatenated input.
    """

    def lecun(fan_in: int) -> nnx.Initializer:
        return nnx.initializers.normal(fan_in**-0.5)

    encoder = (
        Embedding(vocabulary, width, dtype=dtype, rngs=rngs)
        if vocabulary
        else linear(inputs, width, dtype=dtype, kernel_init=lecun(inputs + positions), rngs=rngs)
    )
    if not positions:
        return encoder, None
    init = lecun(positions + (width if vocabulary else inputs))
    return encoder, linear(positions, width, use_bias=False, dtype=dtype, kernel_init=init, rngs=rngs)


def known_tokens(x: Array, vocabulary: int) -> Array:
    """Tokens that are all in the vocabulary: an unknown one is refused, or inside `jit` embedded as NaN.

    Raises:
        ValueError: A token is outside.
    """
    values = concrete(x)
    if values is None:
        # The embedding reads NaN behind its end, but counts a negative token from there.
        return jnp.where(x < 0, vocabulary, x)
    if values.size and not 0 <= values.min() <= values.max() < vocabulary:
        raise ValueError(
            f"tokens must be from 0 to {vocabulary - 1}, as the vocabulary has {vocabulary}, "
            f"got {values.min()} to {values.max()}"
        )
    return x


def batch_shape_of(x: Array, inputs: int, *, time: bool) -> tuple[int, ...]:
    """The batch shape of features (..., T, inputs), or of tokens (..., T) if `inputs` is 0.

    Args:
        x: Inputs of a model.
        inputs: Features; 0 for tokens.
        time: Whether there is an axis T.

    Raises:
        ValueError: The shape or dtype does not fit; the message gives the expected and the given one.
    """
    axis = "T, " if time else ""
    if inputs:
        fits = jnp.issubdtype(jnp.result_type(x), jnp.floating) and jnp.shape(x)[-1:] == (inputs,)
        fits = fits and jnp.ndim(x) >= 1 + time
        expected = f"floating-point features (..., {axis}{inputs})"
    else:
        fits = jnp.issubdtype(jnp.result_type(x), jnp.integer) and jnp.ndim(x) >= time
        expected = f"int tokens (..., {axis[:-2]})".replace(", )", ")")
    if not fits or 0 in jnp.shape(x):
        given = f"{getattr(x, 'dtype', type(x).__name__)} {jnp.shape(x)}"
        raise ValueError(f"the model takes {expected}{', none of them 0' if fits else ''}, got {given}")
    inner = time + bool(inputs)
    return jnp.shape(x)[: jnp.ndim(x) - inner]
