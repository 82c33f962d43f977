"""What the README shows works: its code blocks, its commands, its links."""

import dataclasses
import json
import pathlib
import re
import shlex
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import image

import mru
import tasks
from mru.engine.kernel import plan as kernel_plan
from mru.training import command_line, commands

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
# The files of a package of somebody else's; `test_other_package.py` compares and runs them.
OTHERS = README.split("## Your own cell and task, in your own package")[1].split("\n## ")[0]
OWN = README.replace(OTHERS, "")
BLOCKS = re.findall(r"^```python\n(.*?)^```", OWN, re.S | re.M)
TRAIN = [line[line.index("python train.py") :] for line in OWN.splitlines() if "python train.py --" in line]


def test_there_is_something_to_test():
    assert len(BLOCKS) >= 3
    assert len(TRAIN) >= 4


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_code_block(number):
    # A process of its own: what one block defines must not help the next.
    subprocess.run([sys.executable, "-W", "error", "-c", BLOCKS[number]], cwd=ROOT, check=True)


@pytest.mark.parametrize("command", TRAIN)
def test_train_command_parses(command, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    np.savez(tmp_path / "data.npz", x=np.zeros((20, 3)), y=np.arange(20) % 2)  # the user's own
    command = command.replace("data.npz", str(tmp_path / "data.npz"))
    command = re.sub(r"\[[^]]*\]|`.*|[&;\"].*|\\$", "", command)
    argv = [word.replace("$i", "1") for word in shlex.split(command)[2:]]
    if "--distributed.coordinator_address" in argv:  # goes on in the next line
        argv += ["--distributed.num_processes", "2", "--distributed.process_id", "1"]
    if (asked := commands.asked(argv)) is not None:
        assert asked.folders
    elif "--help" in argv:
        with pytest.raises(SystemExit, match="0"):
            command_line.parse(argv, tasks.REGISTRY)
    else:
        assert command_line.parse(argv, tasks.REGISTRY).train.steps > 0


def test_links_and_named_files_exist():
    named = set(re.findall(r"\]\(([^)#:]+)\)", README)) | set(re.findall(r"`((?:configs|tasks|mru)/[\w/.]+)`", README))
    assert len(named) > 5
    assert not [path for path in named if not (ROOT / path).exists()]


def test_every_cell_has_its_row():
    table = README.split("\n## Cells\n")[1].split("\n## ")[0]
    named = re.findall(r"^\| `(\w+)` \|", table, re.M)
    assert sorted(named) == [name for name in mru.cells.names() if not name.startswith("test_")]


def test_the_tables_of_results_are_what_was_measured():
    table = re.findall(r"^\| `configs/(\w+)/(\w+)\.yaml`[^|]*\| (.*) \|$", README, re.M)
    long = {"listops", "pathfinder", "image", "fsdd", "text", "shakespeare"}
    assert {task for task, *_ in table} == {"copy_first", "evidence", "mod_k", "psmnist"} | long
    lengths = {"copy_first": ("200", "20000", "1000000"), "evidence": ("200", "2000")}
    for task, name, shown in table:
        files = sorted((ROOT / "results" / task).glob(f"{name}*.json"))
        files = [path for path in files if re.fullmatch(rf"{name}(_rerun|_seed\d)?", path.stem)]
        runs = [json.loads(path.read_text()) for path in files]
        if task == "psmnist":
            accuracy = ", ".join(f"{run['test']['accuracy']:.4f}" for run in runs)
            assert shown == f"{accuracy} | " + ", ".join(f"{run['seconds']['wall']:.0f} s" for run in runs)
        elif task in long:
            (run,) = runs
            found = [run[split][run["metric"]] for split in ("validation", "test")]
            for value, number in zip(shown.split(" | ")[1:], found, strict=True):
                assert value == f"{number:.{len(value) - 2}f}"
        elif task == "mod_k":
            five, two = (json.loads((ROOT / "results" / task / f"{x}{name}.json").read_text()) for x in ("", "parity_"))
            curve = [run["retention"][length] for run in (five, two) for length in ("64", "4096")]
            for value, found in zip(shown.split(" | "), curve, strict=True):
                assert value == f"{found:.{len(value) - 2}f}"
        else:
            for value, length in zip(shown.split(" | "), lengths[task], strict=True):
                assert value == f"{runs[0]['retention'][length]:.{len(value) - 2}f}"


def measured(file, shape):
    rows = json.loads((ROOT / "results" / "benchmarks" / file).read_text())["rows"]
    return {(r["operator"], r["method"]): r for r in rows if r["shape"] == shape and r["pass"] == "backward"}


def milliseconds(row, digits):
    return f"{1e3 * row['seconds']:.{digits}f} ms"


def mebibytes(row):
    return f"{row['temporary_bytes'] / 2**20:.0f} MiB"


def of_three(times):
    return "{1:.2f} ({0:.2f} to {2:.2f})".format(*times)


def test_the_tables_of_speed_are_what_was_measured():
    rows = measured("scan-cpu.json", [4, 16384, 64])
    table = re.findall(r"^\| (.*) \| (.* ms) \| (.*\)) \| (.*\)) \| (.* MiB) \| (.* MiB) \|$", README, re.M)
    assert len(table) == len({operator for operator, _ in rows})
    for operator, *shown in table:
        ours, loop, tree = (rows[operator, m] for m in ("mru auto", "lax.scan, autodiff", "associative_scan, autodiff"))
        spread = ["{1:.1f} ({0:.1f} to {2:.1f})".format(*row["times_ours"]) for row in (loop, tree)]
        assert shown == [milliseconds(ours, 0), *spread, mebibytes(ours), mebibytes(tree)]


def test_the_tables_of_speed_on_a_gpu_are_what_was_measured():
    files = "scan-gpu-one-pass.json", "affine-gpu.json", "complex-gpu.json", "scan-gpu-short.json"
    rows, shorter = ({}, {})
    for file in files:  # the later ones are of later commits
        rows |= measured(file, [8, 16384, 512])
        shorter |= measured(file, [32, 1024, 512])
    table = re.findall(r"^\| (.*) \| (.* ms) \| (.* x) \| (.* x) \| (.* MiB) \|$", README, re.M)
    assert len(table) == len({operator for operator, _ in rows})
    for operator, *shown in table:
        ours, there = rows[operator, "mru auto"], shorter[operator, "mru auto"]
        floors = [f"{1 / row['roofline']:.2f} x" for row in (ours, there)]
        assert shown == [milliseconds(ours, 2), *floors, mebibytes(ours)]
    shapes = [8, 16384, 512], [32, 1024, 512], [1, 65536, 256]
    table = re.findall(r"^\| (accelerated-scan.*|fla.*) \| (\w+) \| (.*) \| (.*) \| (.*) \|$", README, re.M)
    assert len(table) == 4
    affine, earlier = (json.loads((ROOT / "results/benchmarks" / file).read_text()) for file in (files[1], files[0]))
    for rival, which, *shown in table:
        every = affine["rows"] + (earlier["rows"] if rival.startswith("fla") else [])
        spread = {tuple(r["shape"]): r["times_ours"] for r in every if (r["method"], r["pass"]) == (rival, which)}
        assert shown == [of_three(spread[tuple(shape)]) for shape in shapes]
    ours = measured(files[1], shapes[-1])["affine", "mru auto"]
    assert f"At (1, 65536, 256) ours takes {1 / ours['roofline']:.2f} times the floor" in README
    quieter = affine["rows_of_a_quieter_host"]
    least, median, most = next(r["times_ours"] for r in reversed(quieter) if r["method"].startswith("accelerated"))
    assert f"took {median:.2f} of ours in a run on a quieter host ({least:.2f} to {most:.2f})" in README


def test_what_is_said_of_complex_maps_is_what_was_measured():
    file, operators = "complex-gpu.json", ("complex affine", "complex affine, slow")
    shorter, single = (measured(file, shape) for shape in ([32, 1024, 512], [1, 65536, 256]))
    rows = json.loads((ROOT / "results/benchmarks" / file).read_text())["rows"]
    (add,) = (r for r in rows if r["shape"] == [32, 1024, 512] and r["operator"] == "add")
    ours = [shorter[operator, "mru auto"] for operator in operators]
    of_medians = [r["seconds"] / add["seconds"] * add["floor_bytes"] / r["floor_bytes"] for r in ours]
    twice = [1 / single[operator, "mru auto"]["roofline"] for operator in operators]
    said = README[README.index('In "complex affine, slow"') :].split("\n\n")[0]
    assert re.findall(r"\b\d\.\d\d\b", said) == [f"{times:.2f}" for times in of_medians + twice]


@pytest.mark.parametrize("shape", [(8, 16384, 512), (32, 1024, 512), (1, 65536, 256)])
def test_complex_maps_that_fade_slowly_are_divided_as_was_fastest(shape):
    batch, time, channels = shape
    fields = jax.ShapeDtypeStruct(shape, jnp.complex64)
    plan = kernel_plan.plan(fields.update(shape=(batch, channels)), time, mru.Affine(fields, fields))
    chosen = ",".join(map(str, dataclasses.astuple(plan)))
    rows = json.loads((ROOT / "results/benchmarks/complex-plans-gpu.json").read_text())["rows"]
    at = "complex affine, slow", shape, "backward"
    slow = {r["plan"]: 1 / r["roofline"] for r in rows if (r["operator"], tuple(r["shape"]), r["pass"]) == at}
    assert slow[chosen] == min(slow.values())


def test_the_table_of_steps_against_another_commit_is_what_was_measured():
    rows = json.loads((ROOT / "results/benchmarks/against-gpu.json").read_text())["rows"]
    table = re.findall(r"^\| (\w+), (\w+) \| (\d+) \| (.*\)) \| (.* MiB) \| (.* MiB) \|$", README, re.M)
    for row, (name, dtype, rate, faster, *memory) in zip(rows, table, strict=True):
        assert (name, dtype) == (row["name"].upper(), row["dtype"])
        assert rate == f"{row['steps_per_second']:.0f}"
        assert faster == of_three(row["times_faster"])
        assert memory == [f"{row[key] / 2**20:,.0f} MiB" for key in ("temporary_bytes", "temporary_bytes_before")]


def test_what_is_said_of_another_commit_on_a_cpu_is_what_was_measured():
    model, layers = json.loads((ROOT / "results/benchmarks/against-cpu.json").read_text())["rows"]
    now, before = (round(layers[key] / 2**20) for key in ("temporary_bytes", "temporary_bytes_before"))
    least, median, most = layers["times_faster"]
    assert (
        f"takes {now} MiB of temporary memory where at commit 30ead9f it\ntook {before}, and is {median:.2f} times"
        in README
    )
    assert f"({least:.2f} to {most:.2f}, seven rounds" in README
    assert f"with norms and MLPs {model['times_faster'][1]:.2f} times" in README


def test_what_associative_scan_takes_is_what_was_measured():
    rows = measured("scan-gpu.json", [8, 16384, 512])
    trees = {operator: row for (operator, method), row in rows.items() if method == "associative_scan, autodiff"}
    ratios = [row["seconds"] / rows[operator, "mru auto"]["seconds"] for operator, row in trees.items()]
    most = max(row["temporary_bytes"] for row in trees.values()) / 2**30
    found = re.findall(
        r"takes ([\d.]+) to ([\d.]+) times as long as an earlier commit of ours, and up to ([\d.]+)", README
    )
    assert found == [(f"{min(ratios):.1f}", f"{max(ratios):.1f}", f"{most:.1f}")]


def test_where_we_lose_is_all_of_where_we_lose():
    rows = json.loads((ROOT / "results/benchmarks/scan-cpu.json").read_text())["rows"]
    lost = [
        (f"{tuple(r['shape'])}", r["operator"], r["pass"], r["method"].split(",")[0], of_three(r["times_ours"]))
        for r in rows
        if r["operator"] != "add" and not r["method"].startswith("mru") and r["times_ours"][1] < 1
    ]
    assert re.findall(r"^\| (\(.*\)) \| (.*) \| (\w+) \| `(.*)` \| (.*) \|$", README, re.M) == lost


def test_the_page_faults_are_what_was_counted():
    file = ROOT / "results/benchmarks/scan-cpu-large-pages.json"
    few = [r for r in json.loads(file.read_text())["rows"] if r["pass"] == "backward"]
    few = {r["method"]: r for r in few if r["operator"] == "affine"}
    rows = measured("scan-cpu.json", [4, 16384, 64])
    ours, loop = "mru auto", "lax.scan, autodiff"
    pages = [f"{rows['affine', method]['page_faults']:,}" for method in (ours, loop)]
    assert re.findall(r"that is ([\d,]+) pages a run of ours, and ([\d,]+) of `lax.scan`", README) == [tuple(pages)]
    times = [milliseconds(row, 0)[:-3] for method in (loop, ours) for row in (few[method], rows["affine", method])]
    found = re.findall(r"`lax.scan` then took (\d+) ms for (\d+), and ours (\d+)\s+for (\d+)", README)
    assert found == [tuple(times)]


def test_the_table_of_training_is_what_was_measured():
    rows = json.loads((ROOT / "results" / "benchmarks" / "train-gpu.json").read_text())["rows"]
    rate = {(r["name"], r["dtype"]): f"{r['steps_per_second']:.0f}" for r in rows if r["part"] == "psmnist"}
    table = re.findall(r"^\| (\w+), (\w+) \| (\d+) \| (\d+) \| (\d+) \|$", README, re.M)
    assert 3 * len(table) == len(rate)
    for cell, dtype, *shown in table:
        methods = "mru auto", "associative_scan, autodiff", "no scan"
        assert shown == [rate[f"{cell.lower()}, {method}", dtype] for method in methods]


def test_retention_figure_command(tmp_path):
    """Its braces are a shell's."""
    (command,) = re.findall(r"`(python train\.py --plot results/copy_first.*)`", README)
    command = command.replace("python", sys.executable, 1).replace("--out results", f"--out {tmp_path}")
    subprocess.run(["bash", "-c", command], cwd=ROOT, check=True)
    drawn, shown = (image.imread(folder / "retention.png") for folder in (tmp_path, ROOT / "results"))
    assert drawn.shape == shown.shape
