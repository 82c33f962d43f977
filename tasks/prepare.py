"""Puts a public data set where the tasks read it, once.

    python -m tasks.prepare NAME [--source FOLDER] [--data_dir DIR]    # NAME is a task, or a set of the list
    python -m tasks.prepare --list [--data_dir DIR]    # what is prepared or missing, sizes, licences, originals

The originals are taken from `--source`, a folder that has them, or has them in a subfolder named after the set. Without
it they come by the builder of tensorflow-datasets, if it has the set and TensorFlow is installed
(`pip install "mru-jax[prepare]"`), and else from their authors. They are checked, and arrays are made of them that
training maps into memory; none of that needs TensorFlow. A download that was interrupted is gone on with, and a set is
there whole or not at all. An error is one line on stderr, with exit code 2.
"""

import argparse
import contextlib
import os
import signal
import sys
from typing import NoReturn

import tasks
from tasks._datasets import SETS, preparation, store
from tasks._datasets.base import DataSet


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def dataset_of(name: str) -> DataSet | None:
    """The data set of a task, or of its own name; None for a task that needs none.

    Raises:
        ValueError: Neither a task nor a set has the name.
    """
    if name in SETS:
        return SETS[name]
    if name not in tasks.names():
        raise ValueError(f"unknown task {name!r}; known tasks: {', '.join(tasks.names())}; sets: {', '.join(SETS)}")
    return SETS.get(getattr(tasks.get(name), "dataset", ""))


def prepare(name: str, data_dir: str | None = None, source: str | None = None) -> str:
    """Prepares the data set of a task, unless it is there already.

    Args:
        name: Registry name of the task, or name of the set.
        data_dir: The data directory; None for $TFDS_DATA_DIR or else ~/tensorflow_datasets.
        source: Folder with the original files; None for a builder or a download.

    Returns:
        One line that says what was done.

    Raises:
        ValueError: Unknown name, no space left, or originals that are missing, damaged or can not be downloaded.
        OSError: Something can not be read or written.
        Exception: Whatever a builder of tensorflow-datasets raises.
    """
    dataset = dataset_of(name)
    if dataset is None:
        return f"{name} needs no data set: nothing to prepare"
    return preparation.prepare(dataset, data_dir, source)


def readers_of(dataset: DataSet) -> list[str]:
    """Names of the tasks that read a set by themselves; not of those whose package can not be imported."""
    readers = []
    for name in tasks.names():
        with contextlib.suppress(ValueError):
            readers += [name] if getattr(tasks.get(name), "dataset", "") == dataset.name else []
    return readers


def listed(data_dir: str | None = None) -> str:
    """Every set: whether it is prepared, its size, licence, the tasks that read it, and where its originals are."""
    lines = [f"data directory: {store.data_directory(data_dir)}"]
    for dataset in SETS.values():
        found = preparation.state(dataset, data_dir)
        read_by = f"tasks: {', '.join(readers)}; " if (readers := readers_of(dataset)) else ""
        about = "" if found.path else "about "
        lines += [
            f"{dataset.name:24} {found.said}, {about}{preparation.megabytes(found.bytes)}",
            f"    {read_by}licence: {dataset.licence}",
            f"    originals: {dataset.source}",
        ]
        if not found.path and any(form.files for form in dataset.forms):
            lines.append(f"    --source takes {preparation.files_of(dataset)}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser("python -m tasks.prepare", description="Prepares the data set of a task.")
    parser.error = _fail
    parser.add_argument("name", nargs="?", help=f"a task or data set: {', '.join(sorted({*tasks.names(), *SETS}))}")
    parser.add_argument("--list", action="store_true", help="say what is prepared and what is missing")
    parser.add_argument("--data_dir", help="where to (default: $TFDS_DATA_DIR, or else ~/tensorflow_datasets)")
    parser.add_argument("--source", help="folder with the original files, instead of a download")
    options = parser.parse_args(arguments)
    if (options.name is None) != options.list:
        _fail("expected the name of a task or data set, or --list" + (" without a name" if options.list else ""))
    # TensorFlow greets on stderr otherwise.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    # A time limit, which comes as SIGTERM, is an interruption as Ctrl-C is: what is half-written is removed.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        said = listed(options.data_dir) if options.list else prepare(options.name, options.data_dir, options.source)
        print(said)
    except KeyboardInterrupt:
        _fail("interrupted; nothing half-written stays, and what was downloaded is kept for the next call")
    # A builder's layers raise dozens of types, for the network, checksums and the disk; all of them end here.
    except Exception as error:
        _fail((str(error) or type(error).__name__).strip().splitlines()[0])
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    main()
