"""A user's own arrays, read from an .npz file and checked, each mistake one line."""

import functools
import lzma
import zipfile
import zlib
from dataclasses import dataclass

import numpy as np

from mru.training import SPLITS
from mru.training.checksum import of_array, of_json
from mru.training.shuffle import permutation

_HELD_OUT = 10  # one of so many examples is for validation, and one for test
# What NumPy, and the compression of its file, say of one that is damaged, encrypted, or no .npz.
_UNREADABLE = (
    OSError, ValueError, EOFError, AttributeError, TypeError, RuntimeError, zipfile.BadZipFile, zlib.error,
    lzma.LZMAError,
)  # fmt: skip
_SPLIT_KEY = 0  # a constant: the split is part of the task


@dataclass(frozen=True)
class Content:
    """What the file holds.

    Attributes:
        x: Features float32 `(n, T, D)`, or tokens int32 `(n, T)`.
        y: Classes int32 `(n,)` or `(n, T)`, or numbers float32 `(n, k)` or `(n, T, k)`.
        lengths: Real steps of each example, int32 `(n,)`; None if nothing is padded.
        rows: Of each split its examples, int `(size,)`.
        vocabulary: One more than the largest token; 0 for features.
        outputs: Classes, or numbers k.
    """

    x: np.ndarray
    y: np.ndarray
    lengths: np.ndarray | None
    rows: dict[str, np.ndarray]
    vocabulary: int
    outputs: int

    @functools.cached_property
    def checksum(self) -> int:
        """Of all arrays, their shapes and dtypes."""
        arrays = self.x, self.y, self.lengths, *self.rows.values()
        return of_json([None if x is None else [x.shape, x.dtype.name, of_array(x)] for x in arrays])

    @property
    def has_classes(self) -> bool:
        """Whether targets are classes, not numbers."""
        return self.y.dtype == np.int32

    @property
    def is_per_step(self) -> bool:
        """Whether there is a target at every step."""
        return self.y.ndim == (2 if self.has_classes else 3)


@functools.lru_cache(maxsize=4)
def read(path: str, changed: int, classes: int | None) -> Content:
    """The arrays of a file.

    Args:
        path: The file.
        changed: When it was, in nanoseconds: another version is read anew.
        classes: Number of classes; None for one more than the largest.

    Raises:
        ValueError: It is not what a task can be made of; the message says what is wrong and what is allowed.
    """
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except _UNREADABLE as error:
        raise ValueError(f"it can not be read as .npz: {str(error) or type(error).__name__}") from None
    unknown = sorted(set(arrays) - {"x", "y", "lengths", "split"})
    if unknown or not {"x", "y"} <= set(arrays):
        given = ", ".join(arrays) or "no arrays"
        raise ValueError(f"it has {given}; allowed: arrays x and y, and also lengths and split")
    if raw := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
        raise ValueError(f"it has {', '.join(raw)}, but as no array of NumPy's; allowed: what np.savez writes")
    x, y = _inputs(arrays["x"]), arrays["y"]
    for name, array in arrays.items():
        if name != "x" and (array.ndim == 0 or len(array) != len(x)):
            raise ValueError(f"{name} has shape {array.shape}; allowed: one entry for each of the {len(x)} of x")
    lengths = _lengths(arrays["lengths"], x.shape[1]) if "lengths" in arrays else None
    rows = _rows(arrays["split"]) if "split" in arrays else _random_rows(len(x))
    for split in SPLITS:
        if not rows[split].size:
            raise ValueError(f"its split {split} is empty, of {len(x)} examples; allowed: one or more in each split")
    y = _targets(y, x.shape[1], classes)
    vocabulary = int(x.max()) + 1 if x.ndim == 2 else 0
    outputs = (classes or int(y.max()) + 1) if y.dtype == np.int32 else y.shape[-1]
    return Content(x, y, lengths, rows, vocabulary, outputs)


def _inputs(x: np.ndarray) -> np.ndarray:
    if x.dtype.kind not in "iuf" or x.ndim not in (2, 3) or 0 in x.shape:
        raise ValueError(
            f"x is {x.dtype} {x.shape}; allowed: floats (n, T) or (n, T, features), or integer tokens (n, T)"
        )
    if x.dtype.kind in "iu" and x.ndim == 2:
        _require_in_range("x", x, 2**31 - 1, "tokens")
        return x.astype(np.int32)
    return _finite("x", x.reshape(*x.shape[:2], -1))


def _targets(y: np.ndarray, steps: int, classes: int | None) -> np.ndarray:
    if y.dtype.kind in "iub" and (y.ndim == 1 or (y.ndim == 2 and y.shape[1] == steps)):
        _require_in_range("y", y, classes or 2**31 - 1, "classes")
        return y.astype(np.int32)
    are_numbers = y.dtype.kind == "f" and 0 not in y.shape and classes is None
    if are_numbers and (y.ndim in (1, 2) or (y.ndim == 3 and y.shape[1] == steps)):
        return _finite("y", y[:, None] if y.ndim == 1 else y)
    raise ValueError(
        f"y is {y.dtype} {y.shape}; allowed with T = {steps}: classes, integers (n,) or (n, T)"
        + (", or numbers, floats (n,), (n, k) or (n, T, k)" if classes is None else " as task.classes is given")
    )


def _finite(name: str, array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    bad = ~np.isfinite(array).reshape(len(array), -1).all(1)
    if bad.any():
        raise ValueError(
            f"{name} of example {np.argmax(bad)} (and {bad.sum() - 1:,} more) is not finite: NaN, or too large for "
            "float32; allowed: finite numbers, also where padded"
        )
    return array


def _require_in_range(name: str, array: np.ndarray, count: int, what: str) -> None:
    bad = (array < 0) | (array >= count)
    if bad.any():
        example = int(np.argmax(bad.reshape(len(array), -1).any(1)))
        value = array[bad].flat[0]
        raise ValueError(f"{name} of example {example} has {value} among its {what}; allowed: 0 to {count - 1}")


def _lengths(lengths: np.ndarray, steps: int) -> np.ndarray:
    if lengths.dtype.kind not in "iu" or lengths.ndim != 1:
        raise ValueError(f"lengths is {lengths.dtype} {lengths.shape}; allowed: integers (n,)")
    bad = (lengths < 1) | (lengths > steps)
    if bad.any():
        raise ValueError(f"lengths of example {np.argmax(bad)} is {lengths[bad][0]}; allowed: 1 to T, which is {steps}")
    return lengths.astype(np.int32)


def _rows(split: np.ndarray) -> dict[str, np.ndarray]:
    strange = sorted(set(split.reshape(-1).tolist()) - set(SPLITS), key=str)
    if strange or split.ndim != 1:
        given = repr(strange[0]) if strange else f"shape {split.shape}"
        raise ValueError(f"split has {given}; allowed: for each example one of {', '.join(SPLITS)}")
    return {name: np.flatnonzero(split == name) for name in SPLITS}


def _random_rows(n: int) -> dict[str, np.ndarray]:
    order, held_out = permutation(n, _SPLIT_KEY), n // _HELD_OUT
    cuts = (n - 2 * held_out, n - held_out)
    return dict(zip(SPLITS, np.split(order, cuts)))
