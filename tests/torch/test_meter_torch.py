"""The meter in trainings of real PyTorch that nobody edited: what is planted is found under its name, on real ranks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from hpcjobs.base import sweepdir
from hpcjobs.base.records import ExitRecord
from hpcjobs.collect.failures import classify

from .local_ranks import VENV, Ended, run

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(not (VENV / "bin" / "torchrun").exists(), reason="PyTorch is not installed: make setup-torch"),
]

BENCHMARK = {"mode": "benchmark", "max_steps": 40, "control_passes": 14}
# What nobody planted, in ms: the loader's own work and what a sleep takes beyond its time; a small all-reduce by gloo,
# which is 1 on two quiet cores and 4 on two loaded ones.
SMALL_MS = {"input_wait_ms": 3.0, "skew_ms": 2.0, "allreduce_ms": 5.0}


def near(control: dict[str, Any], part: str, planted: float) -> bool:
    """Whether a part is what was planted, within a tenth, a little, or half its interval, whichever is the most."""
    found, half_width = control[part], control["half_widths"][part]
    return bool(abs(found - planted) <= max(0.1 * planted, SMALL_MS[part], half_width))


def parts(ended: Ended) -> dict[str, Any]:
    assert set(ended.codes) == {0}, ended.text[-3000:]
    assert "the meter is off" not in ended.text
    control: dict[str, Any] = ended.value("hpcjobs_control")
    return control


# --- planted truth -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plant", "ranks"),
    [
        ("", 2),
        ("loader=20", 2),
        ("rank=10", 2),
        ("net=15", 2),
        ("loader=20,rank=10", 2),
        ("loader=20,net=15", 2),
        ("rank=12", 4),
    ],
)
def test_what_is_planted_is_found_under_its_name(plant: str, ranks: int, tmp_path: Path) -> None:
    ended = run(tmp_path, "plain.py", ranks=ranks, measure=BENCHMARK, PLANT=plant)
    control = parts(ended)
    planted = {name: float(ms) for name, _, ms in (word.partition("=") for word in plant.split(",") if word)}
    assert (control["collectives_in_c"], control["allreduce_claimed"]) == (0, True)
    assert near(control, "input_wait_ms", planted.get("loader", 0.0)), control
    assert near(control, "allreduce_ms", planted.get("net", 0.0)), control
    # The slowest rank less the mean of all.
    assert near(control, "skew_ms", planted.get("rank", 0.0) * (1 - 1 / ranks)), control
    if "rank" in planted:
        assert control["slowest_rank"] == ranks - 1
    assert control["restored"] is True


@pytest.mark.parametrize("script", ["with_accelerate.py", "with_lightning.py", "with_transformers.py"])
def test_through_frameworks_two_at_once_are_told_apart(script: str, tmp_path: Path) -> None:
    ended = run(tmp_path, script, "out", measure=BENCHMARK, PLANT="loader=20,rank=10")
    control = parts(ended)
    # Lightning's own broadcast in each step, and the Trainer's count of labels, are left out of (c); otherwise the late
    # rank would look like computing.
    assert (control["collectives_in_c"], control["allreduce_claimed"]) == (0, True)
    assert near(control, "input_wait_ms", 20.0), control
    assert near(control, "skew_ms", 5.0), control
    assert near(control, "allreduce_ms", 0.0), control
    assert ended.value("hpcjobs_run")["local_batch"] == 8


def test_workers_that_are_too_slow_or_fast_enough(tmp_path: Path) -> None:
    """A batch of 40 ms from one worker is waited for; batches of 20 ms from two workers, with steps of 16, are not."""
    slow = parts(
        run(tmp_path / "slow", "plain.py", "--workers=1", "--persistent", measure=BENCHMARK, PLANT="loader=40")
    )
    rest = slow["step_ms"] - slow["input_wait_ms"]
    assert near(slow, "input_wait_ms", 40.0 - rest), slow
    fast = parts(run(tmp_path / "fast", "plain.py", "--workers=2", measure=BENCHMARK, PLANT="loader=20"))
    assert near(fast, "input_wait_ms", 0.0), fast


@pytest.mark.parametrize("words", [("--sum-loss",), ("--fsdp",)])
def test_a_script_that_talks_by_itself_is_told_and_its_all_reduce_is_not_claimed(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    control = parts(run(tmp_path, "plain.py", *words, measure=BENCHMARK))
    assert control["allreduce_claimed"] is False
    assert (control["allreduce_ms"], control["skew_ms"]) == (None, None)
    assert control["collectives_in_c"] > 0


# --- what a step is ----------------------------------------------------------------------------------------------

EPOCHS = ("--steps=24", "--epochs=3")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), {}),
        (("--evaluate=no_grad", "--save=weights.pt"), {}),
        (("--evaluate=grad",), {}),
        (("--accumulate=2",), {"local_batch": 16, "accumulation": 2}),
        (("--two-optimizers",), {"optimizers": 2}),
        (("--iterable",), {}),
        (("--workers=2", "--persistent"), {}),
        (("--workers=1",), {}),
        (("--scaler",), {}),
        (("--compile",), {}),
    ],
)
def test_steps_epochs_and_batches_are_counted_right(
    words: tuple[str, ...], told: dict[str, int], tmp_path: Path
) -> None:
    ended = run(tmp_path, "plain.py", *EPOCHS, *words, measure={"warmup": 5}, REST_MS="2")
    assert ended.codes == [0, 0], ended.text[-3000:]
    assert "the meter is off" not in ended.text
    expected = {"gpus": 2, "local_batch": 8, "accumulation": 1, "optimizers": 1, "meter": "auto", "by": "torch", **told}
    facts = ended.value("hpcjobs_run")
    assert {key: facts[key] for key in expected} == expected
    assert "local_batch_varies" not in facts
    steps = 3 * 24 // expected["accumulation"]
    assert [ended.note(rank)["steps"] for rank in range(2)] == [steps, steps]
    assert [line["metadata"]["epoch_num"] for line in ended.lines("epoch_start")] == [1, 2, 3]
    # The first step of each epoch opens a window.
    windows = [line["metadata"] for line in ended.lines("tracked_stats")]
    assert sum(window["steps"] for window in windows) == steps - 3
    rate = expected["local_batch"] * 2
    for window in ended.windows():
        assert window["throughput"] * window["step_ms"] / 1000 == pytest.approx(rate, rel=1e-6)
    evaluations = 3 if "--evaluate" in " ".join(words) else 0
    assert [len(ended.lines(key)) for key in ("eval_start", "eval_stop")] == [evaluations, evaluations]


@pytest.mark.parametrize("more", [{"torchrun": True}, {"torchrun": True, "module": True}, {"module": True}])
def test_every_start_is_watched(more: dict[str, bool], tmp_path: Path) -> None:
    ended = run(tmp_path, "plain.py", *EPOCHS, measure={"warmup": 5}, REST_MS="2", **more)
    assert set(ended.codes) == {0}, ended.text[-3000:]
    assert [ended.note(rank)["steps"] for rank in range(2)] == [72, 72]


def test_weights_are_the_same_bit_by_bit_with_and_without_it(tmp_path: Path) -> None:
    words = (*EPOCHS, "--evaluate=no_grad", "--save=weights.pt", "--workers=1")
    found = []
    for number, measure in enumerate(({}, None)):
        ended = run(tmp_path / str(number), "plain.py", *words, measure=measure, REST_MS="0")
        assert (ended.folder / "train.log").exists() == (measure is not None)
        found.append(re.findall(r"rank 0 ends after step 72 with weights (\w{64})", ended.text))
    assert len(found[0]) == 1
    assert found[0] == found[1]


def test_a_rank_that_raises_is_named_with_what_it_raised(tmp_path: Path) -> None:
    ended = run(tmp_path, "plain.py", "--fail-at=12", measure={}, REST_MS="2")
    assert ended.codes[1] == 1
    exit_record = ExitRecord("g0002-r01", "a001", "7_0", 1, 0, "n1", 102.0, 110.0)
    failure = classify(None, exit_record, sweepdir.read_aborts(tmp_path), "")
    assert failure.kind == "traceback"
    assert re.fullmatch(r"ValueError: a bad image in step 12 \(rank 1 on \S+\)", failure.evidence)


# --- scripts as others write them --------------------------------------------------------------------------------


def test_a_script_like_torchvisions_classification(tmp_path: Path) -> None:
    words = ("--epochs=3", "--output-dir=.", "--scaler", "--train-size=1024")
    ended = run(tmp_path, "classification.py", *words, measure={}, torchrun=True)
    assert set(ended.codes) == {0}, ended.text[-3000:]
    assert "the meter is off" not in ended.text
    facts = ended.value("hpcjobs_run")
    assert (facts["local_batch"], facts["accumulation"], facts["optimizers"]) == (16, 1, 1)
    assert facts["exchanges"] is not False
    assert [ended.note(rank)["steps"] for rank in range(2)] == [96, 96]
    assert len(ended.lines("eval_start")) == 3
    assert all(window["input_wait_ms"] is not None for window in ended.windows())


def test_a_script_like_nanogpt(tmp_path: Path) -> None:
    """It has no DataLoader, evaluates and saves on rank 0 alone, and switches DDP's synchronisation by itself."""
    ended = run(tmp_path, "nanogpt.py", "--max_iters=80", measure={"unit": "sequences"}, HPCJOBS_LOCAL_BATCH="8")
    assert set(ended.codes) == {0}, ended.text[-3000:]
    assert "the meter is off" not in ended.text
    assert ended.note(0)["steps"] == ended.note(1)["steps"] > 70
    windows = ended.windows()
    assert {window["input_wait_ms"] for window in windows} == {None}
    assert ended.value("hpcjobs_run")["local_batch"] == 8
    # Its own figure of the same: the time from step to step, evaluations apart.
    own = sorted(float(ms) for ms in re.findall(r"iter \d*[1-9]0: loss [\d.]+, ([\d.]+) ms", ended.text))
    middle = sorted(window["step_ms"] for window in windows)[len(windows) // 2]
    assert own[0] / 2 <= middle <= 2 * own[-1]

    benchmark = run(tmp_path / "b", "nanogpt.py", "--max_iters=1000", measure={**BENCHMARK, "max_steps": 30})
    assert set(benchmark.codes) == {0}, benchmark.text[-3000:]
    assert "iter 1000" not in benchmark.text  # it ends when all is measured
    assert benchmark.value("hpcjobs_precision")["steps"] == 30
    assert not benchmark.lines("hpcjobs_control")  # (b) needs batches that the meter sees
    assert benchmark.value("hpcjobs_run")["local_batch"] is None


def test_a_script_like_run_glue(tmp_path: Path) -> None:
    words = ("--output_dir=out", "--do_train", "--do_eval", "--use_cpu=True", "--report_to=none")
    more = ("--num_train_epochs=3", "--eval_strategy=epoch", "--save_strategy=epoch", "--gradient_accumulation_steps=2")
    ended = run(tmp_path, "run_glue.py", *words, *more, measure={}, ranks=2)
    assert set(ended.codes) == {0}, ended.text[-3000:]
    assert "the meter is off" not in ended.text
    facts = ended.value("hpcjobs_run")
    assert (facts["local_batch"], facts["accumulation"], facts["optimizers"]) == (16, 2, 1)
    assert [line["metadata"]["epoch_num"] for line in ended.lines("epoch_start")] == [1, 2, 3]
    assert len(ended.lines("eval_start")) == 4  # one an epoch, and that at the end
    assert ended.note(0)["steps"] == ended.note(1)["steps"]
    assert facts["exchanges"] is not False


def test_ranks_that_train_alone_are_told(tmp_path: Path) -> None:
    """The Trainer makes a process group on CPUs, and without `use_cpu` no DistributedDataParallel."""
    words = ("--output_dir=out", "--do_train", "--report_to=none", "--max_steps=30")
    ended = run(tmp_path, "run_glue.py", *words, measure={}, ranks=2)
    assert set(ended.codes) == {0}, ended.text[-3000:]
    assert ended.value("hpcjobs_run")["exchanges"] is False
