"""SIGTERM and SIGINT, once or twice, at random moments, imports included; then the run is resumed, to the end."""

import pathlib
import random
import signal
import time

from tests.torture import processes
from tests.torture.processes import Run
from tests.torture.scene import Scene, Tried, moment
from tests.torture.verdicts import Failure, finished, unreadable

SIGNALS = {
    "SIGTERM": [signal.SIGTERM],
    "SIGINT": [signal.SIGINT],
    "SIGINT twice": [signal.SIGINT, signal.SIGINT],
    "SIGTERM, then SIGINT": [signal.SIGTERM, signal.SIGINT],
}
# As a shell sees them; -2 and -15 are those of a process that the signal has ended before it could do anything.
CODES = (0, 130, 143, -signal.SIGINT, -signal.SIGTERM)


def signals(scene: Scene, rng: random.Random, folder: pathlib.Path, limit: int, *, config: str = "tiny") -> Tried:
    """Signal one run again and again, at most `limit` times, until it ends."""
    reference, workdir = scene.reference(config), folder / "run"
    argv = [*reference.argv, "--workdir", workdir]
    sent: list[str] = []
    while True:
        importing = rng.random() < 0.5
        run = (processes.start if importing else processes.fork)(argv, folder / f"output-{len(sent)}")
        if len(sent) == limit:
            break
        if importing:
            when = _while_importing(rng, run)
        else:
            when = moment(
                rng, [run], workdir, reference.figures.step, ("in training", "in a checkpoint", "in the report")
            )
        if run.join(0) is not None:
            break
        name = rng.choice(list(SIGNALS))
        for number in SIGNALS[name]:
            run.send(number)
            run.join(rng.uniform(0, 0.3))
        sent.append(f"{name} {when}")
        if failures := _stopped(run):
            return Tried(len(sent), [Failure(x.kind, f"{x.why}; after {sent[-1]}") for x in failures])
    failures = finished(run.end(), run.text, workdir, reference.figures)
    return Tried(len(sent), [Failure(x.kind, f"{x.why}; sent {', '.join(sent)}") for x in failures])


def _stopped(run: Run) -> list[Failure]:
    """Whether a run that was told to stop has done so."""
    code = run.end()
    if code is None:
        return [Failure("hang", "did not end")]
    if failures := unreadable(run.text):
        return failures
    return [] if code in CODES else [Failure("traceback", f"exit code {code}, expected one of {CODES}")]


def _while_importing(rng: random.Random, run: Run) -> str:
    """Wait until a new Python imports the first library (its own start is out of train.py's hands), and longer."""
    maps = pathlib.Path(f"/proc/{run.pid}/maps")
    while run.join(0.001) is None and "/numpy/" not in maps.read_text():
        time.sleep(0.001)
    delay = rng.uniform(0, 5)
    run.join(delay)
    return f"{delay:.3f} s after its first import"
