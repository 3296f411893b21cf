"""What Slurm's commands print, as seen on Slurm 22.05.8 and as sites print it."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from hpcjobs.errors import SchedulerUnreachable, SubmitRefused
from hpcjobs.hostlist import expand, expand_indices, fold_indices
from hpcjobs.records import JobState, RunState
from hpcjobs.schedulers.slurm import SlurmScheduler, limits, parse


@pytest.mark.parametrize(
    ("printed", "job"),
    [
        ("123\n", "123"),
        ("123;c1\n", "123"),
        ("Welcome to Site!\nquota: 5%\n123;big.cluster\n", "123"),
        ("77\nbye\n", "77"),
    ],
)
def test_the_job_id_is_found_in_what_sbatch_prints(printed: str, job: str) -> None:
    assert parse.job_id(printed) == job


@pytest.mark.parametrize("printed", ["", "Submitted batch job 12\n", "error 12 happened\n"])
def test_no_job_id_is_an_error_that_shows_what_was_printed(printed: str) -> None:
    with pytest.raises(SubmitRefused, match="printed no job id"):
        parse.job_id(printed)


def test_sacct_rows() -> None:
    text = (
        "6_0|COMPLETED|0:0|c4140-1|2026-11-23T08:40:00|2026-11-23T08:41:00\n"
        "6_1|FAILED|15:0|c4140-[1-2]|2026-11-23T08:40:00|2026-11-23T08:40:30\n"
        "7_0|CANCELLED by 1000|0:0|None assigned|None|2026-11-23T08:40:30\n"
        "8_0|TIMEOUT|0:0|c4140-3|2026-11-23T08:40:00|2026-11-23T08:41:21\n"
        "9_0|FAILED|0:9|c4140-3|2026-11-23T08:40:00|Unknown\n"
        "10_[3,5-6%2]|CANCELLED by 0|0:0|None assigned|Unknown|Unknown\n"
        "6|COMPLETED|0:0|c4140-1|2026-11-23T08:40:00|2026-11-23T08:41:00\n"
        "11_0|MARTIAN|0:0|c4140-1|Unknown|Unknown\n"
    )
    rows = parse.sacct(text)
    assert rows["6_0"].state is RunState.DONE
    assert rows["6_0"].end - rows["6_0"].start == 60
    assert (rows["6_1"].state, rows["6_1"].exit_code, rows["6_1"].nodes) == (
        RunState.FAILED,
        15,
        ("c4140-1", "c4140-2"),
    )
    assert (rows["7_0"].state, rows["7_0"].reason, rows["7_0"].nodes) == (RunState.CANCELLED, "by 1000", ())
    assert (rows["8_0"].state, rows["8_0"].word) == (RunState.FAILED, "TIMEOUT")
    assert (rows["9_0"].signal, rows["9_0"].end) == (9, None)
    assert [task for task in rows if task.startswith("10_")] == ["10_3", "10_5", "10_6"]
    # The bare id of an array is one task's row without its index: it says nothing of the others.
    assert "6" not in rows
    assert (rows["11_0"].state, rows["11_0"].word) == (None, "MARTIAN")


def test_squeue_rows() -> None:
    text = (
        "6_0|RUNNING|None|c4140-3|2026-11-23T08:40:00\n"
        "6_1|PENDING|JobArrayTaskLimit||2026-11-24T00:00:00\n"
        "6_2|COMPLETING|None|c4140-3|2026-11-23T08:40:00\n"
        "7_2|FAILED|NonZeroExitCode|c4140-1|2026-11-23T08:40:00\n"
        "chatter of the site\n"
    )
    rows = parse.squeue(text)
    assert rows["6_0"].state is RunState.RUNNING
    # The start of a pending job is a forecast.
    assert rows["6_1"] == JobState(RunState.PENDING, "PENDING", "JobArrayTaskLimit")
    assert (rows["6_2"].state, rows["6_2"].word) == (RunState.RUNNING, "COMPLETING")
    assert rows["7_2"].state is RunState.FAILED
    assert len(rows) == 4


@pytest.mark.parametrize(
    ("words", "state"),
    [
        ("COMPLETED", RunState.DONE),
        ("FAILED TIMEOUT OUT_OF_MEMORY NODE_FAIL PREEMPTED BOOT_FAIL DEADLINE REVOKED", RunState.FAILED),
        ("PENDING REQUEUED REQUEUE_HOLD SPECIAL_EXIT CONFIGURING", RunState.PENDING),
        ("RUNNING SUSPENDED RESIZING STOPPED COMPLETING SIGNALING STAGE_OUT", RunState.RUNNING),
        ("CANCELLED", RunState.CANCELLED),
    ],
)
def test_every_state_of_slurm_has_its_place(words: str, state: RunState) -> None:
    assert {parse.WORDS[word] for word in words.split()} == {state}


def test_limits() -> None:
    text = "MaxArraySize            = 1001\nMaxDBDMsgs              = 20008\nMaxJobCount             = 10000\n"
    assert (limits.read(text).max_array, limits.read(text).max_jobs) == (1001, 10000)
    assert limits.read("").max_array is None


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("n1", "n1"), ("n[1-3]", "n1 n2 n3"), ("n[01-03,7],head", "n01 n02 n03 n7 head"), ("a1-ib,b2", "a1-ib b2"),
        ("rack[1-2]n", "rack1n rack2n"), ("", ""), ("None assigned", ""), ("n[8-11]", "n8 n9 n10 n11"),
    ],
)  # fmt: skip
def test_host_lists_are_expanded(text: str, hosts: str) -> None:
    assert " ".join(expand(text)) == hosts


def test_indices_fold_and_unfold() -> None:
    assert fold_indices([0, 1, 2, 7, 5, 6, 9]) == "0-2,5-7,9"
    assert expand_indices(fold_indices([4, 0, 1])) == [0, 1, 4]
    assert expand_indices("[3,5-6%2]") == [3, 5, 6]


class FakeSlurm:
    """A fake: shell scripts that stand for Slurm's commands, for answers that a real one cannot be made to give."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.folder = folder
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def command(self, name: str, body: str) -> None:
        path = self.folder / name
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    return FakeSlurm(tmp_path, monkeypatch)


def test_a_controller_that_is_away_is_never_a_refusal(fake: FakeSlurm) -> None:
    away = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
    for name in ("sbatch", "squeue", "sacct"):
        fake.command(name, f'echo "{away}" >&2; exit 1')
    with pytest.raises(SchedulerUnreachable, match="does not answer"):
        SlurmScheduler().submit(fake.folder / "x", [0], "n")
    with pytest.raises(SchedulerUnreachable):
        SlurmScheduler().poll(["1"])


def test_an_error_of_squeue_that_nobody_foresaw_is_not_a_job_that_is_gone(fake: FakeSlurm) -> None:
    fake.command("squeue", 'echo "squeue: fatal: Could not establish a configuration source" >&2; exit 1')
    with pytest.raises(SchedulerUnreachable, match="configuration source"):
        SlurmScheduler().poll(["1"])
    fake.command("squeue", 'echo "squeue: error: Martians" >&2; exit 1')
    with pytest.raises(SchedulerUnreachable, match="squeue failed: squeue: error: Martians"):
        SlurmScheduler().poll(["1"])


def test_a_refusal_is_told_in_slurms_own_words(fake: FakeSlurm) -> None:
    fake.command("sbatch", 'echo "sbatch: error: Batch job submission failed: Invalid qos specification" >&2; exit 1')
    with pytest.raises(SubmitRefused, match=r"sbatch refused g0001.sbatch: .*Invalid qos specification"):
        SlurmScheduler().submit(Path("g0001.sbatch"), [0], "n")


def test_no_slurm_at_all_is_out_of_reach(fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(fake.folder))
    with pytest.raises(SchedulerUnreachable, match="sbatch is not on PATH"):
        SlurmScheduler().submit(Path("x"), [0], "n")


def test_without_accounting_squeue_alone_speaks(fake: FakeSlurm) -> None:
    fake.command("sacct", 'echo "Slurm accounting storage is disabled" >&2; exit 1')
    fake.command("squeue", 'echo "1_0|COMPLETED|None|n1|2026-11-23T08:40:00"')
    assert SlurmScheduler().poll(["1"])["1_0"].state is RunState.DONE
    fake.command("squeue", 'echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1')
    assert SlurmScheduler().poll(["1"]) == {}


def test_a_requeued_job_lives_though_sacct_shows_its_end(fake: FakeSlurm) -> None:
    fake.command(
        "squeue", 'echo "1_0|PENDING|BeginTime||2026-11-23T08:42:00"; echo "1_1|COMPLETED|None|n1|2026-11-23T08:40:00"'
    )
    fake.command("sacct", 'echo "1_0|NODE_FAIL|0:0|n1|Unknown|Unknown"; echo "1_1|COMPLETED|0:0|n1|Unknown|Unknown"')
    rows = SlurmScheduler().poll(["1"])
    assert (rows["1_0"].state, rows["1_0"].reason) == (RunState.PENDING, "BeginTime")
    assert (rows["1_1"].state, rows["1_1"].exit_code) == (RunState.DONE, 0)


def test_the_users_slurm_variables_do_not_reach_the_commands(fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "SBATCH_PARTITION": "wrong",
        "SQUEUE_FORMAT": "%i",
        "SLURM_JOB_ID": "9",
        "SLURM_CONF": "/etc/s",
    }.items():
        monkeypatch.setenv(name, value)
    fake.command("sbatch", f"env | grep -E '^(SBATCH|SQUEUE|SLURM)' >{fake.folder}/env; echo 5")
    assert SlurmScheduler().submit(fake.folder / "x", [0], "n") == "5"
    assert (fake.folder / "env").read_text() == "SLURM_CONF=/etc/s\n"
