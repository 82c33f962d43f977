"""The short form of the attack on configs; `tests/torture` has the long one."""

import contextlib
import random
import time

import pytest

import tasks
from mru.training import command_line
from mru.training.messages import UserError, error_line
from tests.torture import fuzz_configs

CONFIGS, SECONDS = 150, 3


@pytest.mark.parametrize("seed", range(5))
def test_a_config_is_fine_or_refused_in_one_readable_line(seed, here, nothing_compiles, capsys):
    rng = random.Random(seed)
    for _ in range(CONFIGS // 5):
        made = argv = fuzz_configs.config(rng)
        if isinstance(made, bytes):
            (here / "config.yaml").write_bytes(made)
            argv = ["--config", "config.yaml"]
        began, said = time.process_time(), "error: -"
        try:
            with contextlib.suppress(SystemExit):  # --help
                command_line.parse(argv, tasks.REGISTRY)
        except UserError as error:
            said = error_line(error)
        assert said.isprintable(), made
        assert len("error: ") < len(said) < 300, made
        assert time.process_time() - began < SECONDS, made
        assert {path.name for path in here.iterdir()} <= {"config.yaml"}, made
    assert capsys.readouterr().err == ""
