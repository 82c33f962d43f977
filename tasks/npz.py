"""Your own data, from one .npz file: `np.savez("data.npz", x=x, y=y, lengths=lengths)`.

The arrays say what the task is. `x` is floats `(n, T)` or `(n, T, features)`, or integer tokens `(n, T)` from 0 on. `y`
is a class, from 0 on, for each example, integers `(n,)`, or at every step, integers `(n, T)`; or it is numbers, floats
`(n,)`, `(n, k)` or `(n, T, k)`. `lengths`, integers `(n,)`, says how many steps are real where sequences are padded
behind. `split`, `(n,)` of "train", "validation" and "test", says where each example belongs; without it, 80, 10 and
10 % are drawn at random, always the same.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import Array

from mru.training import MissingData
from mru.training.lines import short
from tasks import _own
from tasks.base import Task, accuracy, cross_entropy


@dataclass(frozen=True)
class OwnArrays(Task, name="npz"):
    """Classes (metric accuracy; chance: the most frequent class of train) or numbers (mse; chance: the mean of train).

    With a target at every step, the metric of an example is the mean over its real steps.

    Attributes:
        path: The file, relative to where the command is run.
        classes: Number of classes; null for one more than the largest in the file.
    """

    path: str = "data.npz"
    classes: int | None = None

    def _validate(self) -> None:
        super()._validate()
        self._require("path", isinstance(self.path, str) and bool(self.path), "the path of an .npz file")
        if self.classes is not None:
            self._require_integer("classes", 1)
        if os.path.exists(self.path):
            try:
                self._content  # noqa: B018
            except ValueError as error:
                raise ValueError(f"task.path = {short(self.path)}: {error}") from None

    @property
    def _content(self) -> _own.Content:
        try:
            changed = os.stat(self.path).st_mtime_ns
        except OSError as error:
            raise MissingData(
                f"task.path = {short(self.path)}, allowed: an .npz file with arrays x and y ({error.strerror})"
            ) from None
        return _own.read(self.path, changed, self.classes)

    @property
    def features(self) -> int:
        """Channels of float inputs; 0 for tokens."""
        x = self._content.x
        return x.shape[2] if x.ndim == 3 else 0

    @property
    def vocabulary(self) -> int:
        """One more than the largest token; 0 for float inputs."""
        return self._content.vocabulary

    @property
    def outputs(self) -> int:
        """Classes, or numbers k."""
        return self._content.outputs

    @property
    def pooling(self) -> str:
        """An output at every step, or one from the mean over all."""
        return "none" if self._content.is_per_step else "mean"

    @property
    def metric(self) -> str:
        """Of classes or numbers."""
        return "accuracy" if self._content.has_classes else "mse"

    @property
    def goal(self) -> str:
        """The better direction."""
        return "max" if self._content.has_classes else "min"

    @property
    def chance(self) -> float:
        """The metric on test of the best constant answer to train."""
        (train, of_train), (test, of_test) = (self._real_targets(split) for split in ("train", "test"))
        if self._content.has_classes:
            return float(np.average(test == np.bincount(train, of_train).argmax(), weights=of_test))
        mean = np.average(train, 0, of_train)
        return float(np.average(np.square(test - mean).mean(-1), weights=of_test))

    def _real_targets(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Targets of a split without those of padded steps, and how much each counts, as examples count alike."""
        content, rows = self._content, self._content.rows[split]
        y = content.y[rows]
        if not content.is_per_step:
            return y, np.ones(len(y))
        lengths = np.full(len(y), self.length) if content.lengths is None else content.lengths[rows]
        is_real = np.arange(self.length) < lengths[:, None]
        return y[is_real], np.broadcast_to(1 / lengths[:, None], is_real.shape)[is_real]

    @property
    def data_version(self) -> str:
        """Checksum of the arrays of the file and of their split."""
        return str(self._content.checksum)

    @property
    def length(self) -> int:
        """Time steps T of the file."""
        return self._content.x.shape[1]

    @property
    def sizes(self) -> dict[str, int]:
        """Number of examples of each split."""
        return {split: len(rows) for split, rows in self._content.rows.items()}

    @property
    def time_axes(self) -> Mapping[str, int]:
        """Of the inputs, and of targets at every step."""
        return {"inputs": 1, "targets": 1} if self._content.is_per_step else {"inputs": 1}

    def example_lengths(self, split: str, indices: np.ndarray) -> np.ndarray | None:
        """Real steps of examples, int `(n,)`; None if the file has no `lengths`."""
        content = self._content
        return None if content.lengths is None else content.lengths[content.rows[split][indices]]

    def _examples(self, split: str, indices: np.ndarray) -> dict[str, np.ndarray]:
        content = self._content
        rows = content.rows[split][indices]
        batch = {"inputs": content.x[rows], "targets": content.y[rows]}
        return batch if content.lengths is None else batch | {"lengths": content.lengths[rows]}

    def _mean(self, values: Array, batch: dict[str, Array]) -> Array:
        """The mean over the real steps of values `(B, T)`, or values `(B,)` as they are."""
        if values.ndim == 1:
            return values
        if "lengths" not in batch:
            return values.mean(1)
        is_real = jnp.arange(values.shape[1]) < batch["lengths"][:, None]
        return jnp.where(is_real, values, 0).sum(1) / batch["lengths"]

    def loss(self, outputs: Array, batch: dict[str, Array]) -> Array:
        """Cross-entropy in nats against classes, or squared error against numbers, float32 `(B,)`."""
        if self._content.has_classes:
            return self._mean(cross_entropy(outputs, batch["targets"]), batch)
        return self._mean(jnp.square(outputs.astype(jnp.float32) - batch["targets"]).mean(-1), batch)

    def metrics(self, outputs: Array, batch: dict[str, Array]) -> dict[str, Array]:
        """`accuracy` of classes, or `mse` of numbers, float32 `(B,)`."""
        if self._content.has_classes:
            return {"accuracy": self._mean(accuracy(outputs, batch["targets"]), batch)}
        return {"mse": self.loss(outputs, batch)}
