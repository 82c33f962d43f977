"""The benchmarks run and compare like with like; what they time has not grown: operations and memory, never seconds."""

import argparse
import functools
import itertools
import json
import os
import re
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.experimental import io_callback
from train_helpers import ROOT, config_file

import mru
import tasks
from benchmarks import against, checkout_steps, generate, plans, rivals, runs, selective, train
from benchmarks import input as input_pipeline
from benchmarks.measure import Foreign, compare, measure
from benchmarks.scan import FLOORS, gradient, operator
from mru.engine.kernel.plan import Plan

SHAPE = (2, 4096, 32)  # more steps than a compiler would unroll, and large against what is kept for each channel


def weights(name, shape):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return jnp.asarray(x + 0j * x if "complex" in name else x)


# Both passes by the method of CPU, in arrays of the size of the states: temporary memory and, as the compiler counts (a
# loop's body once), what is touched; and instructions of the program, of whose loops some have two steps in a round.
# Recorded with jax 0.12.
RECORDED = {
    "affine": (0.00, 5.01, 296),
    "complex affine": (0.00, 10.01, 163),
    "complex affine, slow": (0.00, 10.01, 163),
    "constant a": (0.00, 3.01, 271),
    "latch": (1.00, 5.01, 188),
    "clamp": (0.00, 5.01, 240),
    "relay (BMRU)": (0.25, 6.26, 370),
    "relay, leak 0": (0.00, 5.01, 374),
    "counter (CMRU)": (0.00, 5.01, 374),
    "play (PMRU)": (3.00, 23.01, 294),
}
MARGIN = 1.25  # for another version of the compiler


@pytest.mark.parametrize("name", FLOORS)
def test_the_program_of_both_passes_has_not_grown(name):
    scan = functools.partial(mru.scan, method="sequential")
    program = jax.jit(functools.partial(gradient, scan)).lower(operator(name, SHAPE), weights(name, SHAPE)).compile()
    temporary, touched, instructions = RECORDED[name]
    array, text = 4 * np.prod(SHAPE), program.as_text()
    assert program.memory_analysis().temp_size_in_bytes <= (temporary * MARGIN + 0.01) * array
    assert program.cost_analysis()["bytes accessed"] <= touched * MARGIN * array
    assert len(re.findall(r"^\s+(?:ROOT )?%\S+ = ", text, re.MULTILINE)) <= instructions * MARGIN
    assert len(re.findall(r" while\(", text)) == 2  # one loop forward, one backward, and none of them dropped


@pytest.mark.usefixtures("quick_compile")
@pytest.mark.parametrize("name", FLOORS)
def test_rivals_compute_the_same(name):
    shape = (2, 7, 3)
    op, g = operator(name, shape), weights(name, shape)
    expected = mru.scan(op), gradient(mru.scan, op, g)
    for rival in (rivals.associative_scan, rivals.lax_scan):
        found = rival(op), gradient(rival, op, g)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            if b.ndim:  # they differentiate the leak and the width too, which are scalars
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("quick_compile")
def test_a_rival_takes_an_initial_state():
    for name in FLOORS:
        op, h0 = operator(name, (1, 5, 3)), weights(name, (1, 3))
        np.testing.assert_allclose(rivals.associative_scan(op, h0), mru.scan(op, h0), rtol=1e-4, atol=1e-5)


def test_every_repetition_is_run():
    runs = []

    def f(x):
        return x + io_callback(lambda: runs.append(0) or np.float32(0), jax.ShapeDtypeStruct((), np.float32))

    found = measure(f, jnp.ones(3), seconds=0.01, calls=2)
    count = (len(runs) - 4) / 3  # four single runs, then one loop to warm up and two that are timed
    assert count == int(count) > 1
    assert found["seconds"] == np.median(found["timings"]) > 0
    assert len(found["timings"]) == 2
    assert found["compile_seconds"] > 0


def test_a_large_result_is_fresh_memory_in_each_run():
    found = measure(lambda x: x[:, None] + jnp.ones(2**20), jnp.ones(64), seconds=0.01, calls=1)
    assert found["page_faults"] >= 64 * 2**22 / 2**21 / 2  # 256 MiB, in pages of 2 MiB at most, or half of them


def test_a_program_that_is_not_jaxs_is_timed_beside_those_that_are():
    runs, waits = [], []
    foreign = Foreign(lambda: runs.append(time.sleep(0.002)), lambda: waits.append(len(runs)), lambda run: 7)
    ours, theirs = compare({jnp.sin: (jnp.ones(3),), foreign: ()}, seconds=0.02, calls=2).values()
    assert theirs["temporary_bytes"] == 7
    assert len(ours["timings"]) == len(theirs["timings"]) == 2
    assert theirs["seconds"] >= 0.002
    # One to warm up, three and one more single ones, and two timings of several, waited for at their end alone.
    each = (len(runs) - 5) // 2
    assert each > 1
    assert waits == [1, 2, 3, 4, 5, 5 + each, 5 + 2 * each]


@pytest.mark.usefixtures("quick_compile")
def test_tokens_are_trained_with_and_without_a_gradient_of_the_table():
    rows = list(itertools.islice(train.tokens(2, 8, 4), 3))
    assert [row["name"] for row in rows] == ["16 even, mru", "16 even, nnx.Embed", "16 even, no gradient"]
    assert all(row["seconds"] > 0 for row in rows)
    shares = [1 - np.median(np.divide(rows[2]["timings"], row["timings"])) for row in rows]
    np.testing.assert_allclose([row["gradient_share"] for row in rows], shares, rtol=1e-6, atol=1e-9)


def test_the_gradients_of_the_table_that_are_compared():
    # 1,000 steps of one token: in bfloat16, sums of ones end at 256.
    def bar(kind):
        graphdef, params = nnx.split(kind(3, 2, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
        loss = lambda params: nnx.merge(graphdef, params)(np.zeros(1000, int)).astype(jnp.float32).sum()  # noqa: E731
        return jax.grad(loss)(params)["embedding"][...]

    np.testing.assert_array_equal(bar(train.Embedding), [[1000, 1000], [0, 0], [0, 0]])
    np.testing.assert_array_equal(bar(train.CastFirst), bar(nnx.Embed))
    assert bar(train.CastFirst)[0, 0] != 1000
    np.testing.assert_array_equal(bar(train.NoGradient), np.zeros((3, 2)))


def run(*argv):
    quick = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}  # no test asks for a speed
    done = subprocess.run(
        [sys.executable, "-m", *map(str, argv)], cwd=ROOT, env=quick, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_scan_prints_a_table_and_writes_json_and_a_plot(tmp_path):
    out = tmp_path / "new" / "scan.json"
    said = run(
        "benchmarks.scan", "--shape", "1,32,4", "--operator", "affine", "--operator", "play (PMRU)", "--out", out
    )
    content = json.loads(out.read_text())
    rows = content["rows"]
    assert said.count("1,32,4") == len(rows) == 1 + 2 * 4 * 2
    assert {row["method"] for row in rows} == {
        "add", "mru auto", "mru associative", "associative_scan, autodiff", "lax.scan, autodiff"
    }  # fmt: skip
    assert all(row["seconds"] > 0 and row["roofline"] > 0 for row in rows)
    for row in rows[1:]:
        ours = next(
            r
            for r in rows
            if r["method"] == "mru auto" and (r["operator"], r["pass"]) == (row["operator"], row["pass"])
        )
        ratios = np.divide(row["timings"], ours["timings"])
        np.testing.assert_allclose(row["times_ours"], [ratios.min(), np.median(ratios), ratios.max()])
    affine = next(row for row in rows if row["operator"] == "affine" and row["pass"] == "backward")
    assert affine["floor_bytes"] == 8 * 4 * 32 * 4  # a, b -> h; a, h, g -> two cotangents
    assert {"jax", "python"} <= content["versions"].keys()
    assert content["command"].startswith("python -m benchmarks.scan --shape 1,32,4")
    assert out.with_suffix(".png").stat().st_size > 10_000


def test_selective_scans_and_layers_are_compared(tmp_path):
    out = tmp_path / "selective.json"
    run("benchmarks.selective", "--shape", "1,32,8,4", "--out", out)
    rows = json.loads(out.read_text())["rows"]
    assert [(row["part"], row["pass"]) for row in rows[::2]] == [
        ("scan", "forward"), ("scan", "backward"), ("layer", "forward"), ("layer", "backward")
    ]  # fmt: skip
    assert {row["method"] for row in rows} == {"mru auto", "associative_scan, autodiff"}
    assert all(row["seconds"] > 0 for row in rows)
    for row in rows:
        assert row["times_input"] == row["temporary_bytes"] / (4 * 32 * 8)
    assert out.with_suffix(".png").stat().st_size > 10_000


@pytest.mark.usefixtures("quick_compile")
@pytest.mark.parametrize("part", [selective.scans, selective.layers])
def test_the_rival_of_the_selective_scan_computes_the_same(part):
    (ours, make), (rival, _) = (part((2, 7, 4, 3), method) for method in (selective.OURS, selective.RIVAL))
    given = jax.jit(make)()
    g = jax.random.normal(jax.random.key(1), (2, 7, 4))
    for f in (lambda f: f(given), lambda f: selective.gradient(f, given, g)):
        a, b = f(ours), f(rival)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), a, b)


def test_train_measures_layers_and_steps(tmp_path):
    out = tmp_path / "train.json"
    run("benchmarks.train", "--part", "layer", "--part", "step", "--longest", "256", "--out", out)
    rows = json.loads(out.read_text())["rows"]
    layers = {row["name"] for row in rows if row["part"] == "layer"}
    assert layers - {"memax LRU"} == {"bmru", "pmru", "lru", "GRU (nnx.RNN)"}
    steps = {row["name"]: row for row in rows if row["part"] == "step"}
    assert {"bmru", "pmru", "s5", "stack of 4 bmru"} <= steps.keys()
    times = [row[key] for row in steps.values() for key in ("seconds", "seconds_called")]
    assert min(times) > 0
    assert len(set(times)) == len(times)  # each was measured
    assert out.with_suffix(".png").stat().st_size > 10_000


def test_newton_counts_iterations_and_times_layers(tmp_path):
    out = tmp_path / "newton.json"
    said = run(
        "benchmarks.newton", "--longest", "256", "--series", "BRC, newton", "--series", "GRU (nnx.RNN)", "--out", out
    )
    rows = json.loads(out.read_text())["rows"]
    counted, timed = ([row for row in rows if row["part"] == part] for part in ("iterations", "time"))
    most = {(row["input"], row["gain"]): max(row["iterations"]) for row in counted}
    assert {kind for kind, _ in most} == {"white noise", "copy first", "sparse flips"}
    # Monostable it takes a few iterations; bistable more, and where they are too many the states are the loop's.
    assert all(count <= 6 for (_, gain), count in most.items() if gain < 1)
    assert most["sparse flips", 1.95] > 20
    assert all(row["distance_from_loop"] < 1e-6 for row in counted if row["gain"] < 1 or not all(row["converged"]))
    assert {row["name"]: row["speedup"] == 1 for row in timed} == {"BRC, newton": False, "GRU (nnx.RNN)": True}
    assert all(row["seconds"] > 0 and row["length"] == 256 for row in timed)
    assert said.count("T = 256") == 2
    assert out.with_suffix(".png").stat().st_size > 10_000


def test_generate_measures_every_model_at_every_context(tmp_path):
    out = tmp_path / "generate.json"
    options = ["--longest", "256", "--blocks", "1", "--width", "16", "--tokens", "3", "--repeats", "2"]
    run("benchmarks.generate", *options, "--out", out)
    rows = json.loads(out.read_text())["rows"]
    expected = {name for name in generate.MODELS if name.split(",")[0] in mru.cells.names()}
    assert {(row["name"], row["context"]) for row in rows} == {(name, n) for name in expected for n in (64, 256)}
    assert all(0 < row["fastest"] <= row["seconds"] <= row["slowest"] for row in rows)
    held = {(row["name"], row["context"]): row["state_bytes"] for row in rows}
    assert held["pmru", 64] == held["pmru", 256] > 0
    assert held[generate.CACHED, 256] > 3.9 * held[generate.CACHED, 64]
    assert out.with_suffix(".png").stat().st_size > 10_000


@pytest.mark.usefixtures("quick_compile")
def test_a_cache_generates_what_reading_all_again_does():
    """In one block, whose keys do not depend on what has left the window."""
    tokens = jax.random.randint(jax.random.key(1), (1, 24), 0, generate.VOCABULARY, jnp.int32)
    cached, uncached = (generate.Generator(name, 1, 16, 24) for name in (generate.CACHED, generate.UNCACHED))
    token, state = cached.read(tokens)
    found, expected = [int(token[0])], []
    for _ in range(5):
        token, state = cached.go_on(token, state, 1)
        found.append(int(token[0]))
    for _ in range(6):
        tokens, _ = uncached.go_on(tokens, None, 1)
        expected.append(int(tokens[0, -1]))
    assert found == expected
    assert len(set(found)) > 2


@pytest.mark.usefixtures("quick_compile")
def test_runs_clock_each_check_and_leave_them_out(tmp_path):
    """Both ways train alike: the same numbers come of them."""
    argv = ["--config", str(config_file(tmp_path))]
    timed, unchecked = (runs.run(way, argv) for way in ("as is", "unchecked"))
    assert sorted(timed["check_seconds"]) == [
        "batches.require_finite",
        "checkpoint.table",
        "log.require_finite",
        "resume.require_finite",
    ]
    assert all(seconds > 0 for seconds in timed["check_seconds"].values())
    assert 0 < timed["share_of_checks"] < 1
    assert not any(unchecked["check_seconds"].values())
    assert set(unchecked["arrays"]) == {0}
    assert 0 not in timed["arrays"]


@pytest.mark.usefixtures("quick_compile")
def test_input_is_what_a_step_with_the_pipeline_takes_longer(tmp_path, monkeypatch):
    """A pipeline that is slow on purpose: of 10 steps a call it makes 2 calls, one in each thread, in 0.2 s."""
    examples = tasks.get("digits")._examples

    def slow(*args):
        time.sleep(0.2)
        return examples(*args)

    monkeypatch.setattr(tasks.get("digits"), "_examples", slow)
    tiny = ["--model.cells", "lru", "--model.width", "4", "--model.state_size", "2", "--train.batch_size", "2"]
    missing, row = input_pipeline.rows(["smnist", "digits"], str(tmp_path), tiny, repeats=3, seconds=0.01)
    assert missing["task"] == "smnist"
    assert f"has no mnist; run: python -m tasks.prepare smnist --data_dir {tmp_path}" in missing["missing"]
    assert (row["batch"], row["steps_per_call"], row["length"]) == (2, 10, 64)
    assert 0 < row["steps_per_second"] < 250
    assert 0 < row["pipeline_steps_per_second"] < 250
    pairs = zip(row["seconds_with_input"], row["seconds_cached"], strict=True)
    assert row["share_of_input"] == np.median([1 - b / a for a, b in pairs])
    assert row["share_of_input"] > 0.3
    assert row["pipeline_examples_per_second"] == 2 * row["pipeline_steps_per_second"]
    assert "not measured: " in input_pipeline.line(missing)
    assert f"{100 * row['share_of_input']:.1f} %" in input_pipeline.line(row)
    input_pipeline.draw([missing, row], tmp_path / "input.png")
    assert (tmp_path / "input.png").stat().st_size > 10_000


def test_plans_are_compared(tmp_path):
    """Interpreted; the plan that is chosen is among them."""
    out = tmp_path / "plans.json"
    run("benchmarks.plans", "--shape", "1,64,8", "--operator", "affine", "--plan", "8,16,2,1,1,1,1", "--out", out)
    rows = json.loads(out.read_text())["rows"]
    expected = ("8,16,2,1,1,1,1", False), ("32,512,1,8,4,2,1", True)
    assert [(row["pass"], row["plan"], row["chosen"]) for row in rows] == [
        (which, *plan) for which in ("forward", "backward") for plan in expected
    ]
    assert all(row["seconds"] > 0 and row["roofline"] > 0 for row in rows)
    op = operator("affine", (1, 64, 8))
    h0 = op.zero_state()[:, 0]
    # Chunks are composed, followed and walked; programs that look back are one call.
    for plan, calls in ((Plan(8, 16, 2), 3), (Plan(32, 512, group=8, era=4, parts=2), 1)):
        text = str(jax.make_jaxpr(functools.partial(plans.forward, plan))(op, h0))
        assert text.count("pallas_call[") == calls
    # A relay has a number that is no array until it is scanned.
    first = next(plans.rows((1, 4, 2), ["relay (BMRU)"], []))
    assert first["chosen"]
    assert first["seconds"] > 0
    for wrong in (
        "32,512,2,8,4,2,1", "32,512,1,8,4,2", "24,512,1,8,4,2,1", "32,x,1,8,4,2,1", "32,512,1,8,4,3,1",
        "8,16,2,1,4,1,1", "64,128,8,1,1,1,3",
    ):  # fmt: skip
        with pytest.raises(argparse.ArgumentTypeError, match=r"seven numbers such as 32,512,1,8,4,2,1.*got '" + wrong):
            plans.text_of_a_plan(wrong)


def test_against_another_checkout(monkeypatch, tmp_path):
    """Each round compares the two checkouts; the least, median and most of the rounds are reported."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks/train.py").touch()
    at = {"name": "lru", "dtype": "float32", "batch": 16, "length": 784, "width": 64, "temporary_bytes": 2**20}
    seconds = {tmp_path: iter([3.0, 4.0, 9.0]), against.HERE: iter([1.0, 2.0, 2.0])}
    monkeypatch.setattr(against, "measured_in", lambda checkout, *_: [at | {"seconds": next(seconds[checkout])}])
    (row,) = against.rows(tmp_path, 3, [])
    assert row["seconds_before"] == [3, 4, 9]
    assert row["seconds"] == [1, 2, 2]
    assert row["times_faster"] == [2, 3, 4.5]
    assert row["steps_per_second"] == 0.5
    assert "2.00 to 3.00 to 4.50 times as fast" in against.line(row)
    monkeypatch.setattr(checkout_steps, "SETTINGS", {jax.default_backend(): (2, 4, 3, ["bmru"], ["float32"])})
    (found,) = checkout_steps.measured(["lru"])
    assert found.pop("seconds") > 0
    assert found.pop("temporary_bytes") > 2 * 784 * 4 * 8  # the states, at least
    assert found == {"name": "lru", "dtype": "float32", "batch": 2, "length": 784, "width": 4}
    layers = checkout_steps.gradient_of_layers("lru", 2, 8, 4)
    assert layers.pop("seconds") > 0
    assert layers.pop("temporary_bytes") > 4 * 2 * 8 * 4 * 8  # the complex states of four layers
    assert layers == {"name": "lru x 4", "dtype": "float32", "batch": 2, "length": 8, "width": 4}
    monkeypatch.setattr(sys, "argv", ["against", str(tmp_path / "benchmarks")])
    with pytest.raises(SystemExit, match=r"checkout must be a folder with benchmarks/train\.py, got"):
        against.main()
