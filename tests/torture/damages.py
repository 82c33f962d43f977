"""Damages of every kind to every file and folder of a workdir; then the same command again."""

import os
import pathlib
import random
import re
import shutil
from collections.abc import Callable, Iterable

from tests.torture import processes, reading
from tests.torture.reading import Figures
from tests.torture.scene import Scene, Tried
from tests.torture.verdicts import Failure, compared, differing, refused, same_arrays, unreadable


def truncated(path: pathlib.Path, rng: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: rng.randrange(max(1, path.stat().st_size))])


def emptied(path: pathlib.Path, rng: random.Random) -> None:
    path.write_bytes(b"")


def bit_flipped(path: pathlib.Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes() or b"\0")
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def overwritten(path: pathlib.Path, rng: random.Random) -> None:
    path.write_bytes(rng.randbytes(path.stat().st_size or 1))


def appended(path: pathlib.Path, rng: random.Random) -> None:
    path.write_bytes(path.read_bytes() + rng.randbytes(rng.randrange(1, 200)))


def deleted(path: pathlib.Path, rng: random.Random) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def replaced(path: pathlib.Path, rng: random.Random) -> None:
    """A folder by a file, a file by a folder."""
    folder = path.is_dir()
    deleted(path, rng)
    path.write_bytes(b"a file") if folder else path.mkdir()


def forbidden(path: pathlib.Path, rng: random.Random) -> None:
    path.chmod(0)


TO_FILES = (truncated, emptied, bit_flipped, overwritten, appended, deleted, replaced, forbidden)
TO_FOLDERS = (deleted, replaced, forbidden)


def damages(scene: Scene, rng: random.Random, folder: pathlib.Path, limit: int) -> Tried:
    """Damage one or two things in a run that is complete, lacks its report, or has one evaluation left."""
    reference, workdir = scene.reference("short"), folder / "run"
    state = rng.choice(("complete", "without its report", "half done"))
    shutil.copytree(scene.half() if state == "half done" else reference.workdir, workdir)
    if state == "without its report":
        (workdir / "summary.json").unlink()
    done = [damage(workdir, rng) for _ in range(rng.choice((1, 1, 1, 2)))]
    before = reading.digests(workdir)
    user = None
    if os.geteuid() == 0 and any(how is forbidden for how, _ in done):
        user = processes.NOBODY  # to root nothing is forbidden
        for path in (folder, *folder.rglob("*")):
            os.chown(path, user, user)
    run = processes.fork([*reference.argv, "--workdir", workdir], folder / "output", user)
    code = run.end()
    failures = _verdict(code, run.text, workdir, reference.figures, before, [path for _, path in done])
    what = f"{state}, " + " and ".join(f"{how.__name__}: {path}" for how, path in done)
    return Tried(1, [Failure(x.kind, f"{x.why}; {what}") for x in failures])


def damage(workdir: pathlib.Path, rng: random.Random) -> tuple[Callable, str]:
    """Damage one thing; how, and its path in the workdir."""
    paths = sorted(workdir.rglob("*"))
    # A folder one time in six: there are many, and few ways to damage them.
    found = [path for path in paths if path.is_dir() == (rng.random() < 1 / 6)] or paths
    path = rng.choice(found)
    how = rng.choice(TO_FOLDERS if path.is_dir() else TO_FILES)
    how(path, rng)
    return how, str(path.relative_to(workdir))


def _verdict(
    code: int | None, text: str, workdir: pathlib.Path, reference: Figures, before: dict[str, str], damaged: list[str]
) -> list[Failure]:
    for path in damaged:
        if (workdir / path).exists():
            (workdir / path).chmod(0o755)  # what was forbidden is to be read here
    if code is None:
        return [Failure("hang", "did not end")]
    if failures := unreadable(text):
        return failures
    if code != 0:
        return refused(code, text) + _vanished(workdir, before)
    if "is complete" in text:
        return _vanished(workdir, before) + _complete(workdir, reference)
    if re.search(r"^warning: ", text, re.M):
        return _fallen_back(workdir, reference) + _restarted(text, before, damaged)
    return compared(workdir, reference, with_scalars=False) + _restarted(text, before, damaged)


def _vanished(workdir: pathlib.Path, before: dict[str, str]) -> list[Failure]:
    """Files that were there before a run that ended with an error, and of which not even a moved copy is left."""
    after = reading.digests(workdir)
    left, newest, newest_before = set(after.values()), max(_steps(after), default=0), max(_steps(before), default=0)

    def may_go(path: str) -> bool:
        # A run that went on before its error has written its logs again, and newer checkpoints in place of older ones.
        if path.startswith("checkpoints/"):
            return newest > newest_before
        return path in after or (path.startswith("events.") and any(x.startswith("events.") for x in after))

    gone = [path for path, digest in before.items() if digest not in left and not may_go(path)]
    return [Failure("lost", f"{len(gone)} files, such as {gone[0]}")] if gone else []


def _steps(paths: Iterable[str]) -> set[int]:
    """Steps of the checkpoints that have files among these."""
    return {int(found[1]) for path in paths if (found := re.match(r"checkpoints/(\d+)/", path))}


def _complete(workdir: pathlib.Path, reference: Figures) -> list[Failure]:
    """Whether a run that is said to be complete has the figures that it had."""
    try:
        found = reading.summary(workdir)
    except (OSError, ValueError) as error:
        return [Failure("silently wrong", f"said to be complete; its summary.json: {error}")]
    names = differing(found, reference)
    return [Failure("silently wrong", f"said to be complete; summary.json differs in {names}")] if names else []


def _fallen_back(workdir: pathlib.Path, reference: Figures) -> list[Failure]:
    """Whether a run that has warned ended with the same parameters, and its summary notes what is otherwise."""
    try:
        step = reading.steps(workdir)[-1]
        arrays, found = reading.arrays(workdir, step), reading.summary(workdir)
    except Exception as error:  # whatever a file that is not right makes of its reader
        return [Failure("lost", f"can not be read: {type(error).__name__}: {' '.join(str(error).split())[:200]}")]
    failures, names = same_arrays(step, arrays, reference), differing(found, reference)
    if names and not set(found) - set(reference.summary):
        failures.append(Failure("silently wrong", f"summary.json differs in {names} and has no note of it"))
    return failures


def _restarted(text: str, before: dict[str, str], damaged: list[str]) -> list[Failure]:
    """Whether a run with a checkpoint that was intact began at step 0."""
    intact = _steps(before) - _steps(f"{path}/" for path in damaged)
    if "checkpoints" not in damaged and intact and "resumed at step" not in text:
        return [Failure("lost", f"began at step 0, with intact checkpoints {sorted(intact)}")]
    return []
