"""Tasks: one file each for where the data comes from, its splits, loss, metrics and chance level.

A new task is one new module in this package that subclasses `Task` with a registry name; nothing else is edited.
"""

import functools
import importlib
import pkgutil

from mru.training.task import MissingData
from tasks.base import Task

__all__ = ["MissingData", "Task", "get", "names"]

# Modules of this package that hold no task; leaving them out keeps `get` from importing the data loader.
_PLUMBING = {"base", "prepare"}


@functools.cache
def _discover() -> None:
    """Imports every task module, which registers its tasks."""
    for module in pkgutil.iter_modules(__path__):
        if module.name not in _PLUMBING:
            importlib.import_module(f"{__name__}.{module.name}")


def names() -> list[str]:
    """Registry names of all tasks, sorted."""
    _discover()
    return sorted(Task.registry)


def get(name: str) -> type[Task]:
    """The task class of a registry name.

    Raises:
        ValueError: no task has this name; the message lists the known names.
    """
    known = names()
    if name not in known:
        raise ValueError(f"task.name = {name!r}, allowed: {', '.join(known)}")
    return Task.registry[name]
