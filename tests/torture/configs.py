"""Fuzzed configs, which are parsed only: each is fine, or refused in one readable line, within ten seconds."""

import contextlib
import io
import json
import os
import pathlib
import random
import time
import traceback

from tests.torture import fuzz_configs, processes
from tests.torture.scene import Scene, Tried
from tests.torture.verdicts import Failure, refused

SECONDS = 10
BATCH = 100


def configs(scene: Scene, rng: random.Random, folder: pathlib.Path, limit: int) -> Tried:
    """Parse a hundred configs in a process of their own, or as many as it takes to one that hangs or ends it."""
    cases = [_case(rng, folder, number) for number in range(min(BATCH, limit))]
    answers = folder / "answers"
    process = processes.FORKS.Process(target=_parse, args=(cases, str(folder / "output"), str(answers)))
    process.start()
    done, since = 0, time.monotonic()
    while process.is_alive() and time.monotonic() - since < SECONDS + 5 * (done == 0):
        process.join(0.05)
        if (count := _lines(answers)) > done:
            done, since = count, time.monotonic()
    hung = process.is_alive()
    process.kill()
    process.join()
    found = [json.loads(line) for line in answers.read_text().splitlines()] if answers.is_file() else []
    failures = [Failure(x.kind, f"{x.why}; config {i}") for i, (c, t) in enumerate(found) for x in _judged(c, t)]
    if len(found) < len(cases):
        failures.append(
            Failure("hang" if hung else "traceback", f"no answer to config {len(found)}: {cases[len(found)]}")
        )
    return Tried(len(found) + (len(found) < len(cases)), failures)


def _case(rng: random.Random, folder: pathlib.Path, number: int) -> list[str]:
    """Arguments of train.py: a file of the generator's bytes, or the generator's arguments."""
    made = fuzz_configs.config(rng)
    if isinstance(made, list):
        return made
    path = folder / f"{number}.yaml"
    path.write_bytes(made)
    return ["--config", str(path)]


def _lines(path: pathlib.Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def _judged(code: int, text: str) -> list[Failure]:
    if code == 0:
        return []
    if len(text.splitlines()) != 1:
        return [Failure("traceback", f"{len(text.splitlines())} lines for one")]
    return refused(code, text, (2,))


def _parse(cases: list[list[str]], output: str, answers: str) -> None:
    """In a process of its own: exit code and stderr of each, as a line of JSON."""
    import train

    os.chdir(pathlib.Path(answers).parent)
    processes.redirect(output)
    with open(answers, "a") as file:
        for argv in cases:
            code, text = 0, io.StringIO()
            with contextlib.redirect_stderr(text), contextlib.redirect_stdout(io.StringIO()):
                try:
                    code = train.main([*argv, "--print_config"])
                except SystemExit as left:
                    code = int(left.code or 0)
                except BaseException:
                    code = 1
                    traceback.print_exc()
            file.write(json.dumps([code, text.getvalue()]) + "\n")
            file.flush()
