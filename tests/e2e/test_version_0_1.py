"""A sweep that version 0.1 began is read, reported and resumed.

sweep_v0_1/ was written by hpcjobs 0.1.0 at commit 672417f, with

    hpcjobs sweep --gpus 1,2 --experiment demo --cluster local --repeats 1 --out ... --set train.steps=10
        --set batch.local=2 --set measure.warmup_steps=4 --set measure.window_steps=2
        --set train.evaluate=false --set train.test=false --set train.checkpoint=false

and cancelled when g0001-r01 was done and g0002-r01 had begun. Its scripts start the trainer by its old module name,
`python -m hpcjobs.train`. The copy lacks data/ (resume makes the demo's images again), report/ and the runner's
output. @SWEEP@, @PYTHON@ and @CWD@ stand for the original absolute paths, n1 for the host.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from hpcjobs.base.contract import EXIT_JSON
from tests.running import hpcjobs, status

WRITTEN = Path(__file__).parent / "sweep_v0_1"
RATE = 529.5  # images/s of the run that was done, as version 0.1 printed it


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The folder with the paths of this machine and this interpreter."""
    paths = {"@SWEEP@": tmp_path / "o", "@PYTHON@": sys.executable, "@CWD@": tmp_path}
    for source in sorted(path for path in WRITTEN.rglob("*") if path.is_file()):
        text = source.read_text()
        for placeholder, path in paths.items():
            text = text.replace(placeholder, str(path))
        copy = tmp_path / "o" / source.relative_to(WRITTEN)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(text)
    return tmp_path / "o"


def test_it_is_read_and_reported(old: Path) -> None:
    runs = status("o", cwd=old.parent, code=None)
    assert {name: run["state"] for name, run in runs.items()} == {"g0001-r01": "done", "g0002-r01": "cancelled"}
    assert (runs["g0001-r01"]["step"], runs["g0001-r01"]["gpus"]) == (10, 1)
    one, two = json.loads(hpcjobs("report", "o", "--json", cwd=old.parent).stdout)
    assert (one["gpus"], one["runs"], one["failed_runs"]) == (1, 1, 0)
    assert one["throughput"] == pytest.approx(RATE, abs=0.05)
    assert (two["gpus"], two["runs"], two["failed_runs"], two["throughput"]) == (2, 0, 1, None)


def test_it_is_compared_with_a_sweep_of_this_version(old: Path) -> None:
    settings = ("train.steps=10", "batch.local=2", "measure.warmup_steps=4", "measure.window_steps=2")
    quick = ("train.evaluate=false", "train.test=false", "train.checkpoint=false")
    words = ("sweep", "--gpus", "1", "--experiment", "demo", "--cluster", "local", "--repeats", "1", "--out", "n")
    more = [word for each in (*settings, *quick) for word in ("--set", each)]
    hpcjobs(*words, *more, "--wait", cwd=old.parent)
    for ours, theirs in (("n", "o"), ("o", "n")):
        printed = hpcjobs("report", ours, "--against", theirs, "--json", cwd=old.parent).stdout
        one = next(each for each in json.loads(printed)["against"] if each["gpus"] == 1)
        assert one["unit"] == "images"
        assert one["theirs" if theirs == "o" else "ours"] == pytest.approx(RATE, abs=0.05)
        assert one["ratio"] == pytest.approx(one["ours"] / one["theirs"])


def test_its_table_gives_the_cost_of_the_next_sweep(old: Path) -> None:
    (old / "report").mkdir()
    (old / "report" / "scaling-report.csv").write_text("gpus,images_per_sec,startup_s\n1,529.5,2\n2,,\n")
    words = ("sweep", "--gpus", "1,2", "--experiment", "demo", "--cluster", "local", "--out", "n", "--dry-run")
    assert "at the rate that o measured)" in hpcjobs(*words, "--set", "train.steps=10", cwd=old.parent).stdout


def test_it_is_resumed_and_the_cancelled_run_trains(old: Path) -> None:
    resumed = json.loads(hpcjobs("resume", "o", "--json", cwd=old.parent).stdout)
    assert resumed["runs"] == ["g0002-r01"]
    hpcjobs("status", "o", "--watch", cwd=old.parent)
    assert {run["state"] for run in status("o", cwd=old.parent).values()} == {"done"}
    ended = json.loads((old / "runs" / "g0002-r01" / "a002" / EXIT_JSON).read_text())
    assert (ended["rc"], ended["job"]) == (0, "3_0")
    # The run that was done is not run again.
    assert not (old / "runs" / "g0001-r01" / "a002").exists()
    one, two = json.loads(hpcjobs("report", "o", "--json", cwd=old.parent).stdout)
    assert one["throughput"] == pytest.approx(RATE, abs=0.05)
    assert (two["gpus"], two["runs"], two["global_batch"]) == (2, 1, 4)
    assert two["speedup"] == pytest.approx(two["throughput"] / one["throughput"])
