"""Preemption: SIGTERM, and kill -9 a random while later, again and again, on one run."""

import pathlib
import random
import signal

from tests.torture import processes
from tests.torture.scene import Scene, Tried, moment
from tests.torture.verdicts import Failure, finished


def requeue(scene: Scene, rng: random.Random, folder: pathlib.Path, limit: int, *, config: str = "quickstart") -> Tried:
    """Preempt one run until it ends, at most `limit` times."""
    reference, workdir, count = scene.reference(config), folder / "run", 0
    argv = [*reference.argv, "--workdir", workdir]
    while True:
        run = processes.fork(argv, folder / f"output-{count}")
        if count == limit:
            break
        moment(rng, [run], workdir, reference.figures.step, ("after the start", "in training"))
        if run.join(0) is not None:
            break
        run.send(signal.SIGTERM)
        run.join(rng.choice((0, rng.uniform(0, 3))))
        run.kill()
        count += 1
    failures = finished(run.end(1800), run.text, workdir, reference.figures)
    return Tried(count, [Failure(x.kind, f"{x.why}; preempted {count} times") for x in failures])
