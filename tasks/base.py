"""What every task has: options, splits, examples by index, loss and metrics."""

import functools
import numbers
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import mru.training
from mru.registry import Registry
from mru.training import ENDLESS, SPLITS
from mru.training.lines import short
from tasks import _philox

# Random numbers of a stream, of so few of which many streams at a time are faster than one after the other.
_SHORT = 32
REGISTRY: Registry[mru.training.Task] = Registry("task", "mru.tasks")


@dataclass(frozen=True)
class Task(mru.training.Task):
    """One task. The dataclass fields are the options a user sets, the class variables what the task fixes.

    A subclass is decorated with `@dataclass(frozen=True)`, registers itself with `class MyTask(Task, name="my_task")`,
    sets what `mru.training.Task` asks for, and defines `length`, `sizes`, `_examples`, `loss`, `metrics`, and
    `_validate` for options.

    Class variables:
        retention_option: name of the option that `at` replaces; empty if the task has no retention curve.
        dataset: name of the public data set in tensorflow-datasets; empty if nothing has to be prepared.

    Attributes:
        seed: Seed of the generator; tasks on recorded data have fixed examples and do not use it.
        retention: Lengths at which the metric is measured again after training.
    """

    seed: int = 0
    retention: tuple[int, ...] = ()

    retention_option: ClassVar[str] = ""
    dataset: ClassVar[str] = ""

    def __init_subclass__(cls, name: str | None = None, **kwargs: Any) -> None:
        """Registers the subclass under `name`; a subclass without one is a base of other tasks."""
        super().__init_subclass__(name, **kwargs)
        if name is not None:
            REGISTRY.add(name, cls)

    def __post_init__(self) -> None:
        """Validates the options.

        Raises:
            ValueError: an option is out of range; one line with the option, its value and what is allowed.
        """
        self._validate()
        for length in self.retention:
            try:
                replace(self, retention=(), **{self.retention_option: length})
            except ValueError as error:
                raise ValueError(f"task.retention = {short(repr(self.retention))}, of which {error}") from None

    def _validate(self) -> None:
        """Checks each option by itself; a subclass extends it by its own."""
        self._require_integer("seed", 0, bits=63)
        if not self.retention_option:
            self._require("retention", not self.retention, "() as this task has one length only")

    def _require(self, option: str, valid: bool, allowed: str) -> None:
        if not valid:
            raise ValueError(
                f"task.{option} = {short(repr(getattr(self, option)))}, allowed for {self.name}: {allowed}"
            )

    def _require_integer(self, option: str, low: int, bits: int = 31) -> None:
        value = getattr(self, option)
        valid = isinstance(value, numbers.Integral) and not isinstance(value, bool) and low <= value < 2**bits
        self._require(option, valid, f"an integer >= {low}, below 2^{bits}")
        object.__setattr__(self, option, int(value))  # one of NumPy's is none in a config

    def at(self, length: int) -> Self:
        """The same task at another length, for a retention curve.

        Raises:
            ValueError: the task has one length only, or cannot have this one.
        """
        if not self.retention_option:
            raise ValueError(f"task {self.name} has one length only, {self.length}")
        return replace(self, **{self.retention_option: length})

    def examples(self, split: str, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Examples by their index: a pure function of options, split and index, the same in any batch and process.

        Args:
            split: "train", "validation" or "test".
            indices: int `(n,)`, each in `[0, sizes[split])`.

        Returns:
            `inputs` float32 `(n, T, features)` or int32 `(n, T)`, `targets` `(n, ...)`, and `lengths` int32 `(n,)` for
            a task that pads.

        Raises:
            ValueError: unknown split, or indices that are no row of integers.
            IndexError: an index outside the split.
            MissingData: the data set has not been prepared.
        """
        if split not in SPLITS:
            raise ValueError(f"split = {split!r}, allowed: {', '.join(SPLITS)}")
        indices = np.asarray(indices)
        if indices.ndim != 1 or (indices.size and indices.dtype.kind not in "iu"):
            raise ValueError(f"indices must be integers (n,), got {indices.dtype} {indices.shape}")
        indices = indices.astype(np.int64)
        size = self.sizes[split]
        if indices.size and not 0 <= indices.min() <= indices.max() < size:
            raise IndexError(f"{self.name} has {size} {split} examples, asked for {indices.min()} to {indices.max()}")
        return self._examples(split, indices)

    def _examples(self, split: str, indices: np.ndarray) -> dict[str, np.ndarray]:
        """`examples` after its arguments were checked."""
        raise NotImplementedError


@dataclass(frozen=True)
class Generated(Task):
    """A task whose examples are computed from their index, without end and without repetition in training.

    Attributes:
        held_out: Number of validation examples, and of test examples.
    """

    held_out: int = 1000

    def _validate(self) -> None:
        super()._validate()
        self._require_integer("held_out", 1)

    @property
    def sizes(self) -> dict[str, int]:
        """Number of examples of each split; training never ends."""
        return {"train": ENDLESS, "validation": self.held_out, "test": self.held_out}

    def _streams(self, split: str, indices: np.ndarray) -> Iterator[np.random.Generator]:
        """`streams` of this task and seed."""
        return streams(self.name, self.seed, split, indices)

    def _uniform(self, split: str, indices: np.ndarray, count: int) -> np.ndarray:
        """The first numbers U[0, 1) of each stream, float64 `(n, count)`, as `random` gives them."""
        return (self._raw(split, indices, count) >> np.uint64(11)) * 2.0**-53

    def _words(self, split: str, indices: np.ndarray, count: int) -> np.ndarray:
        """The first random bits of each stream, uint32 `(n, count)`, in the order in which a generator uses them."""
        raw = np.ascontiguousarray(self._raw(split, indices, (count + 1) // 2), "<u8")  # whose lower half comes first
        return raw.view("<u4")[:, :count]

    def _raw(self, split: str, indices: np.ndarray, count: int) -> np.ndarray:
        """The first random numbers of 64 bits of each stream, uint64 `(n, count)`."""
        if count <= _SHORT:
            return _philox.raw(_key(self.name, self.seed, split), indices, count)
        raw = np.empty((len(indices), count), np.uint64)
        for row, stream in zip(raw, self._streams(split, indices)):
            row[:] = stream.bit_generator.random_raw(count)
        return raw


def streams(name: str, seed: int, split: str, indices: np.ndarray) -> Iterator[np.random.Generator]:
    """A random generator for each index, valid until the next is taken.

    Task, seed and split are the key of a counter-based bit generator (Philox 4x64, Salmon et al. 2011) and the index is
    the top word of its counter, so no two streams overlap. NumPy promises the same bits for ever, and the same normal
    numbers until a release note says otherwise (NEP 19).
    """
    bits = np.random.Philox(key=_key(name, seed, split))
    # Moving one generator costs a tenth of making one, and the making would dominate short examples.
    generator, state = np.random.Generator(bits), bits.state
    for index in indices:
        state["state"]["counter"][3] = index
        bits.state = state
        yield generator


@functools.cache
def _key(name: str, seed: int, split: str) -> np.ndarray:
    # The seed comes last because it may take several words and the others take one each: no two triples collide.
    entropy = [zlib.crc32(name.encode()), SPLITS.index(split), seed]
    return np.random.SeedSequence(entropy).generate_state(2, np.uint64)


def cross_entropy(outputs: Array, targets: Array) -> Array:
    """Cross-entropy in nats of logits `(..., classes)` against int classes `(...)`, float32 `(...)`."""
    return optax.softmax_cross_entropy_with_integer_labels(outputs.astype(jnp.float32), targets)


def accuracy(outputs: Array, targets: Array) -> Array:
    """1 where the largest of the logits `(..., classes)` is the int class `(...)`, else 0; float32 `(...)`."""
    return (jnp.argmax(outputs, -1) == targets).astype(jnp.float32)
