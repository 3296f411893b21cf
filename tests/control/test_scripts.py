"""What a rendered script does under bash with a fake srun, scontrol and trainer: claims, exit.json, requeues."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hpcjobs.base.contract import EXIT_INTERRUPTED
from hpcjobs.base.sweepdir import SweepDir, revoke_claim
from hpcjobs.config import Experiment, profiles
from hpcjobs.jobs import render
from hpcjobs.plan.planning import Terms, make_plan, parameter_grid
from tests.running import PATIENCE_S, until

# Runs the command after its options, as a step with one rank. Records the nodes that the options name.
SRUN = """#!/bin/bash
while [[ "$1" == --* ]]; do
    case "$1" in --nodes=* | --nodelist=* | --relative=*) printf '%s ' "$1" ;; esac >>"$FOLDER/steps"
    shift
done
echo >>"$FOLDER/steps"
exec "$@"
"""
# Records its run and the task that it sees, then runs the commands in the variable TRAINER.
TRAINER = """#!/bin/bash
run="$(basename "$(dirname "$3")")"
attempt="$5"
echo "$run ${HPCJOBS_TASK-none}" >>"$FOLDER/executions"
eval "$TRAINER"
"""
# Shows the job as the variable JOB describes it. Records each requeue, with the exit.json files that exist by then.
SCONTROL = """#!/bin/bash
case "$*" in
    *"show job"*) [ -z "$JOB" ] || echo "JobId=7 $JOB" ;;
    "show hostnames "*) printf 'n%d\\n' 1 2 3 4 ;;
    requeue*) echo "$* $(cat "$FOLDER"/o/runs/*/a*/exit.json)" >>"$FOLDER/requeues"; eval "${REQUEUE-}" ;;
esac
"""
# A trainer that works until SIGUSR1, and then ends with the exit code of a written checkpoint.
UNTIL_USR1 = "trap 'exit 75' USR1; touch $FOLDER/ready; while true; do sleep 0.05; done"
# A script that waits until the test has sent it a signal.
UNTIL_SIGNALLED = "touch $FOLDER/ready; until [ -e $FOLDER/signalled ]; do sleep 0.05; done"


@dataclasses.dataclass(frozen=True)
class Site:
    """A sweep of sizes 1 and 2 with two repeats, whose scripts run on this machine."""

    folder: Path
    sweep: SweepDir

    def start(
        self, script: str, *words: str, job: str = "12", index: int = 0, restart: int = 0, **env: Any
    ) -> subprocess.Popen[str]:
        """Start a script as Slurm starts a task. Names in capitals are environment variables, others of Popen."""
        slurm = {"SLURM_ARRAY_JOB_ID": job, "SLURM_ARRAY_TASK_ID": str(index), "SLURM_JOB_NODELIST": "n[1-4]"}
        if restart:
            slurm["SLURM_RESTART_COUNT"] = str(restart)
        ours = {"FOLDER": str(self.folder), "TRAINER": "true", "JOB": "JobState=RUNNING", **slurm}
        options = {name: env.pop(name) for name in list(env) if not name.isupper()}
        if "JOB" in env:
            env["JOB"] = re.sub(r"NOW\+(\d+)", lambda ahead: str(int(time.time()) + int(ahead[1])), env["JOB"])
        return subprocess.Popen(
            ["bash", str(self.sweep.script(script)), *words],
            env={**os.environ, "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", **ours, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **options,
        )

    def run(self, script: str, *words: str, **more: Any) -> tuple[int, str]:
        """(exit code, output) of a script."""
        process = self.start(script, *words, **more)
        output, _ = process.communicate(timeout=PATIENCE_S)
        return process.returncode, output

    def signalled(self, script: str, *words: str, signals: Sequence[signal.Signals], **more: Any) -> tuple[int, str]:
        """The same for a script that gets these signals while its trainer works."""
        process = self.start(script, *words, **{"TRAINER": UNTIL_USR1, **more})
        until(lambda: (self.folder / "ready").exists())
        for number in signals:
            process.send_signal(number)
        (self.folder / "signalled").touch()
        output, _ = process.communicate(timeout=PATIENCE_S)
        return process.returncode, output

    @property
    def executions(self) -> list[str]:
        """`RUN TASK` for each execution. TASK is what the ranks see of the script's variable, or none."""
        path = self.folder / "executions"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def requeues(self) -> list[str]:
        path = self.folder / "requeues"
        return path.read_text().splitlines() if path.exists() else []

    def files(self, run: str = "g0001-r01") -> list[str]:
        """The paths of all files and folders in a run folder."""
        folder = self.sweep.run(run)
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.delenv("SLURM_CONF", raising=False)
    (tmp_path / "bin").mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("trainer", TRAINER)):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    cluster = msgspec.structs.replace(
        profiles.cluster("virtual"), python=str(tmp_path / "bin" / "trainer"), signal_s=60, requeues=2
    )
    plan = make_plan(
        [1, 2], parameter_grid(profiles.read(Experiment, "demo"), []), cluster, 2, Terms(one_allocation=True)
    )
    assert plan.allocation is not None
    sweep = SweepDir(tmp_path / "o")
    sweep.scripts.mkdir(parents=True)
    for group in plan.groups:
        sweep.script(group.name).write_text(render.script(group, cluster, "SWEEP", sweep.root))
        sweep.script(group.name).with_suffix(".runs").write_text("".join(f"{run.name}\n" for run in group.runs))
        for run in group.runs:
            sweep.run(run.name).mkdir(parents=True)
    sweep.script("all").write_text(render.allocation(plan.allocation, cluster, "SWEEP", sweep.root))
    lines = [f"{run.name} g{run.size.gpus:04d} {run.repeat - 1}\n" for run in plan.allocation.runs]
    sweep.script("all").with_suffix(".runs").write_text("".join(lines))
    return Site(tmp_path, sweep)


def test_a_task_claims_its_submission_and_leaves_an_attempt(site: Site) -> None:
    began = int(time.time())
    assert site.run("g0001", "1") == (0, "")
    assert site.files() == ["a001", "a001/claim", "a001/exit.json", "a001/job.log", "claim-s001"]
    claim = json.loads((site.sweep.run("g0001-r01") / "claim-s001").read_text())
    assert (claim["job"], claim["submission"], claim["restart"]) == ("12_0", 1, 0)
    assert began <= claim["start"] <= time.time()
    attempt = json.loads((site.sweep.run("g0001-r01") / "a001" / "claim").read_text())
    assert attempt == {**claim, "run": "g0001-r01", "attempt": "a001", "nodelist": "n[1-4]"}
    ended = json.loads((site.sweep.run("g0001-r01") / "a001" / "exit.json").read_text())
    assert (ended["job"], ended["rc"], ended["signal"], ended["nodelist"]) == ("12_0", 0, 0, "n[1-4]")


def test_a_submission_is_for_one_job_and_its_restarts(site: Site) -> None:
    site.run("g0001", "1", TRAINER="exit 1")
    # A second job of the same submission.
    code, output = site.run("g0001", "1", job="13")
    assert code == 0
    assert output.startswith('hpcjobs: submission 1 of g0001-r01 is not for job 13_0, the claim is: {"job": "12_0", ')
    assert output.count("\n") == 1
    # Slurm requeued the first job.
    assert site.run("g0001", "1", restart=1) == (0, "")
    # A later submission.
    assert site.run("g0001", "2", job="13") == (0, "")
    # A submission whose claim is revoked.
    assert revoke_claim(site.sweep, "g0001-r01", 3, "resume")
    assert site.run("g0001", "3", job="14")[0] == 0
    assert [json.loads(path.read_text())["job"] for path in sorted(site.sweep.run("g0001-r01").glob("a*/claim"))] == [
        "12_0",
        "12_0",
        "13_0",
    ]
    assert len(site.executions) == 3
    assert not any("/." in f"/{name}" for name in site.files())


def test_a_run_that_has_ended_well_is_not_executed_again_by_a_restart(site: Site) -> None:
    """Slurm 24.11 requeues a job that was preempted once again after its second, good end."""
    assert site.run("g0001", "1", TRAINER="exit 75")[0] == EXIT_INTERRUPTED
    assert site.run("g0001", "1", restart=1) == (0, "")
    said = "hpcjobs: g0001-r01 has ended with 0 before this restart: job 12_0 has nothing left to do\n"
    assert site.run("g0001", "1", restart=2) == (0, said)
    assert (len(site.executions), site.files().count("a002"), site.files().count("a003")) == (2, 1, 0)
    # The good end of another submission does not count, even if Slurm's job ids have begun anew.
    assert site.run("g0001", "2", TRAINER="exit 1")[0] == 1
    assert site.run("g0001", "2", restart=1) == (0, "")
    assert "a004" in site.files()


def test_a_step_names_the_first_nodes_of_its_job(site: Site) -> None:
    """Where a step with --relative=0 begins depends on the version of Slurm."""
    site.run("g0002", "1")
    site.run("all", "2", "0,1", job="13")
    steps = (site.folder / "steps").read_text().splitlines()
    assert steps == ["--nodes=1 --nodelist=n[1-4] ", "--nodes=1 --nodelist=n1 ", "--nodes=1 --nodelist=n1 "]
    claims = [json.loads(path.read_text()) for path in site.sweep.root.glob("runs/*/a*/claim")]
    assert sorted(claim["nodelist"] for claim in claims) == ["n1", "n1", "n[1-4]"]


def test_of_many_jobs_that_race_only_one_runs(site: Site) -> None:
    racing = [site.start("g0001", "1", job=str(job)) for job in range(1, 13)]
    assert [process.wait(PATIENCE_S) for process in racing] == [0] * 12
    assert site.executions == ["g0001-r01 none"]
    assert site.files() == ["a001", "a001/claim", "a001/exit.json", "a001/job.log", "claim-s001"]


def test_a_claim_counts_if_link_made_it_but_reported_a_failure(site: Site) -> None:
    """On NFS the server's answer may be lost; the repeated call then finds the name taken."""
    fake = site.folder / "bin" / "ln"
    fake.write_text('#!/bin/sh\n/bin/ln "$@"\n/bin/ln "$@"\n')
    fake.chmod(0o755)
    assert site.run("g0001", "1")[0] == 0
    assert site.executions == ["g0001-r01 none"]


def full_disk() -> None:
    """From now on this process cannot write to files."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


def test_a_full_disk_ends_a_task_before_any_work_and_blocks_no_later_task(site: Site) -> None:
    code, output = site.run("g0001", "1", preexec_fn=full_disk)
    assert code == 1
    (line,) = output.splitlines()
    assert line == f"hpcjobs: error: cannot write {site.sweep.run('g0001-r01')}/.claim.12_0.0: File too large"
    assert site.files() == []
    fake = site.folder / "bin" / "ln"
    fake.write_text("#!/bin/sh\necho \"ln: failed to create hard link 'x': No space left on device\" >&2; exit 1\n")
    fake.chmod(0o755)
    code, output = site.run("g0001", "1")
    claim = site.sweep.claim("g0001-r01", 1)
    assert (code, output) == (1, f"hpcjobs: error: disk_full: cannot make {claim}: No space left on device\n")
    assert site.files() == []
    fake.unlink()
    # The disk fills between claim and attempt. NFS delays writes, so a failed write may not show as an error.
    fake = site.folder / "bin" / "cat"
    fake.write_text('#!/bin/sh\ncase "$1" in */a001/*) ;; *) exec /bin/cat "$@" ;; esac\n')
    fake.chmod(0o755)
    code, output = site.run("g0001", "1")
    assert code == 1
    assert output.endswith("/a001/claim: the file does not read back as written\n")
    assert site.files() == ["claim-s001"]
    fake.unlink()
    assert site.executions == []
    assert site.run("g0001", "1", restart=1) == (0, "")
    assert site.run("g0001", "2", job="13") == (0, "")
    assert len(site.executions) == 2


def test_odd_names_of_hosts_are_recorded_unchanged(site: Site) -> None:
    odd = 'n"1\\2 $(touch x)\n'
    fake = site.folder / "bin" / "hostname"
    fake.write_text(f"#!{sys.executable}\nprint({odd!r}, end='')\n")
    fake.chmod(0o755)
    assert site.run("g0001", "1", SLURM_JOB_NODELIST='a"b\t\\')[0] == 0
    claim = json.loads((site.sweep.run("g0001-r01") / "a001" / "claim").read_text())
    assert (claim["host"], claim["nodelist"]) == (odd.strip(), 'a"b \\')


@pytest.mark.parametrize("word", ["0", "01", "x", "1;id", "$(id)"])
def test_a_submission_that_is_not_a_number_is_refused(site: Site, word: str) -> None:
    code, output = site.run("g0001", word)
    assert (code, output) == (1, f"hpcjobs: error: '{word}' is not the number of a submission\n")
    assert site.run("g0001") == (0, "")
    assert "claim-s001" in site.files()


# `Site.start` replaces NOW+N by the time N seconds after the script's start.
SOON = "JobState=RUNNING EndTime=NOW+100"


def log(site: Site, attempt: str = "a001") -> str:
    return (site.sweep.run("g0001-r01") / attempt / "job.log").read_text()


@pytest.mark.parametrize("restart", [0, 1])
def test_a_job_that_is_warned_of_its_time_limit_requeues_itself(site: Site, restart: int) -> None:
    code, _ = site.signalled("g0001", "1", signals=[signal.SIGUSR1], restart=restart, JOB=SOON)
    assert code == EXIT_INTERRUPTED
    (line,) = site.requeues
    # It requeues its task, not the raw job id, after exit.json is written.
    assert line.startswith("requeue 12_0 {")
    assert json.loads(line.removeprefix("requeue 12_0 "))["rc"] == EXIT_INTERRUPTED
    assert f"restart {restart + 1} of 2" in log(site)


@pytest.mark.parametrize(
    ("signals", "about", "message"),
    [
        # The user sent the signal.
        ([signal.SIGUSR1], {"JOB": "JobState=RUNNING EndTime=NOW+3600"}, "long before the time limit"),
        ([signal.SIGUSR1], {"JOB": SOON, "restart": 2}, "was requeued 2 times already: it is not requeued again"),
        ([signal.SIGUSR1], {"JOB": "JobState=COMPLETING EndTime=NOW+10"}, ""),
        # scancel, or Slurm at the very end.
        ([signal.SIGTERM], {"JOB": SOON}, ""),
        # The trainer failed at that moment.
        ([signal.SIGUSR1], {"JOB": SOON, "TRAINER": UNTIL_USR1.replace("75", "1")}, ""),
        ([signal.SIGUSR1], {"JOB": ""}, "Slurm does not answer"),
    ],
    ids=["long before", "too often", "cancelled", "TERM", "failed", "no Slurm"],
)
def test_a_job_that_does_not_requeue_itself(
    site: Site, signals: list[signal.Signals], about: dict[str, Any], message: str
) -> None:
    code, _ = site.signalled("g0001", "1", signals=signals, **about)
    assert code == (1 if "TRAINER" in about else EXIT_INTERRUPTED)
    assert site.requeues == []
    assert message in log(site)


def test_a_refused_requeue_is_logged_and_the_exit_code_stays(site: Site) -> None:
    refusal = "echo 'Requested operation is presently disabled'; exit 1"
    code, _ = site.signalled("g0001", "1", signals=[signal.SIGUSR1], JOB=SOON, REQUEUE=refusal)
    assert code == EXIT_INTERRUPTED
    refused = "hpcjobs: job 12_0 is not requeued: scontrol requeue: Requested operation is presently disabled\n"
    assert log(site).endswith(refused)


@pytest.mark.parametrize("signals", [[], [signal.SIGUSR1]], ids=["SIGTERM to ranks", "SIGUSR1 to script"])
def test_a_preempted_job_waits_for_slurm(site: Site, signals: list[signal.Signals]) -> None:
    """If it ended within its grace time, Slurm would count it as failed and not requeue it."""
    trainer = UNTIL_USR1 if signals else "touch $FOLDER/ready; exit 75"
    job = f"{SOON} PreemptEligibleTime=1 PreemptTime=NOW+0"
    process = site.start("g0001", "1", JOB=job, TRAINER=trainer)
    until(lambda: (site.folder / "ready").exists())
    for number in signals:
        process.send_signal(number)
    ended = site.sweep.run("g0001-r01") / "a001" / "exit.json"
    until(lambda: ended.exists() and "is preempted" in log(site))
    assert json.loads(ended.read_text())["rc"] == EXIT_INTERRUPTED
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == EXIT_INTERRUPTED
    assert site.requeues == []
    assert json.loads(ended.read_text())["rc"] == EXIT_INTERRUPTED


def test_a_job_that_is_warned_before_its_launcher_starts_launches_nothing(site: Site) -> None:
    text = site.sweep.script("g0001").read_text()
    site.sweep.script("g0001").write_text(text.replace("\nset +u\n", f"\nset +u\n{UNTIL_SIGNALLED}\n"))
    code, _ = site.signalled("g0001", "1", signals=[signal.SIGUSR1], JOB=SOON)
    assert (code, len(site.requeues), site.executions) == (EXIT_INTERRUPTED, 1, [])


ORDER = ["g0001-r01", "g0002-r01", "g0002-r02", "g0001-r02"]


def test_one_job_runs_all_sizes_in_order_and_a_failure_does_not_stop_it(site: Site) -> None:
    code, output = site.run("all", "1", TRAINER='[ "$run" != g0002-r01 ]')
    assert code == 1
    assert output.splitlines() == [f"hpcjobs: {run}: exit code {int(run == 'g0002-r01')}" for run in ORDER]
    # The ranks do not see the variable by which their script knows the job.
    assert site.executions == [f"{run} none" for run in ORDER]
    claim = json.loads((site.sweep.run("g0002-r01") / "a001" / "claim").read_text())
    assert (claim["job"], claim["nodelist"]) == ("12_0", "n1")
    assert site.run("all", "2", "3,0", job="13")[0] == 0
    assert site.executions[4:] == ["g0001-r02 none", "g0001-r01 none"]
    code, output = site.run("all", "3", "0,4", job="14")
    assert (code, output) == (1, "hpcjobs: error: no line '4' in all.runs\n")


def test_of_two_jobs_for_all_sizes_one_does_everything(site: Site) -> None:
    first = site.start("all", "1", TRAINER="sleep 0.3")
    until(lambda: site.executions)
    code, output = site.run("all", "1", job="13")
    assert (code, output.count('not for job 13_0, the claim is: {"job": "12_0"')) == (0, 8)
    assert first.wait(PATIENCE_S) == 0
    assert site.executions == [f"{run} none" for run in ORDER]


def test_the_job_for_all_sizes_continues_after_its_time_limit_with_the_remaining_runs(site: Site) -> None:
    second = f'case "$run" in g0001-r01) exit 3 ;; g0002-r01) {UNTIL_USR1} ;; esac'
    code, _ = site.signalled("all", "1", signals=[signal.SIGUSR1], JOB=SOON, TRAINER=second)
    assert code == EXIT_INTERRUPTED
    assert site.executions == ["g0001-r01 none", "g0002-r01 none"]
    # The job requeues itself; the script of the size does not.
    assert site.requeues[0].startswith("requeue 12_0 {")
    assert len(site.requeues) == 2  # one call, with the exit.json of two runs
    assert "scontrol" not in (site.sweep.run("g0002-r01") / "a001" / "job.log").read_text()
    code, _ = site.run("all", "1", restart=1)
    assert code == 1  # the first run failed, before the restart
    assert site.executions[2:] == [f"{run} none" for run in ORDER[1:]]
    assert "a002" in site.files("g0002-r01")
    assert "a002" not in site.files("g0001-r01")


def test_a_run_that_was_hit_by_the_jobs_preemption_does_not_count_as_failed(site: Site) -> None:
    """Under mpirun, or before its launcher has started, a preempted run leaves another exit code than 75."""
    fails = 'case "$run" in g0001-r01) exit 3 ;; g0002-r01) exit 143 ;; esac'
    preempted = f"""[ "$run" != g0002-r01 ] || kill -TERM $(cat $FOLDER/pid); {fails}"""
    process = site.start("all", "1", TRAINER=f"until [ -e $FOLDER/pid ]; do sleep 0.05; done; {preempted}")
    (site.folder / "pid.new").write_text(str(process.pid))
    (site.folder / "pid.new").rename(site.folder / "pid")
    assert process.wait(PATIENCE_S) == 143
    assert site.executions == ["g0001-r01 none", "g0002-r01 none"]
    code, _ = site.run("all", "1", restart=1, TRAINER=fails.replace("143", "4"))
    assert code == 1
    assert site.executions[2:] == [f"{run} none" for run in ORDER[1:]]
    # Its failure counts now: the job began other runs after it.
    code, _ = site.run("all", "1", restart=2)
    assert (code, len(site.executions)) == (1, 2 + len(ORDER[1:]))


def test_the_job_for_all_sizes_is_not_requeued_after_a_users_signal(site: Site) -> None:
    early = "JobState=RUNNING EndTime=NOW+3600"
    code, output = site.signalled("all", "1", signals=[signal.SIGUSR1], JOB=early)
    assert (code, len(site.executions), site.requeues) == (EXIT_INTERRUPTED, 1, [])
    assert "long before the time limit" in output
    (site.folder / "ready").unlink()
    code, _ = site.signalled("all", "2", signals=[signal.SIGTERM], job="13", JOB="JobState=COMPLETING")
    assert (code, len(site.executions), site.requeues) == (143, 2, [])


def test_the_job_for_all_sizes_waits_for_slurm_when_it_is_preempted(site: Site) -> None:
    process = site.start("all", "1", TRAINER="exit 75", JOB=f"{SOON} PreemptTime=NOW+0")
    until(lambda: site.executions)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == EXIT_INTERRUPTED
    assert site.executions == ["g0001-r01 none"]
