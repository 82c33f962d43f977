"""Keeps the connections of JAX's service open for a moment after process 0 was killed.

Where they close, JAX aborts every other process within milliseconds, with a stack trace and before it could say a word.
So a shell inherits them, and ends two seconds after process 0 did.
"""

from __future__ import annotations

import os
import socket
import stat
import subprocess


def connections(port: int) -> set[int]:
    """File descriptors of the connections to a port of this process; none outside Linux, where there is no /proc."""
    try:
        names = os.listdir("/proc/self/fd")
    except OSError:
        return set()
    return {int(name) for name in names if _is_connected_to(int(name), port)}


def keep(held: set[int]) -> None:
    """Keep connections, given by their file descriptors."""
    if not held:
        return
    waits, _ = os.pipe()  # the other end is closed when this process ends, however it does
    subprocess.Popen(
        ["sh", "-c", "read _; exec sleep 2"],
        stdin=waits,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=sorted(held),
        start_new_session=True,
    )
    os.close(waits)


def _is_connected_to(fd: int, port: int) -> bool:
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            return False
        with socket.socket(fileno=os.dup(fd)) as copy:
            inet = copy.family in (socket.AF_INET, socket.AF_INET6)
            return bool(inet and copy.getsockname()[1] == port and copy.getpeername())
    except OSError:  # closed meanwhile, or it listens
        return False
