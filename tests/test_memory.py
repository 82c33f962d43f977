"""The memory leaderboard: which rate is picked, what test is told of, and a page from files alone."""

import json
import re
import subprocess

import jax
import numpy as np
import pytest

from benchmarks import memory, memory_figure, memory_table
from mru.training.checksum import sealed
from mru.training.messages import UserError

PLAN = memory.Plan((1e-3, 1e-2), (0, 1), steps=4, batch_size=4, eval_every=2, held_out=8, longer=((10, 4),))


def test_every_task_can_be_trained_and_is_64_steps_long():
    for task in memory.TASKS:
        config = memory.config(memory.Part(task, "lru", 32), memory.Plan(), 1e-3, 0)
        assert config.task.length in (64, 65)
        if task not in memory.ONE_LENGTH:
            option = type(config.task).retention_option
            assert config.task.at(1000 * memory.TASKS[task][option]).length >= 48_000


@pytest.mark.parametrize(
    ("scores", "goal", "best"),
    [
        ([[0.1, 0.5], [0.2, 0.2], [0.3, 0.3]], "min", 1),
        ([[0.1, 0.5], [0.2, 0.2], [0.3, 0.31]], "max", 2),
        ([[0.0, None], [0.9, 0.9]], "min", 1),
        ([[1.0, None], [0.1, 0.1]], "max", 1),
    ],
)
def test_the_rate_of_the_best_mean_is_picked(scores, goal, best):
    assert memory.picked(scores, goal) == best


@pytest.mark.usefixtures("quick_compile")
def test_a_part_is_written_and_told_on_the_page(tmp_path, monkeypatch):
    """Test is told of the runs of the picked rate alone."""
    part = memory.Part("flip_flop", "pmru", 4)
    monkeypatch.setitem(memory.TASKS, "flip_flop", {"length": 8})
    evaluate, told = memory.Together.evaluate, []

    def remembered(group, states, split):
        if split == "test":
            told.append((group.best, states))
        return evaluate(group, states, split)

    monkeypatch.setattr(memory.Together, "evaluate", remembered)
    memory.complete(part, PLAN, tmp_path / "memory", "sequential")
    held = json.loads(part.file(tmp_path / "memory").read_text())
    best = np.argmin([np.mean(held["rates"][rate]["validation"]) for rate in ("0.001", "0.01")])
    assert held["picked"] == PLAN.rates[best]
    assert held["persistent"]
    assert held["together"] == 4
    assert held["command"].endswith("--task flip_flop --cell pmru --size 4 --method sequential")
    assert sorted(held["test"]) == ["1", "10"]
    ((every, picked),) = told
    runs = slice(2 * best, 2 * best + 2)  # rates one after the other, of two seeds each
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[runs], y), every, picked)
    page = memory_table.page(memory_table.read(tmp_path / "memory"), ["flip_flop", "adding"], ["lru", "pmru"], [4])
    mean, std = np.mean(held["test"]["10"]), np.std(held["test"]["10"], ddof=1)
    assert f"| `pmru` (p) | 4 | - | {mean:.3g} ± {std:.3g} |" in page
    assert page.count("not run") == 2 * 2 - 1 + 2 * 2 - 1  # of two cells and two tasks, in the summary and below it
    assert memory.main(["--table", "--out", str(tmp_path / "memory")]) == 0
    (shown,) = re.findall(r"!\[.*\]\((.*)\)", (tmp_path / "memory.md").read_text())
    assert (tmp_path / shown).read_bytes().startswith(b"\x89PNG")


def test_rows_are_sorted_by_what_is_remembered_longest():
    def held(cell, far, near, goal="min"):
        test = {"1000": far, "10": near, "1": [0.0, 0.0]}
        same = {"metric": "error", "goal": goal, "chance": 0.5, "options": {"name": "parity", "length": 64}}
        about = {"device": "1 x thing", "commit": "abc", "versions": {"jax": "0"}, "parameters": 10, "picked": 0.01}
        return {"persistent": cell == "b", "test": test, "seconds": {"wall": 1.0}} | same | about

    given = {"a": [0.2, 0.4], "b": [0.1, 0.1], "c": [None, 0.0], "d": [0.1, 0.1]}
    near = {"a": [0.0, 0.0], "b": [0.3, 0.3], "c": [0.0, 0.0], "d": [0.2, 0.2]}
    for goal, order in (("min", "dbac"), ("max", "abdc")):
        found = {("parity", cell, 32): held(cell, given[cell], near[cell], goal) for cell in given}
        page = memory_table.page(found, ["parity"], list(given), [32])
        rows = [line for line in page.partition("## parity")[2].splitlines() if line.startswith("| `")]
        assert "".join(row[3] for row in rows) == order
        assert f"| 0.3 ± {np.std([0.2, 0.4], ddof=1):.3g} |" in page
        assert "not finite in 1 of 2" in page


def test_the_picture_shows_how_far_cells_come_from_chance():
    def held(goal, chance, far, near, persistent=False):
        return {"goal": goal, "chance": chance, "test": {"1000": far, "1": near}, "persistent": persistent}

    found = {
        ("parity", "lru", 64): held("max", 0.5, [0.5, 0.4], [0.75, 1.0]),
        ("parity", "pmru", 64): held("max", 0.5, [0.9, None], [0.5, 0.5], True),
        ("adding", "pmru", 64): held("min", 0.25, [0.05, 3.0], [0.0, 0.125], True),
        ("adding", "pmru", 32): held("min", 0.25, [0.25, 0.25], [0.25, 0.25], True),
    }
    found["adding", "lru", 64] = held("min", 0.25, [0.25], [0.0]) | {"test": {"1": [0.0]}}
    figure = memory_figure.draw(found, ["parity", "adding", "mod_k"], ["lru", "pmru"], 64)
    near, far, bar = figure.axes
    assert [label.get_text() for label in near.get_yticklabels()] == ["pmru (p)", "lru"]  # the best first
    # Chance or worse is 0, no error 1, a seed that is not finite 0; what was not tested is blank.
    for axis, wanted in ((near, [[0.0, 0.75], [0.75, 1.0]]), (far, [[0.4, 0.4], [0.0, np.nan]])):
        shown = axis.images[0].get_array().filled(np.nan)
        np.testing.assert_allclose(shown[:, :2], wanted, atol=1e-12)
        assert np.isnan(shown[:, 2]).all()
    assert bar.get_xlabel() == "from chance (0) to no error (1)"


def test_a_file_that_was_changed_is_refused(tmp_path):
    file = memory.Part("parity", "lru", 32).file(tmp_path)
    file.parent.mkdir()
    file.write_text(json.dumps(sealed({"task": "parity", "metric": 0.1}) | {"metric": 0.0}))
    with pytest.raises(UserError, match="is not as it was written"):
        memory_table.read(tmp_path)
    file.write_text("{")
    with pytest.raises(UserError, match="can not be read"):
        memory_table.read(tmp_path)


def test_what_is_there_is_left_alone(tmp_path, monkeypatch, capsys):
    """Each part that is missing becomes a process of its own, whose failure stops no other."""
    ran = []

    def run(command, **given):
        ran.append(command[command.index("--task") :][:6])
        assert float(given["env"]["XLA_PYTHON_CLIENT_MEM_FRACTION"]) == pytest.approx(0.45)
        return subprocess.CompletedProcess(command, int("adding" in command), "", "error: no room\n")

    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    monkeypatch.setattr(memory.subprocess, "run", run)
    there = memory.Part("parity", "lru", 32).file(tmp_path)
    there.parent.mkdir()
    there.touch()
    argv = ["--task", "parity", "adding", "--cell", "lru", "--size", "32", "64", "--jobs", "2", "--out", str(tmp_path)]
    assert memory.main(argv) == 1
    assert sorted(words[1] + words[5] for words in ran) == ["adding32", "adding64", "parity64"]
    assert "adding lru-64: exit code 1: error: no room" in capsys.readouterr().out


def test_no_table_is_made_of_nothing(tmp_path, capsys):
    assert memory.main(["--table", "--out", str(tmp_path / "memroy")]) == 2
    assert "allowed: the folder of the files of parts" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
