"""From a YAML file and the command line to a `Config`: the file is read once, the arguments override it."""

from __future__ import annotations

import collections
import contextlib
import copy
import dataclasses
import pathlib
import re
import types
import typing
from typing import Any, NamedTuple, NoReturn

import yaml

import mru.cells
from mru.registry import Registry
from mru.training import plain_yaml
from mru.training.config import Config, checked
from mru.training.help import HELP, described, overview, usage
from mru.training.lines import among, short
from mru.training.messages import Arguments, UserError, given, no_field, words
from mru.training.section import RANGES
from mru.training.sections import SECTIONS
from mru.training.task import MissingData, Task
from mru.training.values import fit, inner_hint, of_text

# What may become the name of a folder, and leaves room for the names of what a run writes in it.
LONGEST_NAME, LONGEST_PATH = 255, 3000
FLAGS = (*HELP, "--print_config")


class Fields(NamedTuple):
    """What a config of a task may set.

    Attributes:
        hints: Types of the fields by their dotted names.
        helps: What their docstrings say of them.
        defaults: Values of those that need not be given.
    """

    hints: dict[str, Any]
    helps: dict[str, str]
    defaults: dict[str, Any]


def parse(argv: list[str], tasks: Registry[Task]) -> Config:
    """The config of a command line. `--help` and `--print_config` print and leave the program.

    Args:
        argv: The arguments.
        tasks: Where tasks are found by name.

    Raises:
        UserError: Something in it does not fit.
    """
    require_text(argv)
    flags = {word for word in argv if word in FLAGS}
    arguments = split([word for word in argv if word not in FLAGS])
    files = [text or "" for option, text in arguments if option == "--config"]
    if len(files) > 1:
        raise UserError(f"--config is given twice, as {' and '.join(map(short, files))}; one file is read")
    if files == [""]:
        raise UserError("--config: expected one argument, a YAML file")
    content = read(files[0]) if files else {}
    arguments = [(option, text) for option, text in arguments if option != "--config"]
    names = [text for option, text in arguments if option == "--task.name"]
    helping = not flags.isdisjoint(HELP)
    kind = _task(names[-1] if names else content.get("task", {}).get("name"), tasks, may_be_missing=helping)
    fields = fields_of(kind, tasks)
    if helping:
        _help(fields, kind, tasks, arguments, content)
    assert kind is not None
    values = _values(fields, arguments, content)
    named = values["workdir"] is not None
    config = _config(kind, values, values["workdir"] if named else _workdir(files[0] if files else f"{kind.name}.yaml"))
    if flags:
        shown = config.resolved if named else {k: v for k, v in config.resolved.items() if k != "workdir"}
        print(yaml.safe_dump(shown, sort_keys=False), end="")
        raise SystemExit(0)
    return config


def config_of(content: dict[str, Any], tasks: Registry[Task], workdir: pathlib.Path) -> Config:
    """The config of a run from what it wrote, wherever its folder is now.

    Args:
        content: What its config.yaml or a checkpoint of it has.
        tasks: Where tasks are found by name.
        workdir: The folder.

    Raises:
        UserError: Its task is not known here, or something in it does not fit.
    """
    kind = _task(content["task"].get("name"), tasks, may_be_missing=False)
    assert kind is not None
    return _config(kind, _values(fields_of(kind, tasks), [], content), str(workdir))


def split(argv: list[str]) -> Arguments:
    """The words of a command line, each option with what follows it or stands behind its equals sign."""
    found: Arguments = []
    rest = collections.deque(argv)
    while rest:
        word = rest.popleft()
        option, equals, text = word.partition("=")
        if word.startswith("--") and equals:
            found.append((option, text))
        elif word.startswith("--") and rest and not rest[0].startswith("--"):
            found.append((word, rest.popleft()))
        else:
            found.append((word, None))
    return found


def require_text(argv: list[str]) -> None:
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
    """Refuse names in a file that are no fields, and dotted ones, which belong to command lines."""
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
        raise UserError(f"task.name = {short(repr(name))}{among(name, tasks.names())}")
    try:
        return tasks.get(name)
    except ValueError as error:
        raise UserError(str(error)) from None


def fields_of(kind: type[Task] | None, tasks: Registry[Task]) -> Fields:
    """Every field of the sections and, if it is known, of the task."""
    fields = Fields({"workdir": str, "init_from": str | None}, {}, {"workdir": None, "init_from": None})
    fields.helps["workdir"] = "Folder of the run; runs/ and the config's name."
    fields.helps["init_from"] = "Folder of another run, with whose parameters to start."
    if kind is not None:
        fields.hints["task.name"], fields.defaults["task.name"] = str, kind.name
        fields.helps["task.name"] = f"One of {', '.join(tasks.names())}."
    for section, holder in {**({"task": kind} if kind else {}), **SECTIONS}.items():
        _add_section(fields, section, holder)
    return fields


def _add_section(fields: Fields, section: str, holder: Any) -> None:
    found = typing.get_type_hints(holder, include_extras=True)
    for field in dataclasses.fields(holder):
        name, hint = f"{section}.{field.name}", found[field.name]
        if not _is_plain(hint):
            raise UserError(f"{name} is declared as {words(hint)}, allowed: plain types, as a config can run no code")
        fields.hints[name] = hint
        fields.helps[name] = described([kind.__doc__ for kind in holder.__mro__], field.name)
        if field.default_factory is not dataclasses.MISSING:
            fields.defaults[name] = field.default_factory()
        elif field.default is not dataclasses.MISSING:
            fields.defaults[name] = field.default


def _is_plain(hint: Any) -> bool:
    """Whether a value of the type is numbers and texts: of a class, jsonargparse would make what a config names."""
    if hint in RANGES or hint in (bool, int, float, str, type(None)) or typing.get_origin(hint) is typing.Literal:
        return True
    compound = typing.get_origin(hint) in (list, tuple, dict, types.UnionType, typing.Union)
    return compound and all(_is_plain(inner) for inner in typing.get_args(hint) if inner is not Ellipsis)


def _values(fields: Fields, arguments: Arguments, content: dict[str, Any]) -> dict[str, Any]:
    """The values of all fields, by section: from the file, and the arguments over it."""
    _require_fields(fields, content)
    merged = _merged(fields, arguments, content)
    values: dict[str, Any] = {}
    for name, hint in fields.hints.items():
        section, _, field = name.rpartition(".")
        here, held = (values.setdefault(section, {}), merged.get(section, {})) if section else (values, merged)
        try:
            here[field] = fit(held[field], hint) if field in held else fields.defaults[name]
        except ValueError:
            raise UserError(f"{given(name, arguments, content)}, allowed: {words(hint)}") from None
        except KeyError:
            raise UserError(f"{name} is missing, allowed: {words(hint)}") from None
    return values


def _merged(fields: Fields, arguments: Arguments, content: dict[str, Any]) -> dict[str, Any]:
    """The content of the file with what the arguments put in its place."""
    merged = copy.deepcopy(content)
    for option, text in arguments:
        name = option.removeprefix("--")
        hint = inner_hint(fields.hints, name) if option.startswith("--") else None
        if hint is None:
            raise UserError(no_field(name, fields.hints, fields.helps, arguments, content))
        if text is None:
            raise UserError(f"{option}: expected one argument, {words(hint)}")
        *path, last = name.split(".")
        held = merged
        for part in path:
            if not isinstance(held.get(part), dict):
                held[part] = {}
            held = held[part]
        held[last] = of_text(text, hint)
    return merged


def _config(kind: type[Task], values: dict[str, Any], workdir: str) -> Config:
    for name in ("workdir", "init_from"):
        _require_path(name, values[name])
    options = {name: value for name, value in values["task"].items() if name != "name"}
    try:
        sections: dict[str, Any] = {name: section(**values[name]) for name, section in SECTIONS.items()}
        task = kind(**options)
        return checked(Config(task=task, **sections, workdir=pathlib.Path(workdir), init_from=values["init_from"]))
    except (ValueError, MissingData) as error:  # a task of a user's file says nothing without it
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
    fields: Fields, kind: type[Task] | None, tasks: Registry[Task], arguments: Arguments, content: dict[str, Any]
) -> NoReturn:
    """Print the help for what the arguments and the file name, and leave."""
    named = [text for option, text in arguments if option == "--model.cells"]
    cells = named[-1] if named else content.get("model", {}).get("cells")
    with contextlib.suppress(UserError):  # help is wanted the more where something is wrong
        cells = _values(fields, arguments, content)["model"]["cells"]
    print(usage(fields.hints, fields.helps, fields.defaults))
    known = [name for name in re.findall(r"\w+", str(cells)) if name in mru.cells.names()]
    print(overview(kind, tasks, known))
    raise SystemExit(0)
