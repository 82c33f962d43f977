"""What a workdir holds, read as its formats say, by none of the code under attack: JSON, events, and zarr in OCDBT."""

import collections
import hashlib
import json
import pathlib
import struct
from dataclasses import dataclass
from typing import Any

import tensorstore as ts  # which Orbax brings

# What two equal runs may differ in.
OWN = ("seconds", "steps_per_second", "command", "commit", "checksum")


@dataclass(frozen=True)
class Figures:
    """What a finished run comes to.

    Attributes:
        step: Its last step.
        arrays: Those of the last checkpoint: dtype, shape and a digest of the bytes by name.
        lines: Those of metrics.jsonl, without their times.
        summary: summary.json without seconds and command.
        scalars: How often TensorBoard shows each (step, name, value).
    """

    step: int
    arrays: dict[str, tuple[str, tuple[int, ...], str]]
    lines: list[dict[str, Any]]
    summary: dict[str, Any]
    scalars: collections.Counter[tuple[int, str, float]]


def figures(workdir: pathlib.Path) -> Figures:
    """All of it; whatever can not be read raises."""
    step = steps(workdir)[-1]
    return Figures(step, arrays(workdir, step), lines(workdir), summary(workdir), scalars(workdir))


def steps(workdir: pathlib.Path) -> list[int]:
    """Steps of the checkpoints, in order."""
    return sorted(int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit())


def arrays(workdir: pathlib.Path, step: int) -> dict[str, tuple[str, tuple[int, ...], str]]:
    """Dtype, shape and digest of the arrays of a checkpoint by name."""
    found = {}
    for item in ("model", "train"):
        folder = {"driver": "ocdbt", "base": f"file://{workdir.absolute()}/checkpoints/{step}/{item}"}
        keys = [key.decode() for key in ts.KvStore.open(folder).result().list().result()]
        for name in sorted(key.removesuffix("/.zarray") for key in keys if key.endswith("/.zarray")):
            x = ts.open({"driver": "zarr", "kvstore": folder | {"path": name}}).result().read().result()
            found[f"{item}: {name}"] = (str(x.dtype), x.shape, hashlib.sha256(x.tobytes()).hexdigest())
    return found


def lines(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without their times."""
    held = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in line.items() if name != "time"} for line in held]


def summary(workdir: pathlib.Path) -> dict[str, Any]:
    """summary.json without what two equal runs may differ in."""
    held = json.loads((workdir / "summary.json").read_text())
    return {name: value for name, value in held.items() if name not in OWN}


def scalars(workdir: pathlib.Path) -> collections.Counter[tuple[int, str, float]]:
    """How often TensorBoard shows each (step, name, value): a restart hides what was written from its step on."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    shown: list[tuple[int, str, float]] = []
    for path in sorted(workdir.glob("events*")):
        data = path.read_bytes()
        while len(data) > 12:
            (length,) = struct.unpack("<Q", data[:8])
            if len(data) < 16 + length:
                break  # cut short by a kill
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            if event.session_log.status == SessionLog.START:
                shown = [x for x in shown if x[0] < event.step]
            shown += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
    return collections.Counter(shown)


def digests(workdir: pathlib.Path) -> dict[str, str]:
    """Digests of all files of a workdir, by their path in it."""
    return {
        str(path.relative_to(workdir)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(workdir.rglob("*"))
        if path.is_file()
    }
