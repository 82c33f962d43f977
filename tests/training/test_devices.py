import os
import platform

import jax
import pytest
from train_helpers import config_file, main

from mru.training import devices


def test_compiled_programs_are_kept_where_jax_was_told_or_in_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    known = jax.config.jax_compilation_cache_dir
    devices.keep_programs()
    assert jax.config.jax_compilation_cache_dir == known
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        devices.keep_programs()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mru" / platform.node())
    finally:
        jax.config.update("jax_compilation_cache_dir", known)


def test_the_switch_for_equal_bits_is_a_flag_of_xla_beside_those_that_are_set(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=/tmp/dump")
    devices.make_deterministic()
    assert os.environ["XLA_FLAGS"].split() == ["--xla_dump_to=/tmp/dump", "--xla_gpu_deterministic_ops=true"]
    monkeypatch.delenv("XLA_FLAGS")
    devices.make_deterministic()
    assert os.environ["XLA_FLAGS"] == "--xla_gpu_deterministic_ops=true"


def test_a_run_sets_it_before_it_asks_for_a_device(monkeypatch, tmp_path):
    class Reached(Exception):
        pass

    def reached():
        raise Reached

    monkeypatch.setattr(devices, "make_deterministic", reached)
    monkeypatch.setattr(devices, "start_processes", None)
    with pytest.raises(Reached):
        main("--config", config_file(tmp_path), "--train.deterministic", "true")
