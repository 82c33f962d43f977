from typing import Any, Literal

import pytest

from mru.training.section import NonNegativeFloat, Plain, PositiveFloat, PositiveInt
from mru.training.values import fit, inner_hint, of_text

NAMES = Literal["a", "b"] | None
FITS = [
    (8, int, 8),
    (8, float, 8.0),
    (True, bool, True),
    ("8", str, "8"),
    (None, int | None, None),
    (8, PositiveInt | None, 8),
    (0, NonNegativeFloat, 0.0),
    ("a", NAMES, "a"),
    (None, NAMES, None),
    ([1, 2], tuple[int, ...], (1, 2)),
    ([1, "x"], tuple[int, str], (1, "x")),
    ([], list[str], []),
    ({"a": {"b": 1}}, dict[str, dict[str, float]], {"a": {"b": 1.0}}),
    (True, Plain, True),
    (1, Plain, 1),
    (1.5, Plain, 1.5),
    ("1", Plain, "1"),
    ([1, "x", None], Plain, [1, "x", None]),
    ("lru,s5", list[str] | str, "lru,s5"),
    # In quotes:
    ("8", int, 8),
    ("1e-3", PositiveFloat, 1e-3),
    ("null", int | None, None),
    ("[1, '2']", tuple[int, ...], (1, 2)),
    ("true", bool, True),
]


@pytest.mark.parametrize(("value", "hint", "expected"), FITS, ids=str)
def test_what_fits(value, hint, expected):
    found = fit(value, hint)
    assert found == expected
    assert type(found) is type(expected)
    assert repr(found) == repr(expected)


MISFITS = [
    *((value, int) for value in (True, 1.0, "x", None, [1], {}, "1.5", "!!int ''", "[" * 100, "*a")),
    *((value, float) for value in (True, "x", None, 10**400, "true")),
    *((value, bool) for value in (1, 0, "x", None)),
    *((value, str) for value in (1, None, ["x"], {"x": 1})),
    *((value, PositiveInt) for value in (0, -1, True, 1.5)),
    *((value, NonNegativeFloat) for value in (-1, float("nan"), "-0.5")),
    *((value, NAMES) for value in ("c", 1, True, ["a"])),
    ([1], tuple[int, str]),
    ([1, 2], tuple[int, str]),
    ((1, "x"), list[int]),
    ({"a": 1}, list[str]),
    ({"a": 1}, dict[str, dict[str, float]]),
    ([[1]], Plain),
    ({"class_path": "x"}, Plain),
]


@pytest.mark.parametrize(("value", "hint"), MISFITS, ids=str)
def test_what_does_not_fit(value, hint):
    with pytest.raises(ValueError):  # noqa: PT011, which words it has is not said here
        fit(value, hint)


@pytest.mark.parametrize(
    ("text", "hint", "expected"),
    [
        ("8", int, 8),
        ("8", str, "8"),
        ("[x]", str, "[x]"),
        ("null", str, "null"),
        ("null", str | None, None),
        ("", str | None, ""),
        ("# x", int | None, "# x"),
        ("8", list[str] | str, "8"),
        ("[lru, s5]", list[str] | str, ["lru", "s5"]),
        ("[1]", list[str] | str, [1]),
        ("'x'", Plain, "'x'"),
        ("1e-3", Plain, 1e-3),
        ("{a: 1}", Plain, {"a": 1}),
        ("!!set {a}", Plain, "!!set {a}"),
        ("x", int, "x"),
    ],
)
def test_a_word_of_a_command_line(text, hint, expected):
    found = of_text(text, hint)
    assert found == expected
    assert type(found) is type(expected)


def test_types_of_fields_and_of_what_is_in_mappings():
    hints: dict[str, Any] = {"a.b": int, "a.c": dict[str, dict[str, float]], "d": str}
    names = ["a.b", "d", "a.c", "a.c.x", "a.c.x.y", "a.c.x.y.z", "a", "a.x", "a.b.c", "", ".", "d.x"]
    found = [int, str, hints["a.c"], dict[str, float], float, *[None] * 7]
    assert [inner_hint(hints, name) for name in names] == found
    assert inner_hint(hints, "x" + ".x" * 100_000) is None
