import os
import platform
import types

import jax
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


def test_train_steps_on_one_gpu_are_one_graph(monkeypatch):
    """XLA takes the options; several devices, other platforms, and a user's own word on them are left alone."""

    def mesh(platform, size=1):
        return types.SimpleNamespace(size=size, devices=np.full(size, types.SimpleNamespace(platform=platform)))

    monkeypatch.delenv("XLA_FLAGS", raising=False)
    options = devices.graph_options(mesh("gpu"))
    assert options["xla_gpu_command_buffer_scheduling_mode"] == "CONCURRENT"
    assert "WHILE" in options["xla_gpu_enable_command_buffer"].split(",")
    assert devices.graph_options(mesh("cpu")) == devices.graph_options(mesh("gpu", 2)) == {}
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_enable_command_buffer=")
    assert devices.graph_options(mesh("gpu")) == {}


def test_an_xla_without_these_options_compiles_as_it_does(monkeypatch):
    one_gpu = types.SimpleNamespace(size=1, devices=np.array([types.SimpleNamespace(platform="gpu")]))
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    plain = jax.stages.Lowered.compile

    def without(self, compiler_options=None):
        return plain(self, {name + "_of_old": value for name, value in compiler_options.items()})

    monkeypatch.setattr(jax.stages.Lowered, "compile", without)
    assert devices.graph_options(one_gpu) == {}
