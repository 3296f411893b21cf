"""Damaged or missing files of a study are named in a line; no command ends with a traceback, and the rest is shown."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import click
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpcjobs.base.errors import HpcjobsError, InputError
from hpcjobs.base.hostlist import expand_hosts
from hpcjobs.base.sweepdir import SweepDir
from hpcjobs.cli import hpcjobs
from hpcjobs.collect.runs_csv import read_runs
from hpcjobs.schedulers import factory
from tests.control import sweeps
from tests.control.fake_scheduler import FakeScheduler, Pace

COMMANDS = ("status O", "collect O", "report O", "predict O", "resume O", "cancel O")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of three sizes with a report; the run on 2 GPUs has failed."""
    folder = sweeps.ended(tmp_path_factory.mktemp("damage") / "o", (1, 2, 4), failed=2, says="RuntimeError: boom\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(factory, "make", lambda *a, **k: FakeScheduler(SweepDir(folder)))
        said(f"report {folder}")
    return folder


def said(line: str, capture: pytest.CaptureFixture[str] | None = None) -> str:
    """What a command prints, and the line that it ends with; anything but such a line is an error of the test."""
    end = ""
    try:
        hpcjobs.main(line.split(), prog_name="hpcjobs", standalone_mode=False)
    except (HpcjobsError, OSError, click.exceptions.Exit) as error:
        end = str(error)
    return (("".join(capture.readouterr())) if capture else "") + end


@pytest.fixture
def study(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study of its own for a test. Its scheduler is a fake one whose tasks stay pending."""
    folder = tmp_path / "o"
    moved(original, folder)
    fake = FakeScheduler(SweepDir(folder), pace=Pace.QUEUED)
    monkeypatch.setattr(factory, "make", lambda *args, **more: fake)
    return folder


def moved(original: Path, folder: Path) -> None:
    """A copy that counts as begun in `folder`."""
    shutil.copytree(original, folder)
    for path in folder.rglob("*"):
        if path.suffix in (".yaml", ".sbatch") or path.name == "journal.jsonl":
            path.write_text(path.read_text().replace(str(original), str(folder)))


# --- each known damage by its line -----------------------------------------------------------------


def test_a_line_of_the_journal_about_no_run_of_the_plan_is_named_and_the_others_count(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (study / "journal.jsonl").open("a") as file:
        file.write(
            '{"time": 1, "event": "submitted", "group": "g0001", "submission": 9, "indices": [99], "job": "7"}\n'
        )
        file.write('{"time": 1, "event": "cancel", "runs": 5}\n{"time": NaN, "event"\n')
    printed = said(f"status {study}", capsys)
    assert "the plan has no index 99 of group 'g0001': submitted is left out" in printed
    assert "line 8 is left out: runs is '5': expected a list of texts" in printed
    assert "line 9 is left out: it is not JSON" in printed
    assert printed.count("done") == 2
    assert "g0002-r01" in said(f"resume {study}", capsys)


def test_of_many_wrong_lines_of_the_journal_ten_are_named(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (study / "journal.jsonl").open("a") as file:
        file.write("no JSON\n" * 5000)
    printed = said(f"status {study}", capsys)
    assert printed.count("is left out: it is not JSON") == 10
    assert "journal.jsonl: 4,990 more lines are left out" in printed


def test_a_host_list_of_a_billion_hosts_is_one_text() -> None:
    assert expand_hosts("n[1-999999999],m[1-2]") == ["n[1-999999999]", "m1", "m2"]
    assert expand_hosts(f"n[1-{'9' * 5000}]") == [f"n[1-{'9' * 5000}]"]


def test_a_run_folder_that_is_gone_is_made_anew_and_the_others_are_resumed(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = map(json.loads, (study / "journal.jsonl").read_text().splitlines())
    # An hour ago: what the scheduler does not know is lost.
    (study / "journal.jsonl").write_text("".join(json.dumps({**line, "time": 900}) + "\n" for line in lines))
    shutil.rmtree(study / "runs/g0001-r01")
    printed = said(f"resume {study}", capsys)
    assert "runs/g0001-r01" in printed
    assert {"g0001-r01", "g0002-r01"} <= set(printed.splitlines())
    assert (study / "runs/g0001-r01/run.yaml").is_file()


# --- any damage ------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from([10**4000, -1, 99, 2**63, "n[1-999999999]", "x" * 200_000, "2026", "1e400"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
BYTES = st.sampled_from(
    [b"", b"\0" * 50, b"\xff\xfe\x00", b"[" * 100_000, b'{"a":' * 50_000, b"1e400", b"9" * 5000, b"null", b"[1]", b"{}"]
) | st.binary(max_size=40)


def changed(data: bytes, deed: str, draw: st.DataObject) -> bytes:
    if deed == "bytes":
        return draw.draw(BYTES)
    if deed == "cut":
        return data[: draw.draw(st.integers(0, max(0, len(data) - 1)))]
    if deed == "splice":
        at = draw.draw(st.integers(0, len(data)))
        return data[:at] + draw.draw(BYTES) + data[at + draw.draw(st.integers(0, 20)) :]
    return valued(data, draw)


def valued(data: bytes, draw: st.DataObject) -> bytes:
    """One value of a line of JSON, of a file of it, or of lines `key: value`, is another one."""
    lines = data.decode("utf-8", "replace").split("\n")
    value = draw.draw(VALUES)
    written = _text(value)
    try:
        whole = json.loads(data)
        lines, at = [data.decode()], 0
    except ValueError:
        at = draw.draw(st.integers(0, max(0, len(lines) - 1)))
        before, brace, rest = lines[at].partition("{")
        try:
            whole = json.loads(brace + rest)
        except ValueError:
            key, colon, _ = lines[at].partition(":")
            lines[at] = f"{key}{colon} {written}" if colon else ",".join([written, *lines[at].split(",")[1:]])
            return "\n".join(lines).encode("utf-8", "replace")
        lines[at] = before
    if not isinstance(whole, dict) or not whole:
        return written.encode("utf-8", "replace")
    key = draw.draw(st.sampled_from(sorted(whole)))
    inner = whole[key]
    if isinstance(inner, dict) and inner and draw.draw(st.booleans()):
        inner[draw.draw(st.sampled_from(sorted(inner)))] = "MARK"
    else:
        whole[key] = "MARK"
    lines[at] = (lines[at] if lines[at] != data.decode("utf-8", "replace") else "") + json.dumps(whole).replace(
        '"MARK"', written
    )
    return "\n".join(lines).encode("utf-8", "replace")


def _text(value: object) -> str:
    if value == 10**4000:
        return "1" + "0" * 4999
    if isinstance(value, str) and value == "1e400":
        return value
    return json.dumps(value)


def files(folder: Path) -> list[str]:
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.suffix not in (".png", ".svg", ".html", ".sh", ".pdf") and not path.name.endswith(".py")
    )


@given(draw=st.data())
@settings(
    max_examples=int(os.environ.get("HPCJOBS_DAMAGE_EXAMPLES", "15")),
    deadline=None,
    derandomize="HPCJOBS_DAMAGE_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
def test_no_damage_of_a_study_ends_a_command_with_a_traceback(
    original: Path, tmp_path_factory: pytest.TempPathFactory, draw: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("d") / "o"
    moved(original, folder)
    (folder / "runs/g0001-r01/claim-s001").write_text('{"job": "1_0", "submission": 1}\n')
    here = files(folder)
    for _ in range(draw.draw(st.integers(1, 2))):
        path = folder / draw.draw(st.sampled_from(here))
        deed = draw.draw(st.sampled_from(["value", "value", "value", "bytes", "cut", "splice", "remove", "folder"]))
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.is_file() and deed in ("remove", "folder"):
            path.unlink()
            if deed == "folder":
                path.mkdir()
        elif path.is_file():
            path.write_bytes(changed(path.read_bytes(), deed, draw))
    fake = FakeScheduler(SweepDir(folder), pace=Pace.QUEUED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(factory, "make", lambda *args, **more: fake)
        patch.setattr(FakeScheduler, "_accept", lambda *args: "77")
        for command in COMMANDS:
            said(command.replace("O", str(folder)))
    shutil.rmtree(folder)


# --- a runs.csv that another program wrote ---------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_runs_csv_of_a_spreadsheet_is_read(delimiter: str) -> None:
    lines = (("gpus", "throughput", "params"), ("1", "10.5", "a=1"), ("2", "19", ""))
    text = "\ufeff" + "\r\n".join(delimiter.join(words) for words in lines)
    runs = read_runs(text, "theirs.csv")
    assert [(run.gpus, run.throughput, run.params) for run in runs] == [(1, 10.5, "a=1"), (2, 19.0, "")]


def test_a_field_that_is_too_long_for_csv_is_named() -> None:
    with pytest.raises(InputError, match=r"theirs\.csv: not CSV: field larger than field limit"):
        read_runs(f"gpus,throughput,params\n1,2,{'x' * 200_000}\n", "theirs.csv")


def test_json_that_cannot_be_read_is_named() -> None:
    for text in ("[" * 100_000, f'[{{"gpus": {"9" * 5000}}}]'):
        with pytest.raises(InputError, match=r"theirs\.json: cannot be read as JSON"):
            read_runs(text, "theirs.json")


def test_a_report_over_a_size_that_was_not_measured_writes_nothing(study: Path) -> None:
    shutil.rmtree(study / "report")
    assert "3" in said(f"report {study} --baseline 3")
    assert not (study / "report").exists()
