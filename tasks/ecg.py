"""Heart beats: is a beat of an electrocardiogram a premature ventricular contraction (PVC) or any other.

Source: Moody and Mark, "The impact of the MIT-BIH Arrhythmia Database", 2001: first channel, 360 Hz, beats marked by
two cardiologists. Split by record, as de Chazal et al. 2004 ask for: no patient of one split is in another.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.stats import rankdata

from tasks._augmentation import Signals
from tasks.base import accuracy, cross_entropy


@dataclass(frozen=True)
class Beats(Signals, name="ecg"):
    """Two classes (1 for a PVC) of windows around a beat, in mV less the window's mean; T = 720, which is 2 s.

    A PVC comes early and has another shape; the window shows the beats before and behind, too. PVCs are few (11 % of
    train, 2 % of validation, 8 % of test), so the loss weighs each class by one over its frequency in train, and the
    metric is F1 of PVCs over the whole split, with `auroc`, the area under the ROC curve, beside it. At chance every
    beat is called a PVC.

    Attributes:
        length: Time steps T; the beat is at step T // 2. At an end of the record its last sample is repeated.
    """

    length: int = 720

    features: ClassVar[int] = 1
    outputs: ClassVar[int] = 2
    pooling: ClassVar[str] = "mean"
    metric: ClassVar[str] = "f1"
    chance: ClassVar[float] = 0.149  # of test, 2 p / (1 + p)
    dataset: ClassVar[str] = "mitdb12"

    # Beats of train of the two classes.
    counts: ClassVar[tuple[int, int]] = (11800, 1396)

    def _validate(self) -> None:
        self._require_integer("length", 1)
        super()._validate()

    @property
    def sizes(self) -> dict[str, int]:
        """Number of examples of each split."""
        return {"train": 13196, "validation": 6038, "test": 6077}

    def _examples(self, split: str, indices: np.ndarray) -> dict[str, np.ndarray]:
        signals = self.arrays[f"{split}_signals"]
        record, position, is_pvc = self.arrays[f"{split}_beats"][indices].T
        steps = position[:, None] + np.arange(self.length) - self.length // 2
        window = signals[record[:, None], np.clip(steps, 0, signals.shape[1] - 1)].astype(np.float32)
        window -= window.mean(1, keepdims=True)
        window /= 200  # units of a millivolt
        return {"inputs": window[..., None], "targets": is_pvc.astype(np.int32)}

    def loss(self, outputs: Array, batch: dict[str, Array]) -> Array:
        """Weighted cross-entropy in nats, float32 `(B,)`, of logits `(B, 2)` against classes `(B,)`."""
        weights = jnp.array([sum(self.counts) / (2 * count) for count in self.counts], jnp.float32)
        return weights[batch["targets"]] * cross_entropy(outputs, batch["targets"])

    def metrics(self, outputs: Array, batch: dict[str, Array]) -> dict[str, Array]:
        """`accuracy`, float32 `(B,)`: 1 where the class is right."""
        return {"accuracy": accuracy(outputs, batch["targets"])}

    def scores(self, outputs: Array, batch: dict[str, Array]) -> dict[str, Array]:
        """The logit of a PVC over that of others, and the class, `(B,)` both."""
        logits = outputs.astype(jnp.float32)
        return {"logit": logits[:, 1] - logits[:, 0], "target": batch["targets"]}

    def summarise(self, scores: Mapping[str, np.ndarray]) -> dict[str, float]:
        """`f1` and `auroc` of a whole split."""
        return {"f1": f1(scores["logit"] > 0, scores["target"]), "auroc": auroc(scores["logit"], scores["target"])}


def f1(found: np.ndarray, is_true: np.ndarray) -> float:
    """F1, the harmonic mean of precision and recall, of what was found `(n,)`; 0 if nothing was found rightly."""
    found, is_true = found.astype(bool), is_true.astype(bool)
    return 2 * int((found & is_true).sum()) / max(int(found.sum() + is_true.sum()), 1)


def auroc(score: np.ndarray, is_true: np.ndarray) -> float:
    """Area under the ROC curve: how often one of class 1 scores above one of class 0, a tie counting half.

    It is 1/2, that of a guess, where a class has no example.
    """
    is_true = is_true.astype(bool)
    positive, negative = int(is_true.sum()), int((~is_true).sum())
    if not positive * negative:
        return 0.5
    return float((rankdata(score)[is_true].sum() - positive * (positive + 1) / 2) / (positive * negative))
