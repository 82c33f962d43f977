"""How Sphinx builds the site: `python -m sphinx -W --keep-going -n -b html docs docs/_build/html`."""

import os
import pathlib
import sys

DOCS = pathlib.Path(__file__).parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# The kernels of notebooks find `tasks` too.
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])

import mru
from docs import api, docstrings, figures, pages

project = "mru-jax"
author = "the mru-jax authors"
version = release = mru.__version__

extensions = [
    "myst_nb",  # pages in Markdown, and notebooks, executed
    "sphinx_design",  # the cards of the first page
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",  # docstrings are in Google's style
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",  # the site shows formulas without a network too
]
exclude_patterns = ["_build", "*.py", "operator_figure.md"]  # the last is a part of other pages

html_theme = "sphinx_book_theme"
html_title = "mru-jax"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"show_toc_level": 2, "use_download_button": False, "home_page_in_toc": True}
html_copy_source = False

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3

# "cache" executes a notebook again only when its code has changed; "off" shows it as it is written.
nb_execution_mode = os.environ.get("MRU_DOCS_NOTEBOOKS", "cache")
nb_execution_timeout = 600  # seconds a cell
nb_execution_raise_on_error = True
nb_custom_formats = {".py": "docs.pages.read_notebook"}

autodoc_default_options = {
    "members": True,
    "show-inheritance": True,
    "special-members": "__call__",
    "exclude-members": "__new__",
}
autodoc_member_order = "bysource"
autodoc_class_signature = "separated"  # of a class of Flax only the constructor has one
autodoc_typehints = "none"  # docstrings say shapes, which types do not
autosummary_generate = False  # the tables link to entries that are there already
napoleon_custom_sections = [("Class variables", "params_style")]
napoleon_use_ivar = True
napoleon_attr_annotations = False
napoleon_use_rtype = False
maximum_signature_line_length = 88
highlight_language = "text"  # where nothing is said: tables of words too
default_role = "code"  # docstrings have single backticks, as Markdown has

# The build reads nothing from a network, so the objects of other packages are known by name only.
nitpick_ignore_regex = [("py:.*", r"(jax|jaxlib|flax|optax|numpy|matplotlib|typing|collections|pathlib)\..*")]


def convert(app, what, name, obj, options, lines):
    """Sphinx's event `autodoc-process-docstring`: changes `lines` in place."""
    lines[:] = docstrings.converted(lines, api.links())


def skip(app, what, name, obj, skipped, options):
    """Sphinx's event `autodoc-skip-member`: a field of a named tuple says what it is in the class's docstring."""
    return True if (getattr(obj, "__doc__", None) or "").startswith("Alias for field number") else None


def show_public_bases(app, name, obj, options, bases):
    """Sphinx's event `autodoc-process-bases`: of a base that a few cells share, what that one is itself based on."""

    def public(base):
        hidden = base.__module__.startswith("mru.cells.") and getattr(mru.cells, base.__name__, None) is not base
        return public(base.__mro__[1]) if hidden else base

    bases[:] = [public(base) for base in bases]


def setup(app):
    """Write what is generated from the code before any page is read."""
    app.connect("builder-inited", lambda app: pages.write(DOCS))
    app.connect("builder-inited", lambda app: figures.write(DOCS / "generated", pages.examples()))
    app.connect("autodoc-skip-member", skip)
    app.connect("autodoc-process-bases", show_public_bases)
    app.connect("autodoc-process-docstring", convert, priority=400)  # before napoleon
