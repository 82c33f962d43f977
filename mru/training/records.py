"""What finished and unfinished runs wrote, as plain data, and which of them differ in their seed alone."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from mru.training import log, robustness, summary
from mru.training.lines import short
from mru.training.look import content_of
from mru.training.messages import UserError
from mru.training.workdir import PLACES


@dataclasses.dataclass(frozen=True)
class Record:
    """What is known of a run without its model.

    Attributes:
        content: Its config, as config.yaml has it; of a summary.json alone, the part that it repeats.
        log: Lines of metrics.jsonl.
        summary: What summary.json has; None if the run has not ended.
        robustness: What robustness.json has; None if that was not measured.
    """

    content: dict[str, Any]
    log: list[dict[str, Any]]
    summary: dict[str, Any] | None = None
    robustness: dict[str, Any] | None = None

    @property
    def cells(self) -> str:
        """Its cells, each kind once: "LRU + PMRU"."""
        names = [name for block in self.content["model"]["cells"] for name in block.split("+")]
        return " + ".join(dict.fromkeys(name.upper().replace("_", "-") for name in names))


def read(path: pathlib.Path, option: str) -> Record:
    """The record of a run's folder, or of a summary.json of which nothing else is left.

    Raises:
        UserError: It is neither; the message says so, and begins with the option that named it.
    """
    if path.is_file():
        try:
            held = summary.read(path)
        except ValueError as error:
            raise UserError(
                f"{option} {short(path)}, allowed: the folder of a run, or its summary.json; {error}"
            ) from None
        content = {"task": held["task"], "model": {"cells": held["cells"]}, "train": {"seed": held["seed"]}}
        return Record(content, [], held)
    content = content_of(path, option)
    try:
        ended = summary.read(path / "summary.json") if (path / "summary.json").exists() else None
    except ValueError as error:
        raise UserError(f"{option} {short(path)}: its summary.json is damaged: {error}") from None
    return Record(content, [line for _, line in log.read(path / "metrics.jsonl")[0]], ended, robustness.read(path))


def grouped(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Runs that differ in their seed alone, together, by a label: their cells and, if others have these, the rest."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(json.dumps(_flat(record.content), sort_keys=True), []).append(record)
    named: dict[str, list[list[Record]]] = {}
    for same in groups.values():
        named.setdefault(same[0].cells, []).append(same)
    found = {}
    for cells, rivals in named.items():
        settings = [_flat(same[0].content) for same in rivals]
        keys = sorted({key for one in settings for key in one})
        differ = [key for key in keys if len({str(one.get(key)) for one in settings}) > 1]
        for same, one in zip(rivals, settings, strict=True):
            about = [f"{key.rpartition('.')[2]} {one[key]}" for key in differ if key in one]
            found[short(", ".join([cells, *about]))] = same
    return found


def _flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every setting of a config by its dotted name, but the seed of training and where the run is."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        name = prefix + key
        if isinstance(value, dict):
            found |= _flat(value, f"{name}.") if name not in PLACES else {}
        elif name not in (*PLACES, "train.seed"):
            found[name] = value
    return found
