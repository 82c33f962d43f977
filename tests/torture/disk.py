"""A disk that is full at a random point of a run, or can not be written; then there is room, and the run goes on."""

import contextlib
import os
import pathlib
import random
import shutil
import subprocess
from collections.abc import Iterator

from tests.torture import processes, reading
from tests.torture.scene import Reference, Scene, Skipped, Tried
from tests.torture.verdicts import Failure, finished, refused

SIZE = 64 * 2**20


def disk(scene: Scene, rng: random.Random, folder: pathlib.Path, limit: int, *, config: str = "tiny") -> Tried:
    """One run on a disk of its own: each third can not be written, the others are full after some bytes."""
    with _mounted(folder / "disk") as mount:
        if rng.random() < 1 / 3:
            return Tried(1, _read_only(scene, folder, mount))
        return Tried(1, _full(scene.reference(config), rng, folder, mount))


def _full(reference: Reference, rng: random.Random, folder: pathlib.Path, mount: pathlib.Path) -> list[Failure]:
    workdir, filler = mount / "run", mount / "filler"
    needed = sum(path.stat().st_size for path in reference.workdir.rglob("*") if path.is_file())
    free = rng.randrange(int(1.2 * needed))
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, SIZE - free)
    argv = [*reference.argv, "--workdir", workdir]
    run = processes.fork(argv, folder / "output-full")
    code = run.end()
    failures = refused(code, run.text) if code != 0 else []
    filler.unlink()
    again = processes.fork(argv, folder / "output-room")
    if code == 0:
        failures += finished(code, run.text, workdir, reference.figures)
    failures += finished(again.end(), again.text, workdir, reference.figures)
    return [Failure(x.kind, f"{x.why}; full after {free} of {needed} bytes") for x in failures]


def _read_only(scene: Scene, folder: pathlib.Path, mount: pathlib.Path) -> list[Failure]:
    reference, workdir = scene.reference("short"), mount / "run"
    shutil.copytree(scene.half(), workdir)
    before = reading.digests(workdir)
    argv = [*reference.argv, "--workdir", workdir]
    _call("mount", "-o", "remount,ro", mount)
    run = processes.fork(argv, folder / "output-read-only")
    failures = refused(run.end(), run.text)
    _call("mount", "-o", "remount,rw", mount)
    if reading.digests(workdir) != before:
        failures.append(Failure("lost", "a folder that can only be read is not as before"))
    again = processes.fork(argv, folder / "output-writable")
    failures += finished(again.end(), again.text, workdir, reference.figures)
    return [Failure(x.kind, f"{x.why}; on a disk that can only be read, then also written") for x in failures]


@contextlib.contextmanager
def _mounted(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """A disk of its own, in memory; what it holds when it is given back is copied to where it was."""
    folder.mkdir(parents=True)
    try:
        _call("mount", "-t", "tmpfs", "-o", f"size={SIZE}", "torture", folder)
    except (OSError, subprocess.CalledProcessError):
        raise Skipped("may not mount a file system here; try: unshare -rm python -m tests.torture") from None
    try:
        yield folder
        shutil.copytree(folder, folder.with_name("held"))
    finally:
        _call("umount", "-l", folder)


def _call(*command: object) -> None:
    subprocess.run([str(word) for word in command], check=True, capture_output=True)
