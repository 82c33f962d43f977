"""Ending a run where nothing is half done, when a signal asks for it."""

from __future__ import annotations

import signal
from typing import Any

import jax
from jax.experimental import multihost_utils


class Stopped(Exception):
    """SIGTERM or SIGINT came in."""


class Stop:
    """Remembers a SIGTERM or SIGINT, so that the loop can end where nothing is half done."""

    def __init__(self) -> None:
        self.signal: str | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: Any) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number).name

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
