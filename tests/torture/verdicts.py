"""What counts as a failure: nothing may be silently wrong or lost, and nobody sees a traceback or waits for ever."""

import collections
import pathlib
import re
from dataclasses import dataclass

import numpy as np

from tests.torture import reading

KINDS = ("silently wrong", "lost", "traceback", "hang")
NOISE = re.compile(r"Traceback \(most recent call last\)|Fatal Python error|Exception ignored|Segmentation fault", re.I)


@dataclass(frozen=True)
class Failure:
    """One of `KINDS`, and in words what happened."""

    kind: str
    why: str


def unreadable(text: str) -> list[Failure]:
    """A traceback or the like in what a run wrote."""
    found = NOISE.search(text)
    return [Failure("traceback", f"{text.count(chr(10))} lines, among them: {found[0]}")] if found else []


def refused(code: int | None, text: str, codes: tuple[int, ...] = (1, 2)) -> list[Failure]:
    """Whether a run that could not go on said so in one line, with one of the exit codes."""
    if code is None:
        return [Failure("hang", "did not end")]
    if failures := unreadable(text):
        return failures
    said = [line for line in text.splitlines() if line.startswith("error: ")]
    if code not in codes:
        return [Failure("traceback", f"exit code {code}, expected {' or '.join(map(str, codes))}")]
    if len(said) != 1 or said[0] != text.splitlines()[-1]:
        return [Failure("traceback", f"exit code {code} with {len(said)} lines of error, expected one, the last")]
    if len(said[0]) >= 300 or not said[0].isprintable():
        return [Failure("traceback", f"an error of {len(said[0])} characters, expected under 300, all printable")]
    return []


def finished(code: int | None, text: str, workdir: pathlib.Path, reference: reading.Figures) -> list[Failure]:
    """Whether a run has ended well, with what the uninterrupted one has."""
    if code is None:
        return [Failure("hang", "did not end")]
    if failures := unreadable(text):
        return failures
    if code != 0:
        return [Failure("lost", f"exit code {code}: {(text.splitlines() or [''])[-1]}")]
    return compared(workdir, reference)


def compared(workdir: pathlib.Path, reference: reading.Figures, with_scalars: bool = True) -> list[Failure]:
    """What a finished workdir has otherwise than the uninterrupted run, and TensorBoard if it is asked."""
    try:
        found = reading.figures(workdir)
    except Exception as error:  # whatever a file that is not right makes of its reader
        return [Failure("lost", f"can not be read: {type(error).__name__}: {' '.join(str(error).split())[:200]}")]
    failures = same_arrays(found.step, found.arrays, reference)
    missing = [line for line in reference.lines if line not in found.lines]
    if missing:
        failures.append(Failure("lost", f"{len(missing)} lines of metrics.jsonl, the first {missing[0]}"))
    if not missing and found.lines != reference.lines:
        failures.append(Failure("silently wrong", f"metrics.jsonl has {len(found.lines)} for {len(reference.lines)}"))
    if found.summary != reference.summary:
        failures.append(Failure("silently wrong", f"summary.json differs in {differing(found.summary, reference)}"))
    return failures + (shown(found, reference) if with_scalars else [])


def same_arrays(step: int, arrays: dict, reference: reading.Figures) -> list[Failure]:
    """Whether the last checkpoint is that of the uninterrupted run, bit for bit."""
    if step != reference.step:
        return [Failure("silently wrong", f"ended at step {step} for {reference.step}")]
    names = sorted(n for n in {*arrays, *reference.arrays} if arrays.get(n) != reference.arrays.get(n))
    return [Failure("silently wrong", f"{len(names)} arrays differ, such as {names[0]}")] if names else []


def differing(summary: dict, reference: reading.Figures) -> list[str]:
    """The keys of two summaries that differ."""
    return sorted(n for n in {*summary, *reference.summary} if summary.get(n) != reference.summary.get(n))


def shown(found: reading.Figures, reference: reading.Figures) -> list[Failure]:
    """Whether TensorBoard shows each figure of the log once."""
    expected = collections.Counter(
        (line["step"], f"{line['split']}/{name}", float(np.float32(value)))
        for line in reference.lines
        for name, value in line.items()
        if name not in ("step", "split")
    )
    failures = []
    if missing := expected - found.scalars:
        failures.append(Failure("lost", f"{missing.total()} of {expected.total()} scalars of TensorBoard"))
    if twice := found.scalars - expected:
        failures.append(Failure("silently wrong", f"TensorBoard shows {twice.total()} scalars twice or otherwise"))
    return failures
