"""What a meter in a command's loop wrote becomes the run's measurement, its flags and its progress."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from hpcjobs.base.contract import JOB_LOG, TRAIN_LOG, LogKey, RunConfig
from hpcjobs.base.records import ExitRecord
from hpcjobs.collect.attempts import Reading
from hpcjobs.collect.meter_log import meter_progress
from hpcjobs.config import to_builtins
from hpcjobs.plan.planning import parameter_grid
from hpcjobs.trainers.command_line import document_of
from hpcjobs.trainers.registry import read_ended
from tests.control.logs import line
from tests.control.logs_formats.reading import one, read

HOROVOD = "Model: ResNet50\nBatch size: 8\nNumber of GPUs: 4\nTotal img/sec on 4 GPU(s): {rate} +-0.1\n"
PATTERN = r"measure.pattern=rate (?P<throughput>[\d.]+)"
PARTS = {
    "step_ms": 100.0, "compute_ms": 80.0, "skew_ms": 5.0, "allreduce_ms": 10.0, "input_wait_ms": 5.0,
    "ranks": [{"host": "n1", "median_ms": 80.0}, {"host": "n2", "median_ms": 85.0}],
}  # fmt: skip


def meter_log(
    *,
    rates: tuple[float, ...] = (320.0, 320.0),
    step_ms: float = 100.0,
    loader_ms: float | None = 2.0,
    score: tuple[str, float] | None = None,
    control: dict[str, Any] | None = None,
    status: str | None = "success",
    **about: Any,
) -> str:
    """A train.log as the meter writes it: a warm-up window, then one of 5 steps for each of `rates` (units/s)."""
    known = {
        "run": "g", "mode": "train", "gpus": 4, "nodes": 2, "local_batch": 8, "global_batch": 32, "unit": "samples",
        "hosts": ["n1", "n2"], "meter": "loop", "by": "torch",
    }  # fmt: skip
    text = line(LogKey.BENCHMARK, "hpcjobs-meter", 1000)
    # Its first facts; it writes them anew when it knows more.
    text += line(LogKey.RUN, {**known, **about, "hosts": []}, 1000) + line(LogKey.RUN_START, None, 1000)
    for number, rate in enumerate((1.0, *rates)):
        value = {"throughput": rate, "step_ms": step_ms, "loss": None}
        value |= {} if loader_ms is None else {"input_wait_ms": loader_ms}
        where = {"step": 5 * number + 5, "steps": 5, "epoch_num": 1, "warmup": number == 0}
        text += line(LogKey.WINDOW, value, 1001 + number, **where)
    text += line(LogKey.RUN, {**known, **about}, 1010)
    if score:
        text += line(LogKey.EVAL_ACCURACY, score[1], 1011, name=score[0], epoch_num=1)
    if control:
        text += line(LogKey.CONTROL, control, 1012)
    return text + (line(LogKey.RUN_STOP, None, 1020, status=status) if status else "")


def reading(folder: Path, train: str | None, job: str = "", *settings: str, rc: int | None = 0) -> Reading:
    """What is read of a run on 4 GPUs of 2 nodes that took 60 s."""
    if train is not None:
        (folder / TRAIN_LOG).write_text(train)
    (folder / JOB_LOG).write_text(job)
    (variant,) = parameter_grid(document_of(["train"]), [*settings, "workdir=/w"])
    run = RunConfig(
        sweep="s", run="g", params="", repeat=1, seed=1, gpus=4, nodes=2, tasks_per_node=2, cpus_per_task=1,
        device="cpu", data_dir="", experiment=to_builtins(variant.experiment),
    )  # fmt: skip
    end = None if rc is None else ExitRecord("g", "a001", "1_0", rc, 0, "n[1-2]", 990.0, 1050.0)
    return read_ended(run, folder, end)


# --- figures -------------------------------------------------------------------------------------


def test_the_unit_is_the_log_s_own(tmp_path: Path) -> None:
    """Tokens per window, not the batch over the time of a step: texts may have any length."""
    log = meter_log(rates=(1000.0, 3000.0), unit="tokens", local_batch=512, global_batch=2048, flops_per_unit=6e9)
    found = reading(tmp_path, log, "", "measure.unit=samples", "batch.local=8")
    assert (found.finished, found.problem, found.log.name) == (True, "", TRAIN_LOG)
    one = found.measurement
    assert one is not None
    assert (one.throughput, one.unit, one.step_ms) == (pytest.approx(2000.0), "tokens", pytest.approx(100.0))
    assert (one.hosts, one.flops_per_unit, one.windows) == (("n1", "n2"), 6e9, 2)
    # The experiment's batch counts samples, and is shown.
    assert (found.batch, found.command_s) == (None, 60.0)
    assert found.timed == ((1001.5, 1002.0), (1002.5, 1003.0))


def test_a_batch_that_was_not_told_is_the_one_that_was_counted(tmp_path: Path) -> None:
    assert reading(tmp_path, meter_log()).batch == (8, 32)
    # Of four batches whose gradients are added up, a step has four.
    four = meter_log(local_batch=32, global_batch=128, accumulation=4)
    assert reading(tmp_path, four, "", "batch.local=8").batch == (32, 128)
    varies = meter_log(unit="tokens", local_batch=512, global_batch=2048, local_batch_varies=[100, 900])
    assert reading(tmp_path, varies).batch is None


def test_a_score_has_the_name_that_the_training_gave_it(tmp_path: Path) -> None:
    one = reading(tmp_path, meter_log(score=("accuracy", 0.75))).measurement
    assert one is not None
    assert (one.score, one.score_name) == (0.75, "accuracy")


def test_control_blocks_count_before_the_time_in_the_loader(tmp_path: Path) -> None:
    one = reading(tmp_path, meter_log(mode="benchmark", control=PARTS), "", "mode=benchmark").measurement
    assert one is not None
    assert (one.input_wait_ms, one.allreduce_ms, one.skew_ms, one.compute_ms) == (5.0, 10.0, 5.0, 80.0)
    assert (one.slowest_node, one.flags) == ("n2", ())


def test_the_time_in_the_loader_is_marked(tmp_path: Path) -> None:
    one = reading(tmp_path, meter_log()).measurement
    assert one is not None
    assert (one.input_wait_ms, one.flags) == (pytest.approx(2.0), ("loader_time_only",))
    # In a benchmark it would be averaged with what the control blocks of another repeat say.
    one = reading(tmp_path, meter_log(mode="benchmark"), "", "mode=benchmark").measurement
    assert one is not None
    assert (one.input_wait_ms, one.flags) == (None, ())


def test_parts_that_are_not_known_are_empty(tmp_path: Path) -> None:
    """A script that talks by itself without the all-reduce: none is claimed."""
    unclaimed = {**PARTS, "allreduce_ms": None, "skew_ms": None, "allreduce_claimed": False}
    one = reading(tmp_path, meter_log(mode="benchmark", control=unclaimed), "", "mode=benchmark").measurement
    assert one is not None
    assert (one.input_wait_ms, one.allreduce_ms, one.skew_ms, one.slowest_rank_ms) == (5.0, None, None, None)


def test_a_benchmark_s_whole_time_is_no_time_to_train(tmp_path: Path) -> None:
    assert reading(tmp_path, meter_log(mode="benchmark"), "", "mode=benchmark").command_s is None


# --- which log counts ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("job", "settings", "flags"),
    [
        ("rate 1\n" * 10 + "rate 300\n" * 5, (PATTERN,), ()),
        ("rate 1\n" * 10 + "rate 80\n" * 5, (PATTERN,), ("rates_differ",)),
        ("rate 1\n" * 10 + "rate 80\n" * 5, (PATTERN, "measure.of=rank"), ()),
        ("rate 1\n" * 10 + "rate 80\n" * 5, (PATTERN, "measure.unit=tokens"), ()),
        ("rate 1\n" * 10 + "rate 80\n" * 5, (PATTERN, "mode=benchmark"), ()),
        (HOROVOD.format(rate=330), (), ()),
        (HOROVOD.format(rate=900), (), ("rates_differ",)),
        (HOROVOD.format(rate=900), ("measure.format=meter",), ()),
        ("hello\n", (), ()),
    ],
)
def test_a_rate_that_the_command_prints_may_contradict_the_meter(
    job: str, settings: tuple[str, ...], flags: tuple[str, ...], tmp_path: Path
) -> None:
    """The pattern of a rate of tokens says nothing of samples; in control blocks a step is another."""
    found = reading(tmp_path, meter_log(), job, *settings)
    assert found.measurement is not None
    assert (found.measurement.throughput, found.flags) == (pytest.approx(320.0), flags)


@pytest.mark.parametrize(
    ("about", "settings", "says"),
    [
        ({"gpus": 2}, (), "train.log: it says 2 GPUs (ranks), the run has 4"),
        ({"gpus": 1}, (PATTERN,), "train.log: it says 1 GPUs (ranks), the run has 4"),
        ({}, ("batch.local=16",), "train.log: it says 8 as batch of one GPU, the run has 16"),
        ({"accumulation": 3}, ("batch.local=4",), "train.log: it says 8 as batch of one GPU, the run has 4"),
    ],
)
def test_a_log_that_contradicts_the_run_is_refused_whatever_it_prints(
    about: dict[str, Any], settings: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    found = reading(tmp_path, meter_log(**about), "rate 320\n" * 20, *settings)
    assert (found.finished, found.measurement, found.problem) == (False, None, says)


def test_a_meter_that_measured_nothing_leaves_the_rate_to_the_pattern(tmp_path: Path) -> None:
    """Such as one that turned itself off."""
    off = meter_log(rates=())
    found = reading(tmp_path, off, "rate 300\n" * 20, PATTERN)
    assert found.measurement is not None
    assert (found.log.name, found.measurement.throughput) == (JOB_LOG, 300.0)
    found = reading(tmp_path, off, "hello\n", PATTERN)
    assert found.problem.startswith("train.log holds no timed window after the warm-up, and pattern ")
    found = reading(tmp_path, off, "rate 300\n" * 20, "measure.format=meter")
    assert found.problem == "train.log holds no timed window after the warm-up"


@pytest.mark.parametrize(
    ("note", "settings", "says"),
    [
        ({"steps": 8, "off": None}, (), "the run ended after 8 steps, and measure.warmup is 10"),
        ({"steps": 1, "off": None}, ("measure.format=meter", "measure.warmup=3"), "the run ended after 1 step, and measure.warmup is 3"),
        ({"steps": 40, "off": None}, ("mode=benchmark",), "the run ended after 40 steps, and a benchmark takes some hundred"),
        ({"steps": 40, "off": "OSError: no space"}, (), "it is off (OSError: no space)"),
    ],
)  # fmt: skip
def test_a_run_too_short_for_the_meter_is_told_so(
    note: dict[str, Any], settings: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    (tmp_path / "meter-r000.json").write_text(json.dumps(note))
    found = reading(tmp_path, meter_log(rates=()), "hello\n", *settings)
    assert found.problem == f"train.log holds no timed window after the warm-up: {says}"


@pytest.mark.parametrize("settings", [(), ("mode=benchmark",), (PATTERN,)])
def test_a_meter_that_saw_no_step_is_told_before_what_the_command_prints(
    settings: tuple[str, ...], tmp_path: Path
) -> None:
    """Such as a loop of no framework without `import meter`, and a loader that is empty."""
    assert reading(tmp_path, None, "hello\n", *settings).problem.startswith("the meter saw no step, and ")


@pytest.mark.parametrize(
    ("settings", "figures"),
    [
        (("batch.local=16",), (640.0, "samples", 16, 64)),
        (("batch.global=32", "measure.unit=sequences"), (320.0, "samples", 8, 32)),
        (("measure.unit=steps",), (10.0, "steps", None, None)),
    ],
)
def test_steps_whose_batches_the_meter_did_not_see_have_the_run_s(
    settings: tuple[str, ...], figures: tuple[Any, ...], tmp_path: Path
) -> None:
    """Such as those of a script that draws its batches from an array, without a DataLoader."""
    unseen = meter_log(local_batch=None, global_batch=None, loader_ms=None).replace(
        '"throughput": 320.0', '"throughput": null'
    )
    one = reading(tmp_path, unseen, "hello\n", *settings).measurement
    assert one is not None
    assert (one.throughput, one.unit, one.local_batch, one.global_batch) == (pytest.approx(figures[0]), *figures[1:])
    found = reading(tmp_path, unseen, "hello\n")
    assert found.measurement is None
    assert found.problem.startswith("train.log holds timed steps, and the meter saw no batch: give batch.local, ")


@pytest.mark.parametrize(("exchanges", "flagged"), [(False, True), (True, False), (None, False)])
def test_ranks_that_train_alone_raise_a_flag(exchanges: bool | None, flagged: bool, tmp_path: Path) -> None:
    found = reading(tmp_path, meter_log(exchanges=exchanges)).measurement
    assert found is not None
    assert ("ranks_alone" in found.flags) is flagged


def test_an_all_reduce_that_is_not_told_raises_a_flag(tmp_path: Path) -> None:
    found = reading(tmp_path, meter_log(mode="benchmark", control={**PARTS, "allreduce_claimed": False})).measurement
    assert found is not None
    assert (found.allreduce_ms, found.flags) == (None, ("allreduce_not_claimed",))


def test_a_benchmark_that_ended_before_its_parts_raises_a_flag(tmp_path: Path) -> None:
    log = meter_log(mode="benchmark", status=None) + line(
        LogKey.RUN_STOP, None, 1020, status="success", parts_missing=True
    )
    one = reading(tmp_path, log, "", "mode=benchmark").measurement
    assert one is not None
    assert (one.throughput, one.compute_ms, one.flags) == (pytest.approx(320.0), None, ("ended_before_parts",))


def test_a_meter_that_is_left_out_is_not_missed(tmp_path: Path) -> None:
    assert "meter" not in reading(tmp_path, None, "hello\n", "measure.meter=off").problem


def test_a_pattern_alone_looks_at_no_train_log(tmp_path: Path) -> None:
    found = reading(tmp_path, meter_log(), "rate 300\n" * 20, PATTERN, "measure.format=pattern")
    assert found.measurement is not None
    assert found.measurement.throughput == 300.0


def test_without_a_train_log_the_meter_is_missed(tmp_path: Path) -> None:
    found = reading(tmp_path, None, "hello\n", "measure.format=meter")
    assert (found.finished, found.problem) == (False, "the meter saw no step")


# --- ends ----------------------------------------------------------------------------------------


def test_a_run_that_was_killed_keeps_what_it_had_and_is_no_measurement(tmp_path: Path) -> None:
    found = reading(tmp_path, meter_log(status=None) + ':::MLLOG {"namespace": "", "time_', "", rc=137)
    assert (found.finished, found.measurement) == (False, None)
    assert (found.progress.step, found.progress.throughput, found.progress.unit) == (15, 320.0, "samples")


def test_a_command_that_ends_well_without_the_meter_s_last_line_is_unfinished(tmp_path: Path) -> None:
    one = reading(tmp_path, meter_log(status=None)).measurement
    assert one is not None
    assert (one.throughput, "unfinished" in one.flags) == (pytest.approx(320.0), True)


def test_two_trainings_in_one_run_have_no_rate_in_common(tmp_path: Path) -> None:
    found = reading(tmp_path, meter_log() + meter_log(rates=(100.0,)))
    assert found.measurement is None
    assert found.problem.startswith("train.log holds 2 trainings that ended")
    # torchrun started the ranks again: the last counts.
    one = reading(tmp_path, meter_log(status=None) + meter_log(rates=(100.0,))).measurement
    assert one is not None
    assert (one.throughput, one.windows) == (pytest.approx(100.0), 1)


def test_the_input_wait_is_that_of_the_slowest_rank_of_this_run(tmp_path: Path) -> None:
    for rank, ms in enumerate((2.0, 1.0, 7.0, 3.0, 99.0)):  # the last is of an earlier start on more ranks
        (tmp_path / f"meter-r{rank:03d}.json").write_text(json.dumps({"rank": rank, "loader_ms": ms}))
    found = reading(tmp_path, meter_log()).measurement
    assert found is not None
    assert found.input_wait_ms == 7.0


# --- progress ------------------------------------------------------------------------------------


def test_progress_is_that_of_the_newest_window(tmp_path: Path) -> None:
    found = reading(tmp_path, meter_log(unit="tokens", status=None), "", PATTERN, rc=None)
    assert (found.progress.step, found.progress.throughput, found.progress.unit) == (15, 320.0, "tokens")
    assert found.progress.ago_s is not None
    # Before the first window the command may print a rate.
    begun = line(LogKey.RUN, {"gpus": 4, "unit": "tokens"}, 1000)
    found = reading(tmp_path, begun, "rate 5\n" * 20, PATTERN, rc=None)
    assert (found.progress.throughput, found.log.name) == (5.0, JOB_LOG)


def test_progress_reads_no_more_than_both_ends_of_a_log(tmp_path: Path) -> None:
    path, whole = tmp_path / TRAIN_LOG, meter_log(status=None)
    path.write_text(whole)
    short = meter_progress(path)
    with path.open("wb") as file:
        file.write(whole.encode())
        file.seek(1 << 40)  # a sparse terabyte
        file.write(b"\n" + whole.replace('"step": 15', '"step": 995').encode())
    assert short is not None
    assert meter_progress(path) == dataclasses.replace(short, step=995)
    path.write_text("hello\n")
    assert meter_progress(path) is None


# --- hpcjobs collect -----------------------------------------------------------------------------


def test_the_log_alone_says_the_same(tmp_path: Path) -> None:
    """`hpcjobs collect --logs train.log`: the facts that are written anew begin no other run."""
    text = meter_log(rates=(1000.0, 3000.0), unit="tokens", score=("loss", 2.5))
    found = one(read(tmp_path, text))
    assert (found.throughput, found.unit, found.gpus) == (pytest.approx(2000.0), "tokens", 4)
    assert (found.score_name, found.hosts, found.steady and found.steady.windows) == ("loss", ("n1", "n2"), 2)
    two = read(tmp_path, text + meter_log(rates=(100.0,)))
    assert [each.throughput for each in two.measurements] == [pytest.approx(2000.0), pytest.approx(100.0)]  # type: ignore[union-attr]
