"""`benchmarks/flip_flop.py` counts the errors of a trained run: each of them, and no other."""

import json
import sys

import jax
import numpy as np
import pytest
from train_helpers import TINY, config_file, main

import mru
import tasks
from benchmarks import flip_flop

TEXT = (
    TINY.replace("copy_first, length: 20", "flip_flop, length: 32, seed: 3")
    .replace("held_out: 20", "held_out: 2")
    .replace("[pmru]", "[lru]")
)


@pytest.mark.usefixtures("cache")
def test_errors_are_those_of_the_whole_sequences(tmp_path, monkeypatch, capsys):
    workdir, out = tmp_path / "run", tmp_path / "errors.json"
    code, said = main("--config", config_file(tmp_path, TEXT), "--workdir", workdir)
    assert code == 0, said
    argv = ["flip_flop", workdir, "--reads", 200, "--length", 600, "--tokens", 512, "--out", out]
    monkeypatch.setattr(sys, "argv", [str(x) for x in argv])
    flip_flop.main()
    rows, printed = json.loads(out.read_text())["rows"], capsys.readouterr().out
    assert out.with_suffix(".png").stat().st_size > 10_000
    settings = {row["test"]: (row["p_ignore"], row["length"]) for row in rows}
    assert settings == {"as trained": (0.8, 32), "sparse": (0.98, 32), "dense": (0.1, 32), "long": (0.8, 600)}
    model = mru.load(workdir)
    whole = jax.jit(lambda tokens: model(tokens)[0])
    for row in rows:
        task = tasks.get("flip_flop")(length=row["length"], p_ignore=row["p_ignore"], seed=3)
        examples = task.examples("test", np.arange(row["sequences"]))
        eights = examples["inputs"].reshape(-1, 8, row["length"])  # one shape to compile
        answers = np.concatenate([whole(tokens) for tokens in eights]).argmax(-1)
        reads = [(a, b) for x, y in zip(answers, examples["targets"]) for a, b in zip(x, y) if b in (0, 1)]
        assert row["reads"] == len(reads) >= 200
        assert row["errors"] == sum(a != b for a, b in reads) > 0
        assert row["error_rate"] == row["errors"] / row["reads"]
        assert (row["run"], row["cells"]) == ("run", ["lru"])
        assert f"{row['errors']:,} errors in {row['reads']:>10,} reads" in printed


def test_other_runs_are_refused(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="holds no checkpoints"):
        flip_flop.loaded(tmp_path)
    held = {"task": {"name": "copy_first"}}
    monkeypatch.setattr(flip_flop, "chosen", lambda workdir: 7)
    monkeypatch.setattr(flip_flop.checkpoint, "about", lambda workdir, step: {"config": held})
    with pytest.raises(ValueError, match="is a run of copy_first, expected one of flip_flop"):
        flip_flop.loaded(tmp_path)
    held["task"] = {"name": "flip_flop", "length": 32}
    both = mru.SequenceModel(0, 2, vocabulary=5, cells="lru", width=4, state_size=2, bidirectional=True, rngs=0)
    monkeypatch.setattr(mru, "load", lambda workdir, step: both)
    with pytest.raises(ValueError, match="bidirectional model, which sees the answers"):
        flip_flop.loaded(tmp_path)
