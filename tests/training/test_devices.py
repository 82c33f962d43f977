import os
import platform
import types

import jax
import jax.numpy as jnp
import numpy as np
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


class Device(types.SimpleNamespace):
    """What stands for one, with so many bytes of memory."""

    def memory_stats(self):
        return {"bytes_limit": self.bytes}


def one(platform="gpu", size=1, memory=2**30):
    """What stands for a mesh."""
    return types.SimpleNamespace(size=size, devices=np.full(size, Device(platform=platform, bytes=memory)))


@pytest.fixture
def asked(monkeypatch):
    """The options that programs are compiled with, which XLA knows whatever it compiles for."""
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    compile, found = jax.stages.Lowered.compile, []

    def watched(self, compiler_options=None):
        found.append(compiler_options)
        return compile(self, compiler_options)

    monkeypatch.setattr(jax.stages.Lowered, "compile", watched)
    return found


LOWERED = jax.jit(lambda x: jnp.sin(x) @ jnp.cos(x)).lower(jnp.ones((64, 64)))


def test_train_steps_on_one_gpu_are_one_graph(asked):
    program = devices.compiled(LOWERED, one())
    assert program(jnp.zeros((64, 64))).sum() == 0
    (options,) = asked
    assert options["xla_gpu_command_buffer_scheduling_mode"] == "CONCURRENT"
    assert "WHILE" in options["xla_gpu_enable_command_buffer"].split(",")


def test_other_devices_and_what_a_user_says_are_left_alone(asked, monkeypatch):
    devices.compiled(LOWERED, one("cpu"))
    devices.compiled(LOWERED, one(size=2))
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_enable_command_buffer=")
    devices.compiled(LOWERED, one())
    assert asked == [None, None, None]


def test_a_graph_that_takes_too_much_memory_is_none(asked):
    temporary = LOWERED.compile().memory_analysis().temp_size_in_bytes
    assert temporary > 0
    asked.clear()
    devices.compiled(LOWERED, one(memory=temporary))
    assert [bool(options) for options in asked] == [True, False]


def test_an_xla_without_these_options_compiles_as_it_does(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    compile = jax.stages.Lowered.compile

    def without(self, compiler_options=None):
        return compile(self, {name + "_of_old": value for name, value in (compiler_options or {}).items()})

    monkeypatch.setattr(jax.stages.Lowered, "compile", without)
    assert devices.compiled(LOWERED, one())(jnp.zeros((64, 64))).sum() == 0
