import copy
import json

import pytest
import yaml
from train_helpers import ROOT, read

from mru.training import records
from mru.training.messages import UserError
from mru.training.records import Record


def content(cells=("bmru",), seed=0, lr=1e-2, **task):
    return {
        "task": {"name": "copy_first", **task},
        "model": {"cells": list(cells)},
        "optimizer": {"lr": lr},
        "train": {"seed": seed},
        "mesh": {"data": seed},
        "workdir": f"runs/{seed}-{lr}",
    }


def test_cells():
    assert Record(content(["lru+pmru", "lru", "fq_bmru"]), []).cells == "LRU + PMRU + FQ-BMRU"


def test_runs_that_differ_in_their_seed_are_together():
    held = [Record(content(cells, seed), []) for seed in (0, 1, 2) for cells in (["bmru"], ["lru"])]
    assert records.grouped(held) == {"BMRU": held[::2], "LRU": held[1::2]}


def test_other_settings_make_other_labels():
    held = [Record(content(lr=0.1), []), Record(content(lr=0.2), []), Record(content(lr=0.2, seed=1), [])]
    held += [Record(content(lr=0.2, length=5), []), Record(content(["lru"]), [])]
    assert records.grouped(held) == {
        "BMRU, lr 0.1": held[:1],
        "BMRU, lr 0.2": held[1:3],
        "BMRU, lr 0.2, length 5": held[3:4],
        "LRU": held[4:],
    }


def test_the_cells_of_blocks_are_compared_with_their_order():
    held = [Record(content(cells), []) for cells in (["lru", "bmru"], ["lru", "lru", "bmru"])]
    assert list(records.grouped(held)) == [
        "LRU + BMRU, cells ['lru', 'bmru']",
        "LRU + BMRU, cells ['lru', 'lru', 'bmru']",
    ]


def test_a_folder(copied):
    workdir, _ = copied
    held = records.read(workdir, "--plot")
    assert held.content == yaml.safe_load((workdir / "config.yaml").read_text()) | {"workdir": held.content["workdir"]}
    assert held.log == read(workdir / "metrics.jsonl")
    assert held.summary == json.loads((workdir / "summary.json").read_text())
    assert held.robustness is None


def test_a_folder_without_checkpoints_and_summary(copied, tmp_path):
    workdir, _ = copied
    (tmp_path / "kept").mkdir()
    for name in ("config.yaml", "metrics.jsonl"):
        (tmp_path / "kept" / name).write_bytes((workdir / name).read_bytes())
    held = records.read(tmp_path / "kept", "--plot")
    assert held.summary is None
    assert held.log == read(workdir / "metrics.jsonl")


def test_a_summary():
    path = ROOT / "results/copy_first/bmru.json"
    held, summary = records.read(path, "--plot"), json.loads(path.read_text())
    assert held == Record(
        {"task": summary["task"], "model": {"cells": ["bmru", "bmru"]}, "train": {"seed": 0}}, [], summary
    )


def test_what_is_no_run(copied, tmp_path):
    workdir, _ = copied
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(UserError, match=r"--plot .*x\.json, allowed: .* or its summary.json; no JSON"):
        records.read(tmp_path / "x.json", "--plot")
    summary = json.loads((workdir / "summary.json").read_text())
    summary["test"]["mse"] = 0.0
    (workdir / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(UserError, match=r"its summary.json is damaged: its checksum is another"):
        records.read(workdir, "--plot")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/metrics.jsonl").touch()
    with pytest.raises(UserError, match=r"no config\.yaml there can be read"):
        records.read(tmp_path / "empty", "--plot")


def test_no_record_is_changed():
    held = [Record(content(), []), Record(content(["lru"]), [])]
    before = copy.deepcopy(held)
    records.grouped(held)
    assert held == before
