import json

import pytest
import yaml
from train_helpers import assert_refused, config_file, main, parse

from mru.training import summary, workdir
from mru.training.checksum import sealed
from mru.training.messages import UserError


def test_workdirs_that_can_not_be(here, nothing_compiles):
    config = config_file(here)
    (here / "file").write_text("mine")
    assert_refused(*main("--config", config, "--workdir", "file"), ["workdir = file", "folder"])
    assert_refused(*main("--config", config, "--workdir", "file/under"), ["workdir = file/under", "folder to write"])
    assert (here / "file").read_text() == "mine"


def test_a_workdir_that_can_not_be_written(here, monkeypatch):
    config = config_file(here)

    def read_only(path, text):  # root, who runs some test machines, could write to any folder
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(workdir, "write", read_only)
    code, said = main("--config", config, "--workdir", "locked")
    assert code == 1
    assert said.splitlines()[-1] == "error: [Errno 13] Permission denied: 'locked/config.yaml'"


def test_the_workdir_of_another_run(here, nothing_compiles):
    config = config_file(here)
    (here / "w").mkdir()
    resolved = parse(["--config", str(config), "--workdir", "w"]).resolved
    (here / "w/config.yaml").write_text(yaml.safe_dump(resolved))
    argv = ["--config", config, "--workdir", "w", "--optimizer.lr", "0.5", "--model.cells", "lru"]
    assert_refused(*main(*argv), ["workdir = w", "optimizer.lr = 0.01 (now 0.5)", "['pmru'] (now ['lru'])"])
    # Where it runs may change, what it computes may not.
    moved = {"workdir": "elsewhere", "mesh": {"data": 4}, "distributed": {"process_id": 1}}
    (here / "w/config.yaml").write_text(yaml.safe_dump(resolved | moved))
    assert workdir.earlier(parse(argv[:4])) is not None
    for broken in (b"{", b"\xff\xfe\x00", b"- a\n", b"[" * 5000, b"a: !!set {a}", b"5: 1", b"a: 1\na: 1", b"9" * 5000):
        (here / "w/config.yaml").write_bytes(broken)
        assert_refused(*main(*argv[:4]), ["workdir = w", "config.yaml", "can not be read"])


def test_what_may_change_as_a_run_goes_on(here):
    config = config_file(here)
    (here / "w").mkdir()
    held = parse(["--config", config, "--workdir", "w"]).resolved
    (here / "w/config.yaml").write_text(yaml.safe_dump(held))
    new = {"steps": 30, "eval_every": 7, "log_every": 3, "steps_per_dispatch": 1, "patience": 2}
    argv = [x for name, value in new.items() for x in (f"--train.{name}", value)]
    argv += ["--model.remat", "true", "--model.method", "sequential", "--mesh.data", "1"]
    assert workdir.earlier(parse(["--config", config, "--workdir", "w", *argv])) == held
    for field, value in {"train.batch_size": 4, "train.seed": 1, "model.dtype": "bfloat16", "init_from": "x"}.items():
        config_now = parse(["--config", config, "--workdir", "w", f"--{field}", value])
        with pytest.raises(UserError, match=f"it has {field} = "):
            workdir.earlier(config_now)


def test_the_schedule_that_earlier_versions_wrote_by_default_is_no_change(here):
    (here / "w").mkdir()
    for cells, ramp, fits in (("pmru", {}, True), ("bmru", {}, True), ("bmru", {"begin": 0.1}, False)):
        argv = ["--config", config_file(here), "--workdir", "w", "--model.cells", cells]
        held = parse(argv).resolved
        former = {"start": 1.0, "end": 0.0, "begin": 0.2, "finish": 0.6} | ramp
        held["train"]["schedules"] = {"epsilon": former}
        (here / "w/config.yaml").write_text(yaml.safe_dump(held))
        if fits:
            assert workdir.earlier(parse(argv)) == held
        else:
            with pytest.raises(UserError, match=r"train\.schedules\.epsilon\.begin = 0\.1 \(now 0\.2\)"):
                workdir.earlier(parse(argv))


def test_a_field_that_an_earlier_version_did_not_have_is_its_default(here):
    (here / "w").mkdir()
    argv = ["--config", config_file(here), "--workdir", "w"]
    held = parse(argv).resolved
    del held["weights"], held["optimizer"]["clip"]
    (here / "w/config.yaml").write_text(yaml.safe_dump(held))
    assert workdir.earlier(parse(argv)) == held
    for field, was in {"weights.bits": "None", "optimizer.clip": "1.0"}.items():
        with pytest.raises(UserError, match=rf"it has {field} = {was} \(now 4"):
            workdir.earlier(parse([*argv, f"--{field}", "4"]))


@pytest.mark.parametrize(
    ("held", "now", "complete"),
    [
        ({}, {}, True),
        ({}, {"steps": 30}, False),
        ({}, {"eval_every": 5}, True),
        ({"patience": 2}, {"patience": 2}, True),
        ({"patience": 2}, {"patience": 3}, False),
        ({"patience": 2}, {}, False),
        ({}, {"patience": 2}, True),
    ],
)
def test_a_run_is_complete_until_it_is_asked_for_more(held, now, complete, here):
    def config(fields):
        argv = [x for name, value in fields.items() for x in (f"--train.{name}", value)]
        return parse(["--config", config_file(here), "--workdir", "w", *argv])

    (here / "w").mkdir()
    before = config(held).resolved
    assert not workdir.is_complete(config(now), before)  # there is no summary
    made = {"task": before["task"], "cells": ["pmru"], "seed": 0}
    summary.save(here / "w", dict.fromkeys(summary.KEYS, 0) | made)
    assert workdir.is_complete(config(now), before) == complete


NO_SUMMARY = {
    "empty": "",
    "cut short": '{"task": {"na',
    "of a few keys": '{"steps": 20}',
    "a number": "5",
    "nothing": "null",
    "without the checksum": lambda held: {name: x for name, x in held.items() if name != "checksum"} | {"more": 1},
    "with a figure changed": lambda held: held | {"test": {"mse": 0.001}},
    "of fewer steps": lambda held: sealed({**held, "steps": 20}),
    "of another seed": lambda held: sealed({**held, "seed": 1}),
    "of another task": lambda held: sealed({**held, "task": {**held["task"], "length": 30}}),
    "of another cell": lambda held: sealed({**held, "cells": ["lru"]}),
}


@pytest.mark.parametrize("what", NO_SUMMARY)
def test_what_is_no_summary_of_a_run_does_not_make_it_complete(what, copied):
    directory, argv = copied
    config, before = parse(argv), workdir.read_config(directory / "config.yaml")
    assert workdir.is_complete(config, before)
    new = NO_SUMMARY[what]
    if callable(new):
        held = json.loads((directory / "summary.json").read_text())
        new = new({name: x for name, x in held.items() if name != "checksum"} if what.startswith("of ") else held)
        new = json.dumps(new)
    (directory / "summary.json").write_text(new)
    assert not workdir.is_complete(config, before)
    workdir.prepare(config)
    assert not (directory / "summary.json").exists()
    (kept,) = [*directory.glob("damaged/summary.json-*"), *directory.glob("summary-20.json")]
    assert kept.read_text() == new
