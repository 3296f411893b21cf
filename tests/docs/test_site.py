"""`make docs` builds the whole site, and does not where a link leads nowhere."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT


def build(source: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """What the Makefile's target does to build the pages, but for where they go."""
    recipe = subprocess.run(["make", "--dry-run", "docs"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (line,) = [line for line in recipe.splitlines() if " -m sphinx " in line]
    words = [sys.executable, *shlex.split(line)[1:-1], str(out)]
    return subprocess.run(words, cwd=source, capture_output=True, text=True, timeout=300)


def test_every_page_is_built(tmp_path: Path) -> None:
    done = build(ROOT, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for page in PAGES:
        assert (tmp_path / page.relative_to(ROOT).with_suffix(".html")).is_file()
    commands = (tmp_path / "docs" / "reference" / "commands.html").read_text()
    assert "Follow until every run has ended, or Ctrl-C." in commands  # an option's help, from the code


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Of all that git tracks or would, as it is here."""
    words = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    folder = tmp_path / "copy"
    for name in set(listed.split("\0")):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def test_a_link_that_leads_nowhere_stops_it(copy: Path, tmp_path: Path) -> None:
    """To a page, a heading, a file of the code, and an image; on a page of docs/ and on those beside the code."""
    planted = {
        "docs/data.md": "[gone](no-such-page.md)",
        "docs/report.md": "[gone](reference/columns.md#no-such-heading)",
        "README.md": "[gone](docs/numbers.md#no-such-number)",
        "CONTRIBUTING.md": "[gone](hpcjobs/no_such_room.py)",
        "docs/quickstart.md": "![gone](no-such-figure.png)",
    }
    for name, text in planted.items():
        with (copy / name).open("a") as page:
            page.write(f"\n{text}\n")
    done = build(copy, tmp_path / "site")
    assert done.returncode != 0
    said = done.stderr.splitlines()
    for name, text in planted.items():
        target = text.partition("(")[2].rstrip(")").rpartition("#")[2]
        assert any(name in line and "WARNING" in line and target in line for line in said), f"{name}: {text}"
    assert len(said) == len(planted)
