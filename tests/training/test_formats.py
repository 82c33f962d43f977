"""Runs that earlier versions wrote: each format of checkpoints that there has been can be loaded, and goes on.

`fixtures/format_N.tar.gz` is the folder of a run of 20 steps, stopped before its report, as the version wrote it.
"""

import pathlib
import re
import shutil
import tarfile

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from train_helpers import arrays, assert_same_arrays, logged, main, parse, steps, validations

import mru
import mru.training.checkpoint

FIXTURES = sorted((pathlib.Path(__file__).parent / "fixtures").glob("format_*.tar.gz"))


@pytest.fixture(params=FIXTURES, ids=lambda path: path.name.partition(".")[0])
def earlier(request, tmp_path):
    """The folder of the run, and the command that goes on with it."""
    with tarfile.open(request.param) as file:
        file.extractall(tmp_path, filter="data")
    workdir = tmp_path / request.param.name.partition(".")[0]
    (tmp_path / "its.yaml").write_bytes((workdir / "config.yaml").read_bytes())
    return workdir, ["--config", tmp_path / "its.yaml", "--workdir", workdir]


def test_every_format_has_its_fixture():
    numbers = [int(re.findall(r"\d+", path.name)[0]) for path in FIXTURES]
    assert sorted(numbers) == list(range(1, mru.training.checkpoint.FORMAT + 1))


def test_it_is_loaded(earlier):
    """Its arrays as Orbax reads them, and the validation that the version itself had logged."""
    workdir, argv = earlier
    task = parse(argv).task
    examples, log = task.examples("validation", np.arange(20)), validations(logged(workdir))
    assert steps(workdir) == [line["step"] for line in log] == [10, 20]
    for line in log:
        model = mru.load(workdir, line["step"])
        found, held = mru.training.checkpoint.flatten(nnx.state(model)), arrays(workdir, line["step"])
        assert_same_arrays({name: np.asarray(x) for name, x in found.items()}, {name: held[name] for name in found})
        outputs = np.asarray(model(jnp.asarray(examples["inputs"]))[0], np.float64)
        assert line["mse"] == pytest.approx(np.mean((outputs - examples["targets"]) ** 2), rel=1e-5)


def test_a_checkpoint_of_nan_that_an_earlier_version_saved_gives_way(earlier):
    """Later ones are never saved, and carry a checksum."""
    workdir, argv = earlier
    if workdir.name != "format_1":
        pytest.skip("only format 1 was saved whatever it was")
    held = mru.training.checkpoint.read(workdir, 20, "model")
    shutil.rmtree(workdir / "checkpoints/20/model")
    with ocp.StandardCheckpointer() as writer:
        writer.save(workdir / "checkpoints/20/model", {name: x * np.float32(np.nan) for name, x in held.items()})
    code, said = main(*argv)
    assert code == 0, said
    assert "warning: checkpoint 20 is damaged" in said
    assert "resumed at step 10" in said


def test_it_goes_on(earlier):
    """From step 10, and the same comes of it: the log is that of the version itself."""
    workdir, argv = earlier
    log = logged(workdir)
    (workdir / "checkpoints/20").rename(workdir / "aside")
    code, said = main(*argv)
    assert code == 0, said
    assert "resumed at step 10" in said
    assert "warning" not in said
    known = [line for line in logged(workdir) if line["split"] != "inside"]  # which those versions did not write
    for line, before in zip(known, log, strict=True):
        assert line.pop("split") == before.pop("split")
        assert line == pytest.approx(before, rel=1e-4)
    assert (workdir / "summary.json").is_file()
