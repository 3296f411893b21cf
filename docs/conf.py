"""How `make docs` builds the site: Sphinx, with MyST for Markdown that reads as well where the code is kept."""

from hpcjobs import __version__

project = "hpcjobs"
author = "The hpcjobs developers"
release = __version__
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
html_theme = "furo"
html_title = f"hpcjobs {release}"
# The repository is the source, so that links between its documents are checked wherever they stand.
root_doc = "docs/index"
include_patterns = [
    *("docs/**", "*.md", "examples/**/*.md", "examples/*.md"),
    *("experiments/reference/*.md", "tests/slurm/*.md", "tests/data/nih/*.md"),
]
exclude_patterns = ["docs/generate.py"]
# Every heading is a target, so that a link to one that is gone is an error.
myst_heading_anchors = 4
myst_enable_extensions = ["attrs_inline"]
nitpicky = True
# Two dashes begin an option.
smartquotes = False
