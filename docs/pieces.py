"""Pieces of pages in Markdown."""

import inspect


def paragraphs(thing):
    """The paragraphs of a docstring."""
    return inspect.cleandoc(thing.__doc__ or "").split("\n\n")


def table(head, rows):
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def page(*parts):
    """Parts of a page with a blank line between."""
    return "\n\n".join(part for part in parts if part) + "\n"


def autodoc(directive, name, *options):
    """A directive of autodoc, in Markdown."""
    return "\n".join(["```{eval-rst}", f".. {directive}:: {name}", *(f"   {option}" for option in options), "```"])
