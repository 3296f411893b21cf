"""Slurm's commands: their arguments, and what their errors mean."""

from __future__ import annotations

import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from hpcjobs.base.errors import SchedulerUnreachable, SubmitRefused
from hpcjobs.base.records import Order, RunState
from hpcjobs.schedulers.slurm import commands, slurm_scheduler
from hpcjobs.schedulers.slurm.commands import Refused
from hpcjobs.schedulers.slurm.slurm_scheduler import SlurmScheduler


class FakeSlurm:
    """Shell scripts in place of Slurm's commands, for answers that a real Slurm cannot be made to give."""

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


def test_a_controller_that_does_not_answer_is_not_a_refusal(fake: FakeSlurm) -> None:
    away = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
    for name in ("sbatch", "squeue", "sacct"):
        fake.command(name, f'echo "{away}" >&2; exit 1')
    with pytest.raises(SchedulerUnreachable, match="does not answer"):
        SlurmScheduler().submit(fake.folder / "x", [0], "n", Order())
    with pytest.raises(SchedulerUnreachable):
        SlurmScheduler().poll(["1_0"])


def test_an_unknown_error_of_squeue_does_not_mean_that_the_job_is_gone(fake: FakeSlurm) -> None:
    fake.command("squeue", 'echo "squeue: fatal: Could not establish a configuration source" >&2; exit 1')
    with pytest.raises(SchedulerUnreachable, match="configuration source"):
        SlurmScheduler().poll(["1_0"])
    fake.command("squeue", 'echo "squeue: error: Martians" >&2; exit 1')
    with pytest.raises(SchedulerUnreachable, match="squeue failed: squeue: error: Martians"):
        SlurmScheduler().poll(["1_0"])


def test_a_refusal_has_sbatchs_own_message(fake: FakeSlurm) -> None:
    fake.command("sbatch", 'echo "sbatch: error: Batch job submission failed: Invalid qos specification" >&2; exit 1')
    with pytest.raises(SubmitRefused, match=r"sbatch refused g0001.sbatch: .*Invalid qos specification"):
        SlurmScheduler().submit(Path("g0001.sbatch"), [0], "n", Order())


@pytest.mark.parametrize(
    "end",
    [
        "kill -9 $$",
        "bash -c 'kill -9 $$'; exit $?",
        "echo 'sbatch: error: Batch job submission failed: Message receive failure' >&2; exit 1",
        "echo 'sbatch: error: Batch job submission failed: Connection reset by peer' >&2; exit 1",
    ],
)
def test_an_sbatch_that_was_killed_or_lost_the_answer_refused_nothing(fake: FakeSlurm, end: str) -> None:
    """The job may exist: if this counted as a refusal, its runs would be submitted a second time."""
    fake.command("sbatch", end)
    with pytest.raises(SchedulerUnreachable):
        SlurmScheduler().submit(Path("x"), [0], "n", Order())


def test_a_submission_whose_answer_has_no_job_id_is_found_by_its_name(fake: FakeSlurm) -> None:
    fake.command("sbatch", 'echo "Submitted, thank you"')
    fake.command("sacct", 'echo "Slurm accounting storage is disabled" >&2; exit 1')
    fake.command("squeue", 'echo "7|n"')
    assert SlurmScheduler().submit(Path("x"), [0], "n", Order()) == "7"
    fake.command("squeue", "true")
    with pytest.raises(SchedulerUnreachable, match="no job id: 'Submitted, thank you'"):
        SlurmScheduler().submit(Path("x"), [0], "n", Order())


def test_an_exit_code_that_no_signal_has_is_an_answer(fake: FakeSlurm) -> None:
    fake.command("scancel", "echo 'scancel: error: Kill job error on job id 1: Access/permission denied' >&2; exit 255")
    with pytest.raises(Refused, match="permission denied"):
        SlurmScheduler().cancel(["1"])


def test_a_site_with_too_many_jobs_refuses_and_the_limit_is_named(fake: FakeSlurm) -> None:
    fake.command(
        "sbatch",
        "echo 'sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying' >&2\n"
        "echo 'sbatch: error: Batch job submission failed: Resource temporarily unavailable' >&2; exit 1",
    )
    with pytest.raises(SubmitRefused, match="MaxJobCount"):
        SlurmScheduler().submit(Path("x"), [0], "n", Order())


def test_a_missing_sbatch_is_a_scheduler_out_of_reach(fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(fake.folder))
    with pytest.raises(SchedulerUnreachable, match="sbatch is not on PATH"):
        SlurmScheduler().submit(Path("x"), [0], "n", Order())


def test_without_accounting_squeue_and_scontrol_tell_how_a_task_ended(fake: FakeSlurm) -> None:
    fake.command("sacct", 'echo "Slurm accounting storage is disabled" >&2; exit 1')
    fake.command("squeue", 'echo "1_0|FAILED|NonZeroExitCode|n1|2026-11-23T08:40:00|n"')
    fake.command("scontrol", 'echo "JobId=1 ArrayJobId=1 ArrayTaskId=0 JobState=FAILED ExitCode=0:9 NodeList=n1"')
    found = SlurmScheduler().poll(["1_0"])["1_0"]
    assert (found.state, found.signal) == (RunState.FAILED, 9)
    fake.command("squeue", 'echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1')
    assert SlurmScheduler().poll(["1_0"]) == {}


def test_a_site_without_sacct_itself_is_one_without_accounting(
    fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(fake.folder))
    fake.command("squeue", 'case "$*" in *--name*) echo "1|n" ;; *) echo "1_0|FAILED|NonZeroExitCode|n1|N/A|n" ;; esac')
    fake.command("scontrol", 'echo "JobId=1 ArrayJobId=1 ArrayTaskId=0 JobState=FAILED ExitCode=0:9 NodeList=n1"')
    assert SlurmScheduler().find(["n"]) == {"n": ["1"]}
    assert SlurmScheduler().poll(["1_0", "1_1"])["1_0"].signal == 9


def test_a_run_that_was_started_by_hand_hides_no_other(fake: FakeSlurm) -> None:
    """Its job id is 0, because its script found no SLURM_ARRAY_JOB_ID."""
    fake.command("sacct", "exit 1")
    fake.command(
        "squeue",
        'case "$*" in *=0*) echo "Invalid job id: 0" >&2; exit 1 ;; *) echo "1_0|RUNNING|None|n1|N/A|n" ;; esac',
    )
    assert list(SlurmScheduler().poll(["0_0", "1_0"])) == ["1_0"]
    assert SlurmScheduler().poll(["0_0"]) == {}


def test_accounting_that_does_not_answer_leaves_forgotten_jobs_unknown(fake: FakeSlurm) -> None:
    fake.command("sacct", 'echo "sacct: error: Problem talking to the database: Connection refused" >&2; exit 1')
    fake.command("scontrol", "exit 1")
    fake.command("squeue", 'echo "1_0|COMPLETED|None|n1|2026-11-23T08:40:00|n"')
    assert SlurmScheduler().poll(["1_0"])["1_0"].state is RunState.DONE
    known = SlurmScheduler().poll(["1_0", "1_1"])
    assert (known["1_0"].state, known["1_0"].silent) == (RunState.DONE, False)
    assert known["1_1"].silent
    assert "Problem talking to the database" in known["1_1"].reason


def test_accounting_that_takes_too_long_hides_nothing_that_the_controller_knows(
    fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm_scheduler, "ACCOUNTING_TIMEOUT_S", 1)
    fake.command("sacct", "exec sleep 600")
    fake.command("squeue", 'echo "1_0|RUNNING|None|n1|N/A|n"')
    known = SlurmScheduler().poll(["1_0", "1_1"])
    assert (known["1_0"].state, known["1_0"].silent) == (RunState.RUNNING, False)
    assert (known["1_1"].silent, known["1_1"].reason) == (True, "sacct gave no answer in 1 s")


def test_who_asks_too_often_asks_again_after_a_pause(fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was submitted, and no job was refused: without another try a sweep would end there."""
    slept: list[float] = []
    monkeypatch.setattr(commands, "time", SimpleNamespace(sleep=slept.append))
    refusal = "echo 'sbatch: error: Batch job submission failed: Rate limit exceeded, please retry later' >&2; exit 1"
    calls = fake.folder / "calls"
    fake.command("sbatch", f"echo >>{calls}; if [ $(wc -l <{calls}) = 3 ]; then echo 5; exit 0; fi; {refusal}")
    assert SlurmScheduler().submit(Path("x"), [0], "n", Order()) == "5"
    assert slept == [1, 2]
    fake.command("sbatch", refusal)
    with pytest.raises(SchedulerUnreachable, match="Rate limit exceeded"):
        SlurmScheduler().submit(Path("x"), [0], "n", Order())
    assert slept[2:] == [1, 2, 4, 8, 16]


def test_to_end_jobs_no_accounting_is_asked(fake: FakeSlurm) -> None:
    """It may be away, and the ids that it has may be of other jobs by now."""
    fake.command("sacct", f"touch {fake.folder}/asked")
    fake.command("squeue", """case "$*" in *--states=all*) exit 1 ;; *) echo "7_1|n" ;; esac""")
    assert SlurmScheduler().find(["n"], living=True) == {"n": ["7"]}
    assert not (fake.folder / "asked").exists()


def test_a_job_that_only_sacct_shows_as_alive_is_not_known(fake: FakeSlurm) -> None:
    fake.command("squeue", 'echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1')
    fake.command(
        "sacct", 'echo "1_0|RUNNING|0:0|n1|2026-11-23T08:40:00|Unknown|Unknown|n"; echo "1_1|MARTIAN|0:0|n1||||n"'
    )
    rows = SlurmScheduler().poll(["1_0", "1_1"])
    assert list(rows) == ["1_1"]
    assert rows["1_1"].word == "MARTIAN"


def test_jobs_that_all_live_take_one_query(fake: FakeSlurm) -> None:
    for name in ("sacct", "scontrol"):
        fake.command(name, f"touch {fake.folder}/asked")
    fake.command(
        "squeue", f'echo "$@" >>{fake.folder}/asks; echo "1_0|RUNNING|None|n1|N/A|n"; echo "2_5|PENDING|x||N/A|n"'
    )
    assert len(SlurmScheduler().poll(["1_0", "2_5"])) == 2
    assert not (fake.folder / "asked").exists()
    assert (fake.folder / "asks").read_text().count("--jobs=1,2") == 1


def test_a_task_that_waits_for_a_drained_node_names_it(fake: FakeSlurm) -> None:
    reason = "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions"
    fake.command("squeue", f"""case "$*" in *%P*) echo v100 ;; *) echo "4_0|PENDING|{reason}||N/A|x|y|z" ;; esac""")
    fake.command("sinfo", """[[ "$*" == *"--partition=v100"* ]] && echo "1|drained|c4140-2|gpu:v100:4|bad DIMM" """)
    assert SlurmScheduler().poll(["4_0"])["4_0"].reason == f"{reason}: c4140-2 is drained (bad DIMM)"
    fake.command("sinfo", "exit 1")
    assert SlurmScheduler().poll(["4_0"])["4_0"].reason == reason
    # Where its partition is not told, no node of another one is named.
    fake.command("squeue", f"""case "$*" in *%P*) exit 1 ;; *) echo "4_0|PENDING|{reason}||N/A|x|y|z" ;; esac""")
    fake.command("sinfo", """echo "1|drained|c4140-2|gpu:v100:4|bad DIMM" """)
    assert SlurmScheduler().poll(["4_0"])["4_0"].reason == reason


def test_a_requeued_job_is_alive_though_sacct_shows_its_end(fake: FakeSlurm) -> None:
    fake.command(
        "squeue",
        'echo "1_0|PENDING|BeginTime||2026-11-23T08:42:00|n"; echo "1_1|COMPLETED|None|n1|2026-11-23T08:40:00|n"',
    )
    fake.command(
        "sacct",
        'echo "1_0|NODE_FAIL|0:0|n1|Unknown|Unknown|Unknown|n"; echo "1_1|COMPLETED|0:0|n1|Unknown|Unknown|Unknown|n"',
    )
    rows = SlurmScheduler().poll(["1_0", "1_1"])
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
    assert SlurmScheduler().submit(fake.folder / "x", [0], "n", Order()) == "5"
    assert (fake.folder / "env").read_text() == "SLURM_CONF=/etc/s\n"


def test_an_order_becomes_sbatchs_options_and_the_scripts_arguments(fake: FakeSlurm) -> None:
    fake.command("sbatch", f'printf "%s\\n" "$@" >{fake.folder}/words; echo 5')
    order = Order(("3",), throttle=2, after=("7", "8"), exclude=("n1", "n2"))
    SlurmScheduler().submit(Path("/x/g0001.sbatch"), [0, 1, 2, 5], "name", order)
    assert (fake.folder / "words").read_text().split() == [
        *("--parsable", "--job-name=name", "--array=0-2,5%2", "--dependency=afterany:7:8", "--exclude=n1,n2"),
        *("/x/g0001.sbatch", "3"),
    ]
    # If the check fails, the job must not stay pending for ever.
    SlurmScheduler().submit(Path("/x/g0001.sbatch"), [0], "name", Order(after=("7",), after_ok=("9",)))
    assert (fake.folder / "words").read_text().split()[3:5] == [
        "--dependency=afterany:7,afterok:9",
        "--kill-on-invalid-dep=yes",
    ]


def test_who_cancelled_a_job_has_a_name_if_the_uid_has_one(fake: FakeSlurm) -> None:
    fake.command("squeue", 'echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1')
    for index, uid in enumerate((0, 4123456789)):
        fake.command("sacct", f'echo "1_{index}|CANCELLED by {uid}|0:15|n1|Unknown|Unknown|Unknown|n"')
        assert SlurmScheduler().poll([f"1_{index}"])[f"1_{index}"].reason == f"by {'root' if uid == 0 else uid}"
