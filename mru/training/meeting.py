"""Where the processes of a run meet, before JAX's own runtime starts: at the address of process 0.

What JAX does where a process is missing is to abort the others with a stack trace. So they meet here first; the links,
JSON lines over TCP, stay open.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing.connection
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from mru.training.messages import UserError

START = 300.0  # seconds that processes wait for each other
BEAT = 1.0  # seconds between two signs of life
HELLO = "mru 1"  # what the first line of a link begins with
DIED = "died without a word (killed, or out of memory?)"


class Peer(NamedTuple):
    """A process: its number, its host, its id there."""

    number: int
    host: str
    pid: int

    def __str__(self) -> str:
        return f"process {self.number} ({self.host}, pid {self.pid})"


class Link:
    """A connection to another process, over which pairs (kind, text) go as lines of JSON; an empty line is a beat.

    Attributes:
        here: This process.
        there: The other one.
    """

    def __init__(self, connection: socket.socket, here: Peer, there: Peer):
        self.connection, self.here, self.there = connection, here, there
        self.buffer, self.sent, self.heard = b"", time.monotonic(), time.monotonic()
        self.writing = threading.Lock()  # votes and beats are of different threads
        connection.settimeout(5)

    def fileno(self) -> int:
        """For `ready`."""
        return self.connection.fileno()

    def send(self, kind: str, text: Any = None) -> None:
        """Send; where the other one is gone, this is seen in `received`."""
        self._write(json.dumps([kind, text]).encode() + b"\n")

    def beat(self) -> None:
        """Send a sign of life if one is due."""
        if time.monotonic() - self.sent >= BEAT:
            self._write(b"\n")

    def silent(self) -> float:
        """Seconds since anything was received."""
        return time.monotonic() - self.heard

    def received(self) -> Iterator[tuple[str, Any]]:
        """What has come in; ("closed", None) where the other one is gone. Waits if nothing has."""
        try:
            data = self.connection.recv(65536)
        except OSError:
            data = b""
        if not data:
            yield "closed", None
            return
        self.heard = time.monotonic()
        self.buffer += data
        while b"\n" in self.buffer:
            line, _, self.buffer = self.buffer.partition(b"\n")
            if line:
                kind, text = json.loads(line)
                yield kind, text

    def end(self) -> None:
        """Send no more, which the other one sees; threads of this process may still receive."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def _write(self, data: bytes) -> None:
        self.sent = time.monotonic()
        with contextlib.suppress(OSError), self.writing:
            self.connection.sendall(data)


def ready(links: list[Link], seconds: float) -> list[Link]:
    """Those that something has come in on, after at most so many seconds."""
    return multiprocessing.connection.wait(links, seconds)  # type: ignore[arg-type, return-value]


def pair(here: Peer) -> tuple[Link, Link]:
    """Two links of a process with itself, one for each end."""
    one, other = socket.socketpair()
    return Link(one, here, here), Link(other, here, here)


def meet(address: str, count: int, number: int) -> list[Link]:
    """Wait for the other processes.

    Args:
        address: HOST:PORT of process 0, which is free again afterwards.
        count: Number of processes.
        number: Number of this process.

    Returns:
        In process 0, links to all others in their order; in every other one, the link to process 0.

    Raises:
        UserError: They did not meet.
    """
    here, until = Peer(number, socket.gethostname(), os.getpid()), time.monotonic() + START
    if number:
        return [_reach(address, count, here, until)]
    links: dict[int, Link] = {}
    with _listening(address) as server:
        while len(links) < count - 1:
            text = _welcome(server, count, here, links)
            if text is None and time.monotonic() > until:
                missing = [i for i in range(1, count) if i not in links]
                text = (
                    f"process 0 waited {START:.0f} s at {address} in vain for {len(missing)} of {count} processes, the "
                    f"first of them number {missing[0]}; start them all, with an address of process 0 that they reach"
                )
            if text is not None:
                for link in links.values():
                    link.send("refused", text)
                    link.close()
                raise UserError(text)
    for link in links.values():
        link.heard = time.monotonic()
        link.send("go", here)
    return [links[i] for i in sorted(links)]


def _listening(address: str) -> socket.socket:
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        return socket.create_server(("", int(address.rpartition(":")[2])), family=family, dualstack_ipv6=both)
    except (OSError, OverflowError) as error:
        why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
        raise UserError(
            f"process 0 can not listen at {address} ({why}); give a port that is free, and process number 0 once"
        ) from None


def _welcome(server: socket.socket, count: int, here: Peer, links: dict[int, Link]) -> str | None:
    """Take the next process that comes within `BEAT`, or say what is wrong with it."""
    server.settimeout(BEAT)
    try:
        connection, _ = server.accept()
    except TimeoutError:
        return None
    link = Link(connection, here, here)
    kind, text = _first(link, time.monotonic() + 5)
    if kind != HELLO:
        link.close()  # a stranger
        return None
    theirs, link.there = text[0], Peer(*text[1:])
    taken, wrong = links.get(link.there.number), None
    if theirs != count:
        wrong = f"there are {count} processes for process 0, and {theirs} for {link.there}; give all the same number"
    elif taken is not None and not ready([taken], 0):  # or else it has ended, and was started again
        wrong = f"{taken.there} and {link.there} have the same number; give each its own"
    if wrong is not None:
        link.send("refused", wrong)
        link.close()
        return wrong
    if taken is not None:
        taken.close()
    links[link.there.number] = link
    return None


def _reach(address: str, count: int, here: Peer, until: float) -> Link:
    """The link to process 0, which may not have been started yet."""
    host, _, port = address.rpartition(":")
    notice = time.monotonic() + 10
    while True:
        try:
            link = Link(socket.create_connection((host.strip("[]"), int(port)), 5), here, here)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or str(error)
        else:
            link.send(HELLO, [count, *here])
            kind, text = _first(link, until)
            if kind == "go":
                link.there = Peer(*text)
                return link
            link.close()
            if kind == "refused":
                raise UserError(text)
            why = "something answers, but not process 0 of this program"
        if time.monotonic() > until:
            raise UserError(
                f"process {here.number} waited {START:.0f} s in vain for process 0 at {address} ({why}); "
                "start process 0 there, or give the right address"
            )
        if time.monotonic() > notice:
            notice = until
            print(f"process {here.number} waits for process 0 at {address} ({why})", file=sys.stderr, flush=True)
        time.sleep(0.5)


def _first(link: Link, until: float) -> tuple[str, Any]:
    """The first message of a link; ("closed", None) if it ends before, or sends something else."""
    while time.monotonic() < until:
        if ready([link], BEAT):
            try:
                for message in link.received():
                    return message
            except (ValueError, TypeError):
                break
    return "closed", None
