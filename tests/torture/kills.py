"""kill -9 at random moments of a run, which is started again until it has ended, with the uninterrupted run's bits."""

import functools
import pathlib
import random

from tests.torture.scene import Scene, Tried, killed, moment, together
from tests.torture.verdicts import Failure, finished


def kills(
    scene: Scene, rng: random.Random, folder: pathlib.Path, limit: int, *, config: str = "tiny", processes: int = 1
) -> Tried:
    """Kill one run again and again, at most `limit` times, until it ends."""
    reference, workdir, moments = scene.reference(config, processes), folder / "run", []
    argv = [*reference.argv, "--workdir", workdir]
    while True:
        runs = together(argv, folder / f"output-{len(moments)}", processes)
        if len(moments) == limit:
            break
        when = moment(rng, runs, workdir, reference.figures.step)
        if not killed(runs):
            break
        moments.append(when)
    ends = [(run.end(), run.text) for run in runs]
    failures = [failure for code, text in ends for failure in finished(code, text, workdir, reference.figures)]
    return Tried(len(moments), [Failure(x.kind, f"{x.why}; killed {', '.join(moments)}") for x in failures])


mnist = functools.partial(kills, config="mnist")
two_processes = functools.partial(kills, processes=2)
