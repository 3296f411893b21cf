"""Runs that are stopped, killed and hung, under mpirun; and what the next attempt makes of them."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hpcjobs.base import contract
from hpcjobs.base.contract import EXIT_INTERRUPTED, ErrorCode
from tests.train.launch import HANGS_S, Outcome, command, environment, make_run, read_log

ONE_BY_ONE = {"warmup_steps": 2, "window_steps": 1}


class Job:
    """A started job of some ranks in an attempt folder of its own."""

    def __init__(self, run_yaml: Path, ranks: int, number: int = 1):
        self.attempt = run_yaml.parent / f"a{number:03d}"
        self.attempt.mkdir(exist_ok=True)
        self.errors = (self.attempt / "stderr").open("w")
        words = command(ranks, ["-m", "hpcjobs.chexnet.train", run_yaml, "--attempt", self.attempt])
        self.process = subprocess.Popen(words, env=environment(), stdout=self.errors, stderr=self.errors)

    def ranks(self) -> list[int]:
        """Pids, by rank."""
        pids = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        found = {}
        for pid in pids:
            environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            (rank,) = (int(word.partition(b"=")[2]) for word in environ if word.startswith(b"OMPI_COMM_WORLD_RANK="))
            found[rank] = int(pid)
        return [pid for _, pid in sorted(found.items())]

    def wait_for_step(self, step: int) -> None:
        """Until the log tells of that step."""
        deadline = time.monotonic() + HANGS_S
        while step > self.step():
            assert time.monotonic() < deadline, "it hangs"
            assert self.process.poll() is None, "it ended before"
            time.sleep(0.02)

    def wait_for_pulse(self, rank: int) -> None:
        """Until that rank's sign of life tells of a step."""
        pulse = self.attempt / ".pulse" / f"r{rank:05d}"
        deadline = time.monotonic() + HANGS_S
        while "step" not in (pulse.read_text() if pulse.exists() else ""):
            assert time.monotonic() < deadline, "it hangs"
            time.sleep(0.02)

    def step(self) -> int:
        try:
            return max(losses(self.attempt), default=0)
        except OSError:
            return 0

    def end(self) -> Outcome:
        """Wait for its end."""
        rc = self.process.wait(HANGS_S)
        self.errors.close()
        return Outcome(rc, "", (self.attempt / "stderr").read_text(), self.attempt)


@contextmanager
def started(run_yaml: Path, ranks: int, number: int = 1) -> Iterator[Job]:
    job = Job(run_yaml, ranks, number)
    try:
        yield job
    finally:
        for pid in job.ranks() if job.process.poll() is None else []:
            os.kill(pid, signal.SIGKILL)
        job.process.kill()
        job.process.wait()


def losses(attempt: Path) -> dict[int, float]:
    """Loss by step, of an attempt logged step by step."""
    found = {}
    for line in (attempt / contract.TRAIN_LOG).read_text().splitlines():
        if '"tracked_stats"' in line and line.endswith("}"):
            event = json.loads(line.removeprefix(":::MLLOG "))
            found[event["metadata"]["step"]] = event["value"]["loss"]
    return found


def step_ms(outcome: Outcome) -> list[float]:
    """Milliseconds of each step, of an attempt logged step by step."""
    return [event["value"]["step_ms"] for event in read_log(outcome.attempt) if event["key"] == "tracked_stats"]


def last(outcome: Outcome, key: str) -> dict:
    return [event for event in read_log(outcome.attempt) if event["key"] == key][-1]


def test_interrupted_at_random_and_resumed_the_losses_are_those_of_an_undisturbed_run(data: Path, tmp_path: Path):
    """Signals that are answered, and SIGKILL, which is not: then the newest checkpoint is an epoch old at most."""
    options = {"train": {"epochs": 8, "steps": 200}, "batch": {"local": 8}, "measure": ONE_BY_ONE}
    options["augment"] = {"rotate_degrees": 5.0, "shift": 0.05}
    undisturbed = make_run(tmp_path / "undisturbed", data, gpus=1, **options)
    with started(undisturbed, 1) as job:
        assert job.end().rc == 0
        expected = losses(job.attempt)
    assert list(expected) == list(range(1, 201))

    draw = random.Random(1)
    run_yaml = make_run(tmp_path / "disturbed", data, gpus=1, **options)
    found: dict[int, float] = {}
    ends = []
    for number, sent in enumerate((signal.SIGUSR1, signal.SIGKILL, signal.SIGTERM, None), 1):
        with started(run_yaml, 1, number) as job:
            if sent:
                job.wait_for_step(max(found, default=0) + draw.randrange(2, 30))
                os.kill(job.ranks()[0], sent)
            outcome = job.end()
        found |= losses(job.attempt)
        ends.append(max(found))
        if sent in (signal.SIGUSR1, signal.SIGTERM):
            assert outcome.rc == EXIT_INTERRUPTED, outcome.stderr
            assert last(outcome, "hpcjobs_interrupted")["value"] == sent.name
            assert last(outcome, "hpcjobs_interrupted")["metadata"]["step"] == max(found)
            assert last(outcome, "run_stop")["metadata"]["status"] == "interrupted"
        if number > 1:
            resumed = last(outcome, "hpcjobs_resumed")["value"]
            assert min(losses(job.attempt)) == resumed + 1
            assert resumed == ends[-2] or (number == 3 and 0 <= ends[-2] - resumed <= 26)
    assert outcome.rc == 0
    assert ends[0] % 26
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("sent", [signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_to_one_rank_stops_all_within_seconds(sent: signal.Signals, data: Path, tmp_path: Path):
    run_yaml = make_run(tmp_path / "run", data, gpus=2, train={"steps": 1_000_000, "epochs": 1}, measure=ONE_BY_ONE)
    with started(run_yaml, 2) as job:
        job.wait_for_step(20)
        os.kill(job.ranks()[1], sent)
        at = job.step()
        outcome = job.end()
    assert outcome.rc == EXIT_INTERRUPTED
    step = last(outcome, "hpcjobs_interrupted")["metadata"]["step"]
    # The ranks agree after 2 s of steps at most, at the pace that they had: a slow machine takes fewer steps.
    fastest_s = min(step_ms(outcome)) / 1000
    assert step - at <= max(1, 2 / fastest_s)
    assert f"{sent.name}: ended after step {step}, a checkpoint of step {step} is written" in outcome.stderr
    assert (run_yaml.parent / "checkpoints" / f"step-{step:08d}").is_dir()
    assert not outcome.aborts


@pytest.mark.parametrize("victim", [0, 1])
def test_a_stopped_rank_ends_the_job_which_names_it(victim: int, data: Path, tmp_path: Path):
    """SIGSTOP: no launcher sees it. Rank, node and reason stand in the log, at most a few seconds after stall_s."""
    train = {"steps": 1_000_000, "epochs": 1, "stall_s": 8}
    with started(make_run(tmp_path / "run", data, gpus=2, train=train, measure=ONE_BY_ONE), 2) as job:
        job.wait_for_step(1)
        job.wait_for_pulse(victim)
        began = time.monotonic()
        pids = job.ranks()
        os.kill(pids[victim], signal.SIGSTOP)
        outcome = job.end()
        assert time.monotonic() - began > 7
    assert outcome.rc != 0
    # The earliest counts: a launcher may wake the stopped rank before it kills it.
    name, abort = next(iter(outcome.aborts.items()))
    assert name == f"abort-r{1 - victim:03d}.json"
    assert abort["code"] == ErrorCode.STALLED
    assert f"no sign of life from rank {victim} on {os.uname().nodename}, last at step " in abort["message"]
    # By the watchdog's own measure: the end of the processes may take longer on a busy machine.
    assert 7 < int(re.search(r"no progress for (\d+) s", abort["message"])[1]) < 25
    assert abort["nodes"] == [os.uname().nodename]
    assert abort["message"] in outcome.stderr
    assert "loop.py" in (job.attempt / f"stacks-r{1 - victim:03d}.txt").read_text()
    assert not any(Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids)


def test_a_damaged_checkpoint_is_skipped_and_told(data: Path, tmp_path: Path):
    run_yaml = make_run(tmp_path / "run", data, gpus=1, train={"epochs": 2, "steps": 80}, measure=ONE_BY_ONE)
    with started(run_yaml, 1) as job:
        assert job.end().rc == 0
    newest = run_yaml.parent / "checkpoints" / "step-00000080" / "optimizer.npz"
    newest.write_bytes(newest.read_bytes()[:-100])
    with started(run_yaml, 1, 2) as job:
        outcome = job.end()
    assert outcome.rc == 0
    assert f"hpcjobs: warning: {newest.parent}: skipped, because it is damaged" in outcome.stderr
    assert list(losses(job.attempt)) == list(range(53, 81))


def test_a_target_ends_the_training_at_the_first_evaluation_that_meets_it(data: Path, tmp_path: Path):
    """Noise: half of all pairs are in order by chance, so a low target is met at once."""
    train = {"epochs": 5, "steps": 260, "target_auc": 0.2}
    with started(make_run(tmp_path / "run", data, gpus=1, train=train), 1) as job:
        outcome = job.end()
    assert outcome.rc == 0
    assert last(outcome, "tracked_stats")["metadata"]["step"] == 52
    assert last(outcome, "run_stop")["metadata"] == {"status": "success", "reached": True} | {
        key: value for key, value in last(outcome, "run_stop")["metadata"].items() if key in ("file", "lineno")
    }
