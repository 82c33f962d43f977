"""Speech Commands from raw audio, one sample a step: ten words, silence, and any other word.

Source: Warden, "Speech Commands", 2018, arXiv 1804.03209, version 0.02.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tasks._augmentation import Signals
from tasks._datasets.speech import from_mu_law


@dataclass(frozen=True)
class SpeechCommands(Signals, name="speech_commands"):
    """Twelve classes, T = 8,000 samples (1 s), in units of the deviation of all of train.

    Of the public set only the official test part is used, 4,890 clips, and split anew by speaker: no speaker of one
    split is in another. With so little to train on, results do not compare with published ones.
    """

    length: ClassVar[int] = 8000
    features: ClassVar[int] = 1
    outputs: ClassVar[int] = 12
    pooling: ClassVar[str] = "mean"
    chance: ClassVar[float] = 1 / 12
    dataset: ClassVar[str] = "speech_commands_test_8k"

    deviation: ClassVar[float] = 0.0856  # root of the mean square of all training samples

    @property
    def sizes(self) -> dict[str, int]:
        """Number of examples of each split."""
        return {"train": 3505, "validation": 405, "test": 980}

    def _examples(self, split: str, indices: np.ndarray) -> dict[str, np.ndarray]:
        inputs = from_mu_law(self.arrays[f"{split}_clips"][indices])[..., None] * np.float32(1 / self.deviation)
        return {"inputs": inputs, "targets": self.arrays[f"{split}_labels"][indices].astype(np.int32)}


@dataclass(frozen=True)
class FullSpeechCommands(SpeechCommands, name="speech_commands_16k"):
    """Twelve classes, T = 16,000 samples (1 s), of the whole public set in its official splits.

    It is prepared by the builder of tensorflow-datasets, which downloads 2.4 GB and needs TensorFlow and pydub. Shorter
    clips are padded behind by silence, which is heard as the rest is.
    """

    length: ClassVar[int] = 16000
    dataset: ClassVar[str] = "speech_commands_16k"

    @property
    def sizes(self) -> dict[str, int]:
        """Number of examples of each split."""
        return {"train": 85511, "validation": 10102, "test": 4890}

    def _examples(self, split: str, indices: np.ndarray) -> dict[str, np.ndarray]:
        inputs = self.arrays[f"{split}_clips"][indices, :, None] * np.float32(1 / (32768 * self.deviation))
        return {"inputs": inputs, "targets": self.arrays[f"{split}_labels"][indices].astype(np.int32)}
