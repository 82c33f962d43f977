"""`train.py --plot WORKDIR [WORKDIR ...]`: every picture of a run, or the curves of several in the same pictures."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from mru import dynamics
from mru.plots import curves, style
from mru.registry import Registry
from mru.training import look, records
from mru.training.command_line import config_of
from mru.training.inner_pictures import Pictures, of_run
from mru.training.look import Run
from mru.training.messages import UserError
from mru.training.records import Record
from mru.training.task import Task

OPTION = "--plot"


def plot(folders: Sequence[pathlib.Path], tasks: Registry[Task], out: pathlib.Path | None) -> int:
    """Draw one run, or several in the same pictures, and print which files were written; the exit code.

    Of one run it also prints what became of each latch: whether it holds, is blocked or is dead.

    Args:
        folders: Folders of runs, or their summary.json files.
        tasks: Where tasks are found by name.
        out: Where the pictures go; WORKDIR/plots of one run if None.

    Raises:
        UserError: Something is no run, or can not be drawn; the message says why.
        MissingData: The data set of a task has not been prepared.
        OSError: A picture can not be written.
    """
    if out is None and (len(folders) > 1 or folders[0].is_file()):
        raise UserError(f"{OPTION}: expected --out FOLDER, as several runs, or a file, have no one folder of their own")
    held = [records.read(path, OPTION) for path in dict.fromkeys(folders)]
    if len({record.content["task"]["name"] for record in held}) > 1:
        names = ", ".join(dict.fromkeys(str(record.content["task"]["name"]) for record in held))
        raise UserError(f"{OPTION}: expected runs of one task, got {names}; draw those of each task by themselves")
    # Of what a summary repeats, the rest has its defaults, and only the task is asked for.
    with look.told(OPTION, folders[0]):
        task = config_of(held[0].content, tasks, folders[0]).task
    if len(held) == 1 and folders[0].is_dir():
        run = look.open_run(folders[0], tasks, OPTION)
        _save(out or folders[0] / "plots", every_picture(run, held[0]))
        for layer, found in dynamics.diagnose_layers(run.model, run.given.inputs, lengths=run.given.lengths).items():
            print(f"{layer}: {found.sentence}")
    else:
        assert out is not None
        _save(out, of_records(held, task))
    return 0


def _save(folder: pathlib.Path, pictures: Pictures) -> None:
    """Write each picture and print its files, or why there is none."""
    written = False
    for name, draw in pictures:
        try:
            figure = draw()
        except ValueError as error:
            print(f"no {name}: {' '.join(str(error).split())}")
            continue
        for path in style.save(figure, folder, name):
            print(path)
        written = True
    if not written:
        raise UserError(f"{OPTION}: nothing to draw: the runs have no log of validation, no retention, no robustness")


def every_picture(run: Run, record: Record) -> Pictures:
    """Every picture of one run, given what it wrote."""
    yield from of_records([record], run.task)
    if any(line["split"] == "inside" for line in record.log):
        yield "layers", partial(curves.layers, record.log, title=f"{run.task.name}: layers at each evaluation")
    yield from of_run(run)


def of_records(held: Sequence[Record], task: Task) -> Pictures:
    """Learning, retention and robustness of runs of a task, each in one picture for all of them.

    Args:
        held: What the runs wrote.
        task: Their task.
    """
    groups = records.grouped(held)
    common: dict[str, Any] = {"goal": task.goal, "chance": task.chance}
    title = f"{task.name}: {held[0].cells}" if len(held) == 1 else task.name

    def of(part: Callable[[Record], Any]) -> dict[str, list[Any]]:
        """What the runs have of something, without those that have it not."""
        found = {label: [x for record in same if (x := part(record))] for label, same in groups.items()}
        return {label: same for label, same in found.items() if same}

    if learning := of(_learning):
        yield "learning", partial(curves.learning, learning, task.metric, title=title, **common)
    if retention := of(lambda record: _by_length(record.summary)):
        trained = _trained(held, task, next(iter(retention.values()))[0])
        lengths = common | {"length_name": task.retention_axis, "trained": trained}
        yield "retention", partial(curves.retention, retention, task.metric, title=title, **lengths)
    if robustness := of(lambda record: record.robustness):
        yield "robustness", partial(curves.robustness, robustness, task.metric, title=title, **common)


def _trained(held: Sequence[Record], task: Task, lengths: Iterable[float]) -> float | None:
    """That of some lengths which all runs were trained at; None if there is none."""
    if any(record.content["task"] != held[0].content["task"] for record in held):
        return None
    return next((length for length in lengths if task.at(int(length)) == task), None)


def _learning(record: Record) -> dict[str, Any] | None:
    if not any(line["split"] == "validation" for line in record.log):
        return None
    ended = {name: record.summary[name] for name in ("test", "best_step")} if record.summary else {}
    return {"log": record.log, **ended}


def _by_length(summary: Mapping[str, Any] | None) -> dict[float, float]:
    return {int(length): value for length, value in (summary or {"retention": {}})["retention"].items()}


def save_curves(folder: pathlib.Path, record: Record, task: Task) -> list[pathlib.Path]:
    """Write the curves of one run; the paths.

    Args:
        folder: Where they go.
        record: What the run wrote.
        task: Its task.

    Raises:
        OSError: A picture can not be written.
    """
    return [path for name, draw in of_records([record], task) for path in style.save(draw(), folder, name)]
