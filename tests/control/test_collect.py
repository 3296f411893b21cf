"""A sweep's files become runs: what each says, what is wrong with it, and runs.csv there and back."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pandas
import pytest

from hpcjobs.analysis.scaling import table
from hpcjobs.base import contract
from hpcjobs.base.columns import RUN_COLUMNS
from hpcjobs.base.errors import InputError
from hpcjobs.base.metrics import Run
from hpcjobs.base.records import RunState
from hpcjobs.chexnet.classes import AUC_COLUMNS, AUC_CSV
from hpcjobs.collect import mllog
from hpcjobs.collect.runs_csv import read_runs, to_text
from hpcjobs.collect.sweep_runs import write
from tests.control.logs import attempt, train_log
from tests.control.sweeps import collect, done, node, planned, run, states, sweep


def collected(folder: Path, **facts: object) -> Run:
    """The one run of a sweep whose node says `facts`."""
    where = sweep(folder, [4])
    node(done(where, "g0004-r01"), "n1", **facts)
    (found,) = collect(where, planned(where), states(where))
    return found


def test_what_a_run_ran_on(tmp_path: Path) -> None:
    facts = {"python": "3.11.2", "tensorflow": "2.15.1", "mpi": "Open MPI v4.1.4, package: Debian", "cuda": None}
    found = collected(tmp_path, gpus=["Tesla V100-SXM2-16GB"] * 4, **facts)
    assert found.gpu_model == "Tesla V100-SXM2-16GB"
    assert found.software == "python 3.11.2, tensorflow 2.15.1, mpi Open MPI v4.1.4"
    assert (found.nodelist, found.flags, found.repeats_asked) == ("n1", "", 1)


def test_nodes_that_differ_are_flagged(tmp_path: Path) -> None:
    where = sweep(tmp_path, [8])
    folder = done(where, "g0008-r01")
    node(folder, "n1", gpus=["V100"], driver="535.1")
    node(folder, "n2", gpus=["V100", "A100"], driver="550.2")
    (found,) = collect(where, planned(where), states(where))
    assert found.flags == "software_differs gpus_differ"
    assert (found.gpu_model, found.software) == ("A100, V100", "driver 535.1 | driver 550.2")


def test_the_queue_is_the_time_from_the_submission_to_the_start(tmp_path: Path) -> None:
    assert collected(tmp_path).queue_s == 990 - 900


def test_the_queue_of_a_requeued_job_or_of_one_not_in_the_journal_is_not_known(tmp_path: Path) -> None:
    where = sweep(tmp_path, [1, 2, 4])
    claims = [done(where, f"g{gpus:04d}-r01") / contract.CLAIM for gpus in (1, 2, 4)]
    for claim, change in zip(claims, ({}, {"restart": 1}, {"job": "77_0"}), strict=True):
        claim.write_text(json.dumps({**json.loads(claim.read_text()), **change}))
    assert [found.queue_s for found in collect(where, planned(where), states(where))] == [90, None, None]


def test_runs_of_one_allocation_waited_once_together(tmp_path: Path) -> None:
    where = sweep(tmp_path, [1], repeats=2)
    where.sweep_yaml.write_text(f"{where.sweep_yaml.read_text()}terms: {{one_allocation: true}}\n")
    for number, start in ((1, 950), (2, 960)):
        claim = done(where, f"g0001-r{number:02d}") / contract.CLAIM
        claim.write_text(json.dumps({**json.loads(claim.read_text()), "job": "1_0", "start": start}))
    assert [(found.queue_s, found.start) for found in collect(where, planned(where), states(where))] == [
        (50, 950),
        (50, 960),
    ]


@pytest.mark.parametrize(
    ("cluster", "gpus"), [({}, 4), ({"sharing": "shared"}, 1), ({"gpus_per_node": None}, 1), ({"gpus_per_node": 8}, 8)]
)
def test_the_gpu_hours_are_those_that_all_attempts_kept_from_others(tmp_path: Path, cluster: dict, gpus: int) -> None:
    where = sweep(tmp_path, [1], repeats=3, **cluster)
    for name in ("g0001-r01", "g0001-r02"):
        done(where, name)  # 60 s, as every attempt here
    attempt(where.run("g0001-r02") / "a002", rc=1)
    found = collect(where, planned(where), states(where))
    assert [each.gpu_hours for each in found] == pytest.approx([gpus / 60, 2 * gpus / 60, 0.0])
    # Of the row: all its runs.
    assert [row.gpu_hours for row in table(found)] == pytest.approx([3 * gpus / 60])
    assert read_runs(to_text(found), "x")[1].gpu_hours == pytest.approx(2 * gpus / 60, rel=1e-5)


def test_gpu_hours_are_not_known_of_an_attempt_that_left_no_exit_json(tmp_path: Path) -> None:
    where = sweep(tmp_path, [1], repeats=2)
    done(where, "g0001-r01")
    attempt(where.run("g0001-r02") / "a001", rc=None)
    found = collect(where, planned(where), states(where))
    assert [each.gpu_hours for each in found] == [pytest.approx(4 / 60), None]
    assert [row.gpu_hours for row in table(found)] == [None]


def test_a_run_of_one_allocation_holds_the_largest_size(tmp_path: Path) -> None:
    where = sweep(tmp_path, [1, 8])
    where.sweep_yaml.write_text(where.sweep_yaml.read_text() + "terms: {one_allocation: true}\n")
    done(where, "g0001-r01")
    assert [found.gpu_hours for found in collect(where, planned(where), states(where))] == [pytest.approx(8 / 60), 0.0]


@pytest.mark.parametrize("change", [{"end": "x"}, {"start": None}, {"end": 989}])
def test_gpu_hours_are_not_known_of_a_damaged_exit_json(tmp_path: Path, change: dict) -> None:
    where = sweep(tmp_path, [1])
    path = done(where, "g0001-r01") / contract.EXIT_JSON
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert [found.gpu_hours for found in collect(where, planned(where), states(where))] == [None]


@pytest.mark.parametrize(("git", "flags"), [({"clean": False}, "dirty_code"), ({"clean": True}, ""), (None, "")])
def test_code_that_no_commit_holds(tmp_path: Path, git: object, flags: str) -> None:
    where = sweep(tmp_path, [1])
    where.provenance.write_text(json.dumps({"git": git}))
    done(where, "g0001-r01")
    (found,) = collect(where, planned(where), states(where))
    assert found.flags == flags


def test_shared_nodes_are_the_profiles_word(tmp_path: Path) -> None:
    where = sweep(tmp_path, [1], sharing="shared")
    done(where, "g0001-r01")
    assert [found.flags for found in collect(where, planned(where), states(where))] == ["shared_nodes"]


def test_the_log_says_precision_gradients_and_the_split_of_its_auc(tmp_path: Path) -> None:
    where = sweep(tmp_path, [1, 2])
    text = train_log(gpus=1).replace('"run": "g"', '"precision": "mixed_float16", "gradient_bytes": 28000000')
    done(where, "g0001-r01", log=text)
    done(where, "g0002-r01", log=train_log(gpus=2, auc=None))
    one, two = collect(where, planned(where), states(where))
    assert (one.precision, one.gradient_bytes, one.score, one.score_name) == ("mixed_float16", 28e6, 0.75, "AUC (val)")
    assert (two.precision, two.gradient_bytes, two.score, two.score_name) == ("", None, None, "")


def test_each_log_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = sweep(tmp_path, [1, 2])
    for name in states(where):
        folder = done(where, name)
        attempt(where.run(name) / "a002", log=train_log(status="aborted"))
        (folder / contract.nvml_csv("n1")).write_text("")
    opened: Counter[Path] = Counter()
    events = mllog.events
    monkeypatch.setattr(mllog, "events", lambda path: (opened.update([path]), events(path))[1])
    assert all(found.attempt == "a001" for found in collect(where, planned(where), states(where)))
    assert set(opened.values()) == {1}
    assert len(opened) == 4


# --- the steady state ----------------------------------------------------------------------------


def test_outlier_windows_are_kept_in_the_mean_and_counted(tmp_path: Path) -> None:
    where = sweep(tmp_path, [1])
    done(
        where,
        "g0001-r01",
        log=train_log(gpus=1, step_ms=(50.0, 50.2, 49.8, 50.1, 49.9, 50.0, 150.0, 50.3), warmup_ms=900.0),
    )
    (found,) = collect(where, planned(where), states(where))
    assert (found.windows, found.outlier_windows) == (8, 1)
    assert found.step_ms == pytest.approx(500.3 / 8)


# --- damaged files -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda text: text[: len(text) // 2], "run_yaml: runs/g0002-r01/run.yaml: "),
        (lambda text: "", "not a mapping"),
        (lambda text: "\0\xff{", "run_yaml: runs/g0002-r01/run.yaml: "),
        (lambda text: text.replace("  batch:", "  bath:"), "'batch'"),
        (lambda text: text.replace('run: "g0002-r01"', 'run: "g0004-r01"'), "it is that of the run 'g0004-r01'"),
        (None, "No such file or directory"),
    ],
)
def test_a_damaged_run_yaml_has_a_named_reason_and_spoils_nothing(tmp_path: Path, damage, why: str) -> None:
    where = sweep(tmp_path, [1, 2])
    for name in states(where):
        done(where, name)
    whole = collect(where, planned(where), states(where))
    path = where.run("g0002-r01") / contract.RUN_YAML
    text = path.read_text()
    path.unlink()
    if damage is not None:
        path.write_bytes(damage(text).encode("latin-1"))
    one, two = collect(where, planned(where), states(where))
    assert one == whole[0]
    assert two.failure.startswith("run_yaml: ")
    assert why in two.failure
    assert "\n" not in two.failure
    # The plan says what the run was to be.
    assert (two.gpus, two.nodes, two.global_batch, two.throughput) == (2, 1, 8, whole[1].throughput)


def test_where_sweep_yaml_does_not_help_it_is_an_error_of_one_line(tmp_path: Path) -> None:
    where = sweep(tmp_path, [1])
    (where.run("g0001-r01") / contract.RUN_YAML).write_text("{")
    where.sweep_yaml.write_text("version: 1\nsweep: s\n")
    with pytest.raises(InputError, match="does not plan the run") as caught:
        collect(where, {}, states(where))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [contract.TRAIN_LOG, contract.CLAIM, contract.EXIT_JSON, contract.node_json("n1"), contract.nvml_csv("n1")],
)
@pytest.mark.parametrize(
    "content", [b"", b"\x00\xff\xfe" * 100, b"[1, 2", b'{"gpus": 3, "cpus": "x"}', b":::MLLOG []\n:::MLLOG 7\n"]
)
def test_no_damaged_file_of_an_attempt_ends_it(tmp_path: Path, name: str, content: bytes) -> None:
    where = sweep(tmp_path, [1])
    folder = done(where, "g0001-r01")
    (folder / name).write_bytes(content)
    (found,) = collect(where, planned(where), states(where))
    assert found.run == "g0001-r01"
    assert (found.throughput is None) == (name == contract.TRAIN_LOG)


def test_a_run_without_hosts_or_with_odd_figures_measures_what_is_whole(tmp_path: Path) -> None:
    where = sweep(tmp_path, [1, 2])
    done(where, "g0001-r01", log=train_log(gpus=1).replace('"hosts": ["n1"]', '"hosts": 7'))
    done(where, "g0002-r01", log=train_log(gpus=2).replace('"global_batch": 8', '"global_batch": 0'))
    one, two = collect(where, planned(where), states(where))
    assert one.throughput is not None
    assert one.nodelist == "n1"  # that of the claim
    assert two.throughput is None


def test_a_log_of_one_endless_line_is_no_burden(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.write_bytes(b"x" * 3_000_000 + b"\n" + train_log().encode())
    assert mllog.measure(mllog.read(path)) is not None


# --- runs.csv ------------------------------------------------------------------------------------


def two_runs(folder: Path) -> list[Run]:
    where = sweep(folder, [1, 4], repeats=1)
    folder = done(where, "g0001-r01")
    node(folder, "n1", gpus=["V100"], python="3.11")
    # A quarter of an hour: the six digits of CSV are enough for its GPU-hours.
    ended = json.loads((folder / contract.EXIT_JSON).read_text()) | {"end": 990 + 900}
    (folder / contract.EXIT_JSON).write_text(json.dumps(ended))
    found = collect(
        where,
        planned(where),
        {"g0001-r01": (RunState.DONE, ""), "g0004-r01": (RunState.FAILED, 'timeout: "late", he said')},
    )
    write(where, found, {AUC_CSV: AUC_COLUMNS})
    assert to_text(found) == (where.report / "runs.csv").read_text()
    return found


def test_pandas_reads_runs_csv_without_options(tmp_path: Path) -> None:
    two_runs(tmp_path)
    frame = pandas.read_csv(tmp_path / "report" / "runs.csv")
    assert list(frame.columns) == list(RUN_COLUMNS)
    assert frame.start[0] == "1970-01-01T00:16:30Z"
    assert frame.failure[1] == 'timeout: "late", he said'
    assert (frame.windows[0], frame.outlier_windows[0]) == (2, 0)


def test_runs_come_back_from_csv_and_json_and_make_the_same_table(tmp_path: Path) -> None:
    found = two_runs(tmp_path)
    again = read_runs(to_text(found), "runs.csv")
    assert [each.row() for each in again] == [
        each.row() for each in read_runs(json.dumps([each.row() for each in found]), "-")
    ]
    assert (again[0].state, again[1].state, again[1].throughput) == (RunState.DONE, RunState.FAILED, None)
    assert again[0].start == 990.0
    assert [row.row() for row in table(again)] == [row.row() for row in table(found)]
    # As pandas writes it: whole numbers with a point, where a column has gaps.
    frame = pandas.read_csv(tmp_path / "report" / "runs.csv")
    assert read_runs(frame.to_csv(index=False), "x")[0].windows == 2


def test_the_unit_is_a_column_and_images_without_one() -> None:
    """No name of an experiment is read for it."""
    odd = run(1, 2.0, experiment="gnmt (tokens)", unit="sequences")
    (again,) = read_runs(to_text([odd]), "x")
    assert (again.unit, again.experiment) == ("sequences", "gnmt (tokens)")
    (old,) = read_runs("experiment,gpus,throughput\ngnmt (tokens),1,2\n", "x")
    assert old.unit == "images"
    assert [row.unit for row in table([again])] == ["sequences"]


def test_a_file_with_the_names_of_version_0_1_is_read() -> None:
    old = (
        "experiment,gpus,images_per_sec,images_per_sec_per_gpu,mean_auc,auc_split\n"
        "demo,1,100,100,0.8,val\ndemo,2,190,95,0.7,test\ndemo,4,,,,\n"
    )
    one, two, four = read_runs(old, "runs.csv")
    assert [each.throughput for each in (one, two, four)] == [100.0, 190.0, None]
    assert [(each.score, each.score_name) for each in (one, two, four)] == [
        (0.8, "AUC (val)"), (0.7, "AUC (test)"), (None, ""),
    ]  # fmt: skip
    assert {each.unit for each in (one, two, four)} == {"images"}
    (printed,) = read_runs('[{"gpus": 1, "images_per_sec": 100, "mean_auc": 0.8, "auc_split": "val"}]', "x")
    assert (printed.throughput, printed.score, printed.score_name) == (100.0, 0.8, "AUC (val)")


def test_a_table_of_two_columns_is_enough() -> None:
    found = read_runs("gpus,throughput,comment\n1,100,x\n4,300,y\n8,,crashed\n", "mine.csv")
    assert [row.speedup for row in table(found)] == [1.0, 3.0, None]
    assert [str(each.state) for each in found] == ["done", "done", "failed"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "holds no runs"),
        ("[]", "holds no runs"),
        ("[1]", "expected a JSON list of objects"),
        ('{"gpus": 1}', "expected a JSON list of objects"),
        ("[{]", "line 1: not JSON"),
        ("gpus,throughput\nfour,1\n", "run 1: gpus is 'four': expected GPUs"),
        ("gpus,throughput\n4.5,1\n", "run 1: gpus is '4.5'"),
        ("throughput\n1\n", "run 1: no number of GPUs"),
        ("gpus,throughput\n1,1\n2,-3\n", "run 2: throughput is -3.0"),
        ("gpus,throughput\n1,inf\n", "throughput is inf"),
        ("gpus,state\n1,dancing\n", "state is 'dancing'"),
        ("gpus,start\n1,yesterday\n", "start is 'yesterday'"),
    ],
)
def test_what_is_no_table_of_runs_is_refused_by_name(text: str, why: str) -> None:
    with pytest.raises(InputError, match=r"^mine\.csv: ") as caught:
        read_runs(text, "mine.csv")
    assert why in str(caught.value)


def test_a_run_goes_to_csv_whatever_is_in_it() -> None:
    odd = run(1, 2.0, nodelist="a,b", software='"', failure="one\ntwo\rthree")
    assert read_runs(to_text([odd]), "x")[0].failure == "one two three"
