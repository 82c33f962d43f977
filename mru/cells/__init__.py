"""The cells, one file each, and the registry by name.

A new cell is a new file here (or a class anywhere that subclasses `Cell` with a `name`): every module of this package
is imported and its public classes become attributes, so no list is kept. Type checkers, which run nothing, read
`__init__.pyi`; `pytest tests/cells/test_stub.py` writes that from the files.
"""

from __future__ import annotations

import importlib
import pkgutil

from mru.cells._base import REGISTRY, Cell, Ramp, Scheduled, StateParam
from mru.cells._recurrent import RecurrentCell
from mru.cells._scan import ScanCell
from mru.operators.base import State

__all__ = ["REGISTRY", "Cell", "Ramp", "RecurrentCell", "ScanCell", "Scheduled", "State", "StateParam", "get", "names"]

for _found in pkgutil.iter_modules(__path__):
    if not _found.name.startswith("_"):
        _module = importlib.import_module(f"{__name__}.{_found.name}")
        for _name, _value in vars(_module).items():
            if isinstance(_value, type) and _value.__module__ == _module.__name__ and not _name.startswith("_"):
                globals()[_name] = _value
                __all__ += [_name]


def names() -> list[str]:
    """The registry names of all cells, sorted."""
    return REGISTRY.names()


def get(name: str) -> type[Cell]:
    """The cell class of a registry name.

    Raises:
        ValueError: The name is unknown; the message lists the known ones.
    """
    return REGISTRY.get(name)
