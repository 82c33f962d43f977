import types

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType
from train_helpers import assert_refused, config_file, main, make_trainer, parse

import mru
from mru.training import estimate
from mru.training.messages import UserError


def config_of(folder, *argv):
    return parse(["--config", config_file(folder), "--workdir", folder / "w", *argv])


def mesh_of(data=1, seq=1, model=1):
    """A mesh of devices that are not there."""
    return AbstractMesh((data, seq, model), ("data", "seq", "model"), axis_types=(AxisType.Auto,) * 3)


def test_parameters_gradient_and_moments(here):
    """Of one LRU block without MLP, counted by hand: the cell, two norms, encoder and head."""
    config = config_of(here, "--model.cells", "lru", "--model.width", "6", "--model.state_size", "10")
    matrices, encoder_and_head, vectors = 2 * 2 * 6 * 10, 6 + 6, 3 * 10 + 6 + 2 * (2 * 6) + 6 + 1
    encoder, head = 6, 6
    values = matrices + encoder_and_head + vectors
    assert estimate.parameters(config, mesh_of()) == 4 * 4 * values
    # Matrices are split by their last axis, which of the encoder is 6, and of the head 1.
    split = (matrices + encoder) // 2 + head + vectors
    assert estimate.parameters(config, mesh_of(data=3, model=2)) == 4 * 4 * split
    unclipped = config_of(
        here, "--model.cells", "lru", "--model.width", "6", "--model.state_size", "10", "--optimizer.clip", "null"
    )
    assert estimate.parameters(unclipped, mesh_of()) == 3 * 4 * values


def test_activations(here):
    config = config_of(here, "--model.cells", "lru+pmru,s5,lru")
    assert estimate.activations(config, mesh_of()) == 3 * 8 * 20 * 8 * 4
    assert estimate.activations(config, mesh_of(data=4, seq=2)) == 3 * 2 * 10 * 8 * 4
    assert estimate.activations(config_of(here, "--model.dtype", "bfloat16"), mesh_of()) == 8 * 20 * 8 * 2


@pytest.mark.parametrize("remat", ["true", "false"])
def test_a_step_takes_more_than_the_estimate(remat, tmp_path):
    """Against XLA's own account of its buffers."""
    argv = (
        "--model.cells lru,bmru,mingru --model.dtype bfloat16 --model.width 32 --model.state_size 16 --task.length 500"
    )
    trainer = make_trainer(tmp_path, *argv.split(), "--model.remat", remat)
    state = jax.eval_shape(trainer._initial)
    batch = trainer.task.examples("train", np.arange(8))
    held = jax.jit(trainer._step, donate_argnums=0).lower(state, batch).compile().memory_analysis()
    found = held.argument_size_in_bytes + held.temp_size_in_bytes
    needed = estimate.parameters(trainer.config, trainer.mesh) + estimate.activations(trainer.config, trainer.mesh)
    assert needed < found < 50 * needed


@pytest.mark.parametrize("name", ["copy_first", "evidence", "digits"])
def test_an_example(name, here):
    task = parse(["--task.name", name]).task
    assert 3 * estimate.example(task) == sum(x.nbytes for x in task.examples("train", np.arange(3)).values())


def test_no_example_is_made_to_know_its_size(here):
    task = parse(["--task.name", "copy_first", "--task.length", 2**31 - 1]).task
    assert estimate.example(task) == 4 * (2**31 - 1) + 4


def test_what_does_not_fit_on_the_host(here, nothing_compiles, monkeypatch):
    config = config_of(here)
    batches = 2 * 8 * 10 * 4 * 21  # two elements of ten steps with eight examples of 20 inputs and a target
    needed = batches + estimate.parameters(config, mesh_of()) + estimate.activations(config, mesh_of())
    monkeypatch.setattr(estimate, "host_memory", lambda: needed)
    estimate.check(config, mesh_of())
    monkeypatch.setattr(estimate, "host_memory", lambda: None)
    estimate.check(config, mesh_of())
    monkeypatch.setattr(estimate, "host_memory", lambda: needed - 1)
    code, said = main("--config", config_file(here))
    assert_refused(code, said, [f"at least {estimate.size(needed)} of memory on the host", "train.batch_size"])
    assert not (here / "runs").exists()


def test_what_does_not_fit_on_a_device(here, monkeypatch):
    limit = []
    device = types.SimpleNamespace(platform="gpu", memory_stats=lambda: {"bytes_limit": limit[0]})
    unknown = types.SimpleNamespace(platform="gpu", memory_stats=lambda: None)
    monkeypatch.setattr(jax, "local_devices", lambda: [unknown, device])
    wide = "--model.width", "32", "--train.steps_per_dispatch", "1"
    for argv, steps, data, largest in (
        ((), 10, 1, "batches; lower train.batch_size, train.steps_per_dispatch"),
        ((), 10, 2, "batches; lower train.batch_size, train.steps_per_dispatch"),
        (wide, 1, 1, "activations, .*; lower train.batch_size, model.width"),
    ):
        config, mesh = config_of(here, *argv), mesh_of(data)
        batches = 2 * steps * 8 * 4 * 21 // data  # as on a host, and split over the devices
        needed = batches + estimate.parameters(config, mesh) + estimate.activations(config, mesh)
        limit[:] = [needed]
        estimate.check(config, mesh)
        limit[:] = [needed - 1]
        with pytest.raises(UserError, match=f"on each device, which has .* for {largest}"):
            estimate.check(config, mesh)
    wider = config_of(here, "--model.width", "4000", "--train.batch_size", "1")
    with pytest.raises(UserError, match=r"for parameters, .*; lower model\.width"):
        estimate.check(wider, mesh_of())


def test_the_host_of_a_device_makes_one_element(here, monkeypatch):
    device = types.SimpleNamespace(platform="gpu", memory_stats=lambda: None)
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    element = 8 * 10 * 4 * 21
    monkeypatch.setattr(estimate, "host_memory", lambda: element)
    estimate.check(config_of(here), mesh_of())
    monkeypatch.setattr(estimate, "host_memory", lambda: element - 1)
    with pytest.raises(UserError, match=r"on the host, which has .* for batches"):
        estimate.check(config_of(here), mesh_of())


def test_a_point_of_the_retention_curve_that_does_not_fit(here, monkeypatch):
    config = config_of(here, "--task.retention", "[20, 1000000]")
    monkeypatch.setattr(estimate, "host_memory", lambda: 16 * 4 * 1000001)
    estimate.check(config, mesh_of())
    monkeypatch.setattr(estimate, "host_memory", lambda: 16 * 4 * 1000001 - 1)
    with pytest.raises(
        UserError, match=r"task\.retention has 1,000,000: its first 16 examples need 61\.04 MiB of host memory"
    ):
        estimate.check(config, mesh_of())


def test_a_cell_that_can_not_be_made(here, nothing_compiles, monkeypatch):
    assert mru.cells.get("s5").host_bytes(8, 600, blocks=2) == (8 + 8 + 16 + 16) * 300**2
    assert mru.cells.get("lru").host_bytes(8, 600) == 0
    argv = ["--config", config_file(here), "--model.cells", "s5"]
    code, said = main(*argv, "--model.state_size", 2**22)
    assert_refused(code, said, ["model.state_size = 4194304", "s5", "768 TiB of host memory", "lower it"])
    monkeypatch.setattr(estimate, "host_memory", lambda: 48 * 2**10)
    assert parse([*argv, "--model.state_size", "32"]).model.state_size == 32
    with pytest.raises(UserError, match=r"at least 54\.19 KiB of host memory are needed, of which there are 48 KiB"):
        parse([*argv, "--model.state_size", "34"])


MEMORY = "of memory on the host, which has"
ABSURD = {
    "steps": (["--train.steps", 2**40], "train.steps = 1099511627776, allowed: below 2^31"),
    "length": (["--task.length", 10**12], "task.length = 1000000000000, allowed for copy_first"),
    "retention": (["--task.retention", f"[{2**62}]"], "task.retention = (4611686018427387904,), of which task.length"),
    "width": (["--model.width", 10**23], "model.width = 100000000000000000000000, allowed: below 2^31"),
    "state": (["--model.state_size", "1e23"], "model.state_size = 1e23, allowed: an integer > 0"),
    "expansion": (["--model.expansion", "1e23"], MEMORY),
    "expansion beyond": (
        ["--model.expansion", "1e300"],
        "model.expansion = 1e+300, allowed: a finite number of 32 bits",
    ),
    "wide": (["--model.width", 2**31 - 1, "--model.state_size", 2**31 - 2], MEMORY),
    "long": (["--task.length", 2**31 - 1, "--train.batch_size", 2**20], MEMORY),
    "many": (["--train.batch_size", 2**31 - 1], MEMORY),
    "together": (
        ["--train.steps_per_dispatch", 2**31 - 1, "--train.steps", 2**30, "--train.eval_every", 2**30],
        MEMORY,
    ),
    "s5": (["--model.cells", "s5", "--model.state_size", 2**31 - 2], "model.state_size = 2147483646: to make s5"),
    "held out": (["--task.held_out", 2**62], "task.held_out = 4611686018427387904, allowed for copy_first"),
    "mesh": (["--mesh.data", 2**62], "mesh.data = 4611686018427387904, allowed: below 2^31"),
    "an option": (
        ["--model.cells", "lru", "--model.options.lru.max_phase", "1e300"],
        "lru.max_phase = 1e+300, allowed",
    ),
}


@pytest.mark.parametrize("name", ABSURD)
def test_what_no_machine_could_do_is_refused_before_anything_is_compiled(name, here, nothing_compiles):
    arguments, part = ABSURD[name]
    code, said = main("--config", config_file(here), *arguments)
    assert_refused(code, said, [part])
    assert [path.name for path in here.iterdir()] == ["tiny.yaml"]


def test_control_groups(tmp_path):
    assert estimate.group_limits(tmp_path) == []
    groups = tmp_path / "sys/fs/cgroup"
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("9:cpu,memory:/a/b\n8:pids:/\n0::/c:d/e\n")
    for folder, name, text in (
        ("memory", "memory.limit_in_bytes", "300"),
        ("memory/a/b", "memory.limit_in_bytes", "100"),
        ("c:d", "memory.max", "50"),
        ("c:d/e", "memory.max", "max"),
        ("memory/x", "memory.limit_in_bytes", "1"),
    ):
        (groups / folder).mkdir(parents=True, exist_ok=True)
        (groups / folder / name).write_text(f"{text}\n")
    assert sorted(estimate.group_limits(tmp_path)) == [50, 100, 300]
    assert estimate.host_memory() > 10**8


def test_sizes_in_words():
    sizes = [0, 1023, 1024, 1536, 3 * 2**40, 2**70]
    assert [estimate.size(n) for n in sizes] == ["0 B", "1023 B", "1 KiB", "1.5 KiB", "3 TiB", "1024 EiB"]
