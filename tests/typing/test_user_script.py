"""What type checkers see of the library: the planted mistakes of a user's script, and nothing that is none."""

import pathlib
import re
import shutil
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).with_name("user_script.py")
ROOT = SCRIPT.parents[2]
PLANTED = {n for n, line in enumerate(SCRIPT.read_text().splitlines(), 1) if "# wrong: " in line}


def found(output, pattern):
    return {int(line) for line in re.findall(pattern, output)}


@pytest.mark.slow
def test_mypy_finds_the_planted_mistakes_alone(tmp_path):
    # As a user has it: without the settings of this repository.
    command = [sys.executable, "-m", "mypy", "--config-file=", "--cache-dir", str(tmp_path), str(SCRIPT)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert len(PLANTED) == 3
    assert found(done.stdout, r"user_script\.py:(\d+): error") == PLANTED, done.stdout + done.stderr


@pytest.mark.slow
def test_pyright_finds_the_planted_mistakes_alone():
    if not shutil.which("pyright"):
        pytest.skip("pyright is not installed")
    done = subprocess.run(
        ["pyright", "--pythonpath", sys.executable, str(SCRIPT)], cwd=ROOT, capture_output=True, text=True
    )
    if "error" not in done.stdout:
        pytest.skip(f"pyright could not run here: {done.stderr[-200:]}")
    assert found(done.stdout, r"user_script\.py:(\d+):\d+ - error") == PLANTED, done.stdout
