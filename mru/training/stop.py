"""Ending a run where nothing is half done, when a signal asks for it."""

from __future__ import annotations

import os
import signal
from typing import Any, Self

import jax
from jax.experimental import multihost_utils


class Stopped(Exception):
    """SIGTERM or SIGINT came in."""


class Stop:
    """Remembers a SIGTERM or SIGINT, so that the loop can end where nothing is half done.

    It listens only while a state is held that no checkpoint has. Before that, and at a second SIGINT, a signal does
    what it did before: it ends the program at once, which loses nothing, as every file is written whole or not at all.
    """

    def __init__(self) -> None:
        self.signal: str | None = None
        self.before: dict[int, Any] = {}

    def listen(self) -> None:
        """From here on signals are remembered."""
        if self.before:
            return
        # With several processes SIGTERM is JAX's: it agrees with the others on where to stop.
        numbers = (signal.SIGINT,) if jax.process_count() > 1 else (signal.SIGTERM, signal.SIGINT)
        self.before = {number: signal.signal(number, self._receive) for number in numbers}

    def _receive(self, number: int, frame: Any) -> None:
        if self.signal is not None:
            if number == signal.SIGINT:
                signal.signal(number, self.before[number])
                signal.raise_signal(number)
            return
        self.signal = signal.Signals(number).name
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def requested(self, number: int) -> bool:
        """Whether to stop after this call of the device; all processes answer alike.

        Args:
            number: Which call it is. JAX stops all processes at the one after the furthest, so none may be left out.
        """
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(number)
        return self.signal is not None

    def check(self) -> None:
        """Raise `Stopped` if a signal has come, where a single process can stop at once."""
        if jax.process_count() == 1 and self.signal is not None:
            raise Stopped

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
