"""Prepared sets on the disk: `DATA_DIR/SET/arrays` holds .npy files and manifest.json, complete or not there at all.

They are written into `arrays.part` beside it, which gets its name when all is on the disk. Data directories of
tensorflow-datasets have versions beside it, `DATA_DIR/SET/1.0.0`; the two leave each other alone.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from mru.training.lock import WITHOUT_LOCKS


class Damaged(Exception):
    """A folder looks prepared and is not whole; the message says why."""


def data_directory(data_dir: str | None) -> Path:
    """The data directory: what is given, else $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    return Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def folder(data_dir: str | None, name: str) -> Path:
    """Where the arrays of a set are, or would be."""
    return data_directory(data_dir) / name / "arrays"


def manifest(path: Path, version: int) -> dict[str, Any] | None:
    """What manifest.json of a folder of arrays says; None if there is no such folder.

    The sizes of the files are compared with it, their bytes are not: that takes no time, and finds what was cut short.

    Args:
        path: The folder.
        version: Of what is in it.

    Raises:
        Damaged: The folder is there, and not as it was written.
    """
    if not path.exists():
        return None
    try:
        held = json.loads((path / "manifest.json").read_text())
        if held["version"] != version:
            raise Damaged(f"{path} is version {held['version']} of the set, not {version}")
        sizes = {file: about["bytes"] for file, about in held["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise Damaged(f"{path / 'manifest.json'} can not be read") from None
    for file, size in sizes.items():
        if not (path / file).is_file():
            raise Damaged(f"{path / file} is missing")
        if (path / file).stat().st_size != size:
            raise Damaged(f"{path / file} has {(path / file).stat().st_size:,} bytes, not {size:,}")
    return held


def read(path: Path, version: int) -> dict[str, np.ndarray] | None:
    """The arrays of a folder, mapped into memory and read-only; None if there is no such folder. See `manifest`.

    Raises:
        Damaged: It is not as it was written.
    """
    held = manifest(path, version)
    if held is None:
        return None
    arrays = {}
    for file, about in held["files"].items():
        try:
            array = np.load(path / file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError):
            raise Damaged(f"{path / file} can not be read") from None
        if (list(array.shape), array.dtype.str) != (about["shape"], about["dtype"]):
            raise Damaged(f"{path / file} is {array.dtype} {array.shape}, not {about['dtype']} {tuple(about['shape'])}")
        arrays[file.removesuffix(".npy")] = array
    return arrays


@dataclass(frozen=True)
class Rows:
    """An array too large to hold, given row by row.

    Attributes:
        rows: Its rows, all of one shape.
        shape: Of all.
        dtype: Of the numbers.
    """

    rows: Iterable[np.ndarray]
    shape: tuple[int, ...]
    dtype: Any


class Writer:
    """Writes the arrays of one set.

    Attributes:
        folder: Where they are written.
        files: By file name its `sha256`, `bytes`, `shape` and `dtype`.
    """

    def __init__(self, folder: Path):
        self.folder, self.files = folder, {}

    def save(self, name: str, array: np.ndarray | Rows) -> None:
        """Write one array as NAME.npy; it is on the disk then."""
        with (self.folder / f"{name}.npy").open("wb") as file:
            hashing = _Hashing(file)
            if isinstance(array, Rows):
                _write_rows(hashing, array)
            else:
                np.lib.format.write_array(hashing, np.ascontiguousarray(array), allow_pickle=False)
            _to_disk(file)
        self.files[f"{name}.npy"] = {
            "sha256": hashing.digest.hexdigest(),
            "bytes": hashing.bytes,
            "shape": list(array.shape),
            "dtype": np.dtype(array.dtype).str,
        }


class _Hashing:
    """A file whose SHA-256 is known as soon as it is written."""

    def __init__(self, file: IO[bytes]):
        self.file, self.digest, self.bytes = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.bytes += len(data)
        return self.file.write(data)


def _write_rows(file: "_Hashing", array: Rows) -> None:
    dtype = np.dtype(array.dtype)
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": array.shape}
    np.lib.format.write_array_header_1_0(file, header)
    before = file.bytes
    for row in array.rows:
        file.write(np.asarray(row, dtype).tobytes())
    if file.bytes - before != math.prod(array.shape) * dtype.itemsize:
        raise ValueError(f"expected an array of shape {array.shape}, and got {file.bytes - before:,} bytes")


def _to_disk(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())


@contextlib.contextmanager
def writing(path: Path, about: dict[str, Any]) -> Iterator[Writer]:
    """Write a folder of arrays whole or not at all; what an interrupted call left there is removed first.

    Args:
        path: The folder. One that is there, because it is damaged, is replaced.
        about: What manifest.json says beside the files, among it the `version`.
    """
    part = path.with_name(path.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        writer = Writer(part)
        yield writer
        with (part / "manifest.json").open("w") as file:
            file.write(json.dumps({**about, "files": writer.files}, indent=2) + "\n")
            _to_disk(file)
        if path.exists():
            shutil.rmtree(path)
        part.rename(path)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold a folder's lock, which the kernel lets go of however the process ends.

    Raises:
        ValueError: Another process holds it.
    """
    path.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{path} is being prepared by another process; wait until it ends") from None
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise
        yield
    finally:
        os.close(descriptor)


def is_full(error: BaseException) -> bool:
    """Whether an error says that there is no room left on a disk."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
