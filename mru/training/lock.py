"""One process at a time in a run's folder: two would write over each other."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pathlib
import platform
import time
from collections.abc import Iterator

import jax

from mru.training.messages import UserError, say

# A file system without locks, such as NFS mounted with `nolock` or some that lie in objects, answers with one of these.
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextlib.contextmanager
def held(workdir: pathlib.Path) -> Iterator[None]:
    """Make the folder and hold WORKDIR/lock, which says on which host and in which process; process 0 does for all.

    The kernel lets go of it when the process ends, however it ends, so no lock is ever stale; over NFS (Linux, version
    3 with its lock daemon or 4) it holds between hosts. The file stays: to remove it would let two others in.

    Raises:
        UserError: Another process holds it, or the folder can not be written.
    """
    if jax.process_index() != 0:
        yield
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(workdir / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        what = f"{error.filename}: {error.strerror}"
        raise UserError(f"workdir = {workdir}, allowed: a folder to write in; {what}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"workdir = {workdir} is in use by {_owner(descriptor)}; wait until it ends, or choose another"
            ) from None
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise
            say(f"warning: {workdir} is on a file system without locks; make sure that no other process uses it")
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {platform.node()}\n".encode())
        yield
    finally:
        os.close(descriptor)


def holder(workdir: pathlib.Path) -> str | None:
    """Who holds the lock of a folder now, in words; None if nobody does or the file system has none to ask."""
    try:
        descriptor = os.open(workdir / "lock", os.O_RDONLY)
    except OSError:
        return None
    try:
        # Shared, so that several may ask at once; nothing is written.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _owner(descriptor)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return None


def _owner(descriptor: int) -> str:
    """What the file says of the process that holds the lock, which writes it right after it has got it."""
    for _ in range(10):
        time.sleep(0.1)
        if line := os.pread(descriptor, 300, 0).decode(errors="replace").strip():
            return line
    return "another process"
