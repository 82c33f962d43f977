"""Two processes at once on one workdir: one trains to the end, the other leaves and says who has the workdir."""

import pathlib
import random
import socket
import time

from tests.torture import processes
from tests.torture.processes import Run
from tests.torture.scene import Scene, Tried, killed, moment
from tests.torture.verdicts import Failure, finished, refused


def pairs(scene: Scene, rng: random.Random, folder: pathlib.Path, limit: int, *, config: str = "tiny") -> Tried:
    """Start two processes at once, or a little apart, on a new workdir or on that of a run that was killed."""
    reference, workdir = scene.reference(config), folder / "run"
    argv = [*reference.argv, "--workdir", workdir]
    if rng.random() < 0.5:
        before = processes.fork(argv, folder / "output-before")
        moment(rng, [before], workdir, reference.figures.step, ("in training", "in a checkpoint"))
        killed([before])
    runs = []
    for name in ("one", "other"):
        runs.append(processes.fork(argv, folder / f"output-{name}"))
        time.sleep(rng.choice((0, rng.uniform(0, 1.5))))
    ended = [(run, run.end()) for run in runs]
    winners = [run for run, code in ended if code == 0 and "is complete" not in run.text]
    if len(winners) != 1:
        kind = "silently wrong" if winners else "lost"
        return Tried(1, [Failure(kind, f"{len(winners)} of two trained to the end: {_last(runs)}")])
    (other,) = [run for run in runs if run is not winners[0]]
    failures = finished(0, winners[0].text, workdir, reference.figures)
    return Tried(1, failures + _left(other, winners[0]))


def _left(other: Run, winner: Run) -> list[Failure]:
    """Whether the second process said who has the workdir, or came when all was done."""
    code, text = other.join(0), other.text
    if code == 0:
        return []  # it said that the run is complete
    failures = refused(code, text, (2,))
    if not failures and not (socket.gethostname() in text and str(winner.pid) in text):
        failures = [Failure("traceback", f"names not {socket.gethostname()} and {winner.pid}: {_last([other])}")]
    return failures


def _last(runs: list[Run]) -> str:
    return " | ".join((run.text.splitlines() or [""])[-1][:200] for run in runs)
