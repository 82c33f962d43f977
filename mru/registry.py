"""Classes by name, also those of other packages: what configs may name.

A class of this repository registers itself where it is defined. Another package names its classes in an entry-point
group of its `pyproject.toml`; they are imported when they are first asked for.
"""

from __future__ import annotations

import functools
import importlib.metadata
from typing import Generic, TypeVar

T = TypeVar("T")


class Registry(Generic[T]):
    """Classes of one kind by their names.

    Args:
        kind: What they are, for messages, such as "cell".
        group: Entry-point group in which other packages name theirs, such as "mru.cells".
    """

    def __init__(self, kind: str, group: str):
        self.kind, self.group = kind, group
        self._classes: dict[str, type[T]] = {}

    def add(self, name: str, cls: type[T]) -> None:
        """Register a class. The same class, defined again as notebooks do, takes its own place.

        Raises:
            ValueError: Another class has the name; the message names both places.
        """
        held = self._classes.get(name)
        if held is not None and _place(held) != _place(cls):
            raise ValueError(f"{self.kind} name {name!r} is taken by {_place(held)}; {_place(cls)} needs another name")
        self._classes[name] = cls

    def names(self) -> list[str]:
        """All names, sorted; nothing is imported for it."""
        return sorted({*self._classes, *self._entry_points})

    def get(self, name: str) -> type[T]:
        """The class of a name.

        Raises:
            ValueError: The name is unknown, given by two packages, or its package can not be imported.
        """
        places = self._entry_points.get(name, [])
        if len(places) > 1:
            both = " and ".join(f"{entry.value} (of {_package(entry)})" for entry in places)
            raise ValueError(f"{self.kind} name {name!r} is given by {both}; uninstall one of the packages")
        if places:
            self._load(name, places[0])
        if name not in self._classes:
            raise ValueError(f"unknown {self.kind} {name!r}; known {self.kind}s: {', '.join(self.names())}")
        return self._classes[name]

    def _load(self, name: str, entry: importlib.metadata.EntryPoint) -> None:
        """Import what a package gives by a name, which must register itself by that name."""
        where = f"{entry.value}, which the package {_package(entry)} gives as {self.kind} {name!r},"
        try:
            found = entry.load()
        except Exception as error:  # whatever another package's import may raise
            raise ValueError(f"{where} can not be imported: {type(error).__name__}: {error}") from error
        held = self._classes.get(name)
        if not isinstance(found, type) or held is None or _place(held) != _place(found):
            taken = "" if held is None else f"; that name is taken by {_place(held)}"
            raise ValueError(f"{where} must be a class that is defined with name={name!r}{taken}")

    @functools.cached_property
    def _entry_points(self) -> dict[str, list[importlib.metadata.EntryPoint]]:
        found: dict[str, list[importlib.metadata.EntryPoint]] = {}
        for entry in importlib.metadata.entry_points(group=self.group):
            same = found.setdefault(entry.name, [])
            if entry.value not in {other.value for other in same}:  # an editable install may be listed twice
                same.append(entry)
        return found


def _place(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _package(entry: importlib.metadata.EntryPoint) -> str:
    return entry.dist.name if entry.dist else "unknown"
