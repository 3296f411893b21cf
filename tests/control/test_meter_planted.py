"""The meter in real ranks on this machine, without Slurm: what was planted is found, and the training is not changed."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.meter_truth import ALLOWANCE_MS, PROGRAM, Finding, control, events, findings, judge, planted, value_of
from tests.running import PATIENCE_S

ROOT = Path(__file__).parents[2]
# Few timed steps, and six passes through the control blocks however well the parts are known by then.
BENCHMARK = {"mode": "benchmark", "max_steps": 20, "precision": 0.5, "control_passes": 6, "parts_precision": 0.0}


class Training:
    """The ranks of tests/meter_program.py on this machine, with the environment of a run of hpcjobs."""

    def __init__(self, attempt: Path, *words: str, measure: Mapping[str, Any] | None, ranks: int = 2) -> None:
        """Start it. `measure` is HPCJOBS_MEASURE; None: no run of hpcjobs, only a folder for what the ranks write."""
        attempt.mkdir(parents=True)
        python = attempt.parent / "python"
        python.mkdir(exist_ok=True)
        shutil.copy(ROOT / "hpcjobs" / "meter.py", python)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        about = {"PYTHONPATH": str(python), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        if measure is not None:
            about |= dict.fromkeys(("HPCJOBS_METRICS", "HPCJOBS_ATTEMPT_DIR", "HPCJOBS_RUN_DIR"), str(attempt))
            about |= {"HPCJOBS_MEASURE": json.dumps(measure), "HPCJOBS_GPUS": str(ranks), "HPCJOBS_NODES": "1"}
        clean = {name: text for name, text in os.environ.items() if not name.startswith("HPCJOBS_")}
        self.attempt, self.log = attempt, attempt / "log"
        self.ranks = [
            subprocess.Popen(
                [sys.executable, str(PROGRAM), *words],
                cwd=attempt,
                env={**clean, **about, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)},
                stdout=self.log.open("ab"),
                stderr=subprocess.STDOUT,
            )
            for rank in range(ranks)
        ]

    def wait(self) -> Path:
        """Until all ranks have ended well. Returns the attempt's folder."""
        try:
            codes = [rank.wait(PATIENCE_S) for rank in self.ranks]
        finally:
            for rank in self.ranks:
                rank.kill()
        assert set(codes) == {0}, self.log.read_text()
        assert "meter is off" not in self.log.read_text()
        return self.attempt

    def own(self) -> list[dict[str, Any]]:
        """What each rank says that it has done."""
        return [json.loads(path.read_text()) for path in sorted(self.attempt.glob("own-r*.json"))]


def benchmark(folder: Path, plant: str, *words: str, ranks: int = 2) -> Training:
    return Training(folder / f"{plant}-{ranks}", "--plant", plant, *words, measure=BENCHMARK, ranks=ranks)


def found_in(run: Training, truth: Mapping[str, float]) -> list[Finding]:
    attempt = run.wait()
    told = control(attempt)
    assert told["passes"] == BENCHMARK["control_passes"]
    assert told["step_ms"] == pytest.approx(sum(told[part] for part in truth) + told["rest_ms"], abs=0.001)
    return findings(attempt.name, attempt, truth)


def test_each_cause_is_found_under_its_name_and_the_others_near_zero(tmp_path: Path) -> None:
    """Alone and two together. A sleep of one run takes nothing from the others, so all runs train at the same time."""
    plants = ("none", "loader=20", "late=10", "hook=15", "loader=20+hook=15", "loader=20+late=10")
    runs = {plant: benchmark(tmp_path, plant) for plant in plants}
    found = [each for plant, run in runs.items() for each in found_in(run, planted(plant, 2))]
    judge(found)
    late = control(runs["late=10"].attempt)
    assert late["slowest_rank"] == 1
    # Nothing that was planted is left out, unless a disturbed run says so itself.
    for plant, run in runs.items():
        told = control(run.attempt)
        missing = {part for part, ms in planted(plant, 2).items() if ms} - {
            each.part for each in found if each.run == run.attempt.name
        }
        assert missing <= set(told["not_told_apart"])


def test_a_loader_in_a_thread_costs_what_the_step_waits_for_it(tmp_path: Path) -> None:
    """Its buffer fills during the blocks that take nothing from it, and is drained before it is timed again."""
    slow = benchmark(tmp_path, "loader=35", "--prefetch", "3")
    fast = benchmark(tmp_path, "loader=8", "--prefetch", "3")
    judge(found_in(slow, planted("loader=20", 2)) + found_in(fast, planted("none", 2)))


def test_evaluation_and_checkpoint_between_epochs_are_no_part_of_a_step(tmp_path: Path) -> None:
    """Epochs shorter than a block, each with a smaller last batch; the benchmark needs more of them than one."""
    words = ("--batches=7", "--last=3", "--epochs=1000", "--evaluate=40", "--checkpoint=40")
    run = benchmark(tmp_path, "loader=20", *words)
    judge(found_in(run, planted("loader=20", 2)))
    assert {each["epochs"] > 5 for each in run.own()} == {True}


def test_windows_of_a_training_hold_its_steps_and_nothing_between_them(tmp_path: Path) -> None:
    """Three epochs of twelve steps, of which the first ten are warm-up, as its windows say."""
    words = ("--batches=11", "--last=3", "--epochs=3", "--evaluate=300", "--checkpoint=300")
    run = Training(tmp_path / "a001", *words, measure={"mode": "train"})
    attempt = run.wait()
    about = value_of(attempt, "hpcjobs_run")
    assert (about["gpus"], about["local_batch"], about["global_batch"], about["unit"]) == (2, 8, 16, "samples")
    lines = events(attempt)
    windows = [line for line in lines if line["key"] == "tracked_stats"]
    assert {window["metadata"]["epoch_num"] for window in windows} == {1, 2, 3}
    assert [line["value"] for line in lines if line["key"] == "eval_accuracy"] == pytest.approx([1 / 2, 2 / 3, 3 / 4])
    assert {window["metadata"]["warmup"] for window in windows if window["metadata"]["step"] <= 10} == {True}
    assert {window["metadata"]["warmup"] for window in windows if window["metadata"]["step"] > 10} == {False}
    times = [window["metadata"]["steps"] * window["value"]["step_ms"] / 1000 for window in windows]
    own = run.own()[0]
    assert min(window["value"]["step_ms"] for window in windows) >= 15
    assert sum(times) <= own["wall_s"] - own["between_s"] + 0.01
    assert sum(window["metadata"]["steps"] for window in windows) <= own["steps"] == 36
    assert lines[-1]["key"] == "run_stop"
    assert lines[-1]["metadata"]["status"] == "success"


def test_a_training_learns_the_same_with_and_without_the_meter(tmp_path: Path) -> None:
    words = ("--batches=11", "--last=3", "--epochs=2", "--compute=1")
    timed = Training(tmp_path / "timed", *words, measure={"mode": "train"})
    alone = Training(tmp_path / "alone", *words, measure=None)
    timed.wait()
    alone.wait()
    clocks: dict[str, Any] = dict.fromkeys(("wall_s", "between_s", "overslept_ms"))
    both = [[{**each, **clocks} for each in run.own()] for run in (timed, alone)]
    assert both[0] == both[1]
    assert sorted(path.name for path in alone.attempt.iterdir()) == ["log", "own-r000.json", "own-r001.json"]


def test_an_all_reduce_that_cannot_be_switched_off_is_not_claimed(tmp_path: Path) -> None:
    run = benchmark(tmp_path, "loader=20+hook=15", "--no-sync")
    told = control(run.wait())
    assert told["allreduce_ms"] is None
    assert told["skew_ms"] is None
    assert not told["allreduce_claimed"]


@pytest.mark.usefixtures("neighbour")
def test_the_interval_holds_what_a_neighbour_does(tmp_path: Path, soak: bool) -> None:
    """A loop on the CPU, which the neighbour makes longer: that is skew and computing, and real.

    What was planted in loader and all-reduce lies in the intervals, with nothing allowed for the neighbour.
    """
    found = []
    for number in range(30 if soak else 2):
        run = benchmark(tmp_path / str(number), "loader=20+hook=15", "--loop", "--compute", "8")
        truth = planted("loader=20+hook=15", 2)
        parts = ("input_wait_ms", "allreduce_ms")
        found += [
            dataclasses.replace(each, allowed=ALLOWANCE_MS) for each in found_in(run, truth) if each.part in parts
        ]
    judge(found)
