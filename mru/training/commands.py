"""What `train.py` does with runs beside training them: `--check`, `--plot` and `--robustness`.

Each stands alone on a command line, with the folders that it is about and options of its own.
"""

from __future__ import annotations

import pathlib
from typing import NamedTuple

from mru.model.quantization import FEWEST, MOST
from mru.registry import Registry
from mru.training import devices, resume
from mru.training.check import check
from mru.training.command_line import require_text, split
from mru.training.help import COMMANDS, HELP
from mru.training.lines import short
from mru.training.messages import UserError
from mru.training.task import MissingData, Task

MOST_DRAWS = 10_000


class Asked(NamedTuple):
    """A command line that is one of `COMMANDS`.

    Attributes:
        name: Which of them.
        folders: The folders that it is about, at least one.
        options: What else was given, by option.
    """

    name: str
    folders: list[pathlib.Path]
    options: dict[str, str]


def asked(argv: list[str]) -> Asked | None:
    """What a command line asks for, if it is one of `COMMANDS`; None if it is another, or asks for help.

    Raises:
        UserError: It lacks a folder, or has what does not belong to it.
    """
    arguments = split(argv)
    names = [option for option, _ in arguments if option in COMMANDS]
    if not names or not {*HELP}.isdisjoint(argv):
        return None
    require_text(argv)
    name, command = names[0], COMMANDS[names[0]]
    words = [text if option == name else option for option, text in arguments if option == name or option[:2] != "--"]
    options = {option: text for option, text in arguments if option in command.options and text}
    fits = len(words) + len(options) == len(arguments) and names == [name]
    folders = [pathlib.Path(word) for word in words if word]
    if not fits or not words or len(folders) < len(words) or (len(words) > 1 and not command.several):
        what = "the folders of runs" if command.several else "one argument, the folder of a run"
        raise UserError(f"{name}: expected {what}, and no other: train.py {name} {command.arguments}")
    return Asked(name, folders, options)


def do(what: Asked, tasks: Registry[Task], argv: list[str]) -> int:
    """Do what a command line asks for; the exit code.

    Args:
        what: What it asks for.
        tasks: Where tasks are found by name.
        argv: The command line, to be recorded.

    Raises:
        UserError: It can not be done, and why.
    """
    if what.name == "--check":
        return check(what.folders[0])
    # matplotlib is slow to import.
    from mru.training import pictures, robustness

    devices.keep_programs()
    resume.quiet_abandoned_files()
    try:
        if what.name == "--plot":
            out = what.options.get("--out")
            return pictures.plot(what.folders, tasks, None if out is None else pathlib.Path(out))
        draws = _number("--draws", what.options.get("--draws", "5"), 1, MOST_DRAWS)
        text = what.options.get("--bits")
        bits = None if text is None else _number("--bits", text, FEWEST, MOST)
        return robustness.command(what.folders[0], tasks, draws, argv, bits=bits)
    except MissingData as error:
        raise UserError(str(error)) from None


def _number(option: str, text: str, low: int, high: int) -> int:
    if not text.isdecimal() or len(text) > 9 or not low <= int(text) <= high:
        raise UserError(f"{option} = {short(text)}, allowed: an integer from {low} to {high:,}")
    return int(text)
