"""Train a sequence model from a config file, resume it, and report how it does.

    python train.py --config configs/quickstart.yaml [--workdir runs/x] [--train.steps 500] [--model.cells bmru,lru] ...

One loop for every task and cell: select on validation, report test once. The same command continues a stopped run.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import logging
import math
import os
import pathlib
import platform
import shlex
import signal
import sys
import time
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import yaml
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import mru
import mru.training.checkpoint
import tasks
from mru.training import report as results
from mru.training.batches import evaluation_batches, train_batches
from mru.training.config import Config, DistributedConfig, MeshConfig, Ramp, UserError, model_arguments, parse


def start_processes(config: DistributedConfig) -> None:
    """Join JAX's distributed runtime where the config or a cluster's environment says that there are more processes."""
    if config.coordinator_address is not None:
        jax.distributed.initialize(config.coordinator_address, config.num_processes, config.process_id)
    elif any(int(os.environ.get(name, 1)) > 1 for name in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")) or (
        "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")
    ):
        jax.distributed.initialize()


def keep_programs() -> None:
    """Keep compiled programs between runs, unless JAX was told where to (`JAX_COMPILATION_CACHE_DIR`)."""
    if jax.config.jax_compilation_cache_dir is None:
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
        # Programs for CPU use the instructions of the machine that compiled them, so no two machines share a folder.
        jax.config.update("jax_compilation_cache_dir", str(cache / "mru" / platform.node()))


def make_mesh(config: MeshConfig, batch_size: int) -> Mesh:
    """The mesh (data, seq, model) over all devices."""
    count, local, rest = jax.device_count(), jax.local_device_count(), config.seq * config.model
    data = count // rest if config.data == -1 else config.data
    if data * rest != count or local % rest:
        raise UserError(
            f"mesh = data {config.data} x seq {config.seq} x model {config.model}, allowed: a product of {count}, the "
            f"number of devices, and seq x model a divisor of the {local} of each process"
        )
    if batch_size % data:
        raise UserError(f"train.batch_size = {batch_size}, allowed: a multiple of the {data} devices on mesh axis data")
    shape = {"data": data, "seq": config.seq, "model": config.model}
    return jax.make_mesh(tuple(shape.values()), tuple(shape), axis_types=(jax.sharding.AxisType.Auto,) * 3)


def shard_parameters(mesh: Mesh, tree: Any) -> Any:
    """Shardings of a tree of arrays: the last axis of every matrix over mesh axis `model` where it divides."""
    size = mesh.shape["model"]

    def sharding(x):
        split = size > 1 and x.ndim >= 2 and x.shape[-1] % size == 0
        return NamedSharding(mesh, P(*[None] * (x.ndim - 1), "model") if split else P())

    return jax.tree.map(sharding, tree)


def set_schedules(rest: nnx.State, schedules: dict[str, Ramp], step: jax.Array, steps: int) -> nnx.State:
    """The state that is not parameters, with each scheduled scalar at its value of this step."""

    def move(path, variable):
        name = path[-1]
        if isinstance(variable, mru.cells.Scheduled) and name in schedules:
            return variable.replace(jnp.asarray(schedules[name](step, steps), variable[...].dtype))
        return variable

    return nnx.from_flat_state([(path, move(path, leaf)) for path, leaf in nnx.to_flat_state(rest)])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """What a step changes.

    Attributes:
        params: Parameters.
        rest: Other variables of the model; scheduled scalars have the value that is due at `step`.
        optimizer: State of the optimiser.
        step: Steps done, int32.
    """

    params: nnx.State
    rest: nnx.State
    optimizer: optax.OptState
    step: jax.Array


class Trainer:
    """The compiled functions of a run: initialisation, train steps, evaluation."""

    def __init__(self, config: Config, mesh: Mesh):
        self.config, self.mesh, self.task = config, mesh, config.task
        self.graphdef: nnx.GraphDef
        o, steps = config.optimizer, config.train.steps
        rate = optax.warmup_cosine_decay_schedule(
            o.lr * 0.01, o.lr, min(round(o.warmup * steps), steps - 1), steps, o.lr * o.final
        )
        self.transform = mru.adamw(
            rate,
            weight_decay=o.weight_decay,
            state_lr_factor=o.state_lr_factor,
            clip=o.clip,
            b1=o.b1,
            b2=o.b2,
        )
        self.key = jax.random.key(config.train.seed)
        abstract = nnx.eval_shape(self._model)
        self.graphdef, params, rest = nnx.split(abstract, nnx.Param, ...)
        self.parameters = sum(math.prod(x.shape) for x in jax.tree.leaves(params))
        moved = {path[-1] for path, leaf in nnx.to_flat_state(rest) if isinstance(leaf, mru.cells.Scheduled)}
        ramps = [ramp for name, ramp in config.train.ramps.items() if name in moved]
        # Until a scheduled scalar has arrived the model is not the one that will be used: nothing is selected.
        self.settled = max((ramp.arrival(steps) for ramp in ramps), default=0)
        self.shardings = shard_parameters(mesh, jax.eval_shape(self._initial))
        self.replicated = NamedSharding(mesh, P())

    def _model(self) -> mru.SequenceModel:
        return mru.SequenceModel(**model_arguments(self.config), rngs=nnx.Rngs(self.config.train.seed))

    def _initial(self) -> TrainState:
        _, params, rest = nnx.split(self._model(), nnx.Param, ...)
        rest = set_schedules(rest, self.config.train.ramps, jnp.zeros((), jnp.int32), self.config.train.steps)
        return TrainState(params, rest, self.transform.init(params), jnp.zeros((), jnp.int32))

    def initial(self) -> TrainState:
        """The state before the first step, on the mesh."""
        return jax.jit(self._initial, out_shardings=self.shardings)()

    def _step(self, state: TrainState, batch: dict[str, jax.Array]) -> tuple[TrainState, dict[str, jax.Array]]:
        train = self.config.train
        key = jax.random.fold_in(self.key, state.step)

        def loss_of(params):
            rngs = nnx.Rngs(dropout=key)  # made here, as it counts what it is asked for
            model = nnx.merge(self.graphdef, params, state.rest)
            outputs, _ = model(batch["inputs"], lengths=batch.get("lengths"), rngs=rngs)
            metrics = {name: x.mean() for name, x in self.task.metrics(outputs, batch).items()}
            return self.task.loss(outputs, batch).mean(), metrics

        (loss, metrics), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        updates, optimizer = self.transform.update(gradient, state.optimizer, state.params)
        metrics = metrics | {"loss": loss, "gradient_norm": optax.tree.norm(gradient)}
        rest = set_schedules(state.rest, train.ramps, state.step + 1, train.steps)
        return TrainState(optax.apply_updates(state.params, updates), rest, optimizer, state.step + 1), metrics

    def compile(self, state: TrainState, batch: dict[str, jax.Array]) -> Any:
        """Several train steps in one call, batches (K, B, ...): the state after them and the metrics of each, (K,)."""
        many = jax.jit(
            lambda state, batches: jax.lax.scan(self._step, state, batches),
            donate_argnums=0,
            out_shardings=(self.shardings, self.replicated),
        )
        with jax.set_mesh(self.mesh):  # `mru.scan` looks there for the axis `seq`
            return many.lower(state, batch).compile()

    def place(self, batch: dict[str, np.ndarray], axis: int) -> dict[str, jax.Array]:
        """A batch on the mesh, split over `data` and, where it has a time axis, `seq`; each process gives its part."""

        def sharding(x):
            timed = x.ndim > axis + 1 and x.shape[axis + 1] == self.task.length
            return NamedSharding(self.mesh, P(*[None] * axis, "data", *["seq"] * timed))

        return {name: jax.make_array_from_process_local_data(sharding(x), x) for name, x in batch.items()}

    @functools.cached_property
    def _sums(self) -> Any:
        def sums(params, rest, batch):
            outputs, _ = nnx.merge(self.graphdef, params, rest)(batch["inputs"], lengths=batch.get("lengths"))
            return self._weighted(self.task, outputs, batch)

        return jax.jit(sums, out_shardings=self.replicated)

    @staticmethod
    def _weighted(task, outputs, batch):
        values = task.metrics(outputs, batch) | {"loss": task.loss(outputs, batch)}
        return {name: (x * batch["weight"]).sum() for name, x in values.items()} | {"weight": batch["weight"].sum()}

    def evaluate(self, state: TrainState, split: str) -> dict[str, float]:
        """Mean loss and metrics over a split."""
        batches = evaluation_batches(
            self.task,
            split,
            batch_size=self.config.train.batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        with jax.set_mesh(self.mesh):
            return mean([self._sums(state.params, state.rest, self.place(batch, 0)) for batch in batches])

    @functools.cached_property
    def _chunk(self) -> Any:
        return jax.jit(
            lambda params, rest, x, state: nnx.merge(self.graphdef, params, rest)(x, state),
            out_shardings=self.replicated,
        )

    def evaluate_at(self, state: TrainState, task: tasks.Task, stop: Stop) -> dict[str, float]:
        """Test metrics at another length, streamed: chunks of the sequence with the state carried between them.

        The number of examples falls with the length, so that every point takes about the same time.
        """
        chunk, rows, budget = 1000, 16, 2**22
        count = max(rows, min(task.sizes["test"], budget // task.length))
        sums = []
        for batch in evaluation_batches(task, "test", batch_size=rows, count=count, prefetch=1):
            outputs, carried = [], nnx.merge(self.graphdef, state.params, state.rest).initial_state((rows,))
            x, first = batch["inputs"], task.length % chunk
            bounds = [0, *([first] if first else []), *range(first + chunk, task.length + 1, chunk)]
            for begin, end in itertools.pairwise(bounds):
                output, carried = self._chunk(state.params, state.rest, x[:, begin:end], carried)
                outputs = [*outputs, output] if task.pooling == "none" else [output]
                stop.check()
            sums.append(self._weighted(task, jnp.concatenate(outputs, 1) if len(outputs) > 1 else outputs[0], batch))
        return mean(sums)


def mean(sums: list[dict[str, jax.Array]]) -> dict[str, float]:
    """Weighted means, in float64, of what the batches summed up."""
    total = {name: sum(float(x[name]) for x in jax.device_get(sums)) for name in sums[0]}
    weight = total.pop("weight")
    return {name: value / weight for name, value in total.items()}


# ------------------------------------------------------------------------------------------------------- the run


class Stopped(Exception):
    """SIGTERM or SIGINT came in."""


class Stop:
    """Remembers a SIGTERM or SIGINT, so that the loop can end where nothing is half done."""

    def __init__(self):
        self.signal: str | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)

    def _receive(self, number, frame):
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number).name

    def requested(self, number: int) -> bool:
        """Whether to stop after this call of the device; all processes answer alike.

        Args:
            number: Which call it is. JAX stops all processes at the one after the furthest, so none may be left out.
        """
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(number)
        return self.signal is not None

    def check(self) -> None:
        """Raise `Stopped` if a signal has come, where a single process can stop at once."""
        if jax.process_count() == 1 and self.signal is not None:
            raise Stopped


class Log:
    """metrics.jsonl, TensorBoard events and the progress bar, written by process 0."""

    def __init__(self, config: Config, start: int, window: dict[str, list[float]]):
        from tensorboardX import SummaryWriter
        from tqdm import tqdm

        workdir, self.active = config.workdir, jax.process_index() == 0
        self.metric, self.every, self.path = config.task.metric, config.train.log_every, workdir / "metrics.jsonl"
        self.waiting: list[tuple[int, dict[str, jax.Array]]] = []
        self.window = [{name: np.asarray(x, np.float32) for name, x in window.items()}] if window else []
        self.shown: dict[str, str] = {}
        if not self.active:
            return
        # What was logged after the checkpoint that the run goes on from will be logged again.
        write(self.path, "".join(json.dumps(line) + "\n" for line in read_log(self.path) if line["step"] <= start))
        self.events = SummaryWriter(str(workdir), purge_step=start + 1 if start else None)
        interval = 0.5 if sys.stderr.isatty() else 10
        self.bar = tqdm(total=config.train.steps, initial=start, unit="step", mininterval=interval, dynamic_ncols=True)

    def train(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Take the metrics of the steps up to `step`, which the device may still be computing."""
        self.waiting.append((step, metrics))

    def fetch(self, keep: int) -> None:
        """Fetch all metrics but the newest `keep`, for which the device would have to be waited for; write what is due.

        Raises:
            FloatingPointError: The loss or its gradient was not finite; the argument is the step.
        """
        while len(self.waiting) > keep:
            step, metrics = self.waiting.pop(0)
            values = {name: np.atleast_1d(x) for name, x in jax.device_get(metrics).items()}
            bad = np.flatnonzero(~np.isfinite(values["loss"] + values["gradient_norm"]))
            before = step - len(values["loss"])
            if bad.size:
                raise FloatingPointError(before + int(bad[0]) + 1)
            self.window.append(values)
            if step // self.every != before // self.every:
                self.flush(step)
            self.shown |= {name: f"{values[name].mean():.4g}" for name in ("loss", self.metric)}
            if self.active:
                self.bar.set_postfix(self.shown, refresh=False)
                self.bar.update(step - self.bar.n)

    def pending(self) -> dict[str, list[float]]:
        """What no line has averaged yet, by name, for a checkpoint between two lines."""
        names = self.window[0] if self.window else {}
        return {name: np.concatenate([w[name] for w in self.window]).tolist() for name in names}

    def flush(self, step: int) -> None:
        """Write the means since the last line."""
        if self.window:
            means = {name: float(np.mean(x, dtype=np.float64)) for name, x in self.pending().items()}
            self.window = []
            self.line(step, "train", means)

    def line(self, step: int, split: str, values: dict[str, float]) -> None:
        """One line, of one split."""
        if split == "validation":
            self.shown |= {f"val_{self.metric}": f"{values[self.metric]:.4g}"}
        if not self.active:
            return
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, "split": split, **values}) + "\n")
        for name, value in values.items():
            self.events.add_scalar(f"{split}/{name}", value, step)

    def close(self) -> None:
        """Close the progress bar and the events."""
        if self.active:
            self.bar.close()
            self.events.close()


def read_log(path: pathlib.Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, without one that a kill cut short."""
    lines = []
    for text in path.read_text().splitlines() if path.is_file() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def write(path: pathlib.Path, text: str) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)


def save(checkpoints: Any, config: Config, state: TrainState, progress: dict[str, Any], metrics: Any) -> None:
    """Save a train state, in the background, ranked by its validation metrics if it has some."""
    mru.training.checkpoint.save(
        checkpoints,
        int(state.step),
        **_arrays(state),
        about={"model": model_arguments(config), "task": config.resolved["task"], "progress": progress},
        metrics=metrics,
    )


def restore(checkpoints: Any, like: TrainState, step: int) -> tuple[TrainState, dict[str, Any]]:
    """The train state of a step, with the shardings of `like`, and its progress."""
    quiet_abandoned_reads()
    target = _arrays(like)
    found, about = mru.training.checkpoint.restore(checkpoints, step, **target)
    leaves = [found["train"][name] for name in target["train"]]
    rest = jax.tree.unflatten(jax.tree.structure((like.optimizer, like.step)), leaves)
    params, others = (mru.training.checkpoint.unflatten(x, found["model"]) for x in (like.params, like.rest))
    return TrainState(params, others, *rest), about["progress"]


def _arrays(state: TrainState) -> dict[str, dict[str, jax.Array]]:
    leaves = jax.tree_util.tree_leaves_with_path((state.optimizer, state.step))
    return {
        "model": mru.training.checkpoint.flatten(state.params) | mru.training.checkpoint.flatten(state.rest),
        "train": {jax.tree_util.keystr(path): x for path, x in leaves},
    }


def resume(checkpoints: Any, like: TrainState, workdir: pathlib.Path) -> tuple[TrainState, dict[str, Any]] | None:
    """The newest checkpoint that can be read, or None if there are none; damaged ones are moved aside.

    Raises:
        UserError: There are checkpoints, and none of them can be read.
    """
    steps, aside = sorted(checkpoints.all_steps(), reverse=True), workdir / "damaged"
    for step in steps:
        try:
            return restore(checkpoints, like, step)
        except Exception as error:  # whatever a damaged file makes of its reader
            reason = " ".join(str(error).split())[:200]
            say(f"warning: checkpoint {step} is damaged, moved to {aside}; going on from the one before it ({reason})")
            if jax.process_index() == 0:
                aside.mkdir(exist_ok=True)
                (checkpoints.directory / str(step)).rename(aside / f"{step}-{time.time_ns()}")
            if jax.process_count() > 1:
                multihost_utils.sync_global_devices("damaged checkpoint moved")
            checkpoints.reload()
    if steps:
        raise UserError(f"workdir = {workdir}: none of its checkpoints {steps} can be read; they are in {aside}")
    return None


@functools.cache
def quiet_abandoned_reads() -> None:
    """When a read of a checkpoint fails, Orbax closes the event loop of the others; what these say of it is no news."""
    report = sys.unraisablehook

    def hook(unraisable):
        if not (isinstance(unraisable.exc_value, RuntimeError) and str(unraisable.exc_value) == "Event loop is closed"):
            report(unraisable)

    sys.unraisablehook = hook
    logging.getLogger("asyncio").addFilter(lambda record: "was never retrieved" not in record.getMessage())
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)


def say(message: str) -> None:
    """A line for people, from process 0."""
    if jax.process_index() == 0:
        print(message, file=sys.stderr, flush=True)


def run(config: Config, argv: list[str]) -> int:
    """Train, or go on training, and report; the exit code."""
    began = time.perf_counter()
    stop = Stop()
    start_processes(config.distributed)
    keep_programs()
    mesh = make_mesh(config.mesh, config.train.batch_size)
    try:
        config.task.examples("train", np.zeros(1, np.int64))
    except tasks.MissingData as error:
        raise UserError(str(error)) from None
    if (config.workdir / "summary.json").is_file():
        say(f"{config.workdir} is complete: it has its summary.json. Name another --workdir for a new run.")
        return 0
    try:
        config.workdir.mkdir(parents=True, exist_ok=True)
        if jax.process_index() == 0:
            write(config.workdir / "config.yaml", yaml.safe_dump(config.resolved, sort_keys=False))
    except OSError as error:
        raise UserError(f"workdir = {config.workdir}, allowed: a folder to write in; {error.strerror}") from None

    trainer = Trainer(config, mesh)
    state = trainer.initial()
    progress = {"best": None, "best_step": None, "since_best": 0, "window": {}}
    progress |= {"train_seconds": 0.0, "wall": 0.0, "compile": 0.0}
    with mru.training.checkpoint.manager(config.workdir, config.task.metric, config.task.goal) as checkpoints:
        if (found := resume(checkpoints, state, config.workdir)) is not None:
            state, progress = found
        start = int(state.step)
        say(
            f"{config.task.name} with {', '.join(config.model.blocks)}: {trainer.parameters:,} parameters, "
            f"{device()}, {config.workdir}" + (f", resumed at step {start}" if start else "")
        )
        clock = Clock(began, progress)
        try:
            state, progress = train_loop(config, trainer, state, progress, checkpoints, stop, clock)
            report(config, trainer, state, progress, checkpoints, stop, clock, argv)
        except Stopped:
            checkpoints.wait_until_finished()
            say(f"stopped by {stop.signal or 'a signal'} and saved; the same command goes on from here")
        except FloatingPointError as error:
            checkpoints.wait_until_finished()
            last = checkpoints.latest_step()
            good = "none was saved yet" if last is None else checkpoints.directory / str(last)
            say(f"error: the loss or its gradient is not finite at step {error}; last good checkpoint: {good}")
            return 1
    return 0


def device() -> str:
    """The devices of the run."""
    return f"{jax.device_count()} x {jax.devices()[0].device_kind}"


class Clock:
    """Seconds of the run, over all its resumptions: all of them, those of compilation, those of the train loop."""

    def __init__(self, began: float, progress: dict[str, Any]):
        self.began, self.earlier = began, progress["wall"]
        self.compile, self.train = progress["compile"], progress["train_seconds"]
        self.since: float | None = None

    def wall(self) -> float:
        """All of them."""
        return self.earlier + time.perf_counter() - self.began

    def start(self) -> None:
        """The train loop goes on."""
        self.since = time.perf_counter()

    def pause(self) -> None:
        """The train loop stands still, for an evaluation."""
        if self.since is not None:
            self.train += time.perf_counter() - self.since
        self.since = None


def train_loop(
    config: Config,
    trainer: Trainer,
    state: TrainState,
    progress: dict[str, Any],
    checkpoints: Any,
    stop: Stop,
    clock: Clock,
) -> tuple[TrainState, dict[str, Any]]:
    """Train from `state` to the last step or an early stop; the state and the progress then.

    Raises:
        Stopped: A signal came; the state is saved.
        FloatingPointError: The loss or its gradient was not finite; nothing of it is saved.
    """
    train, task = config.train, config.task
    step = int(state.step)

    def finished():
        return step >= train.steps or (train.patience is not None and progress["since_best"] >= train.patience)

    if finished():
        return state, progress
    batches = train_batches(
        task,
        batch_size=train.batch_size,
        seed=train.seed,
        start_step=step,
        steps_per_batch=train.dispatch,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    log = Log(config, step, progress["window"])
    try:
        first = trainer.place(next(batches), 1)
        begin = time.perf_counter()
        compiled = trainer.compile(state, first)
        clock.compile += time.perf_counter() - begin
        clock.start()
        for batch in itertools.chain([first], (trainer.place(batch, 1) for batch in batches)):
            state, metrics = compiled(state, batch)
            step += train.dispatch
            log.train(step, metrics)
            log.fetch(keep=1)
            evaluating = step % train.eval_every == 0 or step == train.steps
            stopping = stop.requested(step // train.dispatch)
            if not (evaluating or stopping):
                continue
            log.fetch(keep=0)
            clock.pause()
            values = None
            if evaluating:
                log.flush(step)
            if evaluating and step >= trainer.settled:
                values = trainer.evaluate(state, "validation")
                if not math.isfinite(values[task.metric]):
                    raise FloatingPointError(step)
                log.line(step, "validation", values)
                progress = progress | selected(task, progress, values[task.metric], step)
            progress = progress | {"window": log.pending()}
            progress = progress | {"wall": clock.wall(), "compile": clock.compile, "train_seconds": clock.train}
            save(checkpoints, config, state, progress, values)
            if stopping and not finished():
                raise Stopped
            if finished():
                return state, progress
            clock.start()
    finally:
        log.close()
        batches.close()
    raise AssertionError("the stream of batches has no end")


def selected(task: tasks.Task, progress: dict[str, Any], value: float, step: int) -> dict[str, Any]:
    """How a validation metric changes the progress. Of equal values the latest is best, as in `checkpoint`."""
    best = progress["best"]
    if best is None or (value <= best if task.goal == "min" else value >= best):
        return {"best": value, "best_step": step, "since_best": 0}
    return {"since_best": progress["since_best"] + 1}


def report(
    config: Config,
    trainer: Trainer,
    state: TrainState,
    progress: dict[str, Any],
    checkpoints: Any,
    stop: Stop,
    clock: Clock,
    argv: list[str],
) -> None:
    """Test metrics of the best checkpoint, once; then the retention curve, summary.json and the plots."""
    task, best_step = config.task, progress["best_step"]
    checkpoints.wait_until_finished()
    try:
        best, _ = restore(checkpoints, state, best_step)
    except Exception as error:  # whatever a damaged file makes of its reader
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"workdir = {config.workdir}: its best checkpoint {best_step} is damaged ({reason})") from None
    values = {split: trainer.evaluate(best, split) for split in ("validation", "test")}
    say(f"best step {best_step}: " + ", ".join(f"{s} {task.metric} {v[task.metric]:.4g}" for s, v in values.items()))
    retention = {}
    for length in task.retention:
        retention[length] = trainer.evaluate_at(best, task.at(length), stop)[task.metric]
        say(f"{task.retention_axis} {length:>9,}: test {task.metric} {retention[length]:.4g}")
    if jax.process_index() != 0:
        return
    log = read_log(config.workdir / "metrics.jsonl")
    last = [line for line in log if line["split"] == "validation"][-1]
    summary = {
        "task": config.resolved["task"],
        "cells": config.model.blocks,
        "parameters": trainer.parameters,
        "steps": int(state.step),
        "best_step": best_step,
        "seed": config.train.seed,
        "metric": task.metric,
        "chance": task.chance,
        **values,
        "last_validation": {name: last[name] for name in values["validation"]},
        "retention": retention,
        "seconds": {"wall": round(clock.wall(), 2), "compile": round(clock.compile, 2)},
        "steps_per_second": round(int(state.step) / clock.train, 2),
        "device": device(),
        "versions": results.versions(),
        "command": shlex.join(["python", "train.py", *argv]),
        "commit": results.commit(),
    }
    results.plot(config.workdir / "plots", log, summary, task.retention_axis)
    write(config.workdir / "summary.json", json.dumps(summary, indent=2) + "\n")
    say(f"{clock.wall():.0f} s; see {config.workdir / 'summary.json'} and {config.workdir / 'plots'}")


def main(argv: list[str] | None = None) -> int:
    """The command line; the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    # Orbax warns of each checkpoint without metrics, as those of a model whose schedules still move are meant to be.
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        return run(parse(argv), argv)
    except UserError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
