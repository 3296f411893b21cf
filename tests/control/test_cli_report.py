"""`collect --logs`, `report` with something beside it, and `predict`, as a user calls them."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas
import pytest

from tests.control import sweeps
from tests.running import hpcjobs

from .scenario import SweepScenario

SHARED = Path(__file__).parent / "logs"
# The article's one to sixteen GPUs, and a second sweep that is a tenth faster; three repeats each.
ARTICLE = {1: 185.12, 2: 315.26, 4: 421.85, 8: 1116.99, 12: 1527.60, 16: 1912.82}


def runs_csv(path: Path, factor: float = 1.0, spread: float = 0.004) -> Path:
    lines = ["run,gpus,local_batch,global_batch,experiment,throughput,score"]
    for gpus, rate in ARTICLE.items():
        for repeat in (-1, 0, 1):
            value = rate * factor * (1 + repeat * spread)
            lines.append(f"g{gpus}r{repeat + 2},{gpus},64,{64 * gpus},chexnet,{value:.2f},0.8")
    path.write_text("\n".join(lines) + "\n")
    return path


def horovod(path: Path, gpus: int, each: float) -> Path:
    """The last lines of Horovod's synthetic benchmark."""
    path.write_text(
        f"Model: ResNet50\nBatch size: 32\nNumber of GPUs: {gpus}\n"
        f"[1,0]<stdout>:Img/sec per GPU: {each} +-5.3\n"
        f"[1,0]<stdout>:Total img/sec on {gpus} GPU(s): {each * gpus:.1f} +-42.7\n"
    )
    return path


def test_anyones_logs_go_through_the_same_report(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    horovod(tmp_path / "logs" / "one.log", 1, 600.2)
    horovod(tmp_path / "logs" / "eight.log", 8, 540.0)
    (tmp_path / "logs" / "notes.txt").write_text("nothing to see\n")
    found = hpcjobs("collect", "--logs", "logs", "--json", cwd=tmp_path)
    assert [(run["gpus"], run["throughput"]) for run in json.loads(found.stdout)] == [(8, 4320.0), (1, 600.2)]
    assert "notes.txt" in found.stderr
    piped = subprocess.run(
        [sys.executable, "-m", "hpcjobs", "report", "--runs", "-", "--out", "theirs", "--json"],
        cwd=tmp_path, input=found.stdout, capture_output=True, text=True,
    )  # fmt: skip
    assert piped.returncode == 0, piped.stderr
    rows = json.loads(piped.stdout)
    assert [(row["gpus"], row["runs"]) for row in rows] == [(1, 1), (8, 1)]
    assert rows[1]["speedup"] == pytest.approx(4320 / 600.2)
    table = pandas.read_csv(tmp_path / "theirs" / "scaling-report.csv")
    assert list(table.throughput) == [600.2, 4320.0]
    # Without --json it is a table that pandas reads as it is.
    text = hpcjobs("collect", "--logs", "logs", cwd=tmp_path).stdout
    assert list(pandas.read_csv(io.StringIO(text)).gpus) == [8, 1]


def test_a_log_that_does_not_say_its_gpus_is_told_how_to(tmp_path: Path) -> None:
    (tmp_path / "run-4gpu.log").write_text(
        "INFO:root:Epoch[0] Batch [20]\tSpeed: 1250.50 samples/sec\taccuracy=0.1\n" * 9
    )
    lost = hpcjobs("collect", "--logs", "run-4gpu.log", cwd=tmp_path, code=1)
    assert "run-4gpu.log" in lost.stderr
    assert "--gpus-from" in lost.stderr
    found = hpcjobs("collect", "--logs", "run-4gpu.log", "--gpus-from", r"-(\d+)gpu", "--json", cwd=tmp_path)
    (run,) = json.loads(found.stdout)
    assert (run["gpus"], run["throughput"]) == (4, 1250.5)


PATTERN = r"tokens/s: (?P<throughput>[\d.]+)"


def command_log(path: Path, figure: str = "1,024.5") -> None:
    path.write_text("loading\ntokens/s: 10\n" + f"step done, tokens/s: {figure}\n" * 4 + "tokens/s: nan\n")


def test_a_pattern_is_tried_on_a_log_and_shows_what_counts(tmp_path: Path) -> None:
    command_log(tmp_path / "job.log")
    words = ("collect", "--logs", "job.log", "--pattern", r"tokens/s: (?P<throughput>\S+)", "--unit", "tokens", "--of", "rank", "--warmup", "1")  # fmt: skip
    found = hpcjobs(*words, "--gpus", "8", "--json", cwd=tmp_path)
    (row,) = json.loads(found.stdout)
    assert (row["gpus"], row["throughput"], row["unit"], row["windows"]) == (8, pytest.approx(8196.0), "tokens", 4)
    told = found.stderr.splitlines()
    assert told[0] == "job.log: 6 matches, 4 of them count; left out: 1 warm-up, 1 not a number"
    assert told[1] == "  2: throughput=10  left out: warm-up  | tokens/s: 10"
    assert told[2] == "  3: throughput=1024.5  | step done, tokens/s: 1,024.5"
    assert told[6] == "  7:   left out: throughput 'nan' is not a number  | tokens/s: nan"
    assert told[7] == "job.log:2: 1 match left out: throughput 'nan' is not a number, line 7"
    assert told[8] == "8196 tokens/s (mean of 4 matches)"
    text = hpcjobs(*words, "--gpus", "8", cwd=tmp_path).stdout
    assert list(pandas.read_csv(io.StringIO(text)).throughput) == [8196.0]
    # Without the number of GPUs there is no row, but the rate of one rank is told.
    lost = hpcjobs(*words, "--json", cwd=tmp_path, code=1)
    assert json.loads(lost.stdout) == []
    assert (
        "1024.5 tokens/s of one rank (mean of 4 matches); a row needs the number of GPUs: give --gpus N" in lost.stderr
    )
    (tmp_path / "job.log").rename(tmp_path / "run-4gpu.log")
    named = hpcjobs(*(word.replace("job.log", "run-4gpu.log") for word in words), "--gpus-from", r"(\d+)gpu", "--json", cwd=tmp_path)  # fmt: skip
    assert json.loads(named.stdout)[0]["throughput"] == pytest.approx(4098.0)


def test_a_pattern_that_matches_nothing_shows_lines_that_it_could_match(tmp_path: Path) -> None:
    (tmp_path / "job.log").write_text(
        "loading 3 shards\nepoch 1: 87.04 samples/sec, loss 2.1\nepoch 2: 88.1 samples/sec\n"
    )
    lost = hpcjobs("collect", "--logs", "job.log", "--pattern", PATTERN, cwd=tmp_path, code=1)
    assert lost.stderr.splitlines() == [
        "job.log: no line matches the pattern",
        "lines that hold a number beside words of a rate or of a step:",
        "  2: epoch 1: 87.04 samples/sec, loss 2.1",
        "  3: epoch 2: 88.1 samples/sec",
    ]
    # Without a pattern, too.
    lost = hpcjobs("collect", "--logs", "job.log", cwd=tmp_path, code=1)
    told = lost.stderr.splitlines()
    assert told[0].startswith("job.log: no line of a known format: ")
    assert told[1] == "lines that hold a number beside words of a rate or of a step; --pattern reads them:"
    assert told[2] == "  2: epoch 1: 87.04 samples/sec, loss 2.1"


def test_one_match_is_one(tmp_path: Path) -> None:
    (tmp_path / "job.log").write_text("tokens/s: 10\n")
    told = hpcjobs("collect", "--logs", "job.log", "--pattern", PATTERN, "--warmup", "0", "--gpus", "2", cwd=tmp_path)
    assert told.stderr.splitlines()[0] == "job.log: 1 match, 1 of them counts"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["collect", "--logs", ".", "--pattern", PATTERN, "--format", "horovod"], "--pattern needs --logs and excludes --format"),
        (["collect", ".", "--pattern", PATTERN], "--pattern needs --logs"),
        (["collect", "--logs", ".", "--of", "rank"], "need --pattern"),
        (["collect", "--logs", ".", "--pattern", "(?P<speed>.)"], "no such group as 'speed'; known: throughput, step_ms"),
        (["collect", "--logs", ".", "--pattern", PATTERN, "--gpus", "2", "--gpus-from", "(.)"], "--gpus and --gpus-from exclude each other"),
        (["collect", "--logs"], "--logs: give the paths of logs"),
        (["collect", "--logs", "nowhere"], "--logs nowhere: no such file"),
        (["collect", "--logs", ".", "--format", "horovd"], "--format horovd: known: hpcjobs"),
        (["collect", "--logs", ".", "--gpus-from", "("], "not a regular expression"),
        (["collect", "--logs", ".", "--gpus-from", "gpu"], "give one group"),
        (["collect", ".", "--format", "horovod"], "need --logs"),
        (["report"], "give the FOLDER of a sweep, or --runs FILE and --out DIR"),
        (["report", "--runs", "runs.csv"], "--runs FILE needs --out DIR"),
        (["report", "--runs", "nowhere.csv", "--out", "x"], "--runs nowhere.csv: cannot be read"),
        (["report", "--runs", "runs.csv", "--out", "x", "--baseline", "two"], "--baseline two: give a number of GPUs"),
        (["report", "--runs", "runs.csv", "--out", "x", "--baseline", "3"], "3"),
        (["report", "--runs", "runs.csv", "--out", "x", "--reference", "dell"], "--reference dell: no such table"),
        (["report", "--runs", "runs.csv", "--out", "x", "--json", "--markdown"], "give one of them"),
        (["predict", "--runs", "runs.csv", "--gpus", "0"], "'0' is not a GPU count"),
        (["predict"], "give the FOLDER of a sweep, or --runs FILE"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(words: list[str], said: str, tmp_path: Path) -> None:
    runs_csv(tmp_path / "runs.csv")
    done = hpcjobs(*words, cwd=tmp_path, code=2)
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "x" / "scaling-report.csv").exists()


def test_another_sweep_and_a_published_table_are_laid_beside(tmp_path: Path) -> None:
    ours, theirs = runs_csv(tmp_path / "ours.csv", 1.1), runs_csv(tmp_path / "theirs.csv")
    words = ("report", "--runs", str(ours), "--out", "o", "--against", str(theirs))
    beside = json.loads(hpcjobs(*words, "--reference", "dell-c4140-v100-2019", "--json", cwd=tmp_path).stdout)
    assert [row["gpus"] for row in beside["rows"]] == list(ARTICLE)
    for difference in beside["against"]:
        assert difference["low"] < 1.1 < difference["high"]
        assert difference["real"] is True
    reference = {row["gpus"]: row["ratio"] for row in beside["reference"]["rows"]}
    assert reference[16] == pytest.approx(1.1, rel=1e-3)
    printed = hpcjobs(*words, "--markdown", cwd=tmp_path).stdout
    assert printed.startswith("| ")
    assert "+10.0%" in printed


def test_speed_up_over_another_base(tmp_path: Path) -> None:
    runs_csv(tmp_path / "runs.csv")
    words = ("report", "--runs", "runs.csv", "--out", "o", "--baseline", "4", "--json")
    rows = json.loads(hpcjobs(*words, cwd=tmp_path).stdout)
    assert [(row["gpus"], row["baseline_gpus"]) for row in rows][:3] == [(1, 4), (2, 4), (4, 4)]
    assert next(row["speedup"] for row in rows if row["gpus"] == 4) == 1


def test_sizes_that_were_not_run_are_predicted_with_intervals(tmp_path: Path) -> None:
    runs_csv(tmp_path / "runs.csv")
    words = ("predict", "--runs", "runs.csv", "--gpus", "32", "--json", "--extrap", "extrap.txt")
    (outlook,) = json.loads(hpcjobs(*words, cwd=tmp_path).stdout)
    (predicted,) = [size for size in outlook["models"][0]["predictions"] if size["gpus"] == 32]
    rate = predicted["throughput"]
    assert ARTICLE[16] < rate["value"] < 32 * ARTICLE[1]
    assert rate["low"] < rate["value"] < rate["high"]
    assert (tmp_path / "extrap.txt").read_text().startswith("PARAMETER ")
    assert "32" in hpcjobs(*words[:5], cwd=tmp_path).stdout


def test_too_few_sizes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_text("gpus,local_batch,global_batch,throughput\n1,64,64,185\n2,64,128,315\n")
    assert "no model can be fitted" in hpcjobs("predict", "--runs", "runs.csv", cwd=tmp_path, code=2).stderr


def not_mine(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A command on a sweep in whose folder one may not write; root gives up what lets it write anywhere."""
    drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.getuid() == 0 else []
    folder.mkdir(exist_ok=True)
    places = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for path in places:
        path.chmod(0o555)
    try:
        command = [*drop, sys.executable, "-m", "hpcjobs", *words]
        return subprocess.run(command, cwd=folder.parent, capture_output=True, text=True)
    finally:
        for path in places:
            path.chmod(0o755)


@pytest.mark.parametrize(
    ("words", "place"), [(("report",), "study/report"), (("collect",), "study/report"), (("resume",), "study")]
)
def test_a_colleagues_sweep_is_one_line_and_the_report_has_a_way_round(
    tmp_path: Path, words: tuple[str, ...], place: str
) -> None:
    sweeps.ended(tmp_path / "study", (1, 2), failed=2, says="RuntimeError: boom\n")
    (tmp_path / "study" / "report").mkdir()
    done = not_mine(tmp_path / "study", *words, "study")
    said = f"hpcjobs: error: {place}: cannot be written: Permission denied"
    more = "; to report elsewhere: `hpcjobs report study --out DIR`" if place == "study/report" else ""
    assert (done.returncode, done.stderr) == (2, f"{said}{more}\n")


def test_a_colleague_who_may_only_read_sees_the_states_and_reports_elsewhere(tmp_path: Path) -> None:
    study = sweeps.ended(tmp_path / "study", (1, 2), failed=2, says="RuntimeError: boom\n")
    before = {path: path.stat().st_mtime_ns for path in study.rglob("*")}
    done = not_mine(study, "status", "study", "--json")
    assert [run["state"] for run in json.loads(done.stdout)] == ["done", "failed"]
    done = not_mine(study, "report", "study", "--out", "mine/of-them", "--json")
    assert (done.returncode, [row["gpus"] for row in json.loads(done.stdout)]) == (0, [1, 2])
    names = {path.name for path in (tmp_path / "mine/of-them").iterdir()}
    assert {"runs.csv", "auc.csv", "scaling-report.csv", "report.html", "scaling.svg"} <= names
    assert not_mine(study, "predict", "study").returncode == 2  # two sizes are too few; nothing is written
    done = not_mine(study, "cancel", "study")
    assert (done.returncode, done.stderr) == (0, "nothing to cancel: no run is pending or running\n")
    assert {path: path.stat().st_mtime_ns for path in study.rglob("*")} == before
    # Another study is no place for a report.
    assert hpcjobs("report", "study", "--out", "study", cwd=tmp_path, code=2).stderr.startswith(
        "hpcjobs: error: --out study: holds a sweep"
    )


def test_files_of_a_colleague_that_nobody_else_may_read_are_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    study = sweeps.ended(tmp_path / "study", (1, 2, 4), failed=2, says="RuntimeError: boom\n")
    (study / "runs/g0001-r01/a001/train.log").chmod(0o000)
    (study / "runs/g0004-r01").chmod(0o000)
    done = not_mine(tmp_path / "elsewhere", "status", "study", "--json")
    assert "study/runs/g0001-r01/a001/train.log: cannot be read: Permission denied" in done.stderr
    assert "study/runs/g0004-r01: cannot be read: Permission denied; of g0004-r01 only the" in done.stderr
    assert json.loads(done.stdout)[1]["state"] == "failed"
    assert "Traceback" not in done.stderr


def test_a_sweep_is_repeated_by_its_folder_too(tmp_path: Path) -> None:
    SweepScenario(tmp_path, "study").written()
    printed = [
        hpcjobs("sweep", "--from", source, "--out", "again", "--dry-run", "--json", cwd=tmp_path, code=None).stdout
        for source in ("study/sweep.yaml", "study")
    ]
    assert [json.loads(each)["runs"] for each in printed] == [json.loads(printed[0])["runs"]] * 2
    (tmp_path / "empty").mkdir()
    said = hpcjobs("sweep", "--from", "empty", "--out", "again", cwd=tmp_path, code=2).stderr
    assert "empty: no sweep here (no sweep.yaml)" in said
