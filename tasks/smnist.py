"""Sequential MNIST, in reading order (smnist) and in one fixed random order (psmnist), one pixel a step.

Source: LeCun, Cortes and Burges, MNIST; as sequences: Le, Jaitly and Hinton, "A simple way to initialize recurrent
networks of rectified linear units", 2015.
"""

import functools
import io
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mru.training.shuffle import permutation
from tasks._augmentation import Images
from tasks._datasets import preparation, store


@functools.cache
def _built(folder: str, part: str) -> tuple[np.ndarray, np.ndarray]:
    """What tensorflow-datasets wrote: pixels uint8 `(n, 784)` and classes `(n,)`, in an order of its own."""
    import tensorflow_datasets as tfds
    from PIL import Image

    # Skipped because tfds decodes an image at a time, at twice the cost, and warns that OpenCV would be faster.
    source = tfds.builder_from_directory(folder).as_data_source(part, decoders={"image": tfds.decode.SkipDecoding()})
    examples = source.__getitems__(range(len(source)))
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(example["image"]))).reshape(-1) for example in examples])
    return pixels, np.array([example["label"] for example in examples], np.int32)


@dataclass(frozen=True)
class SequentialMNIST(Images, name="smnist"):
    """Ten classes, T = 784 normalised pixels, row by row; validation is the last 10 % of the training part.

    A data directory that an earlier version prepared with tensorflow-datasets is read as it is.
    """

    # Mean and standard deviation of all training pixels, which every published result divides by.
    mean: ClassVar[tuple[float, ...]] = (0.1307,)
    deviation: ClassVar[tuple[float, ...]] = (0.3081,)

    length: ClassVar[int] = 784
    features: ClassVar[int] = 1
    outputs: ClassVar[int] = 10
    pooling: ClassVar[str] = "mean"
    chance: ClassVar[float] = 0.1
    dataset: ClassVar[str] = "mnist"

    @property
    def sizes(self) -> dict[str, int]:
        """Number of examples of each split."""
        return {"train": 54000, "validation": 6000, "test": 10000}

    def _part(self, part: str) -> tuple[np.ndarray, np.ndarray]:
        """All of a part ("train" or "test"): pixels uint8 `(n, 784)` and classes `(n,)`."""
        prepared = store.folder(self.data_dir, self.dataset).exists()
        if not prepared and self.dataset == "mnist" and (built := preparation.of_builder("mnist", self.data_dir)):
            return _built(str(built), part)
        arrays = self.arrays
        return arrays[f"{part}_images"].reshape(-1, self.length), arrays[f"{part}_labels"]

    def _examples(self, split: str, indices: np.ndarray) -> dict[str, np.ndarray]:
        part, rows = self._rows(split, indices)
        pixels, classes = self._part(part)
        inputs = np.take(pixels[rows], self.order, axis=1).astype(np.float32)
        inputs -= np.float32(255 * self.mean[0])
        inputs *= np.float32(1 / (255 * self.deviation[0]))
        return {"inputs": inputs[..., None], "targets": classes[rows].astype(np.int32)}


@dataclass(frozen=True)
class PermutedMNIST(SequentialMNIST, name="psmnist"):
    """Ten classes, T = 784 normalised pixels in one random order, the same for every image.

    Attributes:
        permutation_seed: Seed of that order.
    """

    permutation_seed: int = 0

    def _validate(self) -> None:
        super()._validate()
        self._require_integer("permutation_seed", 0, bits=63)

    @property
    def order(self) -> np.ndarray:
        """Pixel shown at each step, int `(784,)`: step t shows pixel `order[t]` of the image read row by row."""
        return permutation(self.length, self.permutation_seed)
