"""What became of a latch: whether its channels hold, are overwritten all the time, or never write."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jax import Array

from mru.cells import Cell
from mru.dynamics.layers import layer, layers
from mru.dynamics.writes import holds, writes
from mru.model import SequenceModel


class Diagnosis(NamedTuple):
    """What became of the channels of a latch.

    Attributes:
        verdict: "holds", if at least a tenth of them does; else "dead", if none writes, or "blocked", as those that
            write are overwritten too soon.
        sentence: The same in words, with the number of channels of each kind.
        reach: By channel, the part of a sequence that lies after its last write, mean over the batch, (N,): how far
            back the last state looks, and the gradient of a latch without a leak goes.
        dead: Channels that never write, bool (N,).
    """

    verdict: str
    sentence: str
    reach: np.ndarray
    dead: np.ndarray


def diagnose(cell: Cell, x: Array, *, least: float = 0.25) -> Diagnosis:
    """Look at the writes of a latch over a batch for the failures that training one can end in.

    A channel that never writes is dead: it says nothing of its input, and it has no gradient but the surrogate's. One
    that writes all the time is blocked: each write cuts the gradient through time, so that nothing tells it to hold.
    That is how a BMRU ends that was trained without its leak on sequences too long for that.

    Args:
        cell: A cell that can hold, such as BMRU or PMRU.
        x: Its inputs, (B, T, D).
        least: A channel holds if its reach is at least this part of a sequence.

    Raises:
        ValueError: The cell does not hold.
    """
    write = np.asarray(writes(cell, x))
    time, channels = write.shape[-2:]
    write = write.reshape(-1, time, channels)
    # Steps from the last one back to the last write; all of them where there is none.
    reach = np.where(write.any(1), np.argmax(write[:, ::-1], 1), time).mean(0) / time
    dead = np.asarray(~write.any((0, 1)))
    held = int((~dead & (reach >= least)).sum())
    blocked = channels - held - int(dead.sum())
    verdict = "holds" if held >= channels / 10 else "dead" if dead.all() else "blocked"
    sentence = (
        f"{verdict}: of {channels} channels {held} hold for at least {100 * least:g} % of a sequence, {blocked} are "
        f"overwritten before, {int(dead.sum())} never write"
    )
    return Diagnosis(verdict, sentence, reach, dead)


def diagnose_layers(model: SequenceModel, inputs: Array, *, lengths: Array | None = None) -> dict[str, Diagnosis]:
    """`diagnose` every layer of a model that can hold, by its name.

    A model has persistent memory if one of them holds: that others are overwritten all the time is no failure, as they
    may serve as gates for those.

    Args:
        model: Model.
        inputs: What the model is called with, features (B, T, inputs) or tokens (B, T).
        lengths: See `SequenceModel.__call__`; what is written in padding counts as well.
    """
    found = {}
    for name in layers(model):
        cell, x = layer(model, name, inputs, lengths=lengths)
        if holds(cell, x):
            found[name] = diagnose(cell, x)
    return found
