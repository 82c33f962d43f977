"""Docstrings are plain text, which reStructuredText would misread in places: bars, stars, and blocks after a colon."""

import re

SECTIONS = {"Args", "Arguments", "Attributes", "Class variables", "Example", "Examples", "Raises", "Returns", "Yields"}


def converted(lines, links):
    """The lines of a docstring in reStructuredText; names of `links` in single backticks become links."""
    found = []
    for number, line in enumerate(lines):
        if line.lstrip().startswith((">>>", "...")):
            found.append(line)
            continue
        found.append(line if _in_block(lines, number) else _escaped(_linked(line, links)))
        if _opens_block(lines, number):
            found[-1] += ":"
            found.append("")
    return found


def _indent(line):
    return len(line) - len(line.lstrip())


def _opens_block(lines, number):
    """If a colon ends the line and what follows is indented, and shown as it is written: code, or a table of words."""
    line = lines[number]
    if not line.rstrip().endswith(":") or line.strip()[:-1] in SECTIONS:
        return False
    rest = [later for later in lines[number + 1 :] if later.strip()]
    return bool(rest) and _indent(rest[0]) > _indent(line)


def _in_block(lines, number):
    """If a line stands in such a block, or in the results of an example."""
    inner = _indent(lines[number])
    for before in range(number - 1, -1, -1):
        line = lines[before]
        if line.strip() and _indent(line) < inner:
            return _opens_block(lines, before)
        if (
            line.lstrip().startswith(">>>")
            and _indent(line) == inner
            and "" not in map(str.strip, lines[before:number])
        ):
            return True
    return False


def _linked(line, links):
    """The line with a link for each known name between single backticks; a plural's s is set apart from them."""

    def one(match):
        text, after = match.groups()
        target = links.get(text)
        return (f"`{text}`" if target is None else f":py:obj:`{text} <{target}>`") + (after and f"\\ {after}")

    return re.sub(r"(?<!`)`([^`]+)`(?!`)(\w?)", one, line)


def _escaped(line):
    """The line with bars, stars before a comma or a name, and a sole letter that would count a list, as they are."""
    line = re.sub(r"(?<=: )([A-Za-z])\.(?= |$)", r"\1\\.", line)
    parts = re.split(r"(`[^`]*`)", line)  # what stands between backticks is left alone
    parts[::2] = [re.sub(r"\||(?<=[( ])\*(?=[,\w])", r"\\\g<0>", text) for text in parts[::2]]
    return "".join(parts)
