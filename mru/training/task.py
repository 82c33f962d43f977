"""What training asks of a task. The base class of the folder `tasks` is one way to have it all, not the only one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import numpy as np
from jax import Array

SPLITS = ("train", "validation", "test")

# A training set at least this large is a generator of independent examples, not a list to visit in epochs.
ENDLESS = 2**62

Batch = dict[str, Any]


class MissingData(Exception):
    """A data set is not where it was looked for; the message is one line with the command that puts it there."""


class ModelInputs(NamedTuple):
    """What a model is called with.

    Attributes:
        inputs: Features (B, T, D) or tokens (B, T).
        lengths: Real steps of each sequence, int (B,); None where nothing is padded.
        reset: Boolean (B, T), true where a new sequence starts in a packed row; None where none does.
    """

    inputs: Array
    lengths: Array | None = None
    reset: Array | None = None


class Task(Protocol):
    """Data, loss and metrics: a frozen dataclass whose fields are the options that a config can set.

    A task of another package subclasses this, as `class Parity(Task, name="parity")`, or has the same members, and is
    named `parity` in the entry-point group `mru.tasks`. The members below without a body of their own must be given:
    by a class variable, a field or a property. Options are of plain types (numbers, texts, lists of them), so that
    no config can run code.

    Class variables:
        name: What configs call it.
        time_axes: Which axis of each array of `examples` is time, the batch axis being 0; arrays that are not named
            have none. The mesh axis `seq` splits these axes.
    """

    name: ClassVar[str]
    time_axes: ClassVar[Mapping[str, int]] = {"inputs": 1}

    def __init_subclass__(cls, name: str | None = None, **kwargs: Any) -> None:
        """Keeps the name."""
        super().__init_subclass__(**kwargs)
        if name is not None:
            cls.name = name

    @property
    def features(self) -> int:
        """Channels of float inputs (B, T, features); 0 for tokens."""
        return 0

    @property
    def vocabulary(self) -> int:
        """Number of token values of int inputs (B, T); 0 for float inputs."""
        return 0

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Width of the model's output."""

    @property
    @abstractmethod
    def pooling(self) -> str:
        """The readout over time, one of "last", "mean", or "none" for an output at every step."""

    @property
    @abstractmethod
    def metric(self) -> str:
        """The metric that selects a model, one of the keys of `metrics` or of `summarise`."""

    @property
    @abstractmethod
    def goal(self) -> str:
        """The better direction of `metric`, "min" or "max"."""

    @property
    @abstractmethod
    def chance(self) -> float:
        """`metric` of a model that ignores its input."""

    @property
    @abstractmethod
    def length(self) -> int:
        """Time steps T of every example (of the longest, where they are padded)."""

    @property
    @abstractmethod
    def sizes(self) -> Mapping[str, int]:
        """Number of examples of each of `SPLITS`; `ENDLESS` training examples are drawn anew instead of repeated."""

    @property
    def data_version(self) -> str | None:
        """Text that identifies the examples, as a run is resumed on the same only. None, as options identify them."""
        return None

    @property
    def retention(self) -> tuple[int, ...]:
        """Lengths at which the metric is measured again after training; none."""
        return ()

    @property
    def retention_axis(self) -> str:
        """What these lengths are called on a plot."""
        return ""

    def at(self, length: int) -> Self:
        """The same task at another length, for the retention curve.

        Raises:
            ValueError: It has one length only.
        """
        raise ValueError(f"task {self.name} has one length only, {self.length}")

    @abstractmethod
    def examples(self, split: str, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Examples by their index: a pure function of options, split and index, the same in any batch and process.

        Args:
            split: One of `SPLITS`.
            indices: int (n,), each in [0, sizes[split]).

        Returns:
            Arrays (n, ...) by name, such as `inputs` and `targets`.

        Raises:
            MissingData: The data set has not been prepared.
        """

    def example_lengths(self, split: str, indices: np.ndarray) -> np.ndarray | None:
        """How many real steps examples have, int (n,), quickly; None if they are not padded.

        With them, batches can be made of examples of like length (`train.buckets`).
        """
        return None

    def model_inputs(self, batch: Batch) -> ModelInputs:
        """What the model is called with for a batch: its `inputs`, and its `lengths` and `reset` if it has them."""
        return ModelInputs(batch["inputs"], batch.get("lengths"), batch.get("reset"))

    def augmented(self, batch: Batch, key: Array) -> Batch:
        """The batch that a train step learns from: changed at random, if the task says so. Evaluation never is.

        Args:
            batch: Arrays (B, ...) by name, on the device.
            key: A random key of the step, which depends on `train.seed` and its number alone.
        """
        return batch

    def counted(self, batch: Batch) -> Array | None:
        """How many steps of each example its loss and metrics are means over, (B,); None if they are no such means.

        A task with an output at every step that says it is evaluated in chunks at any length: in place of a whole
        batch it then gets some of its time steps, also ones of which none counts.
        """
        return None

    @abstractmethod
    def loss(self, outputs: Array, batch: Batch) -> Array:
        """Loss of each example, float32 (B,), from the model's outputs (B, outputs)."""

    @abstractmethod
    def metrics(self, outputs: Array, batch: Batch) -> dict[str, Array]:
        """Metrics of each example, float32 (B,) each; what is reported is their mean over examples."""

    def scores(self, outputs: Array, batch: Batch) -> dict[str, Array]:
        """What `summarise` is given of each example, (B, ...) by name; nothing if no metric is of a whole split."""
        return {}

    def summarise(self, scores: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Metrics of a whole split that are no means over examples, such as F1.

        Args:
            scores: What `scores` gave of all its examples, in their order, (n, ...) by name.
        """
        return {}
