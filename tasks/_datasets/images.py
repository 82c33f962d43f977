"""MNIST, Fashion-MNIST and CIFAR-10."""

import gzip
import io
import lzma
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tasks._datasets.base import Arrays, DataSet, Form, order
from tasks._datasets.originals import Original
from tasks._datasets.progress import steps


def _part(part: str, pixels: np.ndarray, labels: np.ndarray) -> Arrays:
    """The arrays of a part: `PART_images` uint8 `(n, ...)` and `PART_labels` uint8 `(n,)`."""
    if len(pixels) != len(labels):
        raise ValueError(f"{part} has {len(pixels)} images and {len(labels)} labels")
    rows = order(x.tobytes() + bytes([label]) for x, label in zip(pixels, labels))
    yield f"{part}_images", pixels[rows]
    yield f"{part}_labels", labels[rows].astype(np.uint8)


def _idx(path: Path) -> np.ndarray:
    """An array of bytes in the idx format: two zeros, the type, the number of axes, their sizes, the numbers."""
    data = gzip.decompress(path.read_bytes())
    if data[:3] != b"\0\0\x08":
        raise ValueError(f"{path} holds no bytes in the idx format")
    shape = np.frombuffer(data, ">i4", data[3], 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)


def _from_idx(paths: list[Path]) -> Arrays:
    arrays = [_idx(path) for path in steps(paths, "reading", "file")]
    for part, pixels, labels in (("train", *arrays[:2]), ("test", *arrays[2:])):
        yield from _part(part, pixels, labels)


def _from_builder(examples: Callable[[str], Iterable[dict[str, Any]]]) -> Arrays:
    from PIL import Image

    for part in ("train", "test"):
        pixels, labels = [], []
        for example in steps(examples(part), f"reading {part}", "image"):
            pixels.append(np.asarray(Image.open(io.BytesIO(example["image"]))))
            labels.append(example["label"])
        yield from _part(part, np.stack(pixels), np.array(labels, np.uint8))


def _idx_form(url: str, checksums: tuple[str, str, str, str]) -> Form:
    names = [f"{part}-{what}-ubyte.gz" for part in ("train", "t10k") for what in ("images-idx3", "labels-idx1")]
    files = (Original(name, sha256, f"{url}/{name}") for name, sha256 in zip(names, checksums))
    return Form(tuple(files), _from_idx)


MNIST = DataSet(
    name="mnist",
    licence="CC BY-SA 3.0",
    source="LeCun, Cortes and Burges 1998; https://storage.googleapis.com/cvdf-datasets/mnist",
    forms=(
        _idx_form(
            "https://storage.googleapis.com/cvdf-datasets/mnist",
            (
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            ),
        ),
    ),
    bytes=54_950_000,
    builder="mnist",
    from_builder=_from_builder,
    reads_builder=True,
)

FASHION_MNIST = DataSet(
    name="fashion_mnist",
    licence="MIT",
    source="Xiao, Rasul and Vollgraf 2017; https://github.com/zalandoresearch/fashion-mnist",
    forms=(
        _idx_form(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
            (
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            ),
        ),
    ),
    bytes=54_950_000,
    builder="fashion_mnist",
    from_builder=_from_builder,
)


def _from_binary(paths: list[Path]) -> Arrays:
    """From the binary version: records of a class and 3,072 bytes, channels first."""
    parts: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    with tarfile.open(paths[0]) as archive:
        members = sorted((m for m in archive.getmembers() if m.name.endswith(".bin")), key=lambda m: m.name)
        for member in steps(members, "reading", "file"):
            records = np.frombuffer(archive.extractfile(member).read(), np.uint8).reshape(-1, 3073)
            parts["test" if "test" in member.name else "train"].append(records)
    for part, found in parts.items():
        records = np.concatenate(found)
        yield from _part(part, records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), records[:, 0])


def _from_residuals(paths: list[Path]) -> Arrays:
    for part, planes, labels in (("train", *paths[:2]), ("test", *paths[2:])):
        data = lzma.decompress(planes.read_bytes())
        residuals = np.frombuffer(data, np.uint8).reshape(3, -1, 32, 32)
        yield from _part(part, rgb(residuals, part), np.load(labels, allow_pickle=False))


def rgb(residuals: np.ndarray, part: str = "") -> np.ndarray:
    """Images from the residuals of a lossless predictor.

    The planes are G, R - G and B - G. Each pixel is stored modulo 256, less the median of three: its neighbour on the
    left, that above, and their sum less the one between them. On the first row and column it is less the one neighbour
    there is (median edge detection: Weinberger, Seroussi and Sapiro, LOCO-I, 1996).

    Args:
        residuals: uint8 `(3, n, height, width)`, of the three planes.
        part: What is being read, for the bar.

    Returns:
        uint8 `(n, height, width, 3)`, red first.
    """
    _, n, height, width = residuals.shape
    stored = np.ascontiguousarray(residuals.transpose(0, 2, 3, 1)).astype(np.int16)  # a pixel of all images is a row
    colours = np.empty((3, height, width, n), np.int16)  # green, red, blue
    plane = np.empty((height, width, n), np.int16)
    for channel, i in steps([(c, i) for c in range(3) for i in range(height)], f"decoding {part}", "row"):
        for j in range(width):
            value = stored[channel, i, j] + _predicted(plane, i, j)
            green = colours[0, i, j] if channel else 0
            # Of a difference only the colour itself is known to lie in 0 to 255.
            colours[channel, i, j] = (value + green) & 255
            plane[i, j] = colours[channel, i, j] - green
    return np.ascontiguousarray(colours[[1, 0, 2]].transpose(3, 1, 2, 0).astype(np.uint8))


def _predicted(plane: np.ndarray, i: int, j: int) -> np.ndarray | int:
    if i and j:
        left, above = plane[i, j - 1], plane[i - 1, j]
        low, high = np.minimum(left, above), np.maximum(left, above)
        return np.clip(left + above - plane[i - 1, j - 1], low, high)
    return plane[0, j - 1] if j else plane[i - 1, 0] if i else 0


CIFAR10 = DataSet(
    name="cifar10",
    licence="none stated",
    source="Krizhevsky 2009; https://www.cs.toronto.edu/~kriz/cifar.html",
    forms=(
        Form(
            (
                Original(
                    "cifar-10-binary.tar.gz",
                    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                ),
            ),
            _from_binary,
        ),
        Form(
            (
                Original("cifar10_train_med.xz", "0a7253c4944378c26a836c47dfc76ff134df716c08f80f526beb8234e237f020"),
                Original(
                    "cifar10_train_labels.npy", "68c459aae94e8eb7a8d87759943fe73ecd2e737414e541e78b88f6c1a3b903bf"
                ),
                Original("cifar10_test_med.xz", "8f3ec78447148712c0733cf81174eafe98872668f9556517c65b713f7f4e12f9"),
                Original("cifar10_test_labels.npy", "f302f852ef8eeb9e93d146f84b91cd305b95cdedced9e9add917e9eb1746cb8c"),
            ),
            _from_residuals,
        ),
    ),
    bytes=184_380_000,
    builder="cifar10",
    from_builder=_from_builder,
)
