"""How a set is prepared: originals found, fetched and checked, arrays made of them, written whole or not at all."""

import contextlib
import hashlib
import importlib.util
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tasks._datasets import originals, store
from tasks._datasets.base import Arrays, DataSet, Form


class State(NamedTuple):
    """What there is of a set.

    Attributes:
        said: "prepared", "missing", or that it is damaged and why.
        path: Where it is; None if it has to be prepared.
        bytes: Its size, or about what it will be.
    """

    said: str
    path: Path | None
    bytes: int


def state(dataset: DataSet, data_dir: str | None) -> State:
    """What there is of a set in a data directory; nothing but the sizes and headers of files is looked at."""
    path = store.folder(data_dir, dataset.name)
    try:
        held = store.manifest(path, dataset.version)
        store.read(path, dataset.version)
    except store.Damaged as error:
        return State(f"damaged: {error}", None, dataset.bytes)
    if held is not None:
        return State("prepared", path, sum(about["bytes"] for about in held["files"].values()))
    if dataset.reads_builder and (built := of_builder(dataset.builder, data_dir)):
        return State("prepared (by tensorflow-datasets)", built, sum(x.stat().st_size for x in built.iterdir()))
    return State("missing", None, dataset.bytes)


def of_builder(builder: str, data_dir: str | None) -> Path | None:
    """The folder that tensorflow-datasets prepared in the one format that is read without TensorFlow; None if none."""
    for about in sorted((store.data_directory(data_dir) / builder).glob("*.*.*/dataset_info.json"), reverse=True):
        with contextlib.suppress(ValueError):  # what is no JSON is no set
            if json.loads(about.read_text()).get("fileFormat") == "array_record":
                return about.parent
    return None


def prepare(dataset: DataSet, data_dir: str | None, source: str | None) -> str:
    """Prepares a set unless it is there; what was done, in a line. See `tasks.prepare.prepare`."""
    path = store.folder(data_dir, dataset.name)
    if there := state(dataset, data_dir).path:
        return f"{dataset.name} is in {there} already"
    try:
        with store.alone(path.parent):
            if state(dataset, data_dir).path is None:  # another process may have been faster
                _prepare(dataset, path, source)
    except OSError as error:
        if not store.is_full(error):
            raise
        raise ValueError(
            f"no space left for {dataset.name} in {path.parent}: it takes {megabytes(dataset.bytes)}, and the download "
            "of its originals about as much again; free some or choose another --data_dir (nothing half-written stays)"
        ) from None
    return f"{dataset.name} is in {path}"


def _prepare(dataset: DataSet, path: Path, source: str | None) -> None:
    downloads, fetched = path.with_name("downloads"), False
    if dataset.computed:
        made_from, arrays = "nothing, they are computed", dataset.forms[0].arrays([])
    elif source is not None:
        form, files = _in_source(dataset, Path(source).expanduser())
        made_from, arrays = ", ".join(file.name for file in form.files[:4]), form.arrays(files)
    elif dataset.from_builder and importlib.util.find_spec("tensorflow"):
        made_from, arrays = f"tensorflow-datasets, {dataset.builder}", _built(dataset)
    else:
        form = next((form for form in dataset.forms if form.downloadable), None)
        if form is None:
            raise ValueError(f"{dataset.name} can not be downloaded; {_instead(dataset)} ({dataset.source})")
        files, fetched = [originals.download(file, downloads) for file in form.files], True
        made_from, arrays = ", ".join(file.url for file in form.files), form.arrays(files)
    about = {
        "name": dataset.name,
        "version": dataset.version,
        "licence": dataset.licence,
        "source": dataset.source,
        "made_from": made_from,
    }
    try:
        with store.writing(path, about) as writer:
            for name, array in _checked(dataset, arrays):
                writer.save(name, array)
    except ValueError as error:
        if not fetched:
            raise
        shutil.rmtree(downloads, ignore_errors=True)
        raise ValueError(
            f"{error}; run the command again: what was downloaded is removed, and is fetched anew"
        ) from None
    shutil.rmtree(downloads, ignore_errors=True)


def _instead(dataset: DataSet) -> str:
    """What to do for a set that has no address."""
    if dataset.forms:
        return f"name a folder that has {files_of(dataset)} by --source"
    return 'it comes by the builder of tensorflow-datasets, which needs TensorFlow: pip install "mru-jax[prepare]"'


def _in_source(dataset: DataSet, source: Path) -> tuple[Form, list[Path]]:
    """The first form that is whole in a folder, and the paths of its files, whose checksums are right."""
    for form in dataset.forms:
        if files := originals.found(source, dataset.folders, form.files):
            for path, file in zip(files, form.files):
                originals.check(path, file)
            return form, files
    if not source.is_dir():
        raise ValueError(f"--source {source} is no folder")
    lacking = _lacking(dataset, source) if dataset.forms else f"{dataset.name}: {_instead(dataset)}"
    raise ValueError(f"--source {source} lacks {lacking}")


def _lacking(dataset: DataSet, source: Path) -> str:
    """What is missing, of the form of which most is there."""
    started = []
    for form in dataset.forms:
        for folder in (source, *(source / name for name in dataset.folders)):
            names = [file.name for file in form.files if not (folder / file.name).is_file()]
            if len(names) < len(form.files):
                started.append(names)
    return _few(min(started, key=len)) if started else files_of(dataset)


def _few(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def files_of(dataset: DataSet) -> str:
    """The files of each form, in words."""
    return ", or else ".join(_few([file.name for file in form.files]) for form in dataset.forms)


def megabytes(size: int) -> str:
    """A size for people."""
    return f"{size / 1e6:,.0f} MB" if size >= 1e7 else f"{size / 1e6:,.1f} MB"


def _checked(dataset: DataSet, arrays: Arrays) -> Arrays:
    """Arrays as they come, those with a known checksum compared with it.

    Raises:
        ValueError: One differs or is empty, or the originals can not be read.
    """
    known = dict(dataset.sha256)
    try:
        for name, array in arrays:
            if 0 in array.shape:
                raise ValueError(
                    f"{name} of {dataset.name} is empty: its originals have nothing of it; fetch them again"
                )
            if name in known and hashlib.sha256(np.ascontiguousarray(array)).hexdigest() != known[name]:
                raise ValueError(f"wrong checksum: {name} of {dataset.name} is not what these originals should give")
            yield name, array
    except (ValueError, MemoryError, GeneratorExit):
        raise
    # An archive without a checksum may be anything, and reading it raise anything.
    except Exception as error:
        if store.is_full(error):
            raise
        raise ValueError(f"the originals of {dataset.name} can not be read: {error or type(error).__name__}") from error


def _built(dataset: DataSet) -> Arrays:
    """Runs a builder of tensorflow-datasets in a temporary folder, and reads what it wrote."""
    import tensorflow_datasets as tfds

    assert dataset.from_builder is not None
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        builder = tfds.builder(dataset.builder, data_dir=folder, file_format="array_record")
        try:
            builder.download_and_prepare(download_dir=f"{folder}/downloads")
        # Its layers raise dozens of types, for the network, checksums and packages that are not installed.
        except Exception as error:
            if store.is_full(error):
                raise
            why = (str(error) or type(error).__name__).strip().splitlines()[0]
            instead = " (or fetch the originals and name their folder by --source)" if dataset.forms else ""
            raise ValueError(f"tensorflow-datasets can not prepare {dataset.builder}: {why}{instead}") from error

        def examples(part: str) -> Any:
            # tfds decodes an image at a time, at twice the cost, and warns that OpenCV would be faster.
            skipped = {"image": tfds.decode.SkipDecoding()} if "image" in builder.info.features else None
            return builder.as_data_source(part, decoders=skipped)

        yield from dataset.from_builder(examples)
