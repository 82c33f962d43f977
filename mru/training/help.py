"""What `--help` says beside the fields: which tasks and cells there are, and the options of the cells in question."""

from __future__ import annotations

import inspect
import re
import shutil
import textwrap
from collections.abc import Iterable
from typing import Any, NamedTuple

import mru.cells
from mru.registry import Registry
from mru.training.messages import words
from mru.training.sections import cell_options
from mru.training.task import Task

HELP = ("-h", "--help")


class Command(NamedTuple):
    """What `train.py` can do with runs beside training them.

    Attributes:
        arguments: What follows its name, in words.
        said: What `--help` says of it.
        several: Whether it takes several folders.
        options: Its options; each has a value.
    """

    arguments: str
    said: str
    several: bool = False
    options: tuple[str, ...] = ()


COMMANDS = {
    "--check": Command("WORKDIR", "Alone: a run's folder, to say what is damaged and what could be resumed."),
    "--plot": Command(
        "WORKDIR [WORKDIR ...] [--out FOLDER]",
        "Alone: folders of runs, or summary.json files, to draw; of one run to its plots/ unless --out says where.",
        several=True,
        options=("--out",),
    ),
    "--robustness": Command(
        "WORKDIR [--draws 5] [--bits 4]",
        "Alone: a run's folder, to measure its metric when all parameters vary at random, --draws times each; with "
        "--bits, once its matrices are rounded to so many bits.",
        options=("--draws", "--bits"),
    ),
}


def described(docs: Iterable[str | None], name: str) -> str:
    """What the first of some docstrings that knows an argument or attribute says of it, in one line."""
    for doc in docs:
        found = re.search(rf"^ +{name}: (.+?)(?=\n +\w+: |\n\n|\Z)", doc or "", re.MULTILINE | re.DOTALL)
        if found:
            return " ".join(found[1].split())
    return ""


def usage(hints: dict[str, Any], helps: dict[str, str], defaults: dict[str, Any]) -> str:
    """How `train.py` is called, and every field with its type, its default, and what is said of it.

    Args:
        hints: Types of the fields by their dotted names.
        helps: What is said of them.
        defaults: Values of those that need not be given.
    """
    command = "usage: python train.py --config FILE.yaml [--SECTION.FIELD VALUE ...]"
    rows: dict[str, list[tuple[str, str]]] = {"the run": [("--config", "YAML file; the other arguments override it.")]}
    rows["the run"].append(("--print_config", "Print the whole config and leave."))
    rows["the run"] += [(name, command.said) for name, command in COMMANDS.items()]
    for name, hint in hints.items():
        default = defaults.get(name, "none, it must be given")
        text = f"{helps[name]} ({words(hint)}; default: {'null' if default is None else default})"
        rows.setdefault(name.rpartition(".")[0] or "the run", []).append((f"--{name}", text))
    return "\n\n".join([command, *(_table(f"{section}:", fields) for section, fields in rows.items())])


def overview(kind: type[Task] | None, tasks: Registry[Task], cells: list[str]) -> str:
    """The lists of tasks and cells, and the options of some cells.

    Args:
        kind: The task whose options stand above already; None if no task was named.
        tasks: All tasks.
        cells: Names of the cells whose options are shown.
    """
    hint = "" if kind else "; name one to see its options: --task.name NAME --help"
    parts = [_table(f"tasks (--task.name NAME){hint}:", _first_lines(tasks))]
    parts.append(_table("cells (--model.cells NAME,NAME,...; A+B puts two side by side):", _first_lines(mru.cells)))
    for name in dict.fromkeys(cells):
        rows = _options(name) if name in mru.cells.names() else []
        parts.append(_table(f"options of cell {name} (--model.options.{name}.OPTION VALUE):", rows or [("none", "")]))
    return "\n" + "\n\n".join(parts)


def _first_lines(registry: Any) -> list[tuple[str, str]]:
    """Each name with the first line of its class's docstring, or why the class can not be had."""
    rows = []
    for name in registry.names():
        try:
            text = (inspect.getdoc(registry.get(name)) or "").split("\n\n")[0]
        except ValueError as error:
            text = str(error)
        rows.append((name, textwrap.shorten(text, 100, placeholder=" ...")))
    return rows


def _options(name: str) -> list[tuple[str, str]]:
    """Each option of a cell with what its constructor's docstring says of it, and its default."""
    cell = mru.cells.get(name)
    docs = [text for kind in cell.__mro__ for text in (inspect.getattr_static(kind, "__init__").__doc__, kind.__doc__)]
    return [
        (option, f"{described(docs, option)} (default: {parameter.default})")
        for option, parameter in cell_options(cell).items()
    ]


def _table(title: str, rows: list[tuple[str, str]]) -> str:
    indent = 4 + max(len(name) for name, _ in rows)
    lines = [
        textwrap.fill(
            f"  {name:<{indent - 2}}{text}", shutil.get_terminal_size().columns, subsequent_indent=" " * indent
        )
        for name, text in rows
    ]
    return "\n".join([title, *lines])
