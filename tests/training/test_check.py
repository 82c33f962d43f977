"""`--check` names what is damaged, says what can be resumed, and changes nothing."""

import json
import random
import shutil

import numpy as np
import pytest
import yaml
from train_helpers import assert_refused, main, spoil, steps

import mru.training.checkpoint
from mru.training import checksum, lock
from mru.training.checkpoint import Writer

pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. None:pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def check(capsys, monkeypatch):
    """`train.main --check`: the exit code, the lines, and that no file was touched."""
    monkeypatch.setattr("jax.config.update", lambda *_: None)  # it would choose the platform of all tests

    def run(workdir):
        def state():
            return {x: (x.lstat().st_mtime_ns, x.lstat().st_size) for x in workdir.rglob("*")}

        before = state()
        code, said = main("--check", workdir)
        assert said == ""
        assert state() == before
        return code, capsys.readouterr().out.splitlines()

    return run


def bad(lines):
    """What is damaged or missing, by name."""
    return [line.split(None, 1)[1].partition(": ")[0] for line in lines if line.startswith(("damaged ", "missing "))]


def test_a_complete_run(check, finished):
    workdir = finished[0]
    code, lines = check(workdir)
    assert code == 0
    assert bad(lines) == []
    for step in steps(workdir):
        assert any(line.startswith(f"ok       checkpoint {step}: ") and "checksums are right" in line for line in lines)
    assert "ok       config.yaml: as the newest checkpoint has it" in lines
    count = (workdir / "metrics.jsonl").read_text().count("\n")
    assert f"ok       metrics.jsonl: {count} lines up to step 40" in lines
    assert lines[-1] == "ok       the same command: says that the run is complete"


def test_a_run_under_way(check, copied):
    workdir, _ = copied
    (workdir / "summary.json").unlink()
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 45, "split": "train", "loss": 1.0}\n{"step": 50, "spl')
    (workdir / "checkpoints/45.orbax-checkpoint-tmp").mkdir()
    with lock.held(workdir):
        code, lines = check(workdir)
    assert code == 0
    assert lines[0].startswith("note     lock: process ")
    assert any("1 after it will be logged again" in line for line in lines)
    assert any(line.startswith("note     checkpoints/45.orbax-checkpoint-tmp: ") for line in lines)
    assert lines[-1] == "ok       the same command: goes on from step 40"


WAYS = ["array cut short", "array overwritten", "array changed", "array missing", "manifest overwritten"]
WAYS += ["optimiser missing", "progress cut short", "progress missing", "everything missing"]


@pytest.mark.parametrize("how", WAYS)
def test_a_damaged_checkpoint(check, copied, how):
    workdir, _ = copied
    (workdir / "summary.json").unlink()
    spoil(workdir / "checkpoints/40", how)
    code, lines = check(workdir)
    assert code == 1
    assert "checkpoint 40" in bad(lines)
    assert not any("checkpoint 35" in name for name in bad(lines))
    assert lines[-1] == "ok       the same command: goes on from step 35"
    for step in steps(workdir):
        if step != 40:
            spoil(workdir / "checkpoints" / str(step), how)
    code, lines = check(workdir)
    assert code == 1
    assert lines[-1].startswith("damaged  the same command: can not go on: none of the checkpoints [")


def test_a_flipped_bit_of_an_array_is_found(check, copied):
    """At 20 places of the files that hold the numbers. Where Orbax itself does not read them, they change nothing."""
    workdir, _ = copied
    rng = random.Random(0)
    files = sorted(path for path in (workdir / "checkpoints/40").glob("*/d/*") if path.is_file())
    held = mru.training.checkpoint.restore(workdir, 40, **mru.training.checkpoint.like(workdir, 40))
    for _ in range(20):
        path = rng.choice(files)
        data = bytearray(path.read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        whole = path.read_bytes()
        path.write_bytes(data)
        try:
            found = mru.training.checkpoint.restore(workdir, 40, **mru.training.checkpoint.like(workdir, 40))
        except mru.training.checkpoint.Damaged:
            continue
        finally:
            path.write_bytes(whole)
        for item, arrays in held.items():
            for name, x in arrays.items():
                assert np.asarray(x).tobytes() == np.asarray(found[item][name]).tobytes()


def test_numbers_that_are_not_finite(check, copied):
    workdir, _ = copied
    (workdir / "summary.json").unlink()
    about = mru.training.checkpoint.about(workdir, 40)
    held = mru.training.checkpoint.restore(workdir, 40, **mru.training.checkpoint.like(workdir, 40))
    model = {name: x * np.float32(np.nan) for name, x in held["model"].items()}
    shutil.rmtree(workdir / "checkpoints/40")
    rest = {name: x for name, x in about.items() if name not in ("arrays", "format", "checksum")}
    with Writer(workdir) as writer:
        writer.save(40, model=model, train=held["train"], about=rest, best=35)
    code, lines = check(workdir)
    assert code == 1
    assert any(line.startswith("damaged  checkpoint 40: model ") and "is not finite" in line for line in lines)


def changed_config(workdir):
    held = yaml.safe_load((workdir / "config.yaml").read_text())
    held["train"]["seed"] = 7
    (workdir / "config.yaml").write_text(yaml.safe_dump(held))


def summary_of_another_run(workdir):
    held = json.loads((workdir / "summary.json").read_text())
    held = {name: x for name, x in held.items() if name != "checksum"} | {"seed": 7}
    (workdir / "summary.json").write_text(json.dumps(checksum.sealed(held)))


def log_with_a_line_less(workdir):
    path = workdir / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(True)[1:]))


OTHERS = {
    "config.yaml changed": (changed_config, "config.yaml"),
    "config.yaml missing": (lambda workdir: (workdir / "config.yaml").unlink(), "config.yaml"),
    "config.yaml rubbish": (lambda workdir: (workdir / "config.yaml").write_bytes(b"\xff{"), "config.yaml"),
    "a line less": (log_with_a_line_less, "metrics.jsonl"),
    "log missing": (lambda workdir: (workdir / "metrics.jsonl").unlink(), "metrics.jsonl"),
    "log rubbish": (lambda workdir: (workdir / "metrics.jsonl").write_bytes(b"\xff\n"), "metrics.jsonl"),
    "summary rubbish": (lambda workdir: (workdir / "summary.json").write_text("{"), "summary.json"),
    "summary of another": (summary_of_another_run, "summary.json"),
    "best missing": (lambda workdir: shutil.rmtree(workdir / "checkpoints/35"), "best checkpoint 35"),
}


@pytest.mark.parametrize("how", OTHERS)
def test_what_else_is_damaged(check, copied, how):
    workdir, _ = copied
    change, name = OTHERS[how]
    best = json.loads((workdir / "summary.json").read_text())["best_step"]
    if how == "best missing":
        shutil.rmtree(workdir / "checkpoints" / str(best))
        name = f"best checkpoint {best}"
    else:
        change(workdir)
    code, lines = check(workdir)
    assert code == 1
    assert bad(lines) == [name]


def test_what_is_no_run(tmp_path):
    for path in (tmp_path, tmp_path / "nothing"):
        assert_refused(*main("--check", path), [f"--check {path}", "the workdir of a run"])
    assert_refused(*main("--check"), ["--check WORKDIR"])
    assert_refused(*main("--check", tmp_path, "--train.steps", "3"), ["--check WORKDIR"])


def test_a_run_without_its_checkpoints(check, copied):
    workdir, _ = copied
    (workdir / "summary.json").unlink()
    shutil.rmtree(workdir / "checkpoints")
    code, lines = check(workdir)
    assert code == 1
    assert lines[-1].startswith("missing  the same command: can not go on: ")
