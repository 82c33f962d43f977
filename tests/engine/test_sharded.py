"""The time axis over the devices of mesh axis `seq`: the numbers of one device; communication that T does not grow."""

import json
import os
import pathlib
import subprocess
import sys

import pytest


@pytest.fixture(scope="module")
def report():
    script = pathlib.Path(__file__).with_name("sharded_scans.py")
    root = script.parents[2]
    more = {"PYTHONPATH": f"{root}:{root / 'tests'}", "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}
    done = subprocess.run(
        [sys.executable, script],
        cwd=root,
        env=os.environ | more,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_states_and_gradients_are_those_of_one_device(report):
    assert len(report["errors"]) == 8 * 3 + 6 * 2 + 3 + 3 + 4 + 2
    assert {key: e for key, e in report["errors"].items() if not e <= 1e-5} == {}


def test_the_states_stay_spread_over_time(report):
    assert {steps for key, steps in report["steps"].items() if "data" in key} == {32 // 4}
    assert {steps for key, steps in report["steps"].items() if "data" not in key} == {32 // 8}


def test_communication_does_not_grow_with_time(report):
    assert len(report["collectives"]) == 8
    for name, (found, long) in report["collectives"].items():
        assert found == long, name
        state = (2 * 3) * (8 if "complex" in name else 4)  # bytes
        assert set(found) == {"all-gather", "all-reduce"}, name  # nothing of a sequence is moved
        # Two gathers, of two fields and a flag of (batch 2, channels 3) of 8 devices: one forward, one backward.
        assert found["all-gather"] == 2 * 8 * 3 * state, name
        assert found["all-reduce"] <= 3 * state, name  # cotangents of both states, and of a constant coefficient


def test_a_kernel_leaves_the_batch_where_it_is(report):
    assert report["kernel over the batch"] == 0


def test_a_time_axis_that_does_not_divide_is_refused(report):
    assert "divisible by the 8 devices of mesh axis 'seq', got T = 33" in report["refusal"]
    assert report["one step"] == [2, 1, 3]
