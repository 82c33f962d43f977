"""Evidence: integrate a noisy signal, then hold the decision.

Our own task. The cue asks for integration, which a transient (fading) state does well, and the delay for holding, which
a persistent state does well; a model with both is at an advantage.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jax import Array

from tasks.base import Generated, accuracy, cross_entropy


@dataclass(frozen=True)
class Evidence(Generated, name="evidence"):
    """Two channels, signal and query flag, over T = cue + delay + 1 steps.

    The signal is N(mu, noise^2) for the first `cue` steps, mu being +mean or -mean with equal probability, and
    N(0, noise^2) from then on, the last step included. The flag is 1 at the last step and 0 before. The target is the
    class of mu: 1 for +mean, 0 for -mean.

    Attributes:
        cue: Steps that carry the signal.
        delay: Steps of pure noise between the cue and the step of the query.
        mean: Absolute value m of the signal's mean during the cue.
        noise: Standard deviation s of the noise.
    """

    cue: int = 50
    delay: int = 200
    mean: float = 0.3
    noise: float = 1.0
    retention: tuple[int, ...] = (200, 2000, 20000)

    features: ClassVar[int] = 2
    outputs: ClassVar[int] = 2
    pooling: ClassVar[str] = "last"
    metric: ClassVar[str] = "error"
    goal: ClassVar[str] = "min"
    chance: ClassVar[float] = 0.5
    retention_option: ClassVar[str] = "delay"
    retention_axis: ClassVar[str] = "delay"

    def _validate(self) -> None:
        super()._validate()
        self._require_integer("cue", 1)
        self._require_integer("delay", 0)
        for option in ("mean", "noise"):
            valid = 0 < getattr(self, option) <= np.finfo(np.float32).max
            self._require(option, bool(valid), "a finite number > 0 of 32 bits")

    @property
    def length(self) -> int:
        """Time steps T: cue, delay and the step of the query."""
        return self.cue + self.delay + 1

    @property
    def bayes_error(self) -> float:
        """Error of the best possible decision, the sign of the sum over the cue: 1 - Phi(mean * sqrt(cue) / noise)."""
        return 0.5 * math.erfc(self.mean * math.sqrt(self.cue) / self.noise / math.sqrt(2))

    def _examples(self, split: str, indices: np.ndarray) -> dict[str, np.ndarray]:
        signal = np.empty((len(indices), self.length), np.float32)
        targets = np.empty(len(indices), np.int32)
        for i, stream in enumerate(self._streams(split, indices)):
            targets[i] = stream.random() < 0.5
            stream.standard_normal(dtype=np.float32, out=signal[i])
        signal *= np.float32(self.noise)
        signal[:, : self.cue] += np.float32(self.mean) * (2 * targets[:, None] - 1).astype(np.float32)
        inputs = np.zeros((len(indices), self.length, 2), np.float32)
        inputs[..., 0] = signal
        inputs[:, -1, 1] = 1
        return {"inputs": inputs, "targets": targets}

    def loss(self, outputs: Array, batch: dict[str, Array]) -> Array:
        """Cross-entropy in nats, float32 `(B,)`, of logits `(B, 2)` against classes `(B,)`."""
        return cross_entropy(outputs, batch["targets"])

    def metrics(self, outputs: Array, batch: dict[str, Array]) -> dict[str, Array]:
        """`error`, float32 `(B,)`: 1 where the decision is wrong."""
        return {"error": 1 - accuracy(outputs, batch["targets"])}
