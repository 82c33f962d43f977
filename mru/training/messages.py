"""What a run says to people, and mistakes of theirs in words: the field, what was given, what is allowed."""

from __future__ import annotations

import contextlib
import difflib
import re
import sys
import time
import types
import typing
from collections.abc import Iterator
from typing import Any

import jax

from mru.training.lines import cut, printable, short
from mru.training.section import RANGES, Plain
from mru.training.sections import SECTIONS

# The options of a command line, each with its value if it has one.
Arguments = list[tuple[str, str | None]]


class UserError(Exception):
    """A mistake of the user's, told in one line; exit code 2."""


class RunFailed(Exception):
    """Something that a run can not go on with, told in one line; exit code 1."""


def error_line(error: Exception) -> str:
    """What is printed of a mistake: one line of fewer than 300 characters, all of them printable."""
    return cut(printable(" ".join(f"error: {error}".split())), 299)


def say(message: str) -> None:
    """A line for people, from process 0, above the progress bar if there is one."""
    from tqdm import tqdm

    if jax.process_index() == 0:
        tqdm.write(printable(message), file=sys.stderr)
        sys.stderr.flush()


@contextlib.contextmanager
def compiling(what: str) -> Iterator[None]:
    """Say what is being compiled, and then how long it took: nothing else is heard of it."""
    say(f"compiling {what} ...")
    began = time.perf_counter()
    yield
    say(f"compiled {what} in {time.perf_counter() - began:.1f} s")


def words(hint: Any) -> str:
    """A type in words."""
    plain: dict[Any, str] = {
        int: "an integer",
        float: "a number",
        bool: "true or false",
        str: "a text",
        type(None): "null",
    }
    plain |= {Plain: "plain values"}
    if hint in RANGES or hint in plain:
        return RANGES.get(hint) or plain[hint]
    arguments = [a for a in typing.get_args(hint) if a is not Ellipsis]
    match typing.get_origin(hint):
        case typing.Literal:
            return ", ".join(map(str, arguments))
        case types.UnionType | typing.Union:
            return " or ".join(map(words, arguments))
        case origin if origin is dict:
            return f"a mapping of names to {words(arguments[1])}"
        case origin if origin in (list, tuple):
            return f"[{words(arguments[0])}, ...]"
    return str(hint)


def given(name: str, arguments: Arguments, content: dict[str, Any]) -> str:
    """NAME = VALUE as it was given, for a dotted name or what is in it, on the command line or else in the file."""
    for option, text in reversed(arguments):
        if text is not None and (option == f"--{name}" or option.startswith(f"--{name}.")):
            return f"{short(option[2:])} = {short(text)}"
    found: Any = content
    for part in name.split("."):
        if not isinstance(found, dict) or part not in found:
            return short(name)
        found = found[part]
    return f"{short(name)} = {'null' if found is None else short(found)}"


def suggestion(name: str, fields: dict[str, str]) -> str | None:
    """The field that somebody may have meant: it ends alike, is spelt alike, has the word in its name or its help.

    Args:
        name: What was given, such as "steps" or "train.precision".
        fields: Help of each field by its dotted name.
    """
    word = name.rpartition(".")[2]
    by_end = {field.rpartition(".")[2]: field for field in reversed(fields)}  # the first of those with the same name
    if word in by_end:
        return by_end[word]
    if near := difflib.get_close_matches(name, fields, 1, 0.8):
        return near[0]
    if parts := [field for end, field in by_end.items() if word in end.split("_")]:
        return parts[0]
    if near := difflib.get_close_matches(word, by_end, 1, 0.7):
        return by_end[near[0]]
    sought = re.compile(rf"\b{re.escape(word.replace('_', ' '))}\b", re.IGNORECASE)
    # The earlier the word stands in the help, the more the field is about it.
    found = {field: match.start() for field, text in fields.items() if (match := sought.search(text))}
    return min(found, key=found.__getitem__) if found else None


def no_field(
    name: str, hints: dict[str, Any], helps: dict[str, str], arguments: Arguments, content: dict[str, Any]
) -> str:
    """That there is no field of a name.

    Args:
        name: What was given.
        hints: Types of the fields by their dotted names.
        helps: Their help.
        arguments: The command line.
        content: What the config file holds.
    """
    section = name.partition(".")[0]
    near = [field for field in hints if field.startswith(f"{section}.")]
    allowed = ", ".join(near or ["task", *SECTIONS, "workdir", "init_from"])
    meant = suggestion(name, helps)
    meant = f"; did you mean --{meant}?" if meant else ","
    return f"{given(name, arguments, content)} is not a field{meant} allowed: {allowed}"
