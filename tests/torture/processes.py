"""Runs of `train.py` as processes that can be signalled, killed and waited for, each with its output in a file."""

import atexit
import contextlib
import multiprocessing
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass

ROOT = pathlib.Path(__file__).resolve().parents[2]
LIMIT = 90  # seconds after which a run that should have ended is said to hang
_started: list[subprocess.Popen] = []
NOBODY = 65534
# Most runs are forked from a process that has imported everything: what is attacked is the run, and it starts at once.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["train", "orbax.checkpoint", "tensorboardX", "matplotlib.pyplot", "sklearn.datasets"])


def keep_programs(folder: pathlib.Path, set_variable: Callable[[str, str], None] = os.environ.__setitem__) -> None:
    """Let all runs that are started from now on keep their compiled programs in a folder, on CPU."""
    # A process that is killed leaves its semaphores to be cleaned up, which is said for each.
    sys.warnoptions.append("ignore::UserWarning:multiprocessing.resource_tracker")
    variables = {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "MPLCONFIGDIR": str(folder / "matplotlib"),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }
    for name, value in variables.items():
        set_variable(name, value)


@dataclass(frozen=True)
class Run:
    """A started process.

    Attributes:
        pid: Its number.
        output: File with its stdout and stderr.
        join: Waits so many seconds for its end; the exit code, or None if it still runs.
    """

    pid: int
    output: pathlib.Path
    join: Callable[[float], int | None]

    def send(self, number: int) -> None:
        """A signal to it, if it still runs."""
        if self.join(0) is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def end(self, seconds: float = LIMIT) -> int | None:
        """Its exit code when it has ended by itself, or None if it had to be killed for taking too long."""
        code = self.join(seconds)
        if code is None:
            self.kill()
        return code

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self.send(signal.SIGKILL)
        self.join(60)

    @property
    def text(self) -> str:
        """What it has written so far."""
        return self.output.read_text(errors="backslashreplace") if self.output.is_file() else ""


@atexit.register
def _leave_none() -> None:
    """No run outlives the harness."""
    for process in (*multiprocessing.active_children(), *_started):
        process.kill()


def fork(argv: list[str], output: pathlib.Path, user: int | None = None) -> Run:
    """A run whose imports are done.

    Args:
        argv: Arguments of train.py.
        output: File to append its output to.
        user: Number of the user to run as, if not this one.
    """
    process = FORKS.Process(target=_run, args=([str(a) for a in argv], str(output), user))
    process.start()

    def join(seconds: float) -> int | None:
        process.join(seconds)
        return process.exitcode

    return Run(process.pid, output, join)


def redirect(output: str) -> None:
    """Let this process be one of its own, with its output in a file."""
    os.setsid()
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)


def _run(argv: list[str], output: str, user: int | None) -> None:
    redirect(output)
    if user is not None:
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
    sys.argv = ["train.py", *argv]
    code: object = 0
    try:
        runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
    except SystemExit as left:
        code = left.code
    except BaseException:
        code = 1
        sys.excepthook(*sys.exc_info())
    # What a Python does at its end, and nothing of what a fork does.
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def start(argv: list[str], output: pathlib.Path) -> Run:
    """A run from the beginning: a new Python that imports everything."""
    with output.open("a") as file:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *map(str, argv)],
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _started.append(process)

    def join(seconds: float) -> int | None:
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    return Run(process.pid, output, join)
