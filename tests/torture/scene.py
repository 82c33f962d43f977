"""Where attacks take place: the configs that are run, and what each comes to when nothing attacks it."""

import pathlib
import random
import shutil
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.torture import processes, reading
from tests.torture.processes import Run
from tests.torture.verdicts import Failure

CONFIGS = {
    # Twenty checkpoints in some seconds, with dropout, a ramp, and lines of the log that lie across checkpoints.
    "tiny": """\
task: {name: copy_first, length: 20, retention: [20], held_out: 20}
model: {cells: [bmru+lru], width: 8, state_size: 4, expansion: 0, dropout: 0.1}
optimizer: {lr: 1.0e-2}
train: {steps: 200, batch_size: 8, eval_every: 10, log_every: 7, steps_per_dispatch: 1}
""",
    # Four checkpoints, of which the last is soon made again.
    "short": """\
task: {name: copy_first, length: 20, retention: [], held_out: 20}
model: {cells: [lru], width: 8, state_size: 4, expansion: 0}
optimizer: {lr: 1.0e-2}
train: {steps: 200, batch_size: 8, eval_every: 50, log_every: 50, steps_per_dispatch: 1}
""",
    "mnist": """\
task: {name: smnist}
model: {cells: [lru], width: 8, state_size: 4, expansion: 0, positions: 4}
optimizer: {lr: 1.0e-2}
train: {steps: 40, batch_size: 100, eval_every: 10, log_every: 10, steps_per_dispatch: 1}
""",
}

# When a run is attacked: how likely relative to the others, and at most how many seconds later.
MOMENTS = {
    "after the start": (3, 3.0),
    "in training": (4, 1.0),
    "in a checkpoint": (4, 0.03),
    "in the report": (1, 1.0),
}


class Skipped(Exception):
    """An attack that can not take place here; the message says why."""


@dataclass(frozen=True)
class Reference:
    """A run that nothing attacked.

    Attributes:
        argv: Its arguments, without --workdir.
        workdir: Its workdir.
        figures: What it came to.
    """

    argv: list[str]
    workdir: pathlib.Path
    figures: reading.Figures


@dataclass(frozen=True)
class Scene:
    """The folder in which all takes place.

    Attributes:
        folder: An empty one, or that of an earlier scene.
        data: Directory with a prepared MNIST, if there is one.
    """

    folder: pathlib.Path
    data: pathlib.Path | None = None
    references: dict[tuple[str, int], Reference] = field(default_factory=dict)

    def reference(self, name: str, processes: int = 1) -> Reference:
        """The uninterrupted run of a config, in so many processes; made when it is first asked for."""
        if (name, processes) not in self.references:
            self.references[name, processes] = self._uninterrupted(name, processes)
        return self.references[name, processes]

    def _uninterrupted(self, name: str, number: int) -> Reference:
        folder = self.folder / f"reference-{name}-{number}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        argv = self._arguments(name, folder)
        runs = together([*argv, "--workdir", folder / "run"], folder / "output", number)
        codes = [run.end(1800) for run in runs]
        if any(codes):
            raise RuntimeError(f"the uninterrupted run of {name} ended with {codes}; see {folder}")
        return Reference(argv, folder / "run", reading.figures(folder / "run"))

    def half(self) -> pathlib.Path:
        """A workdir of "short" that was killed when it had one evaluation left; made when it is first asked for."""
        reference, folder = self.reference("short"), self.folder / "half"
        while not folder.is_dir():
            workdir = self.folder / "half-made"
            shutil.rmtree(workdir, ignore_errors=True)
            run = processes.fork([*reference.argv, "--workdir", workdir], self.folder / "output-half")
            while run.join(0.001) is None and not (workdir / "checkpoints/150").is_dir():
                pass
            run.kill()
            if reading.steps(workdir)[-1] == 150:
                workdir.rename(folder)
        return folder

    def _arguments(self, name: str, folder: pathlib.Path) -> list[str]:
        if name not in CONFIGS:
            return ["--config", str(processes.ROOT / "configs" / f"{name}.yaml")]
        (folder / f"{name}.yaml").write_text(CONFIGS[name])
        argv = ["--config", str(folder / f"{name}.yaml")]
        if name == "mnist":
            if self.data is None:
                raise Skipped("no --data_dir with a prepared MNIST")
            argv += ["--task.data_dir", str(self.data)]
        return argv


@dataclass(frozen=True)
class Tried:
    """What a round of an attack came to.

    Attributes:
        count: How often it attacked.
        failures: What was found.
    """

    count: int
    failures: list[Failure]


def together(
    argv: list[str], output: pathlib.Path, number: int, start: Callable[..., Run] = processes.fork
) -> list[Run]:
    """A run of so many processes, which talk over a port that was free just now."""
    if number == 1:
        return [start(argv, output)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = ["--distributed.coordinator_address", f"127.0.0.1:{port}", "--distributed.num_processes", number]
    own = [[*argv, *shared, "--distributed.process_id", i] for i in range(number)]
    return [start(arguments, output.with_name(f"{output.name}-{i}")) for i, arguments in enumerate(own)]


def moment(
    rng: random.Random, runs: list[Run], workdir: pathlib.Path, last: int, names: Sequence[str] = tuple(MOMENTS)
) -> str:
    """Wait for a random moment of a run, or its end; the moment in words.

    Args:
        rng: Where it is drawn from.
        runs: The processes of the run.
        workdir: Its workdir.
        last: Its last step.
        names: Which of `MOMENTS` to draw from.
    """
    log, since = workdir / "metrics.jsonl", time.time_ns()
    checkpoints = workdir / "checkpoints"

    def training() -> bool:
        return log.is_file() and log.stat().st_mtime_ns > since

    begun = {
        "after the start": lambda: True,
        "in training": training,
        "in a checkpoint": lambda: training() and any(checkpoints.glob("*tmp*")),
        "in the report": (checkpoints / str(last)).is_dir,
    }
    name = rng.choices(names, [MOMENTS[name][0] for name in names])[0]
    delay = rng.uniform(0, MOMENTS[name][1])
    until = time.monotonic() + processes.LIMIT
    while not begun[name]() and time.monotonic() < until and any(run.join(0) is None for run in runs):
        time.sleep(0.002)
    runs[0].join(delay)
    return f"{delay:.3f} s {name}"


def killed(runs: list[Run]) -> int:
    """kill -9 to all processes of a run; how many still ran."""
    alive = [run for run in runs if run.join(0) is None]
    for run in alive:
        run.send(signal.SIGKILL)
    return sum(run.join(60) == -signal.SIGKILL for run in alive)
