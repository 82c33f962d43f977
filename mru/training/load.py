"""The trained model of a run, from its checkpoints: `mru.load`."""

from __future__ import annotations

import json
import pathlib

from flax import nnx

from mru.model.quantization import quantized
from mru.model.sequence import SequenceModel
from mru.training import checkpoint


def load(workdir: str | pathlib.Path, step: int | None = None) -> SequenceModel:
    """The trained model of a run, of the bits that its `weights.bits` say, as it was evaluated.

    Args:
        workdir: Folder of the run.
        step: Which checkpoint; if None, the one that `summary.json` names as best on validation, or else the newest.

    Raises:
        FileNotFoundError: There is no such checkpoint; the message names the folder and the steps that it has.
        ValueError: The checkpoint is damaged or holds no model of this version, or summary.json is damaged.
    """
    step = chosen(workdir, step)
    held = checkpoint.about(workdir, step)
    try:
        graphdef, state = nnx.split(SequenceModel(**held["model"], rngs=nnx.Rngs(0)))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{workdir}/checkpoints/{step} holds no model of this version: {error}") from None
    found = checkpoint.restore(workdir, step, model=checkpoint.flatten(state))["model"]
    model = nnx.merge(graphdef, checkpoint.unflatten(state, found))
    bits = held.get("config", {}).get("weights", {}).get("bits")
    return model if bits is None else quantized(model, bits)


def chosen(workdir: str | pathlib.Path, step: int | None = None) -> int:
    """The step that `load` takes.

    Raises:
        FileNotFoundError: As `load`.
        ValueError: summary.json is damaged.
    """
    workdir = pathlib.Path(workdir)
    if not (workdir / "checkpoints").is_dir():
        raise FileNotFoundError(f"{workdir} holds no checkpoints; expected the workdir of a run of train.py")
    found, summary = checkpoint.steps(workdir), workdir / "summary.json"
    if step is None and summary.exists():
        try:
            step = int(json.loads(summary.read_bytes())["best_step"])
        except (OSError, ValueError, TypeError, KeyError):
            raise ValueError(f"{summary} is damaged; name the step to load, one of {found}") from None
    if step is None and found:
        step = found[-1]
    if step is None or step not in found:
        raise FileNotFoundError(f"{workdir}/checkpoints has no step {step}; steps there: {found}")
    return step
