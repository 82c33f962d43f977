"""From a YAML file and the command line to a `Config`: the file is read once, the arguments override it."""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import pathlib
import sys
import types
import typing
from typing import Any, NamedTuple, NoReturn

import yaml
from jsonargparse import ArgumentError, ArgumentParser, set_loader

from mru.registry import Registry
from mru.training import plain_yaml
from mru.training.config import Config, checked
from mru.training.help import described, overview
from mru.training.lines import short
from mru.training.messages import UserError, explain, given, no_field, words
from mru.training.sections import RANGES, SECTIONS, ModelConfig
from mru.training.task import Task

USAGE = "python train.py --config FILE.yaml [--SECTION.FIELD VALUE ...]"
# What may become the name of a folder, and leaves room for the names of what a run writes in it.
LONGEST_NAME, LONGEST_PATH = 255, 3000
# What jsonargparse reads of the values on the command line.
set_loader("plain", plain_yaml.load, (plain_yaml.NotPlain,))


class Fields(NamedTuple):
    """The parser of a task's command line, and types and help of its fields by their dotted names."""

    parser: ArgumentParser
    hints: dict[str, Any]
    helps: dict[str, str]


def parse(argv: list[str], tasks: Registry[Task]) -> Config:
    """The config of a command line. `--help` and `--print_config` print and leave the program.

    Args:
        argv: The arguments.
        tasks: Where tasks are found by name.

    Raises:
        UserError: Something in it does not fit.
    """
    _require_text(argv)
    asked = argparse.ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
    asked.add_argument("--config", action="append", default=[])
    asked.add_argument("--task.name", dest="name")
    asked.add_argument("-h", "--help", action="store_true")
    asked.add_argument("--print_config", action="store_true")
    try:
        known, _ = asked.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise UserError(str(error)) from None
    if len(known.config) > 1:
        raise UserError(f"--config is given twice, as {' and '.join(map(short, known.config))}; one file is read")
    content = read(known.config[0]) if known.config else {}
    kind = _task(known.name or content.get("task", {}).get("name"), tasks, may_be_missing=known.help)
    fields = make_parser(kind, tasks)
    argv = [word for word in argv if word not in ("-h", "--help", "--print_config")]
    if known.help:
        _help(fields, kind, tasks, argv, content)
    assert kind is not None
    values = _values(fields, argv, content)
    named = values["workdir"] is not None
    config = _config(kind, values)
    if known.print_config:
        shown = config.resolved if named else {k: v for k, v in config.resolved.items() if k != "workdir"}
        print(yaml.safe_dump(shown, sort_keys=False), end="")
        raise SystemExit(0)
    return config


def _require_text(argv: list[str]) -> None:
    """Refuse arguments that no file could hold as text: what is not UTF-8 comes in as lone surrogates."""
    for word in argv:
        if "\0" in word or word != word.encode(errors="replace").decode():
            raise UserError(f"the argument {short(word)}, allowed: UTF-8 text")


def read(path: str) -> dict[str, Any]:
    """What a config file holds.

    Raises:
        UserError: It can not be read, or is no mapping of sections.
    """
    try:
        content = plain_yaml.read(path)
    except OSError as error:
        raise UserError(f"--config {short(path)}: {error.strerror}") from None
    except plain_yaml.NotPlain as error:
        raise UserError(f"--config {short(path)} is not YAML of plain data: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"--config {short(path)} must hold a mapping with keys such as task and model")
    for section in ("task", *SECTIONS):
        if not isinstance(content.get(section, {}), dict):
            held = short(repr(content[section]))
            raise UserError(f"{section} = {held}, allowed: a mapping of its fields to their values")
    if "config" in content:
        raise UserError(
            f"config = {short(content['config'])} in {short(path)}, allowed: --config on the command line only"
        )
    return content


def _require_fields(fields: Fields, content: dict[str, Any]) -> None:
    """Refuse names in a file that are no fields, and dotted ones, which jsonargparse would merge with their section."""
    known = {"task", *SECTIONS, *fields.hints}
    for key, value in content.items():
        section, dot, field = key.partition(".")
        if dot and key in fields.hints:
            raise UserError(f"{key} = {short(value)} in a file, allowed: {section}: {{{field}: ...}}")
        inner = [f"{key}.{name}" for name in value] if isinstance(value, dict) and key not in fields.hints else []
        for name in inner or [key]:
            if name not in known:
                raise UserError(no_field(name, fields.hints, fields.helps, [], content))


def _task(name: Any, tasks: Registry[Task], may_be_missing: bool) -> type[Task] | None:
    """The class of a task's name; None where `--help` is asked for without one."""
    if name is None and may_be_missing:
        return None
    if name is None:
        raise UserError(f"task.name is missing, allowed: {', '.join(tasks.names())}")
    if name not in tasks.names():
        raise UserError(f"task.name = {short(repr(name))}, allowed: {', '.join(tasks.names())}")
    try:
        return tasks.get(name)
    except ValueError as error:
        raise UserError(str(error)) from None


def make_parser(kind: type[Task] | None, tasks: Registry[Task]) -> Fields:
    """The parser of every field of the sections and, if it is known, of the task."""
    parser = ArgumentParser(
        prog="train.py",
        usage=USAGE,
        description="Train a sequence model from a config file, and report how it does.",
        exit_on_error=False,
        allow_abbrev=False,
        add_help=False,
        parser_mode="plain",
    )
    fields = Fields(parser, {"workdir": str, "init_from": str | None}, {})
    parser.add_argument("--config", type=str, help="YAML file; the other arguments override it.")
    parser.add_argument("--workdir", type=str, default=None, help="Folder of the run; runs/ and the config's name.")
    parser.add_argument(
        "--init_from", type=str | None, default=None, help="Folder of another run, with whose parameters to start."
    )
    parser.add_argument("--print_config", action="store_true", help="Print the whole config and leave.")
    for section, holder in {**({"task": kind} if kind else {}), **SECTIONS}.items():
        _add_section(fields, section, holder, tasks)
    return fields


def _add_section(fields: Fields, section: str, holder: Any, tasks: Registry[Task]) -> None:
    title = (holder.__doc__ or "").partition("\n")[0].rstrip(".")
    group = fields.parser.add_argument_group(f"{section}: {title}" if title else section)
    if section == "task":
        fields.hints["task.name"] = str
        group.add_argument("--task.name", type=str, default=holder.name, help=f"One of {', '.join(tasks.names())}.")
    found = typing.get_type_hints(holder)
    for field in dataclasses.fields(holder):
        name, hint = f"{section}.{field.name}", found[field.name]
        if not _is_plain(hint):
            raise UserError(f"{name} is declared as {words(hint)}, allowed: plain types, as a config can run no code")
        value = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        default = {"required": True} if value is dataclasses.MISSING else {"default": value}
        fields.hints[name] = hint
        fields.helps[name] = described([kind.__doc__ for kind in holder.__mro__], field.name)
        group.add_argument(f"--{name}", type=hint, help=fields.helps[name].replace("%", "%%"), **default)


def _is_plain(hint: Any) -> bool:
    """Whether a value of the type is numbers and texts: of a class, jsonargparse would make what a config names."""
    if hint in RANGES or hint in (bool, int, float, str, type(None)) or typing.get_origin(hint) is typing.Literal:
        return True
    compound = typing.get_origin(hint) in (list, tuple, dict, types.UnionType, typing.Union)
    return compound and all(_is_plain(inner) for inner in typing.get_args(hint) if inner is not Ellipsis)


def _values(fields: Fields, argv: list[str], content: dict[str, Any]) -> dict[str, Any]:
    """The values of all fields: from the file, and the arguments over it."""
    _require_fields(fields, content)
    try:
        held = fields.parser.parse_object(copy.deepcopy(content), _skip_required=True)
        values = fields.parser.parse_args(argv, namespace=held).as_dict()
    except ArgumentError as error:
        raise UserError(explain(str(error), fields.hints, fields.helps, argv, content)) from None
    for name, hint in fields.hints.items():
        section, _, field = name.partition(".")
        # A null in a file passes for any type.
        if field and values[section][field] is None and type(None) not in typing.get_args(hint):
            raise UserError(f"{name} = null, allowed: {words(hint)}")
    return values


def _config(kind: type[Task], values: dict[str, Any]) -> Config:
    for name in ("workdir", "init_from"):
        _require_path(name, values[name])
    workdir = values["workdir"] or _workdir(values["config"] or f"configs/{values['task']['name']}.yaml")
    options = {name: value for name, value in values["task"].items() if name != "name"}
    try:
        sections: dict[str, Any] = {name: section(**values[name]) for name, section in SECTIONS.items()}
        task = kind(**options)
        return checked(Config(task=task, **sections, workdir=pathlib.Path(workdir), init_from=values["init_from"]))
    except ValueError as error:
        raise UserError(str(error)) from None


def _require_path(name: str, path: str | None) -> None:
    if path == "":
        raise UserError(f"{name} = '', allowed: a folder")
    if path is not None:
        longest = max(len(part.encode()) for part in path.split("/"))
        if longest > LONGEST_NAME or len(path.encode()) > LONGEST_PATH:
            allowed = f"a path of at most {LONGEST_PATH:,} bytes, and names in it of {LONGEST_NAME}"
            raise UserError(f"{name} = {short(path)}, allowed: {allowed}")


def _workdir(config: str) -> str:
    """Where a run of this config file goes: under runs/, as the file lies under configs/."""
    relative = pathlib.PurePath(config).with_suffix("").parts
    after = relative[relative.index("configs") + 1 :] if "configs" in relative else relative[-1:]
    return str(pathlib.PurePath("runs", *after))


def _help(
    fields: Fields, kind: type[Task] | None, tasks: Registry[Task], argv: list[str], content: dict[str, Any]
) -> NoReturn:
    """Print the help for what the arguments and the file name, and leave."""
    cells = given("model.cells", argv, content).partition(" = ")[2]
    with contextlib.suppress(UserError):  # help is wanted the more where something is wrong
        cells = _values(fields, argv, content)["model"]["cells"]
    fields.parser.print_help(sys.stdout)
    print(overview(kind, tasks, ModelConfig(cells=cells).names if cells else []))
    raise SystemExit(0)
