"""When a rendered script requeues its job: the time limit, signals, preemption."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hpcjobs.base.contract import EXIT_INTERRUPTED
from tests.control.script_site import SOON, UNTIL_SIGNALLED, UNTIL_USR1, Site, script_site
from tests.running import PATIENCE_S, until


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.delenv("SLURM_CONF", raising=False)
    return script_site(tmp_path)


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
