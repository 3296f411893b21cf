"""No room but the trainer's own knows what is trained: words of the built-in trainer stay out of the others.

The rooms take any training command. What only one of them counts, scores or is called is a field (`unit`,
`score_name`), or is in chexnet/, trainers/, collect/ or config/.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import hpcjobs

# In any case, and in parts of identifiers too: "images" of a container are reworded, so that a search is enough.
_WORDS = re.compile(r"chexnet|densenet|images|auc", re.IGNORECASE)
ROOMS = ("analysis", "base", "engine", "jobs", "plan", "schedulers")


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_names_no_trainer_and_nothing_that_is_one_trainers_own(room: str) -> None:
    found = [
        f"{path.name}:{number}: {line.strip()}"
        for path in sorted((Path(hpcjobs.__file__).parent / room).rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if _WORDS.search(line)
    ]
    assert found == []


def test_the_search_finds_parts_of_identifiers_and_nothing_else() -> None:
    words = ("ChexnetExperiment", "DENSENET", "images_per_sec", "mean_auc", "AUC (val)")
    assert all(_WORDS.search(word) for word in words)
    assert not any(_WORDS.search(word) for word in ("because", "image", "cause", "launch"))


@pytest.mark.parametrize(
    ("words", "unloaded"),
    [
        (["--help"], {"msgspec", "yaml", "jinja2", "hpcjobs.trainers", "hpcjobs.config"}),
        (["status", "--help"], {"regex", "rich", "pandas", "numpy", "matplotlib", "tensorflow", "horovod"}),
        (["sweep", "--help"], {"regex", "rich", "pandas", "numpy", "matplotlib", "tensorflow", "horovod"}),
    ],
)
def test_a_start_loads_only_what_it_needs(words: list[str], unloaded: set[str]) -> None:
    """Help comes at once; benchmarks/startup.py has the times."""
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['hpcjobs', *{words!r}]\n"
        "try:\n    runpy.run_module('hpcjobs', run_name='__main__')\nexcept SystemExit:\n    pass\n"
        "print('LOADED', *sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.rpartition("LOADED ")[2].split())
    assert "click" in loaded
    assert loaded & unloaded == set()
