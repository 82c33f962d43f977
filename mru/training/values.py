"""Plain data as the types of fields have it."""

from __future__ import annotations

import contextlib
import math
import types
import typing
from typing import Any

from mru.training import plain_yaml
from mru.training.section import RANGES, in_range


def fit(value: Any, hint: Any) -> Any:
    """A value as a type has it, such as 8.0 for 8 in a field of numbers, and a tuple for a list.

    A text that does not fit is taken as the YAML in it, such as a number in quotes.

    Args:
        value: Plain data.
        hint: bool, int, float, str, None, a range of numbers, a `Literal`, and lists, tuples, mappings and unions of
            these.

    Raises:
        ValueError: It does not fit.
    """
    try:
        return _fit(value, hint)
    except ValueError:
        if not isinstance(value, str):
            raise
        return _fit(plain_yaml.load(value), hint)


def of_text(text: str, hint: Any) -> Any:
    """What a word of a command line stands for in a field: a list or mapping, a value that fits, or itself."""
    if hint is str:
        return text
    try:
        value = plain_yaml.load(text)
    except plain_yaml.NotPlain:
        return text
    if isinstance(value, str) or (value is None and text not in ("null", "~")):
        return text  # with its quotes, spaces and comments
    if isinstance(value, list | dict):
        return value
    with contextlib.suppress(ValueError):
        fit(value, hint)
        return value
    return text


def inner_hint(hints: dict[str, Any], name: str) -> Any:
    """The type of a field, or of a value in a mapping that is one, by its dotted name; None if there is none."""
    parts = name.split(".")
    size = 2 if ".".join(parts[:2]) in hints else 1
    hint = hints.get(".".join(parts[:size]))
    for _ in parts[size:]:
        hint = typing.get_args(hint)[1] if typing.get_origin(hint) is dict else None
    return hint


def _fit(value: Any, hint: Any) -> Any:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint in RANGES:
        found = _fit(value, inner[0])
        if in_range(found, hint):
            return found
    elif hint is float:
        if type(value) in (int, float):
            return _float(value)
    elif origin is typing.Literal:
        if any(value == one and type(value) is type(one) for one in inner):
            return value
    elif origin in (types.UnionType, typing.Union):
        for one in inner:
            with contextlib.suppress(ValueError):
                return _fit(value, one)
    elif origin is list and isinstance(value, list):
        return [fit(one, inner[0]) for one in value]
    elif origin is tuple and isinstance(value, list):
        each = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
        return tuple(fit(one, kind) for one, kind in zip(value, each, strict=True))
    elif origin is dict and isinstance(value, dict):
        return {key: fit(one, inner[1]) for key, one in value.items()}
    elif type(value) is hint:
        return value
    raise ValueError("it does not fit")


def _float(value: int | float) -> float:
    try:
        found = float(value)
    except OverflowError:
        raise ValueError("it is too large") from None
    if math.isnan(found):
        raise ValueError("it is no number")
    return found
