"""What a data set declares: its originals in each form they are to be had in, and how arrays are made of them."""

import functools
import hashlib
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mru.training import MissingData
from mru.training.lines import cut, short
from tasks._datasets import store
from tasks._datasets.originals import Original

Arrays = Iterator[tuple[str, np.ndarray | store.Rows]]


@dataclass(frozen=True)
class Form:
    """One form of the originals.

    Attributes:
        files: All of them.
        arrays: From their paths, in the same order, the arrays by name.
    """

    files: tuple[Original, ...]
    arrays: Callable[[list[Path]], Arrays]

    @property
    def downloadable(self) -> bool:
        """Whether every file has an address."""
        return all(file.url for file in self.files)


@dataclass(frozen=True, eq=False)  # what it is compared and cached by is itself, not its thousands of file names
class DataSet:
    """A data set.

    The order of examples is one that only they decide (`order`), so all forms give the same arrays, bit for bit.

    Attributes:
        name: Its name, and that of its folder in the data directory.
        licence: Under which it may be used.
        source: Who made it, and where the originals are to be had.
        forms: Forms of the originals; that which comes first is looked for first.
        bytes: Size of the prepared arrays, about.
        sha256: Checksums of prepared arrays by name, of their numbers in memory, where originals have none.
        builder: Name of the builder in tensorflow-datasets; empty for none.
        from_builder: From a function that gives the examples of one of its splits, the arrays by name.
        version: Of the arrays; those of another are prepared again.
        reads_builder: Whether tasks read what the builder wrote in the data directory, too, as they once did.
    """

    name: str
    licence: str
    source: str
    forms: tuple[Form, ...]
    bytes: int
    sha256: tuple[tuple[str, str], ...] = ()
    builder: str = ""
    from_builder: Callable[[Callable[[str], Iterable[dict[str, Any]]]], Arrays] | None = None
    version: int = 1
    reads_builder: bool = False

    @property
    def computed(self) -> bool:
        """Whether it is made of nothing."""
        return any(not form.files for form in self.forms)

    @property
    def identity(self) -> str | None:
        """What its examples are, as text; None where no checksum says that they are the same everywhere."""
        checked = bool(self.sha256) or all(file.sha256 for form in self.forms for file in form.files)
        return f"{self.name} {self.version}" if self.forms and checked else None

    @property
    def folders(self) -> tuple[str, ...]:
        """Subfolders of a folder of originals that are looked into."""
        return (self.name, self.name.replace("_", "-"))

    def load(self, data_dir: str | None, task: str) -> dict[str, np.ndarray]:
        """The prepared arrays, mapped into memory and read-only.

        Args:
            data_dir: The data directory; None for the default.
            task: Name of the task that asks, for the message.

        Raises:
            MissingData: They are not there, or not whole; the message has the command that puts them there.
        """
        return _load(self, data_dir, task)


# The mapped arrays are kept: opening them costs more than a batch.
@functools.lru_cache(maxsize=32)
def _load(dataset: DataSet, data_dir: str | None, task: str) -> dict[str, np.ndarray]:
    path, why = store.folder(data_dir, dataset.name), ""
    try:
        arrays = store.read(path, dataset.version)
        if arrays is not None:
            return arrays
    except store.Damaged as error:
        why = f" that is whole ({short(error)})"
    where = f" --data_dir {shlex.quote(data_dir)}" if data_dir else ""
    what = f" has no {dataset.name}{why}; run: python -m tasks.prepare {task}{where} [--source FOLDER_OF_ORIGINALS]"
    what += "; task.data_dir says where to look"
    # The command is there to be copied, so of a long message it is the folder that is shortened.
    raise MissingData(cut(str(path.parent), max(20, 290 - len(what))) + what)


def order(rows: Iterable[bytes]) -> np.ndarray:
    """The order of examples by the SHA-256 of what they are: random, and the same whatever form they came in."""
    digests = np.array([hashlib.sha256(row).digest()[:16] for row in rows], "V16")
    return np.lexsort(digests.view(">u8").reshape(-1, 2).T[::-1])


def joined(rows: Sequence[bytes], dtype: Any = np.uint8) -> tuple[np.ndarray, np.ndarray]:
    """Rows of several lengths end to end, and where each starts, int64 `(n + 1,)`, the end of the last included."""
    ends = np.cumsum([len(row) // np.dtype(dtype).itemsize for row in rows], dtype=np.int64)
    return np.frombuffer(b"".join(rows), dtype), np.concatenate([[0], ends])


def lengths_of(starts: np.ndarray, rows: np.ndarray, length: int) -> np.ndarray:
    """How many values of rows of what `joined` made are left when they are cut to `length`, int32 `(n,)`."""
    return np.minimum(starts[rows + 1] - starts[rows], length).astype(np.int32)


def padded(flat: np.ndarray, starts: np.ndarray, rows: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of what `joined` made, cut to `length` and padded by 0.

    Returns:
        The rows, of flat's dtype `(n, length)`, and how many values of each are real, int32 `(n,)`.
    """
    out = np.zeros((len(rows), length), flat.dtype)
    lengths = lengths_of(starts, rows, length)
    for row, start, n in zip(out, starts[rows], lengths):
        row[:n] = flat[start : start + n]
    return out, lengths
