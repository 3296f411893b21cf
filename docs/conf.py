"""How `make docs` builds the site: Sphinx, with MyST for Markdown that reads as well where the code is kept."""

from typing import Any

from sphinx.application import Sphinx

from hpcjobs import __version__

project = "hpcjobs"
author = "The hpcjobs developers"
release = __version__
extensions = ["myst_parser", "sphinx_click"]
source_suffix = {".md": "markdown"}
html_theme = "furo"
html_title = f"hpcjobs {release}"
# The repository is the source, so that links between its documents are checked wherever they stand.
root_doc = "docs/index"
include_patterns = ["docs/**", "*.md", "experiments/reference/*.md", "tests/slurm/*.md", "tests/data/nih/*.md"]
exclude_patterns = ["docs/generate.py"]
# Every heading is a target, so that a link to one that is gone is an error.
myst_heading_anchors = 4
myst_enable_extensions = ["attrs_inline"]
nitpicky = True
# Two dashes begin an option.
smartquotes = False
# Help texts quote by single back-quotes.
default_role = "literal"


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("sphinx-click-process-description", _examples)


def _examples(_app: Sphinx, _ctx: Any, lines: list[str]) -> None:
    """A command among the lines of a help text is shown as it is: a star in it is no markup."""
    lines[:] = [f"| ``{line[2:]}``" if line.startswith("| hpcjobs ") else line for line in lines]
