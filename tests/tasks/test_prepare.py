import errno
import gzip
import hashlib
import importlib.metadata
import itertools
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_set import DATA, NUMBERS, SHA256, fails, left_in, made

import tasks
from tasks import prepare
from tasks._datasets import SETS, base, preparation, store

ROOT = Path(__file__).parents[2]


def test_generated_task_needs_nothing(capsys):
    prepare.main(["copy_first"])
    assert capsys.readouterr().out == "copy_first needs no data set: nothing to prepare\n"


def test_unknown_task_lists_the_known(capsys):
    line = fails(capsys, "imagenet")
    assert "unknown task 'imagenet'; known tasks: " in line
    assert "copy_first" in line
    assert "sets: mnist, fashion_mnist" in line


def test_bad_arguments_are_one_line(capsys):
    assert "expected the name of a task or data set, or --list" in fails(capsys)
    assert "without a name" in fails(capsys, "psmnist", "--list")
    assert "--sauce" in fails(capsys, "psmnist", "--sauce", "x")


def test_every_task_names_a_set_that_is_declared():
    named = {getattr(tasks.get(name), "dataset", "") for name in tasks.names()}
    # Those of other resolutions are named by an option.
    assert named - {""} == set(SETS) - {"pathfinder_64"}
    # Of a name that is both, the task reads the set.
    assert all(tasks.get(name).dataset == name for name in {*SETS} & {*tasks.names()})


def test_sets_without_checksums_are_not_taken_for_the_same_everywhere():
    assert {name for name, dataset in SETS.items() if dataset.identity is None} == {"aan", "speech_commands_16k"}


def test_prepared_once_and_mapped_into_memory(use, source, data_dir, capsys):
    use(made())
    prepare.main(["made_set", "--source", source, "--data_dir", data_dir])
    said = capsys.readouterr()
    assert said.out == f"made_set is in {data_dir}/made_set/arrays\n"
    assert "\r" not in said.err
    assert "checking numbers.gz: 100%" in said.err
    folder = Path(data_dir) / "made_set" / "arrays"
    held = json.loads((folder / "manifest.json").read_text())
    assert (held["name"], held["version"], held["licence"], held["made_from"]) == ("made_set", 1, "none", "numbers.gz")
    for file, about in held["files"].items():
        assert hashlib.sha256((folder / file).read_bytes()).hexdigest() == about["sha256"]
        assert (folder / file).stat().st_size == about["bytes"]
    assert held["files"]["numbers.npy"]["shape"] == [5000]
    arrays = SETS["made_set"].load(data_dir, "task")
    assert isinstance(arrays["numbers"], np.memmap)
    assert not arrays["numbers"].flags.writeable
    np.testing.assert_array_equal(arrays["numbers"], NUMBERS)
    assert left_in(data_dir) == ["arrays"]
    before = (folder / "numbers.npy").stat().st_mtime_ns
    prepare.main(["made_set", "--data_dir", data_dir])  # of which nothing more is read or fetched
    assert capsys.readouterr() == (f"made_set is in {folder} already\n", "")
    assert (folder / "numbers.npy").stat().st_mtime_ns == before


@pytest.mark.parametrize("subfolder", ["made_set", "made-set"])
def test_source_with_a_folder_for_each_set(use, source, data_dir, subfolder):
    use(made())
    inner = Path(source) / subfolder
    inner.mkdir()
    (Path(source) / "numbers.gz").rename(inner / "numbers.gz")
    prepare.prepare("made_set", data_dir, source)
    assert left_in(data_dir) == ["arrays"]


def test_source_that_lacks_files(capsys, tmp_path):
    (tmp_path / "train-images-idx3-ubyte.gz").touch()
    line = fails(capsys, "psmnist", "--data_dir", str(tmp_path / "data"), "--source", str(tmp_path))
    assert line.endswith("lacks train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz, t10k-labels-idx1-ubyte.gz")
    absent = fails(capsys, "psmnist", "--data_dir", str(tmp_path / "data"), "--source", str(tmp_path / "no"))
    assert absent.endswith("/no is no folder")
    assert "lacks cifar-10-binary.tar.gz, or else cifar10_train_med.xz" in fails(
        capsys, "cifar10", "--data_dir", str(tmp_path / "data"), "--source", str(tmp_path)
    )


@pytest.mark.parametrize("damaged", [DATA[:-20], DATA[:40] + b"x" + DATA[41:], b""], ids=["short", "changed", "empty"])
def test_damaged_or_truncated_original_is_refused(use, source, data_dir, capsys, damaged):
    use(made())
    path = Path(source) / "numbers.gz"
    path.write_bytes(damaged)
    line = fails(capsys, "made_set", "--source", source, "--data_dir", data_dir)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    assert f"wrong checksum: {path} has SHA-256 {found}, not {SHA256}" in line
    assert left_in(data_dir) == []


def test_damaged_original_without_a_checksum(use, source, data_dir, capsys):
    use(made(sha256=""))
    (Path(source) / "numbers.gz").write_bytes(DATA[:-20])
    assert "the originals of made_set can not be read: " in fails(
        capsys, "made_set", "--source", source, "--data_dir", data_dir
    )
    assert left_in(data_dir) == []


def test_arrays_of_a_known_checksum_are_compared_with_it(use, source, data_dir, capsys):
    known = hashlib.sha256(NUMBERS.tobytes()).hexdigest()
    use(replace(made(sha256=""), sha256=(("numbers", known),)))
    prepare.prepare("made_set", data_dir, source)
    other = gzip.compress(NUMBERS[::-1].tobytes())
    (Path(source) / "numbers.gz").write_bytes(other)
    line = fails(capsys, "made_set", "--source", source, "--data_dir", data_dir + "2")
    assert "wrong checksum: numbers of made_set" in line
    assert left_in(data_dir + "2") == []


def test_full_disk_leaves_nothing(use, source, data_dir, capsys, monkeypatch):
    use(made())

    def full(file, array, **options):
        file.write(b"some")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    line = fails(capsys, "made_set", "--source", source, "--data_dir", data_dir)
    assert f"no space left for made_set in {data_dir}/made_set" in line
    assert left_in(data_dir) == []


@pytest.mark.parametrize("number", [1, 3, 5])  # the header of an array, one of its rows, the manifest
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_disk_that_is_full_at_any_time_leaves_nothing(use, source, data_dir, capsys, monkeypatch, number, code):
    """Also while the rows of an array come one by one."""
    done = []

    def full(real):
        def write(*args):
            done.append(args)
            if len(done) == number:
                raise OSError(code, "No room")
            return real(*args)

        return write

    rows = lambda paths: iter([("numbers", store.Rows(NUMBERS.reshape(2, -1), (2, 2500), np.int16))])  # noqa: E731
    use(made(arrays=rows))
    monkeypatch.setattr(store._Hashing, "write", full(store._Hashing.write))
    monkeypatch.setattr(store, "_to_disk", full(store._to_disk))
    line = fails(capsys, "made_set", "--source", source, "--data_dir", data_dir)
    assert f"no space left for made_set in {data_dir}/made_set" in line
    assert left_in(data_dir) == []
    done.extend(range(9))  # when there is room again, it goes on
    prepare.prepare("made_set", data_dir, source)
    np.testing.assert_array_equal(SETS["made_set"].load(data_dir, "x")["numbers"].ravel(), NUMBERS)


def test_set_without_examples_of_a_part_is_refused(use, source, data_dir, capsys, tmp_path):
    use(made(arrays=lambda paths: iter([("numbers", NUMBERS), ("few", np.zeros((0, 3)))])))
    line = fails(capsys, "made_set", "--source", source, "--data_dir", data_dir)
    assert line == "error: few of made_set is empty: its originals have nothing of it; fetch them again"
    assert left_in(data_dir) == []
    for part in ("train", "eval", "test"):
        (tmp_path / f"new_aan_pairs.{part}.tsv").write_text("" if part == "eval" else "1\ta\tb\tone\ttwo\n")
    line = fails(capsys, "retrieval", "--source", str(tmp_path), "--data_dir", data_dir)
    assert "validation_pairs of aan is empty" in line


def test_data_directory_that_is_a_file(use, source, capsys, tmp_path):
    use(made())
    (tmp_path / "file").write_text("mine")
    assert str(tmp_path / "file") in fails(capsys, "made_set", "--source", source, "--data_dir", str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "mine"


def test_interrupted_prepare_leaves_nothing(use, source, data_dir, capsys):
    def interrupted(paths):
        yield "numbers", NUMBERS
        raise KeyboardInterrupt

    use(made(arrays=interrupted))
    assert "interrupted" in fails(capsys, "made_set", "--source", source, "--data_dir", data_dir)
    assert left_in(data_dir) == []


KILLED = """
import sys, time
sys.path[:0] = {path!r}
import made_set as t
from tasks._datasets import SETS
def slow(paths):
    yield from t.read(paths)
    print("half", flush=True)
    time.sleep(600)
SETS["made_set"] = t.made(arrays=slow)
t.prepare.main(["made_set", "--source", {source!r}, "--data_dir", {data_dir!r}])
"""


def test_killed_prepare_is_not_taken_for_complete(use, source, data_dir, capsys):
    code = KILLED.format(path=[str(ROOT), str(Path(__file__).parent)], source=source, data_dir=data_dir)
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    with process:
        assert process.stdout.readline() == "half\n"
        use(made())
        # While it runs, no other may write there.
        assert "is being prepared by another process" in fails(
            capsys, "made_set", "--source", source, "--data_dir", data_dir
        )
        process.send_signal(signal.SIGKILL)
    assert left_in(data_dir) == ["arrays.part"]
    assert preparation.state(SETS["made_set"], data_dir).said == "missing"
    with pytest.raises(tasks.MissingData, match=r"has no made_set; run: python -m tasks.prepare a_task --data_dir"):
        SETS["made_set"].load(data_dir, "a_task")
    prepare.prepare("made_set", data_dir, source)
    assert left_in(data_dir) == ["arrays"]


def test_a_prepare_that_is_told_to_stop_leaves_nothing(use, source, data_dir):
    code = KILLED.format(path=[str(ROOT), str(Path(__file__).parent)], source=source, data_dir=data_dir)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        assert process.stdout.readline() == "half\n"
        process.terminate()
        assert "error: interrupted; nothing half-written stays" in process.stderr.read().splitlines()[-1]
    assert (process.returncode, left_in(data_dir)) == (2, [])


@pytest.mark.parametrize("what", ["short", "missing", "header", "shape", "manifest", "version"])
def test_what_was_damaged_is_noticed_and_prepared_again(use, source, data_dir, what):
    use(made())
    prepare.prepare("made_set", data_dir, source)
    folder = Path(data_dir) / "made_set" / "arrays"
    if what == "short":
        os.truncate(folder / "numbers.npy", 500)
    elif what == "missing":
        (folder / "few.npy").unlink()
    elif what in ("header", "shape"):
        data = (folder / "numbers.npy").read_bytes()
        spoilt = bytes(64) + data[64:] if what == "header" else data.replace(b"(5000,)", b"(4999,)")
        assert len(spoilt) == len(data)
        (folder / "numbers.npy").write_bytes(spoilt)
    elif what == "manifest":
        (folder / "manifest.json").write_text("{")
    else:
        use(made(version=2))
    base._load.cache_clear()
    with pytest.raises(
        tasks.MissingData, match=r"no made_set that is whole \(.*run: python -m tasks.prepare"
    ) as caught:
        SETS["made_set"].load(data_dir, "made_set")
    assert "\n" not in str(caught.value)
    assert preparation.state(SETS["made_set"], data_dir).said.startswith("damaged: ")
    prepare.prepare("made_set", data_dir, source)
    np.testing.assert_array_equal(SETS["made_set"].load(data_dir, "made_set")["numbers"], NUMBERS)


def test_set_without_an_address_says_where_it_is_to_be_had(capsys, tmp_path):
    line = fails(capsys, "retrieval", "--data_dir", str(tmp_path))
    assert "aan can not be downloaded; name a folder that has new_aan_pairs.train.tsv" in line
    assert "lra_release/tsv_data" in line


def test_list_says_what_there_is(use, source, data_dir, capsys):
    use(made())
    prepare.prepare("made_set", data_dir, source)
    (Path(data_dir) / "mitdb12" / "arrays").mkdir(parents=True)
    prepare.main(["--list", "--data_dir", data_dir])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"data directory: {data_dir}"
    said = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines[1:] if not line.startswith(" ")}
    assert set(said) == set(SETS)
    assert said["made_set"] == "prepared, 0.0 MB"
    assert said["cifar10"] == "missing, about 184 MB"
    assert said["mitdb12"].startswith("damaged: ")
    text = "\n".join(lines)
    assert "    tasks: psmnist, smnist; licence: CC BY-SA 3.0\n" in text
    assert "    --source takes new_aan_pairs.train.tsv, new_aan_pairs.eval.tsv, new_aan_pairs.test.tsv" in text


def test_list_goes_on_without_a_task_that_can_not_be_imported(data_dir, capsys, monkeypatch):
    broken = importlib.metadata.EntryPoint("broken", "no_such_module:Broken", "mru.tasks")
    monkeypatch.setitem(tasks.REGISTRY._entry_points, "broken", [broken])
    prepare.main(["--list", "--data_dir", data_dir])
    assert "    tasks: psmnist, smnist; licence: CC BY-SA 3.0\n" in capsys.readouterr().out


def test_order_is_of_the_examples_alone():
    rows = [bytes([i, 255 - i]) for i in range(100)]
    shuffled = rows[::-1]
    first, second = base.order(rows), base.order(shuffled)
    assert [rows[i] for i in first] == [shuffled[i] for i in second]
    assert [rows[i] for i in first] == sorted(rows, key=lambda row: hashlib.sha256(row).digest())


def test_joined_rows_are_found_again():
    rows = [b"abc", b"", b"de"]
    flat, starts = base.joined(rows)
    assert [flat[a:b].tobytes() for a, b in itertools.pairwise(starts)] == rows
    got, lengths = base.padded(flat, starts, np.array([2, 0, 1]), 2)
    assert got.tolist() == [[100, 101], [97, 98], [0, 0]]
    assert lengths.tolist() == [2, 2, 0]


def test_data_directory_is_that_of_tensorflow_datasets(monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", "/somewhere")
    assert store.folder(None, "mnist") == Path("/somewhere/mnist/arrays")
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert store.folder(None, "mnist") == Path.home() / "tensorflow_datasets/mnist/arrays"
    assert store.folder("here", "mnist") == Path("here/mnist/arrays")
