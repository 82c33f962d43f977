"""Execute notebooks, as Jupyter does but without a browser, and keep their figures.

    python notebooks/execute.py notebooks/01_what_is_an_mru.py [MORE ...] --figures results/figures

The K-th figure of a notebook becomes FOLDER/NOTEBOOK-K.png; a cell that begins `# %% name="loops"` calls it loops.png.
A cell that fails, or that says something on stderr, as warnings do, ends it with exit code 1.
"""

from __future__ import annotations

import argparse
import base64
import pathlib
import re
import sys
import time

import jupytext
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

ROOT = pathlib.Path(__file__).resolve().parents[1]
COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # of a traceback in a terminal


def executed(path: pathlib.Path) -> NotebookNode:
    """The notebook with its outputs; it runs in the root of the checkout, where `tasks` is found.

    Raises:
        CellExecutionError: A cell failed; the message shows the cell and the error.
        RuntimeError: A cell wrote to stderr.
    """
    notebook = jupytext.read(path)
    place = {"metadata": {"path": str(ROOT)}}
    quiet = ["--log-level=ERROR"]  # else the kernel says each time that other users of this machine could listen
    NotebookClient(notebook, timeout=None, kernel_name="python3", resources=place, extra_arguments=quiet).execute()
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if output.output_type == "stream" and output.name == "stderr":
                raise RuntimeError(f"a cell wrote to stderr:\n{cell.source}\n\n{output.text}")
    return notebook


def figures(notebook: NotebookNode, name: str) -> dict[str, bytes]:
    """The figures that the cells of an executed notebook show, as PNG by their names; `name` is the notebook's."""
    found: dict[str, bytes] = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", {}):
                own = cell.metadata.get("name", f"{name}-{len(found) + 1}")
                found[own] = base64.b64decode(output.data["image/png"])
    return found


def main() -> int:
    """Execute those of the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("notebooks", nargs="+", type=pathlib.Path, metavar="NOTEBOOK")
    parser.add_argument(
        "--figures", type=pathlib.Path, metavar="FOLDER", help="where figures go; none are kept if left out"
    )
    arguments = parser.parse_args()
    for path in arguments.notebooks:
        began = time.perf_counter()
        try:
            shown = figures(executed(path), path.stem)
        except (CellExecutionError, RuntimeError) as error:
            print(f"{path}: {COLOURS.sub('', str(error))}", file=sys.stderr)
            return 1
        print(f"{path}: {len(shown)} figures, {time.perf_counter() - began:.0f} s")
        if arguments.figures is not None:
            arguments.figures.mkdir(parents=True, exist_ok=True)
            for name, data in shown.items():
                (arguments.figures / f"{name}.png").write_bytes(data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
