"""CIFAR-10 and Fashion-MNIST, from small originals made here in every form, and the tasks on them."""

import gzip
import itertools
import lzma

import numpy as np
import pytest
from made_originals import pairs_of, same, write_tar

import tasks
from tasks._datasets import SETS, images

RNG = np.random.default_rng(0)


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes()


def small_idx(folder):
    """Fashion-MNIST of a few images: its four files, and what is in them."""
    made = {
        part: (RNG.integers(256, size=(n, 28, 28), dtype=np.uint8), RNG.integers(10, size=n, dtype=np.uint8))
        for part, n in (("train", 20), ("t10k", 10))
    }
    paths = []
    for original, (part, which) in zip(
        SETS["fashion_mnist"].forms[0].files, itertools.product(made, (0, 1)), strict=True
    ):
        paths.append(folder / original.name)
        assert original.name.startswith(part)
        paths[-1].write_bytes(gzip.compress(idx(made[part][which])))
    return paths, made


def test_idx_files(tmp_path):
    paths, made = small_idx(tmp_path)
    arrays = dict(SETS["fashion_mnist"].forms[0].arrays(paths))
    for part, name in (("train", "train"), ("test", "t10k")):
        x, y = made[name]
        assert pairs_of(arrays, part, "images") == sorted((row.tobytes(), int(label)) for row, label in zip(x, y))


def test_idx_file_that_is_none(tmp_path):
    paths, _ = small_idx(tmp_path)
    paths[0].write_bytes(gzip.compress(b"\0\0\x0d\1\0\0\0\1xxxx"))
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte.gz holds no bytes in the idx format"):
        dict(SETS["fashion_mnist"].forms[0].arrays(paths))


def test_fashion_mnist_is_normalised_and_permuted_as_mnist(arrays_are, monkeypatch, tmp_path):
    paths, _ = small_idx(tmp_path)
    arrays = dict(SETS["fashion_mnist"].forms[0].arrays(paths))
    arrays_are(arrays)
    plain = tasks.get("fashion_mnist")().examples("test", np.arange(10))
    expected = (arrays["test_images"].reshape(10, 784) / 255 - 0.2860) / 0.3530
    np.testing.assert_allclose(plain["inputs"][..., 0], expected, atol=1e-6)
    np.testing.assert_array_equal(plain["targets"], arrays["test_labels"])
    task = tasks.get("permuted_fashion_mnist")()
    np.testing.assert_array_equal(task.examples("test", np.arange(10))["inputs"], plain["inputs"][:, task.order])
    np.testing.assert_array_equal(task.order, tasks.get("psmnist")().order)


def residuals(x):
    """The residuals of images `(n, h, w, 3)`, pixel by pixel from the definition."""
    n, height, width, _ = x.shape
    red, green, blue = np.moveaxis(x.astype(int), -1, 0)
    out = np.zeros((3, n, height, width), np.uint8)
    for c, plane in enumerate((green, red - green, blue - green)):
        for k, i, j in np.ndindex(n, height, width):
            left, above = (plane[k, i, j - 1] if j else None), (plane[k, i - 1, j] if i else None)
            if i and j:
                guess = sorted([left, above, left + above - plane[k, i - 1, j - 1]])[1]
            else:
                guess = left if j else above if i else 0
            out[c, k, i, j] = (plane[k, i, j] - guess) % 256
    return out


def test_residuals_are_undone():
    x = RNG.integers(256, size=(3, 6, 5, 3), dtype=np.uint8)
    x[1] = np.linspace(0, 255, 90).reshape(6, 5, 3)  # smooth, as pictures are
    np.testing.assert_array_equal(images.rgb(residuals(x)), x)


def test_cifar10_is_the_same_in_both_forms(tmp_path):
    binary, other = SETS["cifar10"].forms
    made = {
        part: (RNG.integers(256, size=(n, 32, 32, 3), dtype=np.uint8), RNG.integers(10, size=n, dtype=np.uint8))
        for part, n in (("train", 4), ("test", 2))
    }
    records = {
        part: [bytes([label]) + image.transpose(2, 0, 1).tobytes() for image, label in zip(*held)]
        for part, held in made.items()
    }
    folder, (first, second) = "cifar-10-batches-bin", (records["train"][:3], records["train"][3:])
    archive = write_tar(
        tmp_path / binary.files[0].name,
        {
            f"{folder}/data_batch_1.bin": b"".join(first),
            f"{folder}/data_batch_2.bin": b"".join(second),
            f"{folder}/test_batch.bin": b"".join(records["test"]),
            f"{folder}/readme.html": b"more",
        },
    )
    paths = []
    for part, (x, y) in made.items():
        paths += [tmp_path / f"{part}.xz", tmp_path / f"{part}.npy"]
        paths[-2].write_bytes(lzma.compress(residuals(x).tobytes()))
        np.save(paths[-1], y)
    arrays = same(binary.arrays([archive]), other.arrays(paths))
    for part, (x, y) in made.items():
        assert pairs_of(arrays, part, "images") == sorted((image.tobytes(), int(k)) for image, k in zip(x, y))


def test_scifar_and_image(arrays_are):
    x = RNG.integers(256, size=(7, 32, 32, 3), dtype=np.uint8)
    arrays_are({"test_images": x, "test_labels": np.arange(7, dtype=np.uint8)})
    colour = tasks.get("scifar")().examples("test", np.array([6, 2]))
    mean, deviation = np.array([0.4914, 0.4822, 0.4465]), np.array([0.2470, 0.2435, 0.2616])
    expected = (x[[6, 2]].reshape(2, 1024, 3) / 255 - mean) / deviation
    np.testing.assert_allclose(colour["inputs"], expected, atol=1e-5)
    assert colour["targets"].tolist() == [6, 2]
    grey = tasks.get("image")().examples("test", np.array([6, 2]))["inputs"]
    expected = ((x[[6, 2]] / 255 @ [0.299, 0.587, 0.114]).reshape(2, 1024, 1) - 0.4809) / 0.2392
    np.testing.assert_allclose(grey, expected, atol=1e-5)
