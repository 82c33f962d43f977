"""`benchmarks/sweep.py` trains every combination once, and tells test of what validation picks alone."""

import json
import os
import re
import shlex
import subprocess
import sys
import types
from typing import ClassVar

import numpy as np
import pytest
from train_helpers import TINY, config_file, parse

from benchmarks import grid, sweep, train_together, zoo
from mru.training import summary, workdir
from mru.training.messages import RunFailed


def sweeping(folder, *words, config=None):
    """The words of a sweep of the tiny config, whose runs lie in a folder."""
    argv = ["--config", *(config or [config_file(folder)]), *words, "--workdir", folder / "runs"]
    return [str(word) for word in argv]


@pytest.fixture
def trainings(monkeypatch):
    """The configs that were trained, by a `train.py` that takes no time; `values` says what came of one."""

    class Trainings(list):
        groups: ClassVar = []
        failing: ClassVar = ()

        def values(self, config):
            return 0.5, 0.5

        def run(self, command, **_):
            if "benchmarks.train_together" in command:
                argvs = train_together.split(command[3:])
                self.groups.append([parse(argv).train.seed for argv in argvs])
                done = [self.run(["python", "train.py", *argv]) for argv in argvs]
                said = "".join(x.stderr for x in done)
                return subprocess.CompletedProcess(command, max(x.returncode for x in done), "", said)
            config = parse(command[2:])
            if config.train.seed in self.failing:
                return subprocess.CompletedProcess(command, 1, "", f"error: {config.workdir}: not finite\n")
            self.append(config)
            validation, test = self.values(config)
            (config.workdir / "checkpoints" / str(config.train.steps)).mkdir(parents=True)
            workdir.prepare(config)
            metric = config.task.metric
            held = dict.fromkeys(summary.KEYS, 0) | {
                "task": config.resolved["task"],
                "cells": config.model.blocks,
                "seed": config.train.seed,
                "steps": config.train.steps,
                "parameters": 1234,
                "metric": metric,
                "validation": {metric: validation},
                "test": {metric: test},
                "seconds": {"wall": 10.0 + config.train.seed},
                "steps_per_second": 20.0,
                "device": "1 x thing",
                "versions": {"jax": "0"},
            }
            summary.save(config.workdir, held)
            return subprocess.CompletedProcess(command, 0, "", "")

    made = Trainings()
    made.groups = []
    stand_in(monkeypatch, made.run)
    return made


def stand_in(monkeypatch, run):
    """Let `grid` run commands by a function; other modules do as always."""
    held = types.SimpleNamespace(run=run, PIPE=subprocess.PIPE, DEVNULL=subprocess.DEVNULL)
    monkeypatch.setattr(grid, "subprocess", held)


def cells_of(text):
    """The rows of a Markdown table below its head, as lists of texts."""
    rows = [line.strip("| ").split(" | ") for line in re.sub(r"\| +\|", "| - |", text).splitlines() if line[:1] == "|"]
    return rows[0], rows[2:]


@pytest.mark.parametrize(("task", "sign"), [("parity", 1), ("adding", -1)])
def test_test_is_told_of_what_validation_picks(tmp_path, trainings, capsys, task, sign):
    rng = np.random.default_rng(0)
    found = {(rate, seed): rng.uniform(size=2) for rate in (1e-3, 1e-2, 1e-1) for seed in range(4)}
    trainings.values = lambda config: found[config.optimizer.lr, config.train.seed]
    file = config_file(tmp_path, TINY.replace("copy_first, length: 20, retention: []", f"{task}, length: 20"))
    argv = sweeping(tmp_path, "--optimizer.lr", "1e-3", "1e-2", "1e-1", "--train.seed", 0, 1, 2, 3, config=[file])
    assert sweep.main([*argv, "--out", str(tmp_path / "out" / "table.md")]) == 0
    assert len(trainings) == 12
    head, rows = cells_of((tmp_path / "out" / "table.md").read_text())
    metric = trainings[0].task.metric
    assert head == [
        *("config", "optimizer.lr", f"validation {metric}", f"test {metric}"),
        *("seeds", "parameters", "seconds", "steps/s"),
    ]
    values = np.array([[found[rate, seed] for seed in range(4)] for rate in (1e-3, 1e-2, 1e-1)])
    means, spreads = values.mean(1), values.std(1, ddof=1)
    best = int(np.argmax(sign * means[:, 0]))
    for i, row in enumerate(rows):
        assert row[:2] == ["`tiny`", ("1e-3", "1e-2", "1e-1")[i]]
        assert row[2] == f"{means[i, 0]:.4f} ± {spreads[i, 0]:.4f}"
        assert row[3] == (f"{means[i, 1]:.4f} ± {spreads[i, 1]:.4f}" if i == best else "-")
        assert row[4:] == ["4", "1,234", "12", "20.0"]
    summaries = json.loads((tmp_path / "out" / "table.json").read_text())
    assert [(x["values"]["optimizer.lr"], x["seed"]) for x in summaries[:5]] == [
        *(("1e-3", seed) for seed in range(4)),
        ("1e-2", 0),
    ]
    assert "12/12" in capsys.readouterr().out


def test_configs_and_tasks_are_not_compared(tmp_path, trainings):
    """The length with the smaller error is the easier task, and no better setting."""
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    for file in (one, two):
        file.write_text(TINY)
    best = {("one", 20): 1e-3, ("one", 30): 1e-2, ("two", 20): 1e-2, ("two", 30): 1e-3}

    def values(config):
        name = config.workdir.parent.name
        error = 0.8 if config.optimizer.lr == best[name, config.task.length] else 0.9
        return error * config.task.length, 0.7

    trainings.values = values
    words = ("--task.length", 20, 30, "--optimizer.lr", "1e-3", "1e-2")
    argv = sweeping(tmp_path, *words, config=[one, two])
    assert sweep.main([*argv, "--out", str(tmp_path / "table.md")]) == 0
    head, rows = cells_of((tmp_path / "table.md").read_text())
    assert head[:3] == ["config", "task.length", "optimizer.lr"]
    told = {(row[0].strip("`"), int(row[1])): float(row[2]) for row in rows if row[4] != "-"}
    assert len(rows) == 8
    assert told == best


def test_a_complete_run_is_not_trained_again(copied, trainings):
    folder, argv = copied
    complete = grid.Run("tiny", {}, argv, parse(argv))
    assert grid.trained(complete, quiet=False) == json.loads((folder / "summary.json").read_text())
    assert not trainings
    longer = [*argv, "--train.steps", "60"]
    assert grid.trained(grid.Run("tiny", {}, longer, parse(longer)), quiet=False)["steps"] == 60
    assert len(trainings) == 1


def test_together_trains_what_differs_in_seed_and_rate_in_one_program(tmp_path, trainings, capsys):
    """The same table as one by one; what is complete is not trained again, and one run alone is no group."""
    words = ("--model.cells", "lru", "pmru", "--train.seed", 0, 1, 2)
    found = {(cells, seed): (seed / 7, seed / 9) for cells in ("lru", "pmru") for seed in range(3)}
    trainings.values = lambda config: found[config.model.blocks[0], config.train.seed]
    tables = []
    for name, more in (("one", []), ("together", ["--together", "--jobs", "2"])):
        (tmp_path / name).mkdir()
        argv = [*sweeping(tmp_path / name, *words), *more]
        trainings.groups.clear()
        trainings.failing = (2,) if more else ()
        if more:
            assert sweep.main(argv) == 1
            assert "not finite" in capsys.readouterr().err
            assert trainings.groups == [[0, 1, 2]] * 2
            trainings.failing = ()
            trainings.groups.clear()
        assert sweep.main([*argv, "--out", str(tmp_path / f"{name}.md")]) == 0
        tables.append(cells_of((tmp_path / f"{name}.md").read_text()))
    assert tables[0] == tables[1]
    assert trainings.groups == []  # what is left of each group is one run
    assert len(trainings) == 12


def test_a_run_that_failed_in_its_group_counts_as_failed(copied):
    folder, argv = copied
    held = json.loads((folder / "summary.json").read_text())
    del held["checksum"]
    summary.save(folder, held | {"together": 2, "failed": "the loss is not finite at step 7"})
    with pytest.raises(RunFailed, match="the loss is not finite at step 7"):
        grid.trained(grid.Run("tiny", {}, argv, parse(argv)), quiet=False)


def test_a_run_that_fails_does_not_keep_others_from_being_trained(tmp_path, trainings, monkeypatch, capsys):
    failing = {"1": (2, "", "warning: x\nerror: no room\n"), "2": (0, "", "stopped by SIGTERM and saved")}

    def run(command, **_):
        seed = command[command.index("--train.seed") + 1]
        if seed in failing:
            return subprocess.CompletedProcess(command, *failing[seed])
        return trainings.run(command)

    stand_in(monkeypatch, run)
    argv = sweeping(tmp_path, "--train.seed", 0, 1, 2, 3, "--jobs", 2, "--out", tmp_path / "table.md")
    assert sweep.main(argv) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3
    assert any("train.seed=1: no room" in line for line in said)
    assert any("train.seed=2 was stopped" in line for line in said)
    assert said[-1] == "error: 2 of 4 runs failed; the same command goes on with them"
    assert not (tmp_path / "table.md").exists()
    failing.clear()
    assert sweep.main(argv) == 0
    assert sorted(config.train.seed for config in trainings[2:]) == [1, 2]
    assert (tmp_path / "table.md").exists()


def test_a_setting_that_fails_does_not_keep_others_from_the_table(tmp_path, trainings, monkeypatch):
    """It has the better validation metric by its other seed, and is not picked."""
    trainings.values = lambda config: (0.5, 0.5) if config.optimizer.lr == 1e-3 else (0.1, 0.1)

    def run(command, **_):
        if "1e30" in command and "1" in command:
            return subprocess.CompletedProcess(command, 1, "", "error: the loss is not finite at step 1")
        return trainings.run(command)

    stand_in(monkeypatch, run)
    rates = ["--optimizer.lr", "1e30", "1e-3", "--train.seed", 0, 1]
    assert sweep.main(sweeping(tmp_path, *rates, "--out", tmp_path / "table.md")) == 1
    _, (failed, whole) = cells_of((tmp_path / "table.md").read_text())
    assert failed[1:4] == ["1e30", "1 of 2 runs failed", "-"]
    assert whole[1:5] == ["1e-3", "0.5000 ± 0.0000", "0.5000 ± 0.0000", "2"]
    assert len(json.loads((tmp_path / "table.json").read_text())) == 3


def test_one_run_of_an_array(tmp_path, monkeypatch):
    became = []
    monkeypatch.setattr(os, "execv", lambda program, command: became.append((program, command)))
    argv = sweeping(tmp_path, "--train.seed", 0, 1, "--model.cells", "lru", "pmru,bmru")
    assert sweep.main([*argv, "--only", "1"]) == 0
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    assert sweep.main(argv) == 0
    configs = [parse(command[2:]) for _, command in became]
    assert [(config.train.seed, config.model.blocks) for config in configs] == [
        (0, ["pmru", "bmru"]),
        (1, ["lru"]),
    ]
    assert {program for program, _ in became} == {sys.executable}


def test_dry_run_prints_what_can_be_run(tmp_path, monkeypatch, trainings, capsys):
    argv = sweeping(tmp_path, "--train.seed", 0, 1, 2, "--optimizer.lr", "1e-3", "1e-2")
    assert sweep.main([*argv, "--dry_run"]) == 0
    *lines, array = capsys.readouterr().out.splitlines()
    assert not trainings
    configs = [parse(shlex.split(line)[2:]) for line in lines]
    assert {(c.train.seed, c.optimizer.lr) for c in configs} == {(s, r) for s in range(3) for r in (1e-3, 1e-2)}
    assert len({c.workdir for c in configs}) == len(lines) == 6
    program, places, wrap, script = shlex.split(array)
    assert (program, places, wrap) == ("sbatch", "--array=0-5", "--wrap")
    assert shlex.split(script) == ["exec", "python", "-m", "benchmarks.sweep", *argv]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--train.seed", "0", "--train.seed", "1"], "--train.seed is given twice, allowed: once, with all"),
        (["--train.seed"], "--train.seed , allowed: one value or several"),
        (["--train.seed", "1", "1"], "--train.seed 1 1, allowed: one value or several, each another"),
        (["--train.seed", "0", "x"], "train.seed = x, allowed: an integer >= 0"),
        (["--train.sed", "0"], "train.sed"),
        (["--task.data_dir", "a/b", "a_b"], "data_dir"),
        (["--jobs", "0", "--train.seed", "0"], "--jobs = 0, allowed: an integer >= 1"),
        (["--only", "2", "--train.seed", "0", "1"], "--only = 2, allowed: from 0 to 1, as there are 2 runs"),
        (["--init_from", "a/b", "a_b"], "two runs would lie in"),
        (["--optimizer.lr", "1e-3", "0.001"], "optimizer.lr=0.001 are the same run, allowed: other values"),
        (["--train.seed", "0", "--out", "x.json"], "--out = x.json, allowed: a page of Markdown"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_trained(tmp_path, trainings, capsys, words, said):
    assert sweep.main(sweeping(tmp_path, *words)) == 2
    text = capsys.readouterr().err
    assert said in text
    assert text.count("\n") == 1
    assert not trainings


def test_the_zoo_has_a_row_for_each_config(tmp_path, trainings, monkeypatch):
    values = {("gru", 0): 0.95, ("gru", 1): 0.91, ("rnn", 0): 0.5, ("rnn", 1): 0.7}
    trainings.values = lambda config: (0.1, values[config.model.names[0], config.train.seed])
    argv = ["zoo", "gru", "rnn", "--seeds", "2", "--workdir", tmp_path / "runs", "--out", tmp_path / "zoo.md"]
    monkeypatch.setattr(sys, "argv", [str(word) for word in argv])
    monkeypatch.chdir(grid.ROOT)
    zoo.main()
    _, rows = cells_of((tmp_path / "zoo.md").read_text())
    assert [row[:3] for row in rows] == [
        ["`gru`", f"0.9300 ± {np.std([0.95, 0.91], ddof=1):.4f}", "2"],
        ["`rnn`", f"0.6000 ± {np.std([0.5, 0.7], ddof=1):.4f} (*)", "2"],
    ]
    assert [x["name"] for x in json.loads((tmp_path / "zoo.json").read_text())] == ["gru", "gru", "rnn", "rnn"]
