"""Tasks: one file each for where the data comes from, its splits, loss, metrics and chance level.

A new task is one new module in this package that subclasses `Task` with a registry name; nothing else is edited. Other
packages add theirs by the entry-point group `mru.tasks`.
"""

import importlib
import pkgutil

from mru.training import MissingData
from tasks.base import REGISTRY, Task

__all__ = ["REGISTRY", "MissingData", "Task", "get", "names"]

# Modules of this package that hold no task.
_PLUMBING = {"base", "generate", "prepare"}


def _import_all() -> None:
    """Imports every task module, which registers its tasks."""
    for module in pkgutil.iter_modules(__path__):
        if module.name not in _PLUMBING:
            importlib.import_module(f"{__name__}.{module.name}")


_import_all()

# Known names and the class of one, as functions.
names, get = REGISTRY.names, REGISTRY.get
