"""What real machines do to a run: nothing is lost, and nothing is silently wrong. The long form is `tests/torture`."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from compiling import XLA_FLAGS
from train_helpers import (
    ROOT,
    TINY,
    arrays,
    assert_refused,
    assert_same_arrays,
    config_file,
    end,
    expected_scalars,
    kill,
    logged,
    main,
    make_trainer,
    parse,
    scalars,
    spawn,
    steps,
    wait_for,
)

import mru.training.checkpoint
from mru.training import checksum, resume
from mru.training.messages import RunFailed
from mru.training.progress import Progress

pytestmark = [
    pytest.mark.filterwarnings("ignore:Exception ignored in. None:pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("cache"),
]


def tree(workdir):
    """Every file but the lock, and what is in it."""
    return {x.relative_to(workdir): x.read_bytes() for x in workdir.rglob("*") if x.is_file() and x.name != "lock"}


def edit_about(folder, change):
    """Change what a checkpoint says of itself, with the checksum of what it says then."""
    path = folder / "about/metadata"
    held = json.loads(path.read_text())
    change(held)
    held.pop("checksum")
    path.write_text(json.dumps(checksum.sealed(held)))


# ------------------------------------------------------------------------------------ a run never starts over by itself


def without_checkpoints(workdir):
    shutil.rmtree(workdir / "checkpoints")


def with_only_the_folder(workdir):
    for step in steps(workdir):
        shutil.rmtree(workdir / "checkpoints" / str(step))


def all_moved(workdir):
    """As earlier versions left it when no checkpoint could be read."""
    (workdir / "damaged").mkdir()
    for step in steps(workdir):
        (workdir / "checkpoints" / str(step)).rename(workdir / "damaged" / f"{step}-1700000000")
    (workdir / "first_checkpoint.json").unlink()


@pytest.mark.parametrize("loss", [without_checkpoints, with_only_the_folder, all_moved])
@pytest.mark.parametrize("with_config", [True, False])
def test_a_run_that_has_lost_its_checkpoints_does_not_start_over(loss, with_config, copied):
    workdir, argv = copied
    (workdir / "summary.json").unlink()
    loss(workdir)
    if not with_config:
        (workdir / "config.yaml").unlink()
    before = tree(workdir)
    for _ in range(2):
        code, said = main(*argv)
        assert_refused(code, said, [f"workdir = {workdir}", "checkpoints", "start over in another folder"])
        assert tree(workdir) == before


def test_a_later_format_is_no_damage(copied):
    workdir, argv = copied
    (workdir / "summary.json").unlink()
    for step in steps(workdir):
        edit_about(workdir / "checkpoints" / str(step), lambda held: held.update(format=99))
    before = tree(workdir)
    code, said = main(*argv)
    assert_refused(code, said, ["format 99", "needs a later one"])
    assert tree(workdir) == before
    with pytest.raises(ValueError, match="has format 99, this version of mru reads up to"):
        mru.load(workdir)


def test_another_model_is_no_damage(copied):
    """The config fits, the arrays do not: nothing is called damaged, nothing is moved."""
    workdir, argv = copied
    (workdir / "summary.json").unlink()

    def change(held):
        held["arrays"]["model"]["encoder.bias"] = ["float32", [9], 0]

    for step in steps(workdir):
        edit_about(workdir / "checkpoints" / str(step), change)
    before = tree(workdir)
    code, said = main(*argv)
    last = said.splitlines()[-1]
    assert code == 2
    assert "encoder.bias is float32 (9,) there and" in last
    assert "damaged" not in said
    assert tree(workdir) == before


# ----------------------------------------------------------------------------------------- the checkpoints say what run


def test_without_its_config_a_run_is_not_mixed_with_another(copied):
    workdir, argv = copied
    (workdir / "summary.json").unlink()
    (workdir / "config.yaml").unlink()
    before = tree(workdir)
    code, said = main(*argv, "--train.seed", "1", "--model.width", "9")
    assert_refused(code, said, [f"workdir = {workdir}", "train.seed = 0 (now 1)", "model.width = 8 (now 9)"])
    assert tree(workdir) == before
    code, said = main(*argv)
    assert code == 0, said
    assert "warning: " in said
    assert "config.yaml is not as the checkpoints have it; it is written anew" in said
    assert "resumed at step 40" in said
    assert yaml.safe_load((workdir / "config.yaml").read_text()) == parse(argv).resolved


def test_an_edited_config_does_not_pass_for_that_of_the_run(copied):
    workdir, argv = copied
    (workdir / "summary.json").unlink()
    held = yaml.safe_load((workdir / "config.yaml").read_text())
    held["train"]["seed"] = 1
    (workdir / "config.yaml").write_text(yaml.safe_dump(held))
    code, said = main(*argv, "--train.seed", "1")
    assert_refused(code, said, ["train.seed = 0 (now 1)"])


# -------------------------------------------------------------------------------------------- two processes, one folder


HOLDER = """
import pathlib, sys, time
from mru.training import lock
with lock.held(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_process_is_refused_until_the_first_ends_however_it_does(copied):
    workdir, argv = copied
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, workdir], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        before = tree(workdir)
        code, said = main(*argv)
        assert_refused(code, said, ["is in use by", f"process {holder.pid} on {os.uname().nodename}"])
        assert tree(workdir) == before
    finally:
        holder.kill()
        holder.communicate()
    code, said = main(*argv)
    assert code == 0, said


# ------------------------------------------------------------------------------------------------- what is not a number


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["params", "optimizer"])
def test_no_checkpoint_is_saved_of_what_is_not_finite(where, value, tmp_path):
    """Whatever the loss and the metric were."""
    trainer = make_trainer(tmp_path)
    state = trainer.initial()
    spoilt = jax.tree.map(
        lambda x: x.at[...].set(value) if jnp.issubdtype(x.dtype, jnp.inexact) else x, getattr(state, where)
    )
    state = dataclasses.replace(state, **{where: spoilt})
    said = "more of the model and its optimiser are not finite at step 0"
    with mru.training.checkpoint.Writer(tmp_path / "w") as writer, pytest.raises(RunFailed, match=said):
        resume.save(writer, trainer.config, state, Progress())
    assert steps(tmp_path / "w") == []


# --------------------------------------------------------------------------------------------------- logs and summaries


def test_events_are_on_the_disk_with_each_checkpoint(tmp_path, monkeypatch):
    """What a kill -9 right after a checkpoint would leave, and what a start from there makes of it."""
    config, real = config_file(tmp_path), resume.save

    def save(writer, config, state, progress):
        real(writer, config, state, progress)
        writer.wait()
        shutil.copytree(config.workdir, tmp_path / f"at {int(state.step)}")

    with monkeypatch.context() as patch:
        patch.setattr(resume, "save", save)
        assert main("--config", config, "--workdir", tmp_path / "w")[0] == 0
    for step in (10, 20):
        left = tmp_path / f"at {step}"
        assert max(place[0] for place, _ in scalars(left)) == step
        assert dict(scalars(left)) == pytest.approx(expected_scalars(left), rel=1e-6)
        with (left / "metrics.jsonl").open("a") as file:  # a kill may also come later than the checkpoint
            file.write('{"step": 25, "split": "train", "loss": 1.0}\n{"step": 30, "spl')
        code, said = main("--config", config, "--workdir", left)
        assert code == 0, said
        found, expected = scalars(left), expected_scalars(tmp_path / "w")
        assert len(found) == len(expected)
        assert dict(found) == pytest.approx(expected, rel=1e-6)


DAMAGED_LOGS = {
    "not UTF-8": lambda lines: [*lines[:3], b"\xff\xfe\xfa", *lines[3:]],
    "a number": lambda lines: [*lines, b"5"],
    "null": lambda lines: [b"null", *lines],
    "a key is missing": lambda lines: [*lines[:-1], lines[-1].replace(b'"split"', b'"spilt"')],
    "a name is another": lambda lines: [*lines[:-1], lines[-1].replace(b'/dead"', b'/dear"')],
    "a step is a text": lambda lines: [lines[0].replace(b'"step": 5', b'"step": "5"'), *lines[1:]],
    "half of it is gone": lambda lines: lines[: len(lines) // 2],
    "a digit is another": lambda lines: [*lines[:4], lines[4].replace(b"1", b"2"), *lines[5:]],
    "nested deeply": lambda lines: [*lines, b"[" * 100_000],
    "empty": lambda lines: [],
}


@pytest.mark.parametrize("how", DAMAGED_LOGS)
def test_a_damaged_log_changes_no_figure_and_is_kept(how, copied, finished):
    workdir, argv = copied
    (workdir / "summary.json").unlink()
    path = workdir / "metrics.jsonl"
    text = b"".join(line + b"\n" for line in DAMAGED_LOGS[how](path.read_bytes().splitlines()))
    path.write_bytes(text)
    code, said = main(*argv)
    assert code == 0, said
    assert said.count("warning: ") == 1
    assert "warning: metrics.jsonl is damaged, moved to " in said
    assert next((workdir / "damaged").glob("metrics.jsonl-*")).read_bytes() == text
    before, after = (json.loads((folder / "summary.json").read_text()) for folder in (finished[0], workdir))
    for name in ("best_step", "validation", "test", "last_train", "last_validation", "retention"):
        assert after.get(name) == before.get(name), name
    right = logged(finished[0])
    assert all(line in right for line in logged(workdir)) or how.endswith("is another")
    assert main(*argv)[0] == 0  # and is complete


# ------------------------------------------------------------------------------------------- disks, folders and signals


@pytest.mark.parametrize("limit", [4, 12])
def test_where_no_more_fits_the_run_ends_with_one_line_and_goes_on_later(limit, cache, tmp_path):
    """Files may not grow over some size, in a process of its own: so it is on a disk that is full."""
    text = TINY.replace("width: 8", "width: 64").replace("log_every: 5", "log_every: 1")
    argv = ["--config", config_file(tmp_path, text), "--workdir", tmp_path / "run"]
    assert main(*argv[:2], "--workdir", tmp_path / "whole")[0] == 0
    command = f'ulimit -f {limit}; exec "{sys.executable}" "{ROOT}/train.py" "$@"'
    environment = {k: v for k, v in os.environ.items() if not k.startswith("XLA_")} | {"JAX_PLATFORMS": "cpu"}
    environment |= {"JAX_ENABLE_COMPILATION_CACHE": "0", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "XLA_FLAGS": XLA_FLAGS}
    done = subprocess.run(
        ["bash", "-c", command, "bash", *map(str, argv)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(("error: no checkpoint can be written to ", "error: File too large: "))
    assert len(last) < 300
    code, said = main(*argv)
    assert code == 0, said
    assert_same_arrays(arrays(tmp_path / "run", 20), arrays(tmp_path / "whole", 20))
    assert logged(tmp_path / "run") == logged(tmp_path / "whole")


@pytest.mark.parametrize(
    "name", ["summary.json", "metrics.jsonl", "config.yaml", "checkpoints", "lock", "plots", "damaged"]
)
def test_a_folder_for_a_file_and_a_file_for_a_folder(name, copied):
    workdir, argv = copied
    (workdir / "summary.json").unlink()
    path = workdir / name
    if path.is_dir():
        shutil.rmtree(path)
        path.write_text("a file")
    else:
        path.unlink(missing_ok=True)
        path.mkdir() if name != "damaged" else path.write_text("a file")
    code, said = main(*argv)
    assert "Traceback" not in said
    if code:
        last = said.splitlines()[-1]
        assert last.startswith("error: ")
        assert path.name in last
    else:
        assert "resumed at step 40" in said


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("module", ["jax", "grain"])
def test_a_signal_while_modules_are_imported_ends_it_without_a_word(number, module, tmp_path):
    # A stand-in that never ends: so the signal comes within the import, however fast a machine imports. It sleeps but a
    # moment at a time, as Python handles a signal that comes right before a sleep when that is over.
    reached = tmp_path / "reached"
    (tmp_path / "modules").mkdir()
    stand_in = f"import pathlib, time\npathlib.Path({str(reached)!r}).touch()\nwhile True:\n    time.sleep(0.01)\n"
    (tmp_path / "modules" / f"{module}.py").write_text(stand_in)
    argv = ("--config", config_file(tmp_path), "--workdir", tmp_path / "run")
    process = spawn(*argv, modules=tmp_path / "modules")
    assert wait_for(reached.exists, process, timeout=60)
    process.send_signal(number)
    ((code, said),) = end(process, timeout=60)
    assert (code, said) == (128 + number, "")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_second_sigint_ends_a_run_at_once_and_nothing_is_lost(cache, tmp_path):
    text = TINY.replace("steps: 20", "steps: 1000000")
    process = spawn("--config", config_file(tmp_path, text), "--workdir", tmp_path / "run", cache=cache)
    try:
        assert wait_for(lambda: (tmp_path / "run/checkpoints").is_dir() and len(steps(tmp_path / "run")) > 1, process)
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.01)
    finally:
        ((code, said),) = end(process, timeout=60)
    assert code in (0, 128 + signal.SIGINT), said
    assert "Traceback" not in said
    found = steps(tmp_path / "run")
    assert all(np.all(np.isfinite(x)) for x in arrays(tmp_path / "run", found[-1]).values())


@pytest.mark.slow
def test_a_wait_of_a_killed_process_is_no_stale_lock(cache, tmp_path):
    """kill -9 leaves the file of the lock, and the next start goes on."""
    argv = ["--config", config_file(tmp_path, TINY.replace("steps: 20", "steps: 4000")), "--workdir", tmp_path / "run"]
    process = spawn(*argv, cache=cache)
    try:
        assert wait_for(lambda: (tmp_path / "run/first_checkpoint.json").exists(), process)
    finally:
        kill(process)
    assert f"process {process.pid} on " in (tmp_path / "run/lock").read_text()
    code, said = main(*argv, "--train.eval_every", "4000")
    assert code == 0, said
    assert "resumed at step" in said
