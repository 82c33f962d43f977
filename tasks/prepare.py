"""Puts a public data set where the tasks read it: `python -m tasks.prepare psmnist [--data_dir DIR] [--source DIR]`.

Runs the builder of tensorflow-datasets, which needs TensorFlow (`pip install "mru-jax[prepare]"`); reading the result
does not. An error is one line on stderr, with exit code 2.
"""

import argparse
import importlib.util
import os
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

import tasks


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def prepare(name: str, data_dir: str | None = None, source: str | None = None) -> str:
    """Prepares the data set of a task, unless it is there already.

    Args:
        name: Registry name of the task.
        data_dir: Directory of tensorflow-datasets; None for $TFDS_DATA_DIR or else ~/tensorflow_datasets.
        source: Folder with the original files; None downloads them.

    Returns:
        One line that says what was done.

    Raises:
        ValueError: unknown task, or a data directory or source that cannot be used.
        ModuleNotFoundError: TensorFlow is not installed.
        Exception: whatever the builder raises, for a failed download or a wrong checksum.
    """
    dataset = getattr(tasks.get(name), "dataset", "")
    if not dataset:
        return f"{name} needs no data set: nothing to prepare"

    import tensorflow_datasets as tfds

    builder = tfds.builder(dataset, data_dir=data_dir)
    if builder.data_path.exists():
        found = builder.info.file_format.value
        if found != "array_record":
            raise ValueError(f"{builder.data_path} has {dataset} as {found}, not array_record: use another --data_dir")
        return f"{dataset} is in {builder.data_path} already"
    if source is not None:
        wanted = sorted(info.filename for info in builder.url_infos.values())
        missing = [file for file in wanted if not (Path(source) / file).is_file()]
        if missing:
            raise ValueError(f"--source {source} lacks {', '.join(missing)}")
    if importlib.util.find_spec("tensorflow") is None:
        raise ModuleNotFoundError('TensorFlow is needed once, to write the set: pip install "mru-jax[prepare]"')
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    # The one format that is read back without TensorFlow and in any order.
    builder = tfds.builder(dataset, data_dir=data_dir, file_format="array_record")
    # Downloads go to a temporary folder: the prepared set is all that is ever read again.
    with tempfile.TemporaryDirectory() as downloads:
        builder.download_and_prepare(
            download_dir=downloads, download_config=tfds.download.DownloadConfig(manual_dir=source)
        )
    return f"{dataset} is in {builder.data_path}"


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser("python -m tasks.prepare", description="Prepares the data set of a task.")
    parser.error = _fail
    parser.add_argument("task", help=f"one of {', '.join(tasks.names())}")
    parser.add_argument("--data_dir", help="where to (default: $TFDS_DATA_DIR, or else ~/tensorflow_datasets)")
    parser.add_argument("--source", help="folder with the original files, instead of a download")
    options = parser.parse_args(arguments)
    # TensorFlow greets on stderr otherwise.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    try:
        print(prepare(options.task, options.data_dir, options.source))
    # The builder's layers raise dozens of types, for the network, checksums and the disk; all of them end here.
    except Exception as error:
        _fail((str(error) or type(error).__name__).strip().splitlines()[0])


if __name__ == "__main__":
    main()
