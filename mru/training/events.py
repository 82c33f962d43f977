"""TensorBoard events: the lines of metrics.jsonl once more, for those who look there."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable
from typing import Any


class Events:
    """The event file of a run, written anew from its log at each start: so it has each line once, and lacks none.

    It writes in the thread of its caller: a thread of its own would die of a full disk unheard.

    Args:
        workdir: Folder of the run.
        lines: Lines of the log so far.
    """

    def __init__(self, workdir: pathlib.Path, lines: Iterable[dict[str, Any]]):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        for path in workdir.glob("events.out.tfevents.*"):
            path.unlink()
        self.writer = EventsWriter(str(workdir / "events"))
        # A TensorBoard that is open takes what follows for all there is.
        self.writer.write_event(Event(step=0, session_log=SessionLog(status=SessionLog.START)))
        for line in lines:
            self.write(line)
        self.flush()

    def write(self, line: dict[str, Any]) -> None:
        """The scalars of one line."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        scalars = {f"{line['split']}/{name}": x for name, x in line.items() if name not in ("step", "split", "time")}
        values = [Summary.Value(tag=name, simple_value=x) for name, x in scalars.items()]
        event = Event(wall_time=line.get("time", 0.0), step=line["step"], summary=Summary(value=values))
        self.writer.write_event(event)

    def flush(self) -> None:
        """Have everything on the disk."""
        self.writer.flush()

    def close(self) -> None:
        """Close the file."""
        self.writer.close()
