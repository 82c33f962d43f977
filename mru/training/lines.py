"""Texts for one line on a terminal: without control characters, and no longer than can be read."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any


def printable(text: str) -> str:
    """A text with what would move the cursor, change colours or break the line written as an escape, such as \\x1b."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def cut(text: str, most: int) -> str:
    """A text of at most so many characters, of which more are left out a little behind its middle."""
    if len(text) <= most:
        return text
    end = most * 2 // 5
    return f"{text[: most - end - 5]} ... {text[len(text) - end :]}"


def short(value: Any, most: int = 60) -> str:
    """What was given, as a message quotes it."""
    return cut(printable(cut(str(value), 4 * most)), most)


def among(name: Any, allowed: Sequence[str]) -> str:
    """What a message says behind a name that is not allowed: the nearest of those that are, and all of them."""
    near = difflib.get_close_matches(str(name), allowed, 1, 0.7)
    return f"{f'; did you mean {near[0]}?' if near else ','} allowed: {', '.join(allowed) or 'none'}"
