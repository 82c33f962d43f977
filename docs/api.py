"""The API: what is public, and the pages that describe it, each name once."""

import functools
import importlib
import inspect
import types

import mru
from docs.pieces import autodoc, page, paragraphs, table

MODULES = ("mru", "mru.cells", "mru.operators", "mru.training", "mru.dynamics", "mru.plots")


def cell_names():
    """The registered cells of this repository; those of other packages have documentation of their own."""
    return [name for name in mru.cells.names() if mru.cells.get(name).__module__.startswith("mru.")]


@functools.cache
def links():
    """Where each public name is described, by how docstrings call it: in full, or a class by its name alone."""
    found = {}
    for module, name in _described():
        target = f"{module}.{name}"
        found[target] = target
        if inspect.isclass(getattr(importlib.import_module(module), name)):
            found.setdefault(name, target)
    for name in mru.__all__:
        value = getattr(mru, name)
        found |= {f"mru.{name}": target for target in found.values() if _object(target) is value}
    return found


def _object(target):
    module, _, name = target.rpartition(".")
    return getattr(importlib.import_module(module), name)


@functools.cache
def _described():
    """(module, name) of each public class and function, once each: what `mru` has from another module stands there."""
    found, seen = [], set()
    for module in sorted(MODULES, key="mru".__eq__):
        for name in importlib.import_module(module).__all__:
            value = getattr(importlib.import_module(module), name)
            if (inspect.isclass(value) or inspect.isfunction(value)) and value not in seen:
                seen.add(value)
                found.append((module, name))
    return found


def index_page():
    """The modules of the API."""
    others = [module for module in MODULES if module != "mru.operators"]
    places = {"mru.operators": "../operators.md"}
    rows = [
        (f"[`{module}`]({places.get(module, f'{module}.md')})", paragraphs(importlib.import_module(module))[0])
        for module in MODULES
    ]
    return page(
        "# API",
        "Every public name. Shapes: `...` is any number of leading batch axes, T time, D features, N state channels.",
        table(["module", ""], rows),
        "```{toctree}\n:hidden:\n\n" + "\n".join(others) + "\n```",
    )


def module_page(name):
    """The public names of a module: a table of all, constants, and what is described on no other page."""
    module = importlib.import_module(name)
    public = {key: getattr(module, key) for key in module.__all__ if not key.startswith("__")}
    things = {key: value for key, value in public.items() if inspect.isclass(value) or inspect.isfunction(value)}
    constants = {key: value for key, value in public.items() if isinstance(value, int | str | tuple)}
    modules = [key for key, value in public.items() if isinstance(value, types.ModuleType)]
    parts = [f"# {name}", paragraphs(module)[0]]
    if things:
        names = [f"   ~{links()[f'{name}.{key}']}" for key in things]
        parts.append("\n".join(["```{eval-rst}", ".. autosummary::", "", *names, "```"]))
    parts += [f"`{name}.{key}` = `{value!r}`" for key, value in constants.items()]
    registered = [mru.cells.get(key) for key in cell_names()]
    for key, value in things.items():
        if (name, key) in _described() and value not in registered:
            parts.append(autodoc("autoclass" if inspect.isclass(value) else "autofunction", f"{name}.{key}"))
    for key in modules:
        if f"{name}.{key}" not in MODULES:
            parts += [f"## {name}.{key}", autodoc("automodule", f"{name}.{key}")]
    return page(*parts)
