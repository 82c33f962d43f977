"""YAML of plain data: mappings of texts to values, lists, texts, numbers, true, false and null.

PyYAML's loaders make whatever a tag asks for (sets, dates, bytes), let the last of two equal keys win, follow aliases
without end, and recurse as deep as the text does. Here PyYAML says what stands in the text, one event after the other,
and the data is built of these events within limits: no text of people comes near them, and none takes long to refuse.
"""

from __future__ import annotations

import pathlib
import re
from typing import Any

import yaml

from mru.training.lines import short

LARGEST = 2**18  # Bytes of a text,
DEEPEST = 50  # mappings and lists inside of each other,
MOST = 20_000  # values, where one that an alias repeats counts each time,
DIGITS = 100  # characters of a number; Python itself refuses to print 5,000.

TAG = "tag:yaml.org,2002:"
TEXT, INTEGER, NUMBER, MERGE = (TAG + name for name in ("str", "int", "float", "merge"))
PLAIN = {TEXT, INTEGER, NUMBER, TAG + "bool", TAG + "null"}


class NotPlain(ValueError):
    """A text is not YAML, or asks for more than plain data; one line that says where."""


class _Events(yaml.SafeLoader):
    """What stands in a text, and what its scalars mean, of which 1e-3 is a number."""


_Events.add_implicit_resolver(
    NUMBER, re.compile(r"[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)


def read(path: str | pathlib.Path) -> Any:
    """The data in a file.

    Raises:
        OSError: It can not be read.
        NotPlain: It holds something else, or more than a config ever would.
    """
    with open(path, "rb") as file:
        data = file.read(4 * LARGEST + 1)  # as long as a text that is one character too long may be
    try:
        return load(data.decode())
    except UnicodeDecodeError as error:
        raise NotPlain(f"byte {error.start} of it is not UTF-8") from None


def load(text: str) -> Any:
    """The data in a text; None if it is empty.

    Raises:
        NotPlain: It holds something else, or more than a config ever would.
    """
    if len(text) > LARGEST:
        raise NotPlain(f"it has more than {LARGEST:,} characters")
    try:
        return _Builder(text).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise NotPlain(f"{error.problem or error.context}{f' in line {mark.line + 1}' if mark else ''}") from None
    except yaml.YAMLError as error:
        raise NotPlain(str(error)) from None


class _Builder:
    """Plain data of the events of a text."""

    def __init__(self, text: str):
        self.events = _Events(text)
        self.anchors: dict[str, Any] = {}
        self.values = 0

    def document(self) -> Any:
        """The one document of the text."""
        self.events.get_event()
        if self.events.check_event(yaml.StreamEndEvent):
            return None
        self.events.get_event()
        value = self._value(0)
        self.events.get_event()
        if not self.events.check_event(yaml.StreamEndEvent):
            raise NotPlain("it holds more than one document")
        return value

    def _value(self, depth: int) -> Any:
        event = self.events.get_event()
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                raise _wrong(event, f"nothing whole stands before *{short(event.anchor)}")
            return self._again(self.anchors[event.anchor], depth, event)
        self._count(depth, event)
        value: Any
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event)
        else:
            is_list = isinstance(event, yaml.SequenceStartEvent)
            if event.tag not in (None, "!", TAG + ("seq" if is_list else "map")):
                raise _wrong(event, f"{_named(event.tag)} is no tag of plain data, or does not fit")
            value = self._list(depth + 1) if is_list else self._mapping(depth + 1)
        if event.anchor is not None:
            self.anchors[event.anchor] = value
        return value

    def _again(self, value: Any, depth: int, event: Any) -> Any:
        """A copy of what an alias repeats, so that the data is a tree; it counts like one that is written out."""
        self._count(depth, event)
        if isinstance(value, dict):
            return {key: self._again(inner, depth + 1, event) for key, inner in value.items()}
        return [self._again(inner, depth + 1, event) for inner in value] if isinstance(value, list) else value

    def _count(self, depth: int, event: Any) -> None:
        self.values += 1
        if self.values > MOST:
            raise _wrong(event, f"more than {MOST:,} values")
        if depth > DEEPEST:
            raise _wrong(event, f"more than {DEEPEST} mappings and lists inside of each other")

    def _list(self, depth: int) -> list[Any]:
        found = []
        while not self.events.check_event(yaml.SequenceEndEvent):
            found.append(self._value(depth))
        self.events.get_event()
        return found

    def _mapping(self, depth: int) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] | None = None
        while not self.events.check_event(yaml.MappingEndEvent):
            event = self.events.get_event()
            if not isinstance(event, yaml.ScalarEvent) or not isinstance(key := self._scalar(event), str):
                given = short(event.value) if isinstance(event, yaml.ScalarEvent) else "a list or mapping"
                raise _wrong(event, f"a key must be a text, which {given} is not without quotes")
            if key in own:
                raise _wrong(event, f"{short(key)} is given twice")
            own[key] = self._value(depth)
            if key == "<<" and self._meaning(event) == MERGE:
                merged = _merged(own[key], event)
        self.events.get_event()
        if merged is None:
            return own
        del own["<<"]
        return {**merged, **own}

    def _meaning(self, event: Any) -> str:
        """The tag of a scalar as it stands there."""
        return self.events.resolve(yaml.ScalarNode, event.value, event.implicit if event.tag is None else (True, False))

    def _scalar(self, event: Any) -> Any:
        """The value of a scalar; of what is no plain data (dates), its text."""
        tag = meaning = self._meaning(event)
        if event.tag not in (None, "!"):
            tag = event.tag
            if tag not in PLAIN & {meaning, TEXT, NUMBER if meaning == INTEGER else meaning}:
                raise _wrong(event, f"{_named(tag)} is no tag of plain data, or does not fit '{short(event.value)}'")
        if tag in PLAIN - {TEXT}:
            return self._number(event, tag)
        try:
            event.value.encode()
        except UnicodeEncodeError:
            raise _wrong(event, f"{short(event.value)} can not be written as UTF-8") from None
        if "\0" in event.value:
            raise _wrong(event, f"{short(event.value)} holds a NUL character")
        return event.value

    def _number(self, event: Any, tag: str) -> int | float | bool | None:
        """A number, true, false or null."""
        if len(event.value) > DIGITS:
            raise _wrong(event, f"a number of {len(event.value):,} characters")
        node = yaml.ScalarNode(tag, event.value)
        make = getattr(self.events, f"construct_yaml_{tag.removeprefix(TAG)}")
        try:
            return make(node)
        except ValueError:  # 0x_ and the like
            raise _wrong(event, f"{short(event.value)} is no number") from None


def _merged(value: Any, event: Any) -> dict[str, Any]:
    """What a key << brings in: a mapping, or several, of which the first to have a key gives its value."""
    found: dict[str, Any] = {}
    for mapping in value if isinstance(value, list) else [value]:
        if not isinstance(mapping, dict):
            raise _wrong(event, "<< takes a mapping or a list of them")
        found = {**mapping, **found}
    return found


def _named(tag: str) -> str:
    """A tag as it was written: !!set for tag:yaml.org,2002:set."""
    return short(tag.replace(TAG, "!!", 1))


def _wrong(event: Any, what: str) -> NotPlain:
    return NotPlain(f"{what}, in line {event.start_mark.line + 1}")
