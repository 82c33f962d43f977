"""From what a user writes for `cells` to the cells of a model: names, classes, and functions that make a cell."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from flax import nnx

from mru import cells as cell_registry
from mru.cells import Cell

# A registry name, a class of cells, or a function (features, state_size, *, dtype, rngs) -> Cell, with `method` or not.
Factory: TypeAlias = str | Callable[..., Cell]
Blocks: TypeAlias = str | Iterable[Factory | Iterable[Factory]]


def blocks_of(cells: Blocks) -> list[list[Factory]]:
    """What stands side by side in each block.

    Args:
        cells: One entry a block, or their names as one text: "lru,s5+bmru". An entry is a name, names joined by "+",
            a class, a function that makes a cell, or a list of these.

    Raises:
        ValueError: It is none of this, or there is no block.
    """
    if isinstance(cells, str):
        cells = [name.strip() for name in cells.split(",")] if cells.strip() else []
    if isinstance(cells, Mapping) or not isinstance(cells, Iterable):
        raise ValueError(f'cells must be a list such as ["lru", "s5+bmru"], got {cells!r}')
    blocks = [_side_by_side(entry) for entry in cells]
    if not blocks:
        raise ValueError("cells must name at least one block, got none")
    return blocks


def _side_by_side(entry: Factory | Iterable[Factory]) -> list[Factory]:
    if isinstance(entry, str):
        return [name.strip() for name in entry.split("+")]
    if isinstance(entry, list | tuple) and entry:
        return [factory for inner in entry for factory in _side_by_side(inner)]
    if isinstance(entry, nnx.Module) or not callable(entry):
        raise ValueError(
            "each of cells must be a name, a class of cells, a function that makes a cell, or a list of these, "
            f"got {type(entry).__name__ if isinstance(entry, nnx.Module) else repr(entry)}"
        )
    return [entry]


def name_of(factory: Factory) -> str:
    """The registry name, by which `options` are given, or what else to call it in a message."""
    if isinstance(factory, str):
        return factory
    named: str | None = getattr(factory, "registry_name", None) or getattr(factory, "__name__", None)
    return named or type(factory).__name__


def make(
    factory: Factory,
    width: int,
    state_size: int,
    *,
    options: Mapping[str, Any],
    bidirectional: bool,
    **common: Any,
) -> Cell:
    """One cell.

    Args:
        factory: What makes it.
        width: Its features D.
        state_size: N.
        options: Arguments of this kind of cell, which come before those of every cell.
        bidirectional: In both directions: a class says how, of a function two are made.
        **common: Arguments of every cell: method (dropped where the factory takes none), dtype, rngs.

    Raises:
        ValueError: The name or an option is unknown, or what was made is no cell of this width.
    """
    build: Callable[..., Any] = cell_registry.get(factory) if isinstance(factory, str) else factory
    # Flax hides the signature of a class of modules; that of its constructor is seen.
    parameters = inspect.signature(build.__init__ if inspect.isclass(build) else build).parameters
    if "method" not in parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        common.pop("method")
    directed = getattr(build, "bidirectional", functools.partial(_both, build)) if bidirectional else build
    try:
        cell = directed(width, state_size, **{**common, **options})
    except TypeError as error:
        raise ValueError(f"options of cell {name_of(factory)!r}: {error}") from error
    if not isinstance(cell, Cell) or cell.features != width:
        given = f"{type(cell).__name__} of {cell.features} features" if isinstance(cell, Cell) else repr(cell)
        raise ValueError(f"{name_of(factory)} must make a cell of {width} features, as is the width, got {given}")
    return cell


def _both(build: Callable[..., Cell], *args: Any, **kwargs: Any) -> Cell:
    return cell_registry.Bidirectional(build(*args, **kwargs), build(*args, **kwargs))
