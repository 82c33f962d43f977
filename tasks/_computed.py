"""What tasks share whose examples are computed, and can be prepared to save the time."""

from dataclasses import dataclass

import numpy as np

from tasks._datasets import SETS, computed, store
from tasks._recorded import Recorded


@dataclass(frozen=True)
class Computed(Recorded):
    """A task that reads prepared examples if they are in the data directory, and else computes the same ones.

    A subclass defines `_generate`. What is prepared are the examples of seed 0.
    """

    @property
    def _set(self) -> str:
        """Name of the data set."""
        return self.dataset

    def _generate(self, split: str, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Computes examples: arrays by the names that the data set has behind the split's."""
        raise NotImplementedError

    @property
    def arrays(self) -> dict[str, np.ndarray] | None:
        """The prepared arrays, mapped into memory; None if there are none.

        Raises:
            MissingData: They are there, and damaged.
        """
        if self.seed != computed.SEED or not store.folder(self.data_dir, self._set).exists():
            return None
        return SETS[self._set].load(self.data_dir, self._set)

    def _made(self, split: str, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Examples, read or computed."""
        arrays = self.arrays
        if arrays is None:
            return self._generate(split, indices)
        names = [name.removeprefix(f"{split}_") for name in arrays if name.startswith(f"{split}_")]
        return {name: arrays[f"{split}_{name}"][indices] for name in names}
