"""The pages that are made from the code: cells, operators, tasks, configs, notebooks, API. No list is kept by hand."""

import dataclasses
import functools
import importlib
import inspect
import pathlib
import re

import jax.numpy as jnp

import mru
import tasks
from docs import api
from docs.pieces import autodoc, page, paragraphs, table
from mru.training.help import described

ROOT = pathlib.Path(__file__).parents[1]


def write(docs):
    """Write every page below `docs`/generated that has changed, and take away what is no longer made."""
    folder = docs / "generated"
    made = {
        "operators.md": operators_page(),
        "cells/index.md": cells_page(),
        **{f"cells/{name}.md": cell_page(name) for name in api.cell_names()},
        "tasks.md": tasks_page(),
        "configs.md": configs_page(),
        "notebooks/index.md": notebooks_page(),
        **{f"notebooks/{path.name}": path.read_text() for path in notebooks()},
        "api/index.md": api.index_page(),
        **{f"api/{module}.md": api.module_page(module) for module in api.MODULES if module != "mru.operators"},
    }
    for old in folder.rglob("*.*"):
        if old.suffix in (".md", ".py") and str(old.relative_to(folder)) not in made:
            old.unlink()
    for name, text in made.items():
        path = folder / name
        if not path.exists() or path.read_text() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


# Names and what is said of them


def task_names():
    """The registered tasks of this repository."""
    return [name for name in tasks.names() if tasks.get(name).__module__.startswith("tasks.")]


def operators():
    """The operators by name: subclasses that are no mere bases."""
    found = {name: getattr(mru.operators, name) for name in mru.operators.__all__}
    bases = (mru.operators.Operator, mru.operators.KernelOperator)
    return {name: kind for name, kind in found.items() if inspect.isclass(kind) and kind not in bases}


# Operators and cells


def operators_page():
    """All operators: a picture, each of them, and the base classes."""
    parts = [
        "# Operators",
        "An operator is a family of maps $h \\mapsto f(h)$ that is closed under composition: one map for every step. "
        "{py:obj}`mru.scan` composes them. How to write one is in [](../howto/own_operator.md).",
        "```{include} ../operator_figure.md\n```",
    ]
    bare = (":no-members:", ":no-show-inheritance:", ":exclude-members: __init__, __new__")
    for name in operators():
        parts += [f"## {name}", autodoc("autoclass", f"mru.operators.{name}", *bare)]
    parts += ["## The base classes", autodoc("autoclass", "mru.operators.Operator")]
    parts += [autodoc("autoclass", "mru.operators.KernelOperator"), autodoc("autofunction", "mru.operators.field")]
    return page(*parts)


@functools.cache
def example(name):
    """One small cell of a name."""
    return mru.cells.get(name)(features=4, state_size=4, rngs=0)


def examples():
    """One small cell of each name."""
    return {name: example(name) for name in api.cell_names()}


def operator_of(name):
    """The names of a cell's operator and of what that is lowered to; none for an update that is not a scan."""
    if not isinstance(example(name), mru.cells.ScanCell):
        return []
    found = example(name).operator(jnp.zeros((1, 4)))
    return list(dict.fromkeys([type(found).__name__, type(found.lower()).__name__]))


def memory_of(name):
    """What becomes of a state that is left alone."""
    if not operator_of(name):
        return "its own update"
    return "holds" if example(name).operator(jnp.zeros((1, 4))).says("holds") else "fades"


def source_of(name):
    """What the docstring of a cell says of its source."""
    found = [text for text in paragraphs(mru.cells.get(name)) if text.startswith("Source:")]
    return " ".join(found[0].removeprefix("Source:").split()) if found else "see there"


def cells_page():
    """The table of all cells, and their pages in the menu."""
    rows = [
        (
            f"[`{name}`]({name}.md)",
            mru.cells.get(name).__name__,
            ", ".join(operator_of(name)) or "none",
            memory_of(name),
            source_of(name),
        )
        for name in api.cell_names()
    ]
    return page(
        "# Cells",
        "Every cell maps (..., T, D) to (..., T, D), in parallel over a sequence, step by step, in chunks with a "
        "carried state, and over packed sequences with resets, and the four agree. What all take and return is said in "
        "{py:obj}`mru.cells.Cell`. The table is made from the registry: a cell in a file of its own stands in it.",
        table(["name in configs", "class", "operator", "a state left alone", "source"], rows),
        "Two operators are named where the first computes its gates where they are used, and is scanned as the second.",
        "```{toctree}\n:hidden:\n\n" + "\n".join(api.cell_names()) + "\n```",
    )


def cell_page(name):
    """One cell: what it is built on, its hysteresis loop, its class."""
    kind, cell = mru.cells.get(name), example(name)
    state = cell.initial_state()
    named = [f"{{py:obj}}`{found} <mru.operators.{found}>`" for found in operator_of(name)]
    facts = [
        ("operator", ", scanned as ".join(named) or "none"),
        ("a state left alone", memory_of(name)),
        ("state", f"{state.dtype}, {len(state)} channels at N = 4" if hasattr(state, "dtype") else "a pytree"),
    ]
    loop = (
        f"```{{figure}} {name}-loop.svg\n:width: 100%\n\nUnits of this cell, with parameters as drawn from seed 0, "
        "against an input that rises and falls. What a latch holds opens a loop however slow the input is; a fading "
        "state lags, less the slower the input; a counter goes on counting and does not come back.\n```"
    )
    return page(
        f"# {kind.__name__}",
        table(["name in configs", f"`{name}`"], facts),
        loop,
        autodoc("autoclass", f"mru.cells.{kind.__name__}", ":members: operator, update, readout"),
    )


# Tasks, configs, notebooks


def tasks_page():
    """All tasks, each with what it fixes, its options, and the configs that train on it."""
    parts = [
        "# Tasks",
        "A task is data by index, loss and metrics. How to write one is in [](../howto/own_task.md). Options are set "
        "in a config, `task: {name: NAME, OPTION: VALUE}`, or on the command line, `--task.OPTION VALUE`.",
    ]
    for name in task_names():
        parts += [f"({name}-task)=\n## {name}", task_text(name)]
    return page(*parts)


def task_text(name):
    """What is said of one task."""
    kind = tasks.get(name)
    module, docs = importlib.import_module(kind.__module__), [base.__doc__ for base in kind.__mro__]
    try:
        facts = task_facts(kind())
    except tasks.MissingData:
        facts = [("inputs, outputs, metric, examples", "as the arrays are")]
    options = [
        (f"`{field.name}`", f"`{field.default}`", described(docs, field.name)) for field in dataclasses.fields(kind)
    ]
    trained = [f"[`{path}`](configs.md#{anchor(path)})" for path in config_paths() if task_of(path) == name]
    return page(
        *(text for text in paragraphs(module)),
        *(text for text in paragraphs(kind) if not text.startswith("Attributes:")),
        table(["name in configs", f"`{name}`"], facts),
        table(["option", "default", ""], options),
        "Configs: " + ", ".join(trained) + "." if trained else "",
    ).strip()


def task_facts(task):
    """What a task fixes, in words.

    Raises:
        MissingData: It has no data of its own.
    """
    sizes = [(f"{size:,}" if size < mru.training.ENDLESS else "endless", split) for split, size in task.sizes.items()]
    return [
        ("inputs", f"{task.vocabulary} tokens" if task.vocabulary else f"floats (B, T, {task.features})"),
        ("steps T", f"{task.length:,}"),
        ("outputs", f"{task.outputs}, pooling `{task.pooling}`"),
        ("metric", f"{task.metric}, the better the {'larger' if task.goal == 'max' else 'smaller'}"),
        ("chance", f"{task.chance:g}"),
        ("examples", ", ".join(map(" ".join, sizes))),
        ("measured again at", ", ".join(f"{length:,}" for length in task.retention) or "no other length"),
    ]


def config_paths():
    """The configs, relative to the root."""
    return [str(path.relative_to(ROOT)) for path in sorted((ROOT / "configs").rglob("*.yaml"))]


def task_of(path):
    """The task that a config names."""
    found = re.search(r"^task: *\{ *name: *(\w+)", (ROOT / path).read_text(), re.M)
    return found[1] if found else None


def anchor(path):
    """Where a config stands on its page."""
    return re.sub(r"\W+", "-", path.removesuffix(".yaml"))


def head_and_body(path):
    """What a config's head says, as Markdown, and the rest of it."""
    lines = (ROOT / path).read_text().splitlines()
    end = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return "\n".join(line[1:].removeprefix(" ") for line in lines[:end]), "\n".join(lines[end:])


def configs_page():
    """All configs with what their heads say."""
    parts = [
        "# Configs",
        "The head of each config says its command, the score to expect, the time and the hardware, or that it has not "
        "been trained; those of `published` say what others have published. How configs work is in [](../start.md).",
    ]
    for path in config_paths():
        head, body = head_and_body(path)
        parts += [f"({anchor(path)})=\n## {path.removeprefix('configs/')}", head, f"```yaml\n{body}\n```"]
        parts += [f"Task: [{task_of(path)}](#{task_of(path)}-task)."]
    return page(*parts)


def notebooks():
    """The notebooks, which are files in jupytext's percent format; other files there are not."""
    found = sorted((ROOT / "notebooks").glob("*.py"))
    return [path for path in found if re.search(r"^# %% \[markdown\]", path.read_text(), re.M)]


def read_notebook(text):
    """A notebook as it is built here: in the root of the checkout, as when the tests run it."""
    import jupytext  # which no other page needs

    notebook = jupytext.reads(text, fmt="py:percent")
    place = {"cell_type": "code", "metadata": {"tags": ["remove-cell"]}, "outputs": [], "execution_count": None}
    place["source"] = f"import os\nos.chdir({str(ROOT)!r})"
    notebook.cells.insert(0, type(notebook)(place))
    return notebook


def notebooks_page():
    """A page that lists the notebooks, none of them if there is none."""
    names = [path.stem for path in notebooks()]
    return page(
        "# Notebooks",
        "Plain Python in jupytext's percent format, in the folder `notebooks`; Jupyter opens them, and the outputs "
        "below are what they gave when this site was built."
        if names
        else "There are no notebooks yet.",
        "```{toctree}\n" + "\n".join(names) + "\n```" if names else "",
    )
