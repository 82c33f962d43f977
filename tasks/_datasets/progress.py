"""A progress bar that is a bar on a terminal, and now and then a line of its own in a file."""

import sys
from collections.abc import Iterable
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")

_SECONDS = 5.0  # between two lines in a file


class _Lines:
    """A file for tqdm that ends each state of the bar with a line break, where a terminal would write over it."""

    def write(self, text: str) -> None:
        if text.strip():
            sys.stderr.write(text.strip() + "\n")

    def flush(self) -> None:
        sys.stderr.flush()


def bar(what: str, total: int | None, unit: str, start: int = 0) -> "tqdm[Any]":
    """A bar on stderr; `update(n)` moves it on.

    Args:
        what: What is going on, such as "checking train.gz".
        total: All there is to do, None if unknown.
        unit: Of what; "B" counts in kB, MB and so on.
        start: How much is done already.
    """
    options: dict[str, Any] = {"dynamic_ncols": True, "leave": False}
    if not sys.stderr.isatty():
        options = {"file": _Lines(), "mininterval": _SECONDS, "ncols": 100}
    if unit == "B":
        options |= {"unit_scale": True, "unit_divisor": 1000}
    return tqdm(desc=what, total=total, initial=start, unit=unit, **options)


def steps(iterable: Iterable[T], what: str, unit: str, total: int | None = None) -> Iterable[T]:
    """What is iterated over, with a bar that moves on at each."""
    total = len(iterable) if total is None and hasattr(iterable, "__len__") else total
    with bar(what, total, unit) as moving:
        for one in iterable:
            yield one
            moving.update()
