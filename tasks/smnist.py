"""Sequential MNIST, in reading order (smnist) and in one fixed random order (psmnist), one pixel a step.

Source: LeCun, Cortes and Burges, MNIST; as sequences: Le, Jaitly and Hinton, "A simple way to initialize recurrent
networks of rectified linear units", 2015. Read from a directory of tensorflow-datasets (`python -m tasks.prepare`
makes one), without TensorFlow.
"""

import functools
import io
import shlex
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jax import Array

from mru.training import MissingData
from mru.training.shuffle import permutation
from tasks.base import Task, accuracy, cross_entropy

# Mean and standard deviation of all training pixels, which every published result divides by.
_MEAN, _STD = 0.1307, 0.3081


@functools.cache
def _load(name: str, data_dir: str | None, part: str) -> tuple[np.ndarray, np.ndarray]:
    """All of a part ("train" or "test"): pixels uint8 `(n, 784)` and classes int32 `(n,)`."""
    import tensorflow_datasets as tfds
    from PIL import Image

    builder = tfds.builder("mnist", data_dir=data_dir)
    # The folder gets its name only when it is complete.
    missing = not builder.data_path.exists()
    if missing or builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        where = shlex.quote(data_dir) if missing and data_dir else "DIR"
        found = "has no MNIST" if missing else f"has MNIST as {builder.info.file_format.value}, not as array_record"
        raise MissingData(
            f"{builder.data_path} {found}; run: python -m tasks.prepare {name} --data_dir {where} "
            "(and --source FOLDER if you have the four original gz files), then set task.data_dir to it"
        )
    # Skipped because tfds decodes an image at a time, at twice the cost, and warns that OpenCV would be faster.
    source = builder.as_data_source(part, decoders={"image": tfds.decode.SkipDecoding()})
    examples = source.__getitems__(range(len(source)))
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(example["image"]))).reshape(-1) for example in examples])
    return pixels, np.array([example["label"] for example in examples], np.int32)


@dataclass(frozen=True)
class SequentialMNIST(Task, name="smnist"):
    """Ten classes, T = 784 normalised pixels, row by row; validation is the last 10 % of the training part.

    Attributes:
        data_dir: Directory of tensorflow-datasets; null for $TFDS_DATA_DIR or else ~/tensorflow_datasets.
    """

    data_dir: str | None = None

    length: ClassVar[int] = 784
    features: ClassVar[int] = 1
    outputs: ClassVar[int] = 10
    pooling: ClassVar[str] = "mean"
    metric: ClassVar[str] = "accuracy"
    goal: ClassVar[str] = "max"
    chance: ClassVar[float] = 0.1
    dataset: ClassVar[str] = "mnist"

    @property
    def sizes(self) -> dict[str, int]:
        """Number of examples of each split."""
        return {"train": 54000, "validation": 6000, "test": 10000}

    @property
    def order(self) -> np.ndarray:
        """Pixel shown at each step, int `(784,)`: step t shows pixel `order[t]` of the image read row by row."""
        return np.arange(self.length)

    def _examples(self, split: str, indices: np.ndarray) -> dict[str, np.ndarray]:
        pixels, classes = _load(self.name, self.data_dir, "test" if split == "test" else "train")
        rows = indices + self.sizes["train"] if split == "validation" else indices
        inputs = np.take(pixels[rows], self.order, axis=1).astype(np.float32)
        inputs -= np.float32(255 * _MEAN)
        inputs *= np.float32(1 / (255 * _STD))
        return {"inputs": inputs[..., None], "targets": classes[rows]}

    def loss(self, outputs: Array, batch: dict[str, Array]) -> Array:
        """Cross-entropy in nats, float32 `(B,)`, of logits `(B, 10)` against classes `(B,)`."""
        return cross_entropy(outputs, batch["targets"])

    def metrics(self, outputs: Array, batch: dict[str, Array]) -> dict[str, Array]:
        """`accuracy`, float32 `(B,)`: 1 where the class is right."""
        return {"accuracy": accuracy(outputs, batch["targets"])}


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
