"""The layers of a model, and what they are given."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax import Array

from mru.cells import Bidirectional, Cell
from mru.dynamics._cells import compiled
from mru.model import SequenceModel


def layers(model: SequenceModel) -> dict[str, Cell]:
    """The cells of a model by the names that `capture` gives them, such as "1/0/BMRU": block, place in it, cell.

    The two cells of a `Bidirectional` are layers of their own, such as "1/0/Bidirectional/backward".
    """
    found: dict[str, Cell] = {}
    for number, block in enumerate(model.blocks):
        for place, cell in enumerate(block.cells):
            name = f"{number}/{place}/{type(cell).__name__}"
            if isinstance(cell, Bidirectional):
                found |= {f"{name}/forward": cell.forward, f"{name}/backward": cell.backward}
            else:
                found[name] = cell
    return found


def layer(
    model: SequenceModel, name: str, inputs: Array, *, lengths: Array | None = None, reset: Array | None = None
) -> tuple[Cell, Array]:
    """A cell of a model, and what the model gives it when it reads a batch.

    Args:
        model: Model.
        name: Which layer, see `layers`.
        inputs: What the model is called with, features (..., T, inputs) or tokens (..., T).
        lengths: See `SequenceModel.__call__`.
        reset: See there.

    Returns:
        The cell, and its inputs (..., T, D), in the order in which it reads them.

    Raises:
        ValueError: There is no such layer; the message names those there are.
    """
    found = layers(model)
    if name not in found:
        raise ValueError(f"the model has no layer {name!r}; it has {', '.join(found)}")
    x = captured(model, input_name(name), inputs, lengths=lengths, reset=reset)
    return found[name], jnp.flip(x, -2) if name.endswith("/backward") else x


def captured(
    model: SequenceModel, name: str, inputs: Array, *, lengths: Array | None = None, reset: Array | None = None
) -> Array:
    """One of the quantities inside of a model when it reads a batch, such as "1/0/BMRU/write".

    Args:
        model: Model.
        name: Its name in the `capture` of `SequenceModel.__call__`.
        inputs: What the model is called with, features (..., T, inputs) or tokens (..., T).
        lengths: See there.
        reset: See there.

    Returns:
        (..., T, and its own axes).

    Raises:
        ValueError: There is none of this name; the message has those that there are.
    """
    return _captured(model, inputs, lengths, reset, name=name)


def input_name(name: str) -> str:
    """What `capture` calls the input of a layer."""
    return "/".join([*name.split("/")[:3], "input"])


@compiled("name")
def _captured(model: nnx.Module, inputs: Array, lengths: Array | None, reset: Array | None, *, name: str) -> Array:
    found: dict[str, Array] = {}
    model(inputs, lengths=lengths, reset=reset, capture=found)
    if name not in found:
        raise ValueError(f"the model captures no {name!r}; it captures {', '.join(found)}")
    return found[name]
