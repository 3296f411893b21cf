"""A study of many runs: how often Slurm is asked, how often a log is read, and what a terminal and the page show.

Slurm is a fake of 10,000 nodes, which runs nothing (fake_cluster.py).
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import pytest

from hpcjobs.base.metrics import Run
from hpcjobs.base.records import RunState
from hpcjobs.collect.runs_csv import read_runs
from hpcjobs.engine import follow
from hpcjobs.engine.state import RunStatus
from hpcjobs.report import many
from hpcjobs.report.many import Brief
from hpcjobs.study import Study
from tests.control import fake_cluster
from tests.control.fake_cluster import FakeCluster
from tests.running import hpcjobs

SIZES = fake_cluster.sizes(4)
REPEATS = 55


def ended(where: Path, monkeypatch: pytest.MonkeyPatch, repeats: int = REPEATS) -> tuple[Study, FakeCluster]:
    """A study of four sizes, up to all nodes, of which all runs but eight have ended, every tenth without a result."""
    cluster = FakeCluster(where / "slurm")
    monkeypatch.setenv("PATH", cluster.path)
    study, jobs = fake_cluster.prepared(where, SIZES, repeats).submit(["hpcjobs", "sweep"])
    assert len(jobs) == len(SIZES)
    cluster.leave(study.sweep, ended=len(SIZES) * repeats - 8, running=4, failing=10)
    return study, cluster


def test_slurm_is_asked_as_often_for_many_runs_as_for_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    for repeats in (4, 40):
        (tmp_path / str(repeats)).mkdir()
        study, cluster = ended(tmp_path / str(repeats), monkeypatch, repeats)
        study.status()
        study.cancel()
        calls.append(cluster.calls())
    assert calls[0] == calls[1]
    # An array for each size and the job that collects; each look takes one query of squeue and of sacct.
    assert calls[0]["sbatch"] == len(SIZES) + 1
    assert calls[0]["scancel"] == 1


def test_a_report_reads_each_log_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: Counter[Path] = Counter()
    read_ended = follow.read_ended

    def counted(run: object, attempt: Path, exit: object) -> object:
        read[attempt] += exit is not None
        return read_ended(run, attempt, exit)

    study, _ = ended(tmp_path, monkeypatch, 4)
    monkeypatch.setattr(follow, "read_ended", counted)
    study.report(baseline=SIZES[0])
    assert set(read.values()) <= {0, 1}
    assert read.total() == 8


def test_many_hosts_are_never_named_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, _ = ended(tmp_path, monkeypatch, 12)
    largest = [run for run in study.collect() if run.gpus == SIZES[-1]]
    assert all(len(run.nodelist) < 40 for run in largest)
    assert max(len(run.nodes) for run in study.status()) == fake_cluster.NODES
    rows = study.report().rows
    assert rows[-1].nodes_distinct == fake_cluster.NODES
    assert "same_nodes" in rows[-1].flags


def test_the_page_of_many_runs_shows_counts_and_some_of_those_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    for repeats in (REPEATS, 2 * REPEATS):
        (tmp_path / str(repeats)).mkdir()
        study, _ = ended(tmp_path / str(repeats), monkeypatch, repeats)
        study.report()
        page = (study.folder / "report" / "report.html").read_text()
        sizes.append(len(page))
        assert page.count("<details>") == many.SOME
        runs = len(SIZES) * repeats
        assert f"How many of the {runs} runs are in which state" in page
        assert f"runs.csv, which names the log of each, has all {runs}" in page
        assert len(list(csv.DictReader((study.folder / "report" / "runs.csv").open()))) == runs
    # What is added is a few digits.
    assert sizes[1] - sizes[0] < 1000


def test_status_of_many_runs_fits_a_terminal_and_json_has_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, _ = ended(tmp_path, monkeypatch)
    printed = hpcjobs("status", "study", cwd=tmp_path, code=1).stdout
    assert printed.startswith("220 runs: 4 pending, 4 running, 190 done, 22 failed\n")
    table = [line.split() for line in printed.splitlines()]
    assert ["GPUs", "pending", "running", "done", "failed"] in table
    for kind in ("cuda_error", "out_of_memory", "device_memory", "node_failure"):
        assert kind in [line[0] for line in table if line]
    assert "20 of the 22 runs that ended without a result are shown, each class first; --json has all 220" in printed
    assert len(table) < 150
    every = json.loads(hpcjobs("status", "study", "--json", cwd=tmp_path, code=1).stdout)
    assert [run["run"] for run in every] == [run.name for run in study.sweep.plan.runs]


def test_of_few_runs_each_is_shown_and_of_many_each_class_before_any_twice() -> None:
    few = [Brief(f"r{number}", 4, RunState.DONE) for number in range(many.EACH)]
    assert many.shown(few) == list(range(many.EACH))
    lost = [Brief(f"f{number}", 8, RunState.FAILED, "timeout", "late") for number in range(500)]
    rare = [Brief("x", 16, RunState.LOST, "lost"), Brief("y", 16, RunState.CANCELLED)]
    every = [*few, *lost, *rare]
    found = [every[number] for number in many.shown(every)]
    assert len(found) == many.SOME
    assert found[-2:] == rare
    assert [row[:1] + row[3:] for row in many.by_cause(every).rows] == [
        ("timeout", "500", "8"),
        ("lost", "1", "16"),
        ("cancelled", "1", "16"),
    ]
    assert many.by_size(every).rows == (("4", "200", "", "", ""), ("8", "", "500", "", ""), ("16", "", "", "1", "1"))


def test_of_many_runs_status_says_what_those_wait_for_that_have_not_ended() -> None:
    def run(number: int, state: RunState, word: str, reason: str = "", clock: str = "") -> RunStatus:
        return RunStatus(f"r{number}", state, 4 * (1 + number % 2), word=word, reason=reason, clock=clock)

    runs = [run(number, RunState.PENDING, "PENDING", "AssocGrpGRES") for number in range(190)]
    runs += [run(number, RunState.RUNNING, "SUSPENDED") for number in range(190, 200)]
    runs += [run(200, RunState.RUNNING, "RUNNING"), run(201, RunState.DONE, "", clock="n1 is 9 s ahead")]
    runs += [run(number, RunState.PLANNED, "", f"QOS of {number}") for number in range(300, 330)]
    rows = many.by_reason(many.of_statuses(runs)).rows
    assert rows[:3] == (
        ("pending", "r0", "AssocGrpGRES", "190", "2, 4 to 8"),
        ("running", "r190", "SUSPENDED", "10", "2, 4 to 8"),
        ("planned", "r300", "QOS of 300", "1", "4"),
    )
    assert len(rows) == many.SOME + 2
    assert rows[-2:] == (
        ("others", "r318", "12 more reasons, such as: QOS of 318", "12", "2, 4 to 8"),
        ("clocks", "r201", "n1 is 9 s ahead", "1", "8"),
    )


def test_a_run_of_a_table_has_its_class_and_its_line() -> None:
    (each,) = read_runs("run,gpus,state,failure\nr,4,failed,timeout: after 1:00:00\n", "theirs.csv")
    assert isinstance(each, Run)
    assert many.of_runs([each]) == [Brief("r", 4, RunState.FAILED, "timeout", "after 1:00:00")]
