"""The short form of the attacks, some of each; and that the verdicts find what is wrong."""

import functools
import hashlib
import json
import random
import re
import shutil
import struct

import pytest
import train_helpers

from tests.torture import configs, damages, disk, kills, pairs, processes, reading, requeue, signals
from tests.torture.scene import Scene, Skipped
from tests.torture.verdicts import compared, finished, refused

SHORT = {
    "kills": (functools.partial(kills.kills, config="short"), 1),
    "signals": (functools.partial(signals.signals, config="short"), 1),
    "damages": (damages.damages, 4),
    "configs": (configs.configs, 10),
    "pairs": (functools.partial(pairs.pairs, config="short"), 1),
    "disk": (functools.partial(disk.disk, config="short"), 1),
    "requeue": (functools.partial(requeue.requeue, config="short"), 1),
}


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder = tmp_path_factory.mktemp("torture")
    with pytest.MonkeyPatch.context() as patch:
        processes.keep_programs(folder / "programs", patch.setenv)
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # compiling is most of the time of so small a run
        yield Scene(folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHORT)
def test_nothing_is_lost_and_nothing_is_silently_wrong(name, scene, tmp_path):
    attack, count = SHORT[name]
    tried, number = 0, 0
    while tried < count:
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            found = attack(scene, random.Random(f"{name} {number}"), folder, count - tried)
        except Skipped as reason:
            pytest.skip(str(reason))
        assert not found.failures, folder
        tried, number = tried + found.count, number + 1


# ------------------------------------------------------------------------------------------- the verdicts find failures


@pytest.fixture
def run(scene, tmp_path):
    """A copy of a finished run, and what it should be."""
    reference = scene.reference("short")
    shutil.copytree(reference.workdir, tmp_path / "run")
    return tmp_path / "run", reference.figures


def kinds(failures):
    return [failure.kind for failure in failures]


def test_an_equal_run_has_no_failures(run):
    assert compared(*run) == []
    assert finished(0, "warning: nothing of note\n", *run) == []


def test_other_parameters_in_the_last_checkpoint_are_silently_wrong(run):
    workdir, figures = run
    shutil.rmtree(workdir / "checkpoints/200")
    shutil.copytree(workdir / "checkpoints/150", workdir / "checkpoints/200")
    (failure,) = compared(workdir, figures)
    assert failure.kind == "silently wrong"
    assert re.match(r"\d+ arrays differ, such as model: ", failure.why)


def test_arrays_are_those_that_were_trained(run):
    """What the harness reads, by the formats alone, against what the loader of the project gives."""
    workdir, figures = run
    found = {name.split(": ", 1)[1]: x for name, x in figures.arrays.items()}
    held = train_helpers.arrays(workdir, 200)
    assert found.keys() == held.keys()
    for name, x in held.items():
        assert found[name] == (str(x.dtype), x.shape, hashlib.sha256(x.tobytes()).hexdigest()), name


@pytest.mark.parametrize(
    ("file", "change", "kind"),
    [
        ("metrics.jsonl", lambda text: "".join(text.splitlines(True)[1:]), ["lost"]),
        ("metrics.jsonl", lambda text: text + text.splitlines(True)[-1], ["silently wrong"]),
        ("metrics.jsonl", lambda text: text + "{", ["lost"]),
        ("summary.json", lambda text: json.dumps(json.loads(text) | {"best_step": 3}), ["silently wrong"]),
        ("summary.json", lambda text: json.dumps(json.loads(text) | {"seconds": {}}), []),
    ],
)
def test_another_log_or_summary_is_found(file, change, kind, run):
    workdir, figures = run
    (workdir / file).write_text(change((workdir / file).read_text()))
    assert kinds(compared(workdir, figures)) == kind


def test_events_that_are_missing_or_there_twice_are_found(run):
    workdir, figures = run
    (events,) = workdir.glob("events*")
    data = events.read_bytes()
    for _ in range(2):  # what version it has, and that TensorBoard should forget what it has shown
        (length,) = struct.unpack("<Q", data[:8])
        data = data[16 + length :]
    events.with_name(events.name + ".again").write_bytes(data)
    assert kinds(compared(workdir, figures)) == ["silently wrong"]
    for path in workdir.glob("events*"):
        path.unlink()
    assert kinds(compared(workdir, figures)) == ["lost"]


def test_a_refusal_is_one_readable_line():
    assert refused(2, "copy_first with lru\nerror: x = 1, allowed: 2\n") == []
    assert kinds(refused(None, "")) == ["hang"]
    for code, text in (
        (2, "error: a\nerror: b\n"),
        (2, "error: a\nmore\n"),
        (2, ""),
        (2, "error: a\x1bb\n"),
        (2, f"error: {'a' * 300}\n"),
        (1, "Traceback (most recent call last):\nerror: a\n"),
        (-11, "error: a\n"),
        (0, "error: a\n"),
    ):
        assert kinds(refused(code, text)) == ["traceback"], (code, text)


def test_files_and_checkpoints_that_vanish_are_lost(run):
    workdir, _ = run
    before = reading.digests(workdir)
    assert damages._vanished(workdir, before) == []
    (workdir / "checkpoints/200").rename(workdir / "moved")
    assert damages._vanished(workdir, before) == []
    shutil.rmtree(workdir / "moved")
    assert kinds(damages._vanished(workdir, before)) == ["lost"]
    assert kinds(damages._restarted("", before, ["checkpoints/200/model"])) == ["lost"]
    assert damages._restarted("copy_first, resumed at step 150", before, []) == []
    assert damages._restarted("", before, ["checkpoints"]) == []
