"""Reading logs: the steady state, the progress, and the line that says why a run ended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hpcjobs.collect import evidence, mllog
from tests.control.logs import line, train_log


def read(folder: Path, text: str) -> mllog.TrainLog:
    path = folder / "train.log"
    path.write_text(text)
    return mllog.read(path)


def test_the_steady_state_leaves_the_warm_up_out(tmp_path: Path) -> None:
    measured = mllog.measure(read(tmp_path, train_log(gpus=2, batch=4, step_ms=(40.0, 60.0), warmup_ms=999.0)))
    assert measured is not None
    assert measured.step_ms == pytest.approx(50.0)
    assert measured.throughput == pytest.approx(8 / 0.050)
    assert (measured.windows, measured.score, measured.eval_s) == (2, 0.75, 3.0)


def test_a_run_cut_short_derives_its_time_to_train(tmp_path: Path) -> None:
    measured = mllog.measure(read(tmp_path, train_log(epochs=10, train_images=1600, step_ms=(50.0,))))
    assert measured is not None
    assert measured.epoch_s == pytest.approx(10.0)  # 1600 images at 160 images/s
    assert (measured.time_to_train_s, measured.time_to_train_kind) == (pytest.approx(100.0), "derived_fixed_epochs")


def test_a_whole_run_measures_its_time_to_train(tmp_path: Path) -> None:
    measured = mllog.measure(read(tmp_path, train_log(cut_short=False)))
    assert measured is not None
    assert (measured.epoch_s, measured.time_to_train_s, measured.time_to_train_kind) == (
        30.0,
        40.0,
        "measured_fixed_epochs",
    )


def test_the_first_epoch_is_left_out_of_an_epochs_time(tmp_path: Path) -> None:
    text = train_log(cut_short=False, epochs=2, status=None)
    text += line("epoch_start", None, 1034.0, epoch_num=2) + line("epoch_stop", None, 1039.0, epoch_num=2)
    measured = mllog.measure(read(tmp_path, text + line("run_stop", None, 1040.0, status="success")))
    assert measured is not None
    assert measured.epoch_s == 5.0


def test_a_run_that_met_its_target_measured_the_time_to_it(tmp_path: Path) -> None:
    text = train_log(cut_short=True, status=None) + line("run_stop", None, 1040.0, status="success", reached=True)
    measured = mllog.measure(read(tmp_path, text))
    assert measured is not None
    assert (measured.time_to_train_s, measured.time_to_train_kind) == (40.0, "measured_to_target")


def test_a_run_that_an_earlier_attempt_began_derives_its_time_to_train(tmp_path: Path) -> None:
    text = line("hpcjobs_resumed", 26, 999.0) + train_log(
        cut_short=False, epochs=10, train_images=1600, step_ms=(50.0,)
    )
    measured = mllog.measure(read(tmp_path, text))
    assert measured is not None
    assert (measured.time_to_train_s, measured.time_to_train_kind) == (pytest.approx(100.0), "derived_fixed_epochs")


@pytest.mark.parametrize("status", [None, "aborted"])
def test_a_run_that_did_not_end_well_measured_nothing(tmp_path: Path, status: str | None) -> None:
    assert mllog.measure(read(tmp_path, train_log(status=status))) is None


def test_a_run_without_a_timed_window_measured_nothing(tmp_path: Path) -> None:
    assert mllog.measure(read(tmp_path, train_log(step_ms=()))) is None


def test_damaged_lines_are_skipped(tmp_path: Path) -> None:
    whole = train_log()
    noisy = "\x00garbage\n" + whole.replace("\n", "\n[1,0]<stdout>:chatter\n") + ':::MLLOG {"key": "tracked_st'
    assert mllog.measure(read(tmp_path, noisy)) == mllog.measure(read(tmp_path, whole))
    assert mllog.measure(mllog.read(tmp_path / "nowhere")) is None


def test_a_window_whose_figure_is_not_a_number_is_left_out(tmp_path: Path) -> None:
    text = train_log(step_ms=(50.0,)).replace(":::MLLOG", ":::MLLOG", 1)
    text = (
        line("tracked_stats", {"throughput": float("nan"), "step_ms": float("nan")}, step=99, steps=5, warmup=False)
        + text
    )
    measured = mllog.measure(read(tmp_path, text))
    assert measured is not None
    assert measured.windows == 1


def test_progress_is_the_newest_window(tmp_path: Path) -> None:
    progress = mllog.progress(read(tmp_path, train_log(step_ms=(50.0,), steps=40, status=None)))
    assert (progress.step, progress.steps, progress.throughput) == (10, 40, pytest.approx(160.0))
    assert progress.epoch is None  # its steps cut it short


def test_progress_of_a_whole_training_has_epochs_too(tmp_path: Path) -> None:
    progress = mllog.progress(read(tmp_path, train_log(cut_short=False, epochs=3, status=None)))
    assert (progress.epoch, progress.epochs) == (1, 3)


@pytest.mark.parametrize(
    ("log", "why"),
    [
        ("chatter\nhpcjobs: error: data_missing: no dataset.json in /x\nPrimary job  terminated normally\n",
         "hpcjobs: error: data_missing: no dataset.json in /x"),
        ("[1,0]<stderr>:hpcjobs: error: nan_loss: step 3\n", "hpcjobs: error: nan_loss: step 3"),
        ("Traceback (most recent call last):\n  File 'x'\nValueError: bad shape\nmpirun noticed that process rank 0 exited on signal 6\n",
         "ValueError: bad shape"),
        ("Primary job  terminated normally, but 1 process returned\nmpirun noticed that process rank 1 with PID 0 on node n1 exited on signal 9 (Killed).\n",
         "mpirun noticed that process rank 1 with PID 0 on node n1 exited on signal 9 (Killed)."),
        ("slurmstepd: error: *** STEP 5.0 ON n1 CANCELLED AT 2026-01-01T00:00:00 DUE TO TIME LIMIT ***\nKeyboardInterrupt\n",
         "slurmstepd: error: *** STEP 5.0 ON n1 CANCELLED AT 2026-01-01T00:00:00 DUE TO TIME LIMIT ***"),
        ("a\n\x1b[31mlast words\x1b[0m\r\n\n", "last words"),
        ("", ""),
    ],
)  # fmt: skip
def test_the_line_that_says_why(tmp_path: Path, log: str, why: str) -> None:
    path = tmp_path / "job.log"
    path.write_text(log)
    assert evidence.why(tmp_path / "nowhere", path) == why


def test_only_the_end_of_a_huge_log_is_read(tmp_path: Path) -> None:
    path = tmp_path / "job.log"
    path.write_bytes(b"hpcjobs: error: long: ago\n" + b"x" * 300_000 + b"\nthe end\n")
    assert evidence.why(path) == "the end"


def test_a_benchmark_has_the_parts_of_its_step_and_flags_for_what_it_did_not_reach(tmp_path: Path) -> None:
    control = {"input_wait_ms": 3.0, "allreduce_ms": -0.5, "skew_ms": 1.0, "slowest_rank": 1, "ranks": []}
    text = train_log(step_ms=(50.0,), auc=None, status=None)
    text += line("hpcjobs_warmup", {"steps": 100, "settled": False}) + line("hpcjobs_precision", {"reached": True})
    text += line("hpcjobs_control", control) + line("run_stop", None, 1040.0, status="success")
    measured = mllog.measure(read(tmp_path, text))
    assert measured is not None
    assert (measured.input_wait_ms, measured.allreduce_ms, measured.skew_ms) == (3.0, -0.5, 1.0)
    assert measured.flags == ("warmup_unsettled",)
    late = mllog.measure(read(tmp_path, text.replace('{"reached": true}', '{"reached": false}')))
    assert late is not None
    assert late.flags == ("warmup_unsettled", "precision_not_reached")


def benchmark(control: dict[str, Any] | None = None, **window: Any) -> str:
    """The log of a benchmark, with this hpcjobs_control value and these figures in its last window."""
    text = train_log(step_ms=(50.0,), auc=None, status=None)
    if window:
        text += line(
            "tracked_stats", {"throughput": 160.0, "step_ms": 50.0, **window}, 1030.0, step=20, steps=5, warmup=False
        )
    if control:
        text += line("hpcjobs_control", control)
    return text + line("run_stop", None, 1040.0, status="success")


def test_the_parts_have_the_intervals_of_their_passes(tmp_path: Path) -> None:
    control = {
        "input_wait_ms": 3.0, "allreduce_ms": 7.0, "skew_ms": 1.0, "compute_ms": 40.0, "typical_ms": 39.0, "waiting_ms": 2.0,
        "half_widths": {"input_wait_ms": 0.5, "allreduce_ms": 9.0, "skew_ms": 0.2, "compute_ms": 1.0, "typical_ms": 1.5, "waiting_ms": 0.4},
        "passes": 8, "passes_used": 7, "disturbed": [{"phase": "b", "pass": 2, "why": "other processes used 1.4 CPUs"}],
        "not_told_apart": ["allreduce_ms"], "ranks": [],
    }  # fmt: skip
    measured = mllog.measure(read(tmp_path, benchmark(control)))
    assert measured is not None
    assert (measured.allreduce_ms_low, measured.allreduce_ms_high) == (-2.0, 16.0)
    assert (measured.compute_ms, measured.compute_ms_low, measured.compute_ms_high) == (39.0, 37.5, 40.5)
    assert (measured.waiting_ms, measured.waiting_ms_high, measured.slowest_rank_ms) == (2.0, 2.4, 41.0)
    assert measured.control_passes == 7
    assert measured.flags == ("parts_not_told_apart", "blocks_disturbed")


def test_what_a_script_that_talks_in_every_block_does_not_tell_is_empty(tmp_path: Path) -> None:
    control = {
        "input_wait_ms": 3.0, "allreduce_ms": None, "skew_ms": None, "compute_ms": 40.0, "allreduce_claimed": False,
        "half_widths": {"input_wait_ms": 0.5, "compute_ms": 1.0}, "passes": 6, "slowest_rank": 1,
        "ranks": [{"host": "n1", "median_ms": 40.0}, {"host": "n2", "median_ms": 50.0}],
    }  # fmt: skip
    measured = mllog.measure(read(tmp_path, benchmark(control)))
    assert measured is not None
    assert (measured.input_wait_ms, measured.input_wait_ms_high) == (3.0, 3.5)
    assert (measured.allreduce_ms, measured.skew_ms, measured.compute_ms, measured.slowest_node) == (
        None,
        None,
        None,
        "",
    )
    assert measured.flags == ("allreduce_not_claimed",)


def test_of_ranks_that_wait_for_cpus_the_table_has_the_input_alone(tmp_path: Path) -> None:
    """Its log has an all-reduce of -64 +- 2 ms, which says of itself that it is none."""
    parts = {"input_wait_ms": 3.0, "allreduce_ms": -64.0, "skew_ms": 71.0, "compute_ms": 40.0}
    control = {
        **parts, "typical_ms": 39.0, "waiting_ms": 60.0, "half_widths": dict.fromkeys(parts, 2.0), "passes": 6,
        "not_told_apart": ["allreduce_ms", "skew_ms", "compute_ms"], "starved": 0.5, "ranks": [],
    }  # fmt: skip
    measured = mllog.measure(read(tmp_path, benchmark(control)))
    assert measured is not None
    assert (measured.input_wait_ms, measured.input_wait_ms_low, measured.input_wait_ms_high) == (3.0, 1.0, 5.0)
    assert (measured.allreduce_ms, measured.skew_ms, measured.compute_ms, measured.waiting_ms) == (None,) * 4
    assert measured.allreduce_ms_low is None
    assert measured.flags == ("parts_not_told_apart", "ranks_wait_for_cpus")


def test_without_control_blocks_the_input_wait_is_the_slowest_ranks_time_in_the_loader(tmp_path: Path) -> None:
    read(tmp_path, benchmark(input_wait_ms=4.0))
    (log,) = tmp_path.glob("*.log")
    alone = mllog.measure(mllog.read(log))
    assert alone is not None
    assert (alone.input_wait_ms, alone.flags) == (4.0, ("loader_time_only",))
    for rank, ms in enumerate((4.5, 6.5)):
        (tmp_path / f"meter-r{rank:03d}.json").write_text(json.dumps({"rank": rank, "loader_ms": ms}))
    (tmp_path / "meter-r002.json").write_text("{")
    slowest = mllog.measure(mllog.read(log))
    assert slowest is not None
    assert slowest.input_wait_ms == 6.5
    read(tmp_path, benchmark({"input_wait_ms": 3.0}, input_wait_ms=4.0))
    taken_apart = mllog.measure(mllog.read(log))
    assert taken_apart is not None
    assert (taken_apart.input_wait_ms, taken_apart.flags) == (3.0, ())
