"""The Python face as docs/python.md shows it, block by block, with real trainings on this machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, blocks

PAGE = ROOT / "docs" / "python.md"
# What is true after the blocks of the page, in their namespace.
AFTER = """
assert [(run.run, str(run.state)) for run in runs] == [("g0001-r01", "done"), ("g0002-r01", "done")]
assert list(table.gpus) == [1, 2]
assert (table.throughput > 0).all()
assert table.efficiency[0] == 1.0
assert report.unfinished == 0
assert {"scaling-report.csv", "report.html"} <= {path.name for path in report.files}
assert report.rows[0].baseline_gpus == 1
assert repr(study) == "hpcjobs.open('study')"
assert study.resume().runs == ()
assert study.cancel() == []
assert list(own.table().throughput) == [512.5, 512.5]
assert list(own.table().unit) == ["samples", "samples"]
import json, pathlib
command = json.loads(pathlib.Path("study/provenance.json").read_text())["command"]
assert command[:8] == ["hpcjobs", "sweep", "--gpus", "1,2", "--experiment", "demo", "--cluster", "local"]
assert command[8:12] == ["--set", "train.steps=20", "--set", "data.synth.images=64"]
"""


@pytest.mark.timeout(1200)
def test_the_page_runs_from_top_to_bottom(tmp_path: Path) -> None:
    texts = [block.text for block in blocks(PAGE, "python")]
    assert len(texts) == 7
    program = tmp_path / "notebook.py"
    program.write_text("\n".join([*texts, AFTER]))
    done = subprocess.run([sys.executable, program], cwd=tmp_path, capture_output=True, text=True, timeout=1100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[('g0001-r01', 'done'), ('g0002-r01', 'done')]" in done.stdout
    # Nothing of the command line's own talk reaches a notebook that did not ask for it.
    assert "submitted" not in done.stderr


def test_the_import_alone_imports_nothing_large() -> None:
    program = "import sys, hpcjobs; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = set(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.split())
    assert not loaded & {"pandas", "numpy", "scipy", "msgspec", "yaml", "click", "rich", "jinja2", "submitit"}


def test_the_face_names_what_it_lacks() -> None:
    import hpcjobs

    assert {"sweep", "open", "Study"} <= set(hpcjobs.__all__)
    with pytest.raises(AttributeError, match="module 'hpcjobs' has no attribute 'sweeps'"):
        _ = hpcjobs.sweeps  # type: ignore[attr-defined]
