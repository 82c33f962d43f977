"""The cells, one file each, and the registry by name.

A new cell is a new file here (or a class anywhere that subclasses `Cell` with a `name`): every module of this package
is imported and each class it registers becomes an attribute, so no list is kept.
"""

import importlib
import pkgutil

from mru.cells.base import REGISTRY, Cell, Ramp, ScanCell, Scheduled, StateParam
from mru.cells.bidirectional import Bidirectional

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
globals().update({cell.__name__: cell for cell in REGISTRY.values()})

__all__ = ["Bidirectional", "Cell", "Ramp", "ScanCell", "Scheduled", "StateParam", "get", "names"]
__all__ += [cell.__name__ for cell in REGISTRY.values()]


def names() -> list[str]:
    """The registry names of all cells, sorted."""
    return sorted(REGISTRY)


def get(name: str) -> type[Cell]:
    """The cell class of a registry name.

    Raises:
        ValueError: The name is unknown; the message lists the known ones.
    """
    if name not in REGISTRY:
        raise ValueError(f"unknown cell {name!r}; known cells: {', '.join(names())}")
    return REGISTRY[name]
