"""`mode: benchmark` with real ranks."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from hpcjobs.base.contract import EXIT_INTERRUPTED
from hpcjobs.collect import mllog
from tests.train.launch import Outcome, make_run, read_log, train
from tests.train.test_survival import last, started

PLANTED = Path(__file__).parent / "planted_losses.py"
SHORT = {"max_steps": 20, "control_steps": 4}


@pytest.fixture(scope="module")
def planted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("planted")
    run_yaml = make_run(folder / "run", data, gpus=2, mode="benchmark", measure=SHORT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOLD", str(folder / "told.json"))
        patch.setenv("OMPI_MCA_mpi_yield_when_idle", "1")
        outcome = train(run_yaml, 2, [PLANTED])
    assert outcome.rc == 0, outcome.stderr
    return outcome


def value(outcome: Outcome, key: str) -> Any:
    return last(outcome, key)["value"]


def test_planted_losses_are_found_by_name(planted: Outcome):
    control = value(planted, "hpcjobs_control")
    # Of two ranks one takes 80 ms longer: the slowest is 40 ms above the mean.
    assert control["skew_ms"] == pytest.approx(40, abs=0.01)
    assert control["input_wait_ms"] == pytest.approx(150, abs=0.01)
    assert control["compute_ms"] == pytest.approx(60, abs=0.01)
    assert control["allreduce_ms"] == pytest.approx(0, abs=0.01)
    assert (control["slowest_rank"], control["slowest_host"]) == (1, os.uname().nodename)
    slow, fast = control["ranks"][1], control["ranks"][0]
    assert 0 < fast["min_ms"] <= fast["median_ms"] <= fast["max_ms"]
    assert slow["median_ms"] - fast["median_ms"] == pytest.approx(80, abs=0.01)


def test_the_passes_end_when_every_part_is_known(planted: Outcome):
    """On a clock that only the steps move each pass is like the others: the first look, after six, is enough."""
    control = value(planted, "hpcjobs_control")
    assert (control["passes"], control["passes_used"], control["control_steps"]) == (6, 6, 4)
    assert set(control["half_widths"]) >= {"input_wait_ms", "allreduce_ms", "skew_ms", "compute_ms"}
    assert max(control["half_widths"].values()) < 0.01
    assert (control["collectives_in_c"], control["allreduce_claimed"]) == (0, True)
    assert (control["disturbed"], control["not_told_apart"]) == ([], [])


def test_the_control_phases_leave_weights_and_optimizer_as_they_were(planted: Outcome):
    assert json.loads((planted.attempt.parent.parent / "told.json").read_text()) == {"restored": [True, True]}


def test_the_steps_timed_are_those_after_the_warm_up(planted: Outcome):
    warmup, precision = value(planted, "hpcjobs_warmup"), value(planted, "hpcjobs_precision")
    windows = [event for event in read_log(planted.attempt) if event["key"] == "tracked_stats"]
    timed = [event["metadata"] for event in windows if not event["metadata"]["warmup"]]
    assert 10 <= warmup["steps"] <= 100
    assert (warmup["steps"] - 1) % 3 == 0
    assert timed[0]["step"] - timed[0]["steps"] == warmup["steps"]
    assert sum(window["steps"] for window in timed) == precision["steps"] == 20
    assert precision["reached"] == (precision.get("half_width", 1) <= precision["asked"] == 0.01)
    assert precision["reached"] or "precision not reached" in planted.stdout


def test_it_neither_evaluates_nor_saves(planted: Outcome):
    assert not {"eval_start", "hpcjobs_checkpoint", "epoch_start"} & {
        event["key"] for event in read_log(planted.attempt)
    }
    assert not (planted.attempt.parent / "checkpoints").exists()
    assert not (planted.attempt / "auc.csv").exists()


def test_its_log_makes_a_measurement(planted: Outcome):
    found = mllog.measure(mllog.read(planted.attempt / "train.log"))
    assert found is not None
    assert found.throughput == pytest.approx(8 / found.step_ms * 1000)
    assert found.step_ms > 140
    assert found.input_wait_ms == value(planted, "hpcjobs_control")["input_wait_ms"]
    assert found.time_to_train_kind == "derived_fixed_epochs"
    assert found.flops_per_unit == value(planted, "hpcjobs_run")["flops_per_unit"] > 0
    assert ("precision_not_reached" in found.flags) != value(planted, "hpcjobs_precision")["reached"]
    assert found.score is None


def test_a_signal_ends_it_with_the_code_of_an_interrupted_run(data: Path, tmp_path: Path):
    measure = {"max_steps": 1_000_000, "precision": 1e-9, "control_repeats": 0}
    with started(make_run(tmp_path / "run", data, gpus=1, mode="benchmark", measure=measure), 1) as job:
        job.wait_for_step(30)
        os.kill(job.ranks()[0], signal.SIGTERM)
        outcome = job.end()
    assert outcome.rc == EXIT_INTERRUPTED
    assert "SIGTERM: ended after step " in outcome.stderr
    assert last(outcome, "run_stop")["metadata"]["status"] == "interrupted"
