"""Ranks on two nodes are asked to end, stopped, and killed, under both launchers. Slurm must see how the jobs end."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from hpcjobs.base import sweepdir
from hpcjobs.base.contract import CHECKPOINTS, EXIT_INTERRUPTED, EXIT_JSON, JOB_LOG, TRAIN_LOG, LogKey
from hpcjobs.chexnet.data.dataset import Dataset
from hpcjobs.collect import mllog
from tests.fixtures_data import synth
from tests.running import hpcjobs, status, until

from .conftest import Slurm, profile, ranks

pytestmark = pytest.mark.slurm

STALL_S = 6
# KillWait of the virtual cluster, in s; usually 30. srun waits this long after the first rank's end before SIGKILL.
KILL_WAIT_S = 10
# More seconds, for a busy machine.
SLACK_S = 12


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return synth(tmp_path_factory.mktemp("synth") / "shards", images=64, size=32)


def trained(attempt: Path) -> bool:
    """Whether the log has a timed window."""
    return mllog.read(attempt / TRAIN_LOG).last(LogKey.WINDOW) is not None


def pid(run: Path, rank: int) -> int:
    """The pid of a live rank, on any node."""
    names = (f"OMPI_COMM_WORLD_RANK={rank}", f"PMIX_RANK={rank}")
    living = {pid: Path(f"/proc/{pid}/environ").read_bytes() for pid in ranks(run)}
    (found,) = [pid for pid, environ in living.items() if any(f"\0{name}\0".encode() in environ for name in names)]
    return found


def ended(*attempts: Path, within: float, began: float) -> None:
    """Wait for the end of these attempts, which must come within this many seconds after `began`."""
    seconds = within - (time.monotonic() - began)
    until(lambda: all((attempt / EXIT_JSON).exists() for attempt in attempts), seconds)


@pytest.mark.parametrize(
    ("launcher", "term", "usr1", "logged"),
    [
        # The signal goes to the ranks, and to the batch script, which passes it on.
        ("srun", ["--signal=TERM"], ["--batch", "--signal=USR1"], ["SIGTERM", "SIGUSR1"]),
        # The signal goes to the batch script, and to the ranks that mpirun started on other nodes. One rank is enough.
        ("mpirun", ["--batch", "--signal=TERM"], ["--signal=USR1"], ["SIGUSR1", "SIGUSR1"]),
    ],
    ids=["srun", "mpirun"],
)
@pytest.mark.timeout(300)
def test_two_runs_are_interrupted_and_resumed_then_a_rank_is_stopped_and_one_killed(
    launcher: str,
    request: pytest.FixtureRequest,
    term: list[str],
    usr1: list[str],
    logged: list[str],
    tmp_path: Path,
    shards: Dataset,
    cluster: Slurm,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if launcher == "srun":
        request.getfixturevalue("pmix")
    monkeypatch.setenv("SLURM_CONF", cluster.env["SLURM_CONF"])
    other = profile(tmp_path, launcher=launcher, gpus_per_node=1)
    options = ("--set", "train.steps=1000000", "--set", f"train.stall_s={STALL_S}")
    options += ("--set", f"data.dir={shards.folder}")
    words = ("--gpus", "2", "--repeats", "2", "--experiment", "demo", "--cluster", other, *options)
    hpcjobs("sweep", *words, "--out", "o", cwd=tmp_path, env=cluster.env)
    runs = [tmp_path / "o" / "runs" / name for name in ("g0002-r01", "g0002-r02")]

    def now(code: int | None = None) -> list[dict]:
        return list(status("o", cwd=tmp_path, env=cluster.env, code=code).values())

    def all_failed() -> list[dict]:
        until(lambda: all(run["state"] == "failed" for run in now()))
        return now(code=1)

    # Ranks that are asked to end do so within seconds, and their work is kept.
    first = [run / "a001" for run in runs]
    until(lambda: all(map(trained, first)))
    jobs = [run["job"] for run in now(code=0)]
    began = time.monotonic()
    for job, words in zip(jobs, (term, usr1), strict=True):
        cluster.run("scancel", *words, job)
    ended(*first, within=SLACK_S, began=began)
    steps = []
    for attempt, shown, how in zip(first, all_failed(), logged, strict=True):
        interrupted = mllog.read(attempt / TRAIN_LOG).last(LogKey.INTERRUPTED)
        assert interrupted is not None
        assert interrupted.value == how
        step = interrupted.metadata["step"]
        assert (attempt.parent / CHECKPOINTS / f"step-{step:08d}").is_dir()
        assert sweepdir.read_exit(attempt).rc == EXIT_INTERRUPTED
        assert not sweepdir.read_aborts(attempt)
        assert shown["failure"] == "interrupted"
        assert shown["reason"] == f"hpcjobs: {how}: ended after step {step}, a checkpoint of step {step} is written"
        assert "run it again: it continues from its checkpoint" in shown["hint"]
        steps.append(step)
    assert ranks(tmp_path) == []

    # `resume` continues from there.
    assert len(hpcjobs("resume", "o", cwd=tmp_path, env=cluster.env).stdout.split()) == 2
    second = [run / "a002" for run in runs]
    until(lambda: all(map(trained, second)))
    for attempt, step in zip(second, steps, strict=True):
        log = mllog.read(attempt / TRAIN_LOG)
        assert log.last(LogKey.RESUMED).value == step
        first_window = next(event for event in mllog.events(attempt / TRAIN_LOG) if event.key == LogKey.WINDOW)
        assert first_window.metadata["step"] > step

    # No launcher notices a stopped rank. Each launcher notices a killed one.
    victims = [pid(run, 1) for run in runs]
    until(lambda: "step" in (second[0] / ".pulse" / "r00001").read_text())
    began = time.monotonic()
    os.kill(victims[0], signal.SIGSTOP)
    os.kill(victims[1], signal.SIGKILL)
    ended(second[1], within=KILL_WAIT_S + SLACK_S, began=began)
    ended(second[0], within=STALL_S + KILL_WAIT_S + SLACK_S, began=began)
    stopped, killed = all_failed()
    assert stopped["failure"] == "stalled"
    assert f"no sign of life from rank 1 on {stopped['nodes'][1]}, last at step " in stopped["reason"]
    assert f" (rank 0 on {stopped['nodes'][0]})" in stopped["reason"]
    assert "train.stall_s" in stopped["hint"]
    line = stopped["reason"].rpartition(" (rank 0")[0]
    assert f"hpcjobs: error: stalled: {line}\n" in (second[0] / JOB_LOG).read_text()
    # The stopped rank reports no other rank.
    assert [abort["rank"] for abort in sweepdir.read_aborts(second[0])] == [0]

    assert killed["failure"] == "signal"
    assert "if a process was only killed" in killed["hint"]
    node = killed["nodes"][1]
    lines = {
        "srun": f"srun: error: {node}: task 1: Killed",
        "mpirun": f" on node {node} exited on signal 9 (Killed).",
    }
    assert lines[launcher] in killed["reason"]
    assert launcher == "srun" or "mpirun noticed that process rank 1 with PID " in killed["reason"]
    assert f"{killed['reason']}\n" in (second[1] / JOB_LOG).read_text()
    assert not sweepdir.read_aborts(second[1])
    assert ranks(tmp_path) == []
