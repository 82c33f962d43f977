import json
import time

import pytest
import yaml
from train_helpers import ROOT

from mru.training import plain_yaml


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda path: path.stem)
def test_our_configs_are_what_yaml_says(path):
    def floats(x):  # 3e-3 has no dot, which makes it a text in YAML 1.1
        if isinstance(x, dict):
            return {key: floats(value) for key, value in x.items()}
        return float(x) if isinstance(x, str) and x[0].isdigit() else x

    assert plain_yaml.read(path) == floats(yaml.safe_load(path.read_text()))


PLAIN = {
    "": None,
    "a: 1\nb: [x, 1.5, true, null, 'null', '8', \"\\e\"]": {"a": 1, "b": ["x", 1.5, True, None, "null", "8", "\x1b"]},
    "[1e-3, 1e3, 1.e3, .5e+1, -2E2, 1_0e1, 1.5, 1e, e5, 1e5x]": [
        *(0.001, 1000.0, 1000.0, 5.0, -200.0, 100.0, 1.5, "1e", "e5", "1e5x"),
    ],
    "[0x10, 010, 0b11, 1:30, 1_000, +5, -0]": [16, 8, 3, 90, 1000, 5, 0],
    "[.inf, -.inf, yes, Off, ~]": [float("inf"), float("-inf"), True, False, None],
    "[2001-01-01, 2001-99-99, =, <<, a=b]": ["2001-01-01", "2001-99-99", "=", "<<", "a=b"],
    "!!map {a: !!int '5', b: !!float 5, c: !!str 5, d: !!seq [!!null ''], e: ! x}": {
        **{"a": 5, "b": 5.0, "c": "5", "d": [None], "e": "x"},
    },
    "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}": {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}},
    "a: {y: 0, <<: [{x: 1}, {x: 2, y: 2, z: 2}]}": {"a": {"x": 1, "y": 0, "z": 2}},
    "a: &a [1]\nb: *a\nc: [*a, &a 2, *a]": {"a": [1], "b": [1], "c": [[1], 2, 2]},
    "'<<': 1": {"<<": 1},
    "a: 1\n<<: {}": {"a": 1},
    "a: {<<: []}": {"a": {}},
    "\ufeffa: é日": {"a": "é日"},
}


@pytest.mark.parametrize("text", PLAIN, ids=ascii)
def test_plain_data(text):
    found, expected = (json.dumps(x, sort_keys=True) for x in (plain_yaml.load(text), PLAIN[text]))
    assert found == expected  # for JSON neither 1 and true nor 5 and 5.0 are equal


def test_what_an_alias_repeats_is_a_copy():
    found = plain_yaml.load("a: &a {x: [1]}\nb: *a")
    found["a"]["x"].append(2)
    assert found["b"] == {"x": [1]}


WRONG = {
    "a: 1\nb: 2\na: 3": "a is given twice, in line 3",
    "{<<: {a: 1}, <<: {b: 1}}": "<< is given twice",
    "a:\n  1: 2": "a key must be a text, which 1 is not without quotes, in line 2",
    "null: 1": "which null is not",
    "yes: 1": "which yes is not",
    "[{[a]: 1}]": "which a list or mapping is not",
    "x: &a 1\n*a: 1": "which a list or mapping is not",
    "a: !!set {a}": "!!set is no tag of plain data",
    "a: !!map": "!!map is no tag of plain data, or does not fit ''",
    "a: !!int ''": "!!int is no tag of plain data, or does not fit ''",
    "a: !!bool 8": "!!bool is no tag",
    "a: !!seq {}": "!!seq is no tag",
    "a: !!str [a]": "!!str is no tag",
    "a: !!timestamp 2001-01-01": "!!timestamp is no tag",
    "a: !!binary aGk=": "!!binary is no tag",
    "a: !!omap [a: 1]": "!!omap is no tag",
    "a: !!python/name:os.system": "!!python/name:os.system is no tag",
    "a: !x 8": "!x is no tag",
    "a: {<<: 8}": "<< takes a mapping",
    "a: &a [*a]": "nothing whole stands before *a",
    "a: *b": "nothing whole stands before *b",
    'a: "b\\0"': "b\\x00 holds a NUL character",
    'a: "\\ud800"': "\\ud800 can not be written as UTF-8",
    'a: "\x1b"': "unacceptable character #x001b",
    "a: 0x_": "0x_ is no number",
    f"a: {'9' * 5000}": "a number of 5,000 characters",
    "a: 1\n--- \nb: 1": "more than one document",
    "a: [": "line 1",
    "a:\n\tb: 1": "line 2",
}


@pytest.mark.parametrize("text", WRONG, ids=lambda text: ascii(text[:40]))
def test_what_is_no_plain_data_is_refused_in_a_short_line(text):
    with pytest.raises(plain_yaml.NotPlain) as caught:
        plain_yaml.load(text)
    assert WRONG[text] in str(caught.value)
    assert len(str(caught.value)) < 200


NINE = "\n".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]" for i in range(9))
TWICE = "\n".join(f"a{i + 1}: &a{i + 1} {{<<: *a{i}, x{i}: *a{i}}}" for i in range(30))
DEEP = "\n".join(f"b{i + 1}: &b{i + 1} {'[' * 20}*b{i}{']' * 20}" for i in range(3))
LARGE = {
    "aliases": ("a0: &a0 [x]\n" + NINE, "more than 20,000 values"),
    "merged": ("a0: &a0 {x: 1}\n" + TWICE, "more than 20,000 values"),
    "list": (f"[{'1, ' * 80_000}]", "more than 20,000 values"),
    "lists": ("[" * 250_000, "more than 50 mappings and lists"),
    "entries": ("- " * 100_000, "more than 50 mappings and lists"),
    "mappings": ("{a: " * 50_000, "more than 50 mappings and lists"),
    "deep aliases": ("b0: &b0 x\n" + DEEP, "more than 50 mappings and lists"),
    "text": ("a: " + "x" * 2**18, "more than 262,144 characters"),
}


@pytest.mark.parametrize("name", LARGE)
def test_what_is_too_large_is_refused_soon(name):
    text, part = LARGE[name]
    began = time.process_time()
    with pytest.raises(plain_yaml.NotPlain, match=part):
        plain_yaml.load(text)
    assert time.process_time() - began < 2


def test_what_is_large_and_still_fine():
    assert plain_yaml.load(f"[{'1, ' * 19_000}]") == [1] * 19_000
    assert plain_yaml.load("[" * 50 + "]" * 50) is not None
    assert plain_yaml.load("a: " + "x" * 200_000) == {"a": "x" * 200_000}


def test_files(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_bytes(b"a: \xff")
    with pytest.raises(plain_yaml.NotPlain, match="byte 3 of it is not UTF-8"):
        plain_yaml.read(path)
    path.write_bytes("a: é\r\nb: 1\r\n".encode())
    assert plain_yaml.read(path) == {"a": "é", "b": 1}
    with pytest.raises(plain_yaml.NotPlain, match="more than 262,144 characters"):
        plain_yaml.read("/dev/zero")  # which never ends
    with pytest.raises(OSError, match="directory"):
        plain_yaml.read(tmp_path)
