import pytest
from train_helpers import parse

import mru
import tasks
from mru.training.help import described


def helped(capsys, *argv):
    with pytest.raises(SystemExit) as caught:
        parse([*argv, "--help"])
    assert caught.value.code == 0
    return capsys.readouterr().out


def lines_after(text, title):
    """The rows of a list, by the name each begins with."""
    rows = text[text.index(title) :].split("\n\n")[0].splitlines()[1:]
    return {row.split()[0]: row for row in rows if row.startswith("  ") and not row.startswith("    ")}


def test_without_a_task_it_lists_tasks_and_cells_and_no_options_of_one(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    text = helped(capsys)
    assert "--task." not in text.partition("tasks (")[0]
    assert "--task.name NAME --help" in text
    assert list(lines_after(text, "tasks (")) == tasks.names()
    assert list(lines_after(text, "cells (")) == mru.cells.names()
    assert "Ten classes, T = 64 pixels" in lines_after(text, "tasks (")["digits"]


def test_options_of_the_task_and_the_cells_in_effect(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    text = helped(capsys, "--task.name", "evidence", "--model.cells", "s5,bmru+s5")
    assert "--task.cue" in text
    assert "--task.permutation_seed" not in text
    rows = lines_after(text, "options of cell s5")
    assert "J, number of HiPPO blocks that N is divided into. (default: 1)" in rows["blocks"]
    assert "dtype" not in rows
    assert "learn_initial_state" in lines_after(text, "options of cell bmru")
    assert "options of cell lru" not in text


def test_help_where_something_is_wrong(capsys):
    assert "options of cell s5" in helped(capsys, "--task.name", "digits", "--model.cells", "s5", "--steps", "3")


def test_what_a_docstring_says_of_a_name():
    doc = (
        "Thing.\n\n    Args:\n        a: One\n            line.\n        b: Two.\n\n    Returns:\n        c: No.\n    "
    )
    assert [described([None, doc], name) for name in "abz"] == ["One line.", "Two.", ""]
