"""Checkpoints of a `SequenceModel`: where they lie in a run's folder, what is in them, writing and reading them.

`WORKDIR/checkpoints/STEP/` holds three items, written by Orbax: `model` (every variable of the model, by dotted name),
`train` (what training needs to go on, by name) and `about` (JSON). Nothing in them is executed on loading.

`about` has the `format`, the arguments of the model, what `save` was told, a table of all arrays (dtype, shape and
CRC-32 of each) and a CRC-32 of itself, so that no bit of a checkpoint changes unnoticed: Orbax stores numbers without
any. Format 1 had neither table nor checksum; it can still be read.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, Self

import jax
import numpy as np
from flax import nnx

from mru.training.checksum import is_sealed, of_array, sealed

# Orbax is slow to import and not needed to use a cell, so each function that uses it imports it.

FORMAT = 2


class Damaged(ValueError):
    """A checkpoint can not be read, or is not what was written."""


def flatten(state: nnx.State[Any, Any]) -> dict[str, jax.Array]:
    """The arrays of a state, or what stands for them, by dotted name, such as "blocks.0.cells.0.alpha"."""
    return {".".join(map(str, path)): leaf.get_value() for path, leaf in nnx.to_flat_state(state)}


def unflatten(state: nnx.State[Any, Any], arrays: dict[str, jax.Array]) -> nnx.State[Any, Any]:
    """`state` with its arrays replaced by those of the same name."""
    flat = nnx.to_flat_state(state)
    return nnx.from_flat_state([(path, leaf.replace(arrays[".".join(map(str, path))])) for path, leaf in flat])


def on_host(arrays: Mapping[str, jax.Array]) -> dict[str, np.ndarray]:
    """A copy of the whole of each array, which outlives the buffer that the next train step may take.

    Each process has all of an array: only the mesh axis `data` crosses processes, and it splits no state.
    """

    def whole(x: jax.Array) -> np.ndarray:
        if x.is_fully_addressable:
            return np.array(x)
        found = np.empty(x.shape, x.dtype)
        for shard in x.addressable_shards:
            found[shard.index] = shard.data
        return found

    for x in arrays.values():
        x.copy_to_host_async()  # all at once
    return {name: whole(x) for name, x in arrays.items()}


def steps(workdir: str | pathlib.Path) -> list[int]:
    """Steps of the checkpoints of a run, in order. Orbax gives a checkpoint its name when it is whole."""
    folder = pathlib.Path(workdir) / "checkpoints"
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal() and path.is_dir())


class Writer:
    """Writes the checkpoints of a run, in the background.

    The two newest are kept, so that one damaged file does not lose the run, and the best.

    Args:
        workdir: Folder of the run.
    """

    def __init__(self, workdir: str | pathlib.Path):
        import orbax.checkpoint as ocp
        from orbax.checkpoint import checkpoint_managers as policies

        self.workdir, self.best = pathlib.Path(workdir), -1
        writer = self

        class Best(policies.PreservationPolicy):
            def should_preserve(self, checkpoints: Any, *, context: Any) -> list[bool]:
                return [checkpoint.step == writer.best for checkpoint in checkpoints]

        kept = policies.AnyPreservationPolicy([policies.LatestN(2), Best()])
        options = ocp.CheckpointManagerOptions(preservation_policy=kept)
        self.manager = ocp.CheckpointManager(self.workdir.absolute() / "checkpoints", options=options)

    def save(
        self,
        step: int,
        *,
        model: dict[str, np.ndarray],
        train: dict[str, np.ndarray],
        about: dict[str, Any],
        best: int | None,
    ) -> None:
        """Save a step, once the one before it is written.

        Args:
            step: Step that it is saved as.
            model: Variables of the model, as `flatten` names them; like `train`, `on_host`, and never changed again.
            train: Other arrays by name.
            about: JSON-serialisable; `about["model"]` holds the arguments of `SequenceModel`.
            best: Step of the best checkpoint, which is kept; None if there is none yet.

        Raises:
            OSError: This one or the one before it could not be written.
        """
        import orbax.checkpoint as ocp

        about = sealed(about | {"format": FORMAT, "arrays": {"model": table(model), "train": table(train)}})
        items = ocp.args.Composite(
            model=ocp.args.StandardSave(model), train=ocp.args.StandardSave(train), about=ocp.args.JsonSave(about)
        )
        self.wait()
        self.best = -1 if best is None else best
        with self._writing():
            self.manager.save(step, args=items)

    def wait(self) -> None:
        """Wait until what was saved is written.

        Raises:
            OSError: It could not be.
        """
        with self._writing():
            self.manager.wait_until_finished()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # what a full disk becomes differs from one layer of Orbax to the next
            raise OSError(f"no checkpoint can be written to {self.workdir / 'checkpoints'}: {reason(error)}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        # An error under way says more than that of a checkpoint which could not be written either.
        with contextlib.suppress(OSError) if error else contextlib.nullcontext(), self._writing():
            self.manager.close()


def about(workdir: str | pathlib.Path, step: int) -> dict[str, Any]:
    """What `Writer.save` was told about a step.

    Raises:
        Damaged: It can not be read, or is not what was written.
        ValueError: It was written by a later version.
    """
    folder = pathlib.Path(workdir) / "checkpoints" / str(step)
    try:
        held = json.loads((folder / "about" / "metadata").read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise Damaged(f"{folder / 'about'}: {reason(error)}") from None
    if not isinstance(held, dict):
        raise Damaged(f"{folder / 'about'}: no JSON object")
    if "checksum" in held or set(held) != {"model", "task", "progress"}:
        if not is_sealed(held) or not isinstance(held.get("format"), int):
            raise Damaged(f"{folder / 'about'}: its checksum is another")
        if held["format"] > FORMAT:
            raise ValueError(
                f"{folder} has format {held['format']}, this version of mru reads up to {FORMAT}: it needs a later one"
            )
    return held


def restore(workdir: str | pathlib.Path, step: int, **like: dict[str, Any]) -> dict[str, dict[str, jax.Array]]:
    """The arrays of a step.

    Args:
        workdir: Folder of the run.
        step: Step to restore.
        **like: `model` or `train`, or both: arrays with the names, shapes, dtypes and shardings to restore to.

    Raises:
        Damaged: They can not be read, or are not what was written.
        ValueError: The checkpoint is of another version, or of other arrays.
    """
    import orbax.checkpoint as ocp

    folder, promised = pathlib.Path(workdir).absolute() / "checkpoints" / str(step), about(workdir, step).get("arrays")
    found = {}
    for item, wanted in like.items():
        if promised is not None:
            _require_same(folder, {name: tuple(row[:2]) for name, row in promised[item].items()}, wanted)
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, wanted)
        with _reading(folder / item), ocp.StandardCheckpointer() as reader:
            found[item] = reader.restore(folder / item, target)
        if promised is not None:
            _require_written(folder / item, promised[item], on_host(found[item]))
    return found


def read(workdir: str | pathlib.Path, step: int, item: str) -> dict[str, np.ndarray]:
    """The arrays of a step by name, whatever its model is; no device is used.

    Args:
        workdir: Folder of the run.
        step: Step to read.
        item: `model` or `train`.

    Raises:
        Damaged: They can not be read, or are not what was written.
        ValueError: The checkpoint is of another version.
    """
    import orbax.checkpoint as ocp

    folder, promised = pathlib.Path(workdir).absolute() / "checkpoints" / str(step), about(workdir, step).get("arrays")
    with _reading(folder / item), ocp.StandardCheckpointer() as reader:
        if promised is None:
            tree = reader.metadata(folder / item).item_metadata.tree
            kinds = {name: (x.dtype, x.shape) for name, x in tree.items()}
        else:
            kinds = {name: (row[0], row[1]) for name, row in promised[item].items()}
        # Orbax reads into NumPy what is to be like NumPy's; these take no memory.
        like = {name: np.broadcast_to(np.zeros((), dtype), shape) for name, (dtype, shape) in kinds.items()}
        found = reader.restore(folder / item, like)
    if promised is not None:
        _require_written(folder / item, promised[item], found)
    return found


@contextlib.contextmanager
def _reading(folder: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever a damaged file makes of its reader
        raise Damaged(f"{folder}: {reason(error)}") from None


def table(arrays: Mapping[str, np.ndarray]) -> dict[str, list[Any]]:
    """Dtype, shape and CRC-32 of each array."""
    return {name: [str(x.dtype), list(x.shape), of_array(x)] for name, x in arrays.items()}


def _require_written(folder: pathlib.Path, promised: dict[str, list[Any]], found: Mapping[str, np.ndarray]) -> None:
    here = table(found)
    if differ := [name for name in promised if here.get(name) != promised[name]]:
        more = f" and {len(differ) - 1} more" if len(differ) > 1 else ""
        raise Damaged(f"{folder}: the numbers of {differ[0]}{more} are not those that were written")


def _require_same(folder: pathlib.Path, held: dict[str, Any], wanted: dict[str, Any]) -> None:
    here = {name: (str(x.dtype), list(x.shape)) for name, x in wanted.items()}
    differ = [name for name in sorted({*held, *here}) if held.get(name) != here.get(name)]
    if differ:

        def words(row: Any) -> str:
            return "none" if row is None else f"{row[0]} {tuple(row[1])}"

        name, more = differ[0], f", and {len(differ) - 1} more differ" if len(differ) > 1 else ""
        raise ValueError(
            f"{folder} holds other arrays: {name} is {words(held.get(name))} there and {words(here.get(name))} in this "
            f"model{more}; it is of another model or version of mru"
        )


def reason(error: BaseException) -> str:
    """The first words of an error, in one line."""
    return " ".join(str(error).split())[:150] or type(error).__name__
