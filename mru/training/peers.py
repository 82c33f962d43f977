"""The processes of a run share one fate: they agree on mistakes, and when one is lost all end, each with one line.

JAX's own service hears of a lost process only after its heartbeat, then aborts the others with a stack trace, and lets
a process that ends with an error wait for those that never will. So every process has a thread, its `_Member`, with a
connection (see `meeting`) to the `_Hub`, a thread of process 0: by a closed connection, or by silence, the hub sees who
is lost, and tells all.
"""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import NoReturn

import jax

from mru.training import meeting
from mru.training.meeting import Link, Peer
from mru.training.messages import UserError

# Seconds of silence after which a process counts as lost. JAX's own heartbeat must be longer, as it ends in a trace.
HEARTBEAT = 60.0
# Seconds in which a process may still end by its own error, the same perhaps, when it hears that another one is lost,
# and in which it waits for such news before it takes a surprising error for its own.
GRACE = 1.0

_member: _Member | None = None


def join(address: str, count: int, number: int) -> None:
    """Meet the other processes, and from here on share their fate; before JAX's own runtime starts.

    Args:
        address: HOST:PORT of process 0, where JAX's service will listen afterwards.
        count: Number of processes.
        number: Number of this process.

    Raises:
        UserError: They did not meet; the message says who waited for whom, and where.
    """
    global _member
    links = meeting.meet(address, count, number)
    if not links:
        return
    hub = None
    if number == 0:
        to_hub, to_member = meeting.pair(links[0].here)
        hub = _Hub([to_member, *links])
        links = [to_hub]
    _member = _Member(links[0], hub)
    sys.excepthook = _member.surprised


@contextlib.contextmanager
def agreed() -> Iterator[None]:
    """Around checks that may fail in one process only: if they do in any, all processes raise.

    All processes must come to it, in the same order. It costs nothing where there is one process.

    Raises:
        UserError: The mistake, the same text in all processes; it names the process where not all found it.
    """
    error = None
    try:
        yield
    except UserError as mistake:
        error = str(mistake)
    if _member is not None:
        error = _member.agree(error)
    if error is not None:
        raise UserError(error)


def leave() -> None:
    """Leave in order, once all processes have come to their end, where they are several."""
    if _member is not None:
        with agreed():  # JAX's own wait for the others has a limit, and does not see that one is lost
            pass
        jax.distributed.shutdown()
        _member.leave()


def fail(line: str, code: int) -> None:
    """End this process with an error where there are several, and tell the others; return where there is one.

    Args:
        line: The error, in one line, which was printed here already.
        code: Exit code.
    """
    if _member is not None:
        _member.fail(line, code)


class _Hub(threading.Thread):
    """Knows every process by its link, passes on what they agree on, and tells all who is lost."""

    def __init__(self, links: list[Link]):
        super().__init__(name="peers: hub", daemon=True)
        self.links, self.count = links, len(links)
        self.votes: dict[Peer, str | None] = {}
        self.told = False
        self.start()

    def run(self) -> None:
        while self.links:
            for link in meeting.ready(self.links, meeting.BEAT):
                for kind, text in link.received():
                    self._take(link, kind, text)
            for link in list(self.links):
                link.beat()
                if link.silent() > HEARTBEAT:
                    self._lost(link, f"has been silent for {HEARTBEAT:.0f} s")

    def _take(self, link: Link, kind: str, text: str | None) -> None:
        match kind:
            case "vote":
                self.votes[link.there] = text
                if len(self.votes) == self.count:
                    self._tell("agreed", self._verdict())
                    self.votes = {}
            case "leave":
                self._drop(link)
            case "fail":
                self._lost(link, f"ended with: {text}")
            case "closed":
                self._lost(link, meeting.DIED)

    def _verdict(self) -> str | None:
        errors = {peer: text for peer, text in self.votes.items() if text is not None}
        if not errors:
            return None
        first = min(errors)
        everywhere = len(errors) == self.count and len(set(errors.values())) == 1
        return errors[first] if everywhere else f"{first}: {errors[first]}"

    def _tell(self, kind: str, text: str | None) -> None:
        for link in self.links:
            link.send(kind, text)

    def _lost(self, link: Link, why: str) -> None:
        if not self.told:  # those that end now end because of the first
            self.told = True
            self._tell("lost", f"{link.there} {why}")
        self._drop(link)

    def _drop(self, link: Link) -> None:
        if link in self.links:
            self.links.remove(link)
            link.close()


class _Member(threading.Thread):
    """The end of a process's link to the hub: beats, and ends the process when another one is lost."""

    def __init__(self, link: Link, hub: _Hub | None):
        super().__init__(name="peers: member", daemon=True)
        self.link, self.hub = link, hub
        self.agreements: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.lost, self.ending, self.parted = threading.Event(), threading.Lock(), False
        self.start()

    def run(self) -> None:
        while not self.parted:
            if meeting.ready([self.link], meeting.BEAT):
                for kind, text in self.link.received():
                    self._take(kind, text)
            self.link.beat()
            if self.link.silent() > HEARTBEAT:
                self._end(f"{self.link.there} has been silent for {HEARTBEAT:.0f} s")

    def _take(self, kind: str, text: str | None) -> None:
        match kind:
            case "agreed":
                self.agreements.put(text)
            case "lost":
                self._end(text or "")
            case "closed":
                self._end(f"{self.link.there} {meeting.DIED}")

    def agree(self, error: str | None) -> str | None:
        self.link.send("vote", error)
        return self.agreements.get()

    def leave(self) -> None:
        self.parted = True
        self.link.send("leave")
        if self.hub is not None:
            self.hub.join()  # process 0 goes last

    def fail(self, line: str, code: int) -> NoReturn:
        self.link.send("fail", line)
        self.ending.acquire()  # or else the other thread ends this process
        self._exit(code)

    def surprised(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        """What Python does with an exception that nobody caught: it may come of the loss of another process."""
        if self.lost.wait(GRACE):
            self.join()  # that thread ends this process
        sys.__excepthook__(kind, error, trace)
        self.fail(" ".join(f"{kind.__name__} {error}".split()), 1)

    def _end(self, text: str) -> None:
        if self.parted:
            return
        self.lost.set()
        time.sleep(GRACE)
        if self.ending.acquire(blocking=False):
            from tqdm import tqdm

            self.link.send("fail", text)
            try:
                line = f"error: {text[:200]}; all end, and the same command goes on from the last checkpoint"
                tqdm.write(line, sys.stderr)
            finally:  # also where nobody reads it any more
                self._exit(1)

    def _exit(self, code: int) -> NoReturn:
        """At once: at an exit in order, JAX would wait for the others."""
        self.link.end()
        if self.hub is not None:
            self.hub.join(3 * GRACE)  # process 0 goes last, as JAX aborts the others when it goes
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(code)
