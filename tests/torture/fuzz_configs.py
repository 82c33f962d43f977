"""Configs that nobody should write: files and command lines, most of them wrong somewhere, from a seeded generator."""

from __future__ import annotations

import dataclasses
import itertools
import random

from mru.training.sections import SECTIONS

USUAL = {
    "task": {"name": "copy_first", "length": "20", "retention": "[]", "held_out": "20"},
    "model": {"cells": "[pmru]", "width": "8", "state_size": "4", "expansion": "0"},
    "optimizer": {"lr": "1.0e-2"},
    "train": {"steps": "20", "batch_size": "8"},
}
FIELDS = [f"task.{name}" for name in ("name", "length", "retention", "held_out", "seed", "data_dir")]
FIELDS += [f"{name}.{field.name}" for name, kind in SECTIONS.items() for field in dataclasses.fields(kind)]
FIELDS += ["workdir", "init_from"]
NUMBERS = [
    *("0", "1", "2", "3", "64", "-1", "0.5", "1.5", "1e-3", "1e-300", "1e300", "1e999", "1e23", "0x10", "010", "1:30"),
    *("1_000", ".nan", ".inf", "-.inf", "0x_"),
    *(str(2**bits + more) for bits in (20, 31, 32, 40, 62, 64, 300) for more in (-1, 0)),
]
CELLS = ["lru", "s5", "[bmru, s5]", "lru+s5,mingru", "[fq_bmru, cmru+alpha_cmru]", "gpt", "[lru+]", "[[lru]]"]
OPTIONS = [
    *("{lru: {r_max: 0.5}}", "{lru: {r_max: 2}}", "{lru: {max_phase: 1e300}}", "{lru: {learn_initial_state: [x]}}"),
    *("{s5: {blocks: 0}}", "{s5: {blocks: x}}", "{s5: {blocks: 2.0}}", "{s5: {step_min: .nan}}", "{s5: {c_init: []}}"),
    *("{pmru: {}}", "{pmru: {rngs: 3}}", "{epsilon: {end: 1e300}}", "{epsilon: {begin: -1}}", "{width: {end: 2}}"),
]
# What YAML takes for a value and people for another, what is none of plain data, what is no YAML.
ODD = [
    *("true", "no", "~", "null", "''", "'null'", "'8'", "'1e3'", "x", "é", "=", "<<", "2001-01-01", "2001-99-99", "-"),
    *("[]", "[1]", "[null]", "[20, 30]", "{}", "{a: 1}", "{a: {b: {c: 1}}}", "*a", "&a 8", "&a [*a]", "&a {<<: *a}"),
    *(
        "!!map",
        "!!map {a: 1}",
        "!!set {a}",
        "!!int ''",
        "!!int '8'",
        "!!str 8",
        "!!binary aGk=",
        "!!timestamp 2001-01-01",
    ),
    *(
        "!!python/name:os.system",
        "!x 8",
        "{class_path: os.system}",
        "{__path__: x}",
        "os.system",
        "a: b: c",
        "{",
        "#",
        "@x",
    ),
    *(
        '"\\e[31mred"',
        '"a\\0b"',
        '"\\ud800"',
        '"a\\nb"',
        '"\\u202e"',
        "/",
        "..",
        "/dev/null/x",
        "a/../b",
        "--help",
        "none",
    ),
]
KEYS = [
    "config",
    "task.name",
    "train.steps",
    "steps",
    "''",
    "1",
    "null",
    "yes",
    "2001-01-01",
    "<<",
    "__path__",
    "é",
    "a b",
]
KEYS += ["class_path", '"\\e[2J"', '"a\\0"', "[a]", "{a: 1}", "? [a]\n", "*a", "&a x", "!!int x", "k" * 5000]


def config(rng: random.Random) -> bytes | list[str]:
    """One config: the bytes of a file, or the arguments of a command line.

    Args:
        rng: Says which; equal states give equal configs.
    """
    return rng.choice([_file, _file, _file, _spoilt, _bomb, _arguments, _arguments])(rng)


def _value(rng: random.Random) -> str:
    """A value, which no field asks for and some may take."""
    if rng.random() < 0.05:
        return rng.choice("x9[{&!\u202e") * 10 ** rng.randrange(1, 7)
    return rng.choice(rng.choice([NUMBERS, NUMBERS, ODD, ODD, CELLS, OPTIONS]))


def _lines(sections: dict[str, dict[str, str]]) -> list[str]:
    return [f"{name}: {{{', '.join(f'{key}: {value}' for key, value in x.items())}}}" for name, x in sections.items()]


def _file(rng: random.Random) -> bytes:
    """The usual sections with other values, other keys, or lines too many or too few."""
    sections = {name: dict(fields) for name, fields in USUAL.items()}
    for _ in range(rng.randrange(1, 4)):
        section, _, field = rng.choice(FIELDS[:-2]).partition(".")
        sections.setdefault(section, {})[field if rng.random() < 0.9 else rng.choice(KEYS)] = _value(rng)
    lines = _lines(sections)
    if rng.random() < 0.2:
        key = rng.choice([*KEYS, *FIELDS, *USUAL])
        lines.insert(rng.randrange(len(lines) + 1), f"{key}: {_value(rng)}")
    if rng.random() < 0.1:
        lines.pop(rng.randrange(len(lines)))
    return "\n".join(lines).encode()


def _spoilt(rng: random.Random) -> bytes:
    """The usual file with bytes added, lost or doubled, or in another encoding."""
    data = bytearray("\n".join(_lines(USUAL)).encode())
    for _ in range(rng.randrange(1, 4)):
        start, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        match rng.randrange(4):
            case 0:
                data[start:start] = rng.randbytes(rng.randrange(1, 4))
            case 1:
                del data[start : min(end, start + 5)]
            case 2:
                data[start:start] = data[start:end]
            case 3:
                data[start:start] = rng.choice(
                    [b"\t", b"\r", b"\n", b"\0", b": ", b"- ", b"&a ", b"*a", b"'", b"\x1b[A"]
                )
    if rng.random() < 0.1:
        return data.decode(errors="replace").encode(rng.choice(["utf-16", "utf-8-sig", "utf-32"]))
    return bytes(data)


def _bomb(rng: random.Random) -> bytes:
    """The usual file with something in the model or at the top that grows when it is read, or is large already."""
    many, names = 10 ** rng.randrange(1, 6), [f"a{number}" for number in range(rng.randrange(2, 30))]
    opened, closed = rng.choice(["[]", "{}"])
    pairs = list(itertools.pairwise(names))
    value = rng.choice(
        [
            f"[&a0 [x, x], {', '.join(f'&{b} [*{a}, *{a}, *{a}]' for a, b in pairs)}]",
            f"[&a0 {{x: 1}}, {', '.join(f'&{b} {{<<: [*{a}, *{a}], {b}: *{a}}}' for a, b in pairs)}]",
            opened * many + rng.choice([closed * many, ""]),
            "{a: " * many + rng.choice(["1" + "}" * many, ""]),
            f"[{'lru, ' * min(many, 20)}]",
            f"[{'lru, ' * (1000 + many)}]",
            f"[{'gpt, ' * many}]",
            rng.choice(["x", "9", "? ", "- ", "\u202e"]) * many,
        ]
    )
    key = rng.choice([f"{rng.choice('xé')}" * many, *FIELDS])
    section, dot, field = key.partition(".")
    sections = {name: dict(fields) for name, fields in USUAL.items()}
    if dot:
        sections.setdefault(section, {})[field] = value
    return "\n".join([*_lines(sections), *([] if dot else [f"{key}: {value}"])]).encode()


def _arguments(rng: random.Random) -> list[str]:
    """A command line, whose values are YAML again."""
    argv = ["--task.name", rng.choice(["copy_first", "digits", "evidence"])]
    for _ in range(rng.randrange(1, 4)):
        name, value = rng.choice(FIELDS), _value(rng)
        if rng.random() < 0.2:
            name = rng.choice([name.partition(".")[0], f"{name}.x", f"{name}.x.y", f"{name}+", name[1:], *KEYS])
        if rng.random() < 0.1:
            value = rng.choice(["\x1b[31m", "a\nb", "\udcff", "\0", "", " ", "\u202e", "x" * 10**6, "\t"])
        argv += [f"--{name}={value}"] if rng.random() < 0.5 else [f"--{name}", value]
    if rng.random() < 0.1:
        argv.insert(rng.randrange(len(argv) + 1), rng.choice(["lru", "--", "-x", "--train.steps", "--help=x"]))
    return argv
