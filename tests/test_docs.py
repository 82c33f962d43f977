"""The site: its pages have all there is, docstrings become what Sphinx reads, and it builds without a warning."""

import html.parser
import os
import pathlib
import re
import subprocess
import sys
import types
import urllib.parse

import pytest

pytest.importorskip("matplotlib", reason='the site draws pictures: pip install -e ".[docs]"')

import mru
from docs import api, docstrings, pages

ROOT = pathlib.Path(__file__).parents[1]
SPHINX = ("sphinx", "sphinx_book_theme", "sphinx_design", "myst_nb", "jupytext", "ipykernel")
NOTEBOOK = "# %% [markdown]\n# # One\n\n# %%\n1 + 1\n"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Folder with the pages that are made from the code."""
    folder = tmp_path_factory.mktemp("docs")
    pages.write(folder)
    return folder / "generated"


def declared(folder):
    """The names that the classes of a folder declare, by the text of its files."""
    return {
        name for path in folder.glob("*.py") for name in re.findall(r'^class .*name="(\w+)"\)', path.read_text(), re.M)
    }


def test_every_cell_has_a_page_and_a_row(written):
    names = declared(ROOT / "mru" / "cells")
    assert len(names) >= 8
    table = (written / "cells" / "index.md").read_text()
    for name in names:
        assert f"| [`{name}`]({name}.md) |" in table
        assert "autoclass" in (written / "cells" / f"{name}.md").read_text()
    assert {path.stem for path in (written / "cells").glob("*.md")} == {*names, "index"}


def test_the_table_of_cells_says_what_they_are(written):
    rows = {
        line.split("`")[1]: line for line in (written / "cells" / "index.md").read_text().splitlines() if "[`" in line
    }
    assert "PMRU | Play, Clamp | holds | this project." in rows["pmru"]
    assert "LRU | Affine | fades | Orvieto et al. 2023, arXiv 2303.06349." in rows["lru"]
    assert "FQBMRU | Switch | holds |" in rows["fq_bmru"]


def test_every_task_option_and_config_is_there(written):
    names = declared(ROOT / "tasks")
    assert len(names) >= 5
    text = (written / "tasks.md").read_text()
    assert set(re.findall(r"^## (\w+)$", text, re.M)) == names
    assert "| `delay` | `200` | Steps of pure noise between the cue and the step of the query. |" in text
    assert "endless train, 1,000 validation, 1,000 test" in text
    configs = (written / "configs.md").read_text()
    for path in (ROOT / "configs").rglob("*.yaml"):
        name = path.relative_to(ROOT).as_posix()
        assert f"\n    python train.py --config {name}\n" in configs
        assert path.read_text().splitlines()[-1] in configs
        assert f"[`{name}`](configs.md#" in text


def test_every_public_name_is_described_once(written):
    entries = [
        entry
        for path in written.rglob("*.md")
        for entry in re.findall(r"auto(?:class|function):: (\S+)", path.read_text())
    ]
    assert len(entries) == len(set(entries))
    for module in (mru, mru.cells, mru.operators, mru.training, mru.dynamics):
        named = {name: getattr(module, name) for name in module.__all__}
        for name, value in named.items():
            if isinstance(value, type | types.FunctionType):
                assert api.links()[f"{module.__name__}.{name}"] in entries


def test_a_new_cell_needs_no_list(tmp_path, monkeypatch):
    monkeypatch.setattr(mru.cells.REGISTRY, "_classes", dict(mru.cells.REGISTRY._classes))
    place = {"__module__": "mru.cells.fresh", "__doc__": "New.\n\nSource: nobody."}
    types.new_class("Fresh", (mru.cells.MinGRU,), {"name": "test_fresh"}, lambda body: body.update(place))
    assert "| [`test_fresh`](test_fresh.md) | Fresh | Affine | fades | nobody. |" in pages.cells_page()
    assert pages.cell_page("test_fresh").startswith("# Fresh\n")


def test_notebooks_are_found_and_other_files_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    assert "There are no notebooks yet." in pages.notebooks_page()
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "01_one.py").write_text(NOTEBOOK)
    (tmp_path / "notebooks" / "page.py").write_text("import marimo\n")
    assert pages.notebooks_page().endswith("```{toctree}\n01_one\n```\n")


def test_pages_that_are_no_longer_made_go_away(tmp_path):
    old = tmp_path / "generated" / "cells" / "gone.md"
    old.parent.mkdir(parents=True)
    old.write_text("# Gone\n")
    pages.write(tmp_path)
    assert not old.exists()
    assert (old.parent / "pmru.md").exists()


@pytest.mark.parametrize(
    ("plain", "converted"),
    [
        ("where |a| < 1", r"where \|a\| < 1"),
        ("zeros (*batch_shape, N), and (width, *, dtype)", r"zeros (\*batch_shape, N), and (width, \*, dtype)"),
        ("`|a * b|` and `mru.scan`", "`|a * b|` and :py:obj:`mru.scan <mru.scan>`"),
        ("the `Param`s", r"the `Param`\ s"),
        ("features: D.", r"features: D\."),
        ("Owed:\n    f |x|  a\nthen |x|", "Owed::\n\n    f |x|  a\nthen \\|x\\|"),
        ("Args:\n    x: |x|", "Args:\n    x: \\|x\\|"),
        (">>> print(a)\n|1|\n\n|2|", ">>> print(a)\n|1|\n\n\\|2\\|"),
    ],
)
def test_docstrings_mean_in_sphinx_what_they_say(plain, converted):
    assert docstrings.converted(plain.splitlines(), {"mru.scan": "mru.scan"}) == converted.splitlines()


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_files_that_are_linked_exist(name):
    linked = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", (ROOT / name).read_text())
    assert linked or name != "README.md"
    assert not [path for path in linked if not (ROOT / path).exists()]


class Links(html.parser.HTMLParser):
    """What a page links to or shows, and the places in it that can be linked to."""

    def __init__(self, text):
        super().__init__()
        self.targets, self.places = [], {""}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.places |= {found[key] for key in ("id", "name") if key in found}
        self.targets += [found[key] for key in ("href", "src") if found.get(key)]


def broken(site):
    """(page, target) of each link within a built site that leads nowhere."""
    read = {path: Links(path.read_text()) for path in site.rglob("*.html") if "_static" not in path.parts}
    for path, found in read.items():
        for target in found.targets:
            parts = urllib.parse.urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            other = (path.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else path
            places = read[other].places if other in read else {parts.fragment}
            if not other.exists() or urllib.parse.unquote(parts.fragment) not in places:
                yield str(path.relative_to(site)), target


@pytest.mark.slow
def test_it_builds_without_a_warning_and_its_links_lead_somewhere(tmp_path):
    for name in SPHINX:
        pytest.importorskip(name, reason='the site is built by Sphinx: pip install -e ".[docs]"')
    # The tests of the notebooks execute them: here they are shown as they are written.
    environment = {**os.environ, "MRU_DOCS_NOTEBOOKS": "off"}
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", "-b", "html", "docs", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "generated" / "cells" / "pmru.html").exists()
    assert not list(broken(tmp_path))


def test_a_broken_link_is_found(tmp_path):
    (tmp_path / "a.html").write_text('<a id="here"></a><a href="b.html#there">b</a><a href="#here">a</a>')
    (tmp_path / "b.html").write_text('<a href="a.html#nowhere">a</a><a href="c.html">c</a><a href="https://x.y">x</a>')
    assert sorted(broken(tmp_path)) == [("a.html", "b.html#there"), ("b.html", "a.html#nowhere"), ("b.html", "c.html")]
