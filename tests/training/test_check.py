import contextlib
import fcntl
import io
import json
import os
import pathlib
import random
import shutil
import tarfile
import tempfile

import numpy as np
import orbax.checkpoint as ocp
import pytest
import train_helpers
import yaml
from train_helpers import arrays, assert_refused, spoil

from mru.training import checksum

FIXTURES = pathlib.Path(__file__).parent / "fixtures"


def check(workdir):
    """The exit code, and what was said of each thing by its name; "" is the last line."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        code, errors = train_helpers.main("--check", workdir)
    assert errors == "", errors
    *lines, last = text.getvalue().splitlines()
    assert all(len(line) < 300 and line.isprintable() for line in lines)
    found = {"": last.removeprefix("the same command ")}
    for line in lines:
        mark, thing = line.split(maxsplit=1)
        found[thing.partition(":")[0].split(" (")[0]] = f"{mark} {thing}"
    return code, found


def marked(found, *marks):
    return {thing for thing, line in found.items() if thing and line.split()[0] in marks}


def assert_damaged(workdir, thing, word="", mark="damaged"):
    """The exit code is 1, and of this thing alone the line says why; the last line."""
    code, found = check(workdir)
    assert code == 1
    assert marked(found, "damaged", "missing") == {thing}, found
    assert found[thing].startswith(mark)
    assert word in found[thing]
    return found[""]


def snapshot(folder):
    """All paths under a folder with their times of change and what is in them."""
    return {
        path: (path.lstat().st_mtime_ns, path.lstat().st_mode, path.is_file() and path.read_bytes())
        for path in [folder, *folder.rglob("*")]
    }


@pytest.fixture
def unfinished(copied):
    """The folder of a run that lacks its report."""
    workdir, _ = copied
    (workdir / "summary.json").unlink()
    return workdir


@pytest.fixture
def format_1(tmp_path):
    with tarfile.open(FIXTURES / "format_1.tar.gz") as file:
        file.extractall(tmp_path, filter="data")
    return tmp_path / "format_1"


def write_arrays(folder, change):
    """Write the items `model` and `train` of a checkpoint anew, changed."""
    held = arrays(folder.parent.parent, int(folder.name))
    for item in ("model", "train"):
        shutil.rmtree(folder / item)
        of_item = {name: x for name, x in held.items() if name.startswith("[") == (item == "train")}
        with ocp.StandardCheckpointer() as writer:
            writer.save(folder.absolute() / item, {name: change(item, x) for name, x in of_item.items()})


def nan_parameters(item, x):
    return np.full_like(x, np.nan) if item == "model" and np.issubdtype(x.dtype, np.floating) else x


# --------------------------------------------------------------------------------------------------- nothing is damaged


def test_a_healthy_run(copied):
    workdir, _ = copied
    best, before = json.loads((workdir / "summary.json").read_text())["best_step"], snapshot(workdir)
    code, found = check(workdir)
    assert code == 0
    steps = sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())
    things = {"config.yaml", "metrics.jsonl", "summary.json", "events", *(f"checkpoint {step}" for step in steps)}
    assert marked(found, "ok") == set(found) - {""} == things
    assert f"({'newest, best' if best == 40 else 'newest'}): " in found["checkpoint 40"]
    assert "best" in found[f"checkpoint {best}"]
    lines = (workdir / "metrics.jsonl").read_text().count("\n")
    assert found["metrics.jsonl"] == f"ok metrics.jsonl: {lines} lines up to step 40"
    assert f"of 40 steps, best step {best}" in found["summary.json"]
    assert found[""] == "has nothing to do: the run is complete"
    assert snapshot(workdir) == before


def test_a_run_in_use(copied):
    """The lock is held by another descriptor, which is all that the kernel compares."""
    workdir, _ = copied
    (workdir / "lock").write_text("process 12 on \x1b[31mthere\n")
    before = snapshot(workdir)
    with (workdir / "lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        code, found = check(workdir)
    assert code == 0
    assert marked(found, "note") == {"lock"}
    assert "in use by process 12 on \\x1b[31mthere" in found["lock"]
    assert marked(found, "ok") >= {"checkpoint 35", "checkpoint 40", "summary.json"}
    assert found[""].endswith("complete, once the process that holds the lock has ended")
    assert snapshot(workdir) == before


def test_a_run_without_its_report(unfinished):
    """Killed while it wrote a line, after its last checkpoint."""
    line = json.dumps({"step": 45, "split": "train", "loss": 1.0})
    with (unfinished / "metrics.jsonl").open("a") as file:
        file.write(f"{line}\n{line[:9]}")
    (unfinished / "checkpoints/45.orbax-checkpoint-tmp").mkdir()
    (unfinished / "damaged").mkdir()
    (unfinished / "damaged/30-17").mkdir()
    code, found = check(unfinished)
    assert code == 0
    assert "1 after it, which are logged again" in found["metrics.jsonl"]
    assert "cut short" in found["metrics.jsonl"]
    assert marked(found, "note") == {"summary.json", "damaged", "checkpoints/45.orbax-checkpoint-tmp"}
    assert "30-17" in found["damaged"]
    assert found[""] == "goes on from step 40 of 40"


def test_a_run_without_a_checkpoint(unfinished):
    for name in ("checkpoints", "first_checkpoint.json", "metrics.jsonl"):
        path = unfinished / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    code, found = check(unfinished)
    assert code == 0
    assert found[""] == "starts from step 0: the run has no checkpoint yet"
    (unfinished / "first_checkpoint.json").write_text("{}")
    code, found = check(unfinished)
    assert code == 1
    assert found[""].startswith("can not go on: ")
    assert "has had checkpoints, as first_checkpoint.json tells" in found[""]


def test_a_run_that_is_longer_than_its_checkpoints(unfinished):
    """Its command asked for more steps, and it was killed before the first of them was saved."""
    config = yaml.safe_load((unfinished / "config.yaml").read_text())
    (unfinished / "config.yaml").write_text(yaml.safe_dump(config | {"train": config["train"] | {"steps": 80}}))
    code, found = check(unfinished)
    assert code == 0
    assert found[""] == "goes on from step 40 of 80"


def test_a_run_of_the_first_format(format_1):
    code, found = check(format_1)
    assert code == 0
    for step in (10, 20):
        assert found[f"checkpoint {step}"].endswith("no checksums, readable")
    assert "no checksum" in found["metrics.jsonl"]
    assert found[""] == "goes on from step 20 of 20"


# ---------------------------------------------------------------------------------------------------- damages are found


@pytest.mark.parametrize(
    ("how", "word"),
    [
        ("array cut short", "model: "),
        ("array overwritten", "model: "),
        ("array changed", "model: "),
        ("array missing", "model: "),
        ("optimiser missing", "train: "),
        ("manifest overwritten", "model: "),
        ("progress cut short", "about: "),
        ("progress missing", "about: "),
        ("everything missing", "about: "),
    ],
)
def test_a_damaged_checkpoint(unfinished, how, word):
    spoil(unfinished / "checkpoints/40", how)
    assert assert_damaged(unfinished, "checkpoint 40", word) == "goes on from step 35 of 40"


def test_no_checkpoint_can_be_read(unfinished):
    for path in (unfinished / "checkpoints").iterdir():
        spoil(path, "array missing")
    code, found = check(unfinished)
    assert code == 1
    assert marked(found, "damaged") == {thing for thing in found if thing.startswith("checkpoint ")}
    assert found[""].startswith("can not go on: none of its checkpoints [")


def test_a_flipped_bit(unfinished):
    folder, rng = unfinished / "checkpoints/40", random.Random(3)
    files = [folder / "about/metadata", *folder.glob("model/d/*"), *folder.glob("train/d/*")]
    assert len(files) == 3
    for number in range(20):
        path = files[number % 3]
        data = bytearray(path.read_bytes())
        place = rng.randrange(len(data))
        data[place] ^= 1 << rng.randrange(8)
        whole, _ = path.read_bytes(), path.write_bytes(data)
        code, found = check(unfinished)
        assert (code, marked(found, "damaged")) == (1, {"checkpoint 40"}), (path, place)
        path.write_bytes(whole)
    assert check(unfinished)[0] == 0


def test_other_numbers_than_were_written(unfinished):
    """A checkpoint that Orbax finds nothing wrong with."""
    changed = []

    def change(item, x):
        if item == "train" and x.size > 1 and not changed:
            changed.append(x.copy())
            x = x.copy()
            x.flat[-1] += 1
        return x

    write_arrays(unfinished / "checkpoints/35", lambda item, x: x)
    assert check(unfinished)[0] == 0
    write_arrays(unfinished / "checkpoints/35", change)
    assert_damaged(unfinished, "checkpoint 35", "train: the numbers of [")


def test_parameters_that_are_not_finite(format_1):
    """No checksum tells of them. What is said of the same command is what it does."""
    write_arrays(format_1 / "checkpoints/20", nan_parameters)
    assert assert_damaged(format_1, "checkpoint 20", "are not finite") == "goes on from step 10 of 20"
    config = shutil.copy(format_1 / "config.yaml", format_1.parent / "its.yaml")
    code, said = train_helpers.main("--config", config, "--workdir", format_1)
    assert code == 0, said
    assert "resumed at step 10" in said


def test_a_summary_of_fewer_steps_is_no_end(copied):
    workdir, argv = copied
    held = json.loads((workdir / "summary.json").read_text())
    fewer = {name: x for name, x in held.items() if name != "checksum"} | {"steps": 20}
    (workdir / "summary.json").write_text(json.dumps(checksum.sealed(fewer)))
    assert assert_damaged(workdir, "summary.json", "of step 20") == "goes on from step 40 of 40"
    code, said = train_helpers.main(*argv)
    assert code == 0, said
    assert "resumed at step 40" in said


def test_a_best_checkpoint_that_is_gone(unfinished):
    progress = json.loads((unfinished / "checkpoints/40/about/metadata").read_text())["progress"]
    best = progress["best_step"]
    assert best != 40, "another seed is needed"
    shutil.rmtree(unfinished / "checkpoints" / str(best))
    assert_damaged(unfinished, f"checkpoint {best}", mark="missing")


def test_a_checkpoint_that_was_being_removed(unfinished):
    """A run keeps the two newest and the best; Orbax removes the others file by file, and a kill may come meanwhile."""
    shutil.copytree(unfinished / "checkpoints/35", unfinished / "checkpoints/30")
    spoil(unfinished / "checkpoints/30", "array missing")
    code, found = check(unfinished)
    assert code == 0
    assert found["checkpoint 30"].startswith("note checkpoint 30: no longer needed")
    spoil(unfinished / "checkpoints/40", "array missing")
    code, found = check(unfinished)
    assert code == 1
    assert marked(found, "damaged") == {"checkpoint 30", "checkpoint 40"}  # now it would be the second newest


def test_a_checkpoint_of_a_later_version(unfinished, monkeypatch):
    monkeypatch.setattr("mru.training.checkpoint.FORMAT", 1)
    code, found = check(unfinished)
    assert code == 1
    assert "damaged" not in str(found)
    assert "has format 2, this version of mru reads up to 1" in found["checkpoint 40"]
    assert found[""].startswith("can not go on: ")


@pytest.mark.parametrize(
    ("edit", "word"),
    [
        (lambda text: text.replace("lr: 0.02", "lr: 0.5"), "optimizer.lr = 0.02 (now 0.5)"),
        (lambda text: text.replace("seed: 0", "seed: 1"), "seed = 0 (now 1)"),
        (lambda text: text.replace("steps: 40", "steps: x"), "can not be read"),
        (lambda text: text[:50], ""),
        (lambda text: "!!python/object:os.system x", "can not be read"),
    ],
)
def test_an_edited_config(unfinished, edit, word):
    path = unfinished / "config.yaml"
    path.write_text(edit(path.read_text()))
    assert assert_damaged(unfinished, "config.yaml", word) == "goes on from step 40 of 40"
    path.unlink()
    assert_damaged(unfinished, "config.yaml", mark="missing")


def test_a_damaged_log(copied):
    workdir, _ = copied
    path = workdir / "metrics.jsonl"
    text = path.read_text()
    lines = text.splitlines(keepends=True)
    damages = {
        "".join(lines[1:]): f"{len(lines) - 1} of {len(lines)} up to step 40",
        text.replace('"time": 1', '"time": 2', 1): "not those that were written",
        text + "5\n": "not all in it is lines of a log",
        "": f"there are 0 of {len(lines)}",
    }
    for damaged, word in damages.items():
        path.write_text(damaged)
        assert_damaged(workdir, "metrics.jsonl", word)
    path.unlink()
    assert_damaged(workdir, "metrics.jsonl", mark="missing")


def test_a_summary_of_another_run(copied):
    workdir, _ = copied
    path = workdir / "summary.json"
    held = json.loads(path.read_text())
    del held["checksum"]  # as earlier versions wrote it, so that what follows is not told by that alone
    for change, word in (
        ({"seed": 5}, "of another run"),
        ({"steps": 20}, "of step 20, and the newest checkpoint is of step 40"),
        ({"best_step": 5}, "best step 5, and checkpoint 40 has"),
        ({"checksum": 1}, "its checksum is another"),
    ):
        path.write_text(json.dumps(held | change))
        assert_damaged(workdir, "summary.json", word)
    for text, word in (("", "no JSON"), ("[]", "no JSON object"), ('{"steps": 40}', "no JSON object")):
        path.write_text(text)
        assert assert_damaged(workdir, "summary.json", word) == "goes on from step 40 of 40"
    path.rename(workdir / "summary-20.json")
    assert_damaged(workdir, "summary-20.json")


def test_folders_for_files_and_files_for_folders(unfinished):
    shutil.rmtree(unfinished / "checkpoints/35")
    (unfinished / "checkpoints/35").write_bytes(b"\xff\x00")
    for name in ("config.yaml", "metrics.jsonl", "lock", "summary.json"):
        (unfinished / name).unlink(missing_ok=True)
        (unfinished / name).mkdir()
    (unfinished / "damaged").write_bytes(b"\xff\x00")
    code, found = check(unfinished)
    assert code == 1
    names = {"config.yaml", "metrics.jsonl", "lock", "summary.json", "damaged", "checkpoints/35", "checkpoint 35"}
    assert marked(found, "damaged", "missing") == names
    assert found[""] == f"can not go on: {unfinished / 'lock'} is a folder"
    shutil.rmtree(unfinished / "checkpoints")
    (unfinished / "checkpoints").write_bytes(b"")
    assert "checkpoints" in marked(check(unfinished)[1], "damaged")


@contextlib.contextmanager
def as_nobody():
    """As a user to whom something can be forbidden, which to root it can not."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_what_may_not_be_read(unfinished):
    check(unfinished)  # so that all that is imported for it is
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        workdir = pathlib.Path(shutil.copytree(unfinished, f"{folder}/run"))
        for name in ("config.yaml", "metrics.jsonl", "checkpoints/35/about/metadata", "checkpoints/40/model/d"):
            (workdir / name).chmod(0)
        with as_nobody():
            code, found = check(workdir)
        assert code == 1
        assert marked(found, "damaged") == {"config.yaml", "metrics.jsonl", "checkpoint 35", "checkpoint 40"}
        assert found[""].startswith("can not go on: ")
        for mode in (0o444, 0):
            (workdir / "checkpoints").chmod(mode)
            with as_nobody():
                code, found = check(workdir)
            assert code == 1
            assert found[""].startswith("can not go on: ")
            assert any(thing.startswith("checkpoints") for thing in marked(found, "damaged"))
            (workdir / "checkpoints").chmod(0o755)
        workdir.chmod(0)
        with as_nobody():
            assert_refused(*train_helpers.main("--check", workdir), ["--check ", "Permission denied"])
        workdir.chmod(0o755)


# ---------------------------------------------------------------------------------------------------- the command line


def test_what_is_no_run(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path, word in ((tmp_path / "none", "No such file"), (tmp_path / "file", "Not a directory")):
        assert_refused(*train_helpers.main("--check", path), ["--check ", "allowed: the folder of a run", word])
    assert_refused(*train_helpers.main("--check", tmp_path), ["it has none of config.yaml, checkpoints"])
    assert_refused(*train_helpers.main("--check", "x" * 5000), ["File name too long"])
    assert_refused(*train_helpers.main("--check", "a\0b"), ["UTF-8 text"])


@pytest.mark.parametrize("argv", [["--check"], ["--check="], ["--config=x.yaml", "--check=w"], ["--check", "w", "x"]])
def test_it_stands_alone(argv):
    assert_refused(*train_helpers.main(*argv), ["--check: expected one argument", "train.py --check WORKDIR"])


def test_help_shows_it(capsys):
    with pytest.raises(SystemExit, match="0"):
        train_helpers.main("--check", "w", "--help")
    assert "  --check  " in capsys.readouterr().out


def test_neither_a_config_nor_a_model_is_made(finished, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("this must not be reached")

    for name in ("train.parse", "train.Trainer", "mru.model.SequenceModel.__init__", "jax.jit", "builtins.exec"):
        monkeypatch.setattr(name, refuse)
    code, found = check(finished[0])
    assert code == 0
    assert "is complete" in found[""]
