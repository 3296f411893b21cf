"""hpcjobs.meter in a loop: which steps a window holds, what a batch counts, and what is left of a run that ends badly."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from typing import Any

import pytest

from hpcjobs import meter
from tests.meter_scripts import CLOCK, METER, train


def windows(outcome):
    """(last step, steps, ms per step, warm-up?) of each window."""
    return [
        (e.metadata["step"], e.metadata["steps"], round(e.value["step_ms"], 6), e.metadata["warmup"])
        for e in outcome.named("tracked_stats")
    ]


def test_the_file_is_python_3_8_and_imports_the_standard_library_alone():
    ast.parse(METER.read_text(), feature_version=(3, 8))
    code = f"import sys; sys.path.insert(0, {str(METER.parent)!r}); import meter; print(meter.METER.on)"
    run = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"


def test_outside_of_a_run_the_loader_is_handed_back_as_it_is(tmp_path):
    script = """
    loader = [1, 2, 3]
    assert meter.steps(loader, samples=3) is loader
    meter.score("accuracy", 0.5)
    meter.window(steps=10, seconds=1.0, samples=80)
    """
    outcome = train(tmp_path, script, HPCJOBS_METRICS="")
    assert outcome.codes == [0], outcome.err
    assert not list(outcome.folder.iterdir())


def test_windows_follow_each_other_and_the_first_step_is_in_none(tmp_path):
    script = f"""{CLOCK}
for batch in meter.steps(loader(12, ms=2)):
    spend(500 if not meter.METER.step else 8)
"""
    outcome = train(tmp_path, script, measure={"warmup": 4, "window_steps": 5})
    assert outcome.codes == [0], outcome.err
    assert windows(outcome) == [(4, 3, 10, True), (9, 5, 10, False), (12, 3, 10, False)]
    window = outcome.named("tracked_stats")[1].value
    assert window["throughput"] == pytest.approx(8 / 0.010)
    assert window["input_wait_ms"] == pytest.approx(2)
    assert [e.key for e in outcome.events[:6]] == [
        "submission_benchmark",
        "global_batch_size",
        "hpcjobs_run",
        "run_start",
        "epoch_start",
        "hpcjobs_first_step",
    ]
    assert outcome.named("run_stop")[0].metadata["status"] == "success"
    assert outcome.note()["steps"] == 12


def test_what_lies_between_two_epochs_is_part_of_no_window(tmp_path):
    script = f"""{CLOCK}
for epoch in range(3):
    for batch in meter.steps(loader(5, ms=1)):
        spend(9)
    spend(5000)  # an evaluation, a checkpoint
    meter.score("accuracy", 0.5 + epoch / 10)
"""
    outcome = train(tmp_path, script, measure={"warmup": 1, "window_steps": 3})
    assert {ms for _, _, ms, _ in windows(outcome)} == {10}
    assert [step for step, *_ in windows(outcome)] == [4, 5, 9, 10, 14, 15]
    scores = outcome.named("eval_accuracy")
    assert [(e.value, e.metadata["name"], e.metadata["epoch_num"]) for e in scores][-1] == (0.7, "accuracy", 3)
    assert len(outcome.named("epoch_start")) == len(outcome.named("epoch_stop")) == 3


def test_a_loop_that_is_broken_off_leaves_no_step_that_spans_two_epochs(tmp_path):
    script = f"""{CLOCK}
for epoch in range(3):
    for number, batch in enumerate(meter.steps(loader(99))):
        spend(10)
        if number == 5:
            break
    spend(5000)
"""
    outcome = train(tmp_path, script, measure={"warmup": 1, "window_steps": 2})
    assert windows(outcome) == [(last, 2, 10, False) for last in (3, 5, 8, 10, 13, 15)]


def test_an_evaluation_in_the_middle_of_a_step_spoils_that_step_alone(tmp_path):
    script = f"""{CLOCK}
for number, batch in enumerate(meter.steps(loader(9))):
    spend(10)
    if number == 4:
        for batch in meter.steps(loader(3, ms=1000)):  # wrapped, too
            pass
"""
    outcome = train(tmp_path, script, measure={"warmup": 1, "window_steps": 4})
    assert windows(outcome) == [(4, 3, 10, False), (9, 4, 10, False)]


def test_a_smaller_last_batch_counts_as_what_it_is(tmp_path):
    script = f"""{CLOCK}
def epoch():
    yield from loader(6)
    yield from loader(1, size=2)

for batch in meter.steps(epoch(), tokens=4000):
    spend(10)
"""
    outcome = train(tmp_path, script, measure={"warmup": 1, "window_steps": 6})
    (window,) = outcome.named("tracked_stats")
    assert window.value["throughput"] == pytest.approx((5 * 4000 + 1000) / 0.060)
    run = outcome.last("hpcjobs_run")
    assert (run["unit"], run["local_batch"], run["local_batch_varies"]) == ("tokens", 4000, [1000, 4000])


@pytest.mark.parametrize(
    ("batch", "samples"),
    [
        ("Array(16, 3, 8, 8)", 16),
        ("(Array(16, 3, 8, 8), Array(16))", 16),
        ("{'input_ids': Array(4, 128), 'labels': Array(4)}", 4),
        ("((Array(4, 9), Array(7, 9)), Array(5))", 5),
        ("([Array(3, 80, 60), Array(3, 60, 80)], [{'boxes': Array(2, 4)}, {'boxes': Array(1, 4)}])", 2),
        ("[{'x': Array(9)}, {'x': Array(9)}, {'x': Array(9)}]", 3),
        ("[1, 2, 3, 4, 5]", 5),
        ("['a cat', 'a dog']", 2),
        ("Array()", None),
        ("7", None),
    ],
)
def test_the_local_batch_is_the_length_of_the_batch(tmp_path, batch, samples):
    script = f"""
    class Array:
        def __init__(self, *shape):
            self.shape = shape
    assert meter._samples({batch}) == {samples}
    """
    outcome = train(tmp_path, script)
    assert outcome.codes == [0], outcome.err


def test_tokens_are_counted_only_where_the_batch_has_integers_of_two_dimensions(tmp_path):
    script = f"""{CLOCK}
class Ids:
    shape, dtype = (4, 128), "torch.int64"

class Pixels:
    shape, dtype = (4, 128), "torch.float32"

kind = Ids if sys.platform in KINDS else Pixels
for batch in meter.steps([{{"x": kind()}}] * 4):
    spend(10)
"""
    found = train(tmp_path, script.replace("KINDS", "[sys.platform]"), measure={"unit": "tokens"}).last("hpcjobs_run")
    assert (found["unit"], found["local_batch"]) == ("tokens", 512)
    found = train(tmp_path, script.replace("KINDS", "[]"), measure={"unit": "tokens"}).last("hpcjobs_run")
    assert (found["unit"], found["local_batch"]) == ("samples", 4)


def test_a_training_that_raises_is_aborted_and_keeps_its_windows(tmp_path):
    script = f"""{CLOCK}
for number, batch in enumerate(meter.steps(loader(9))):
    spend(10)
    if number == 6:
        raise ValueError("the loss is NaN")
"""
    outcome = train(tmp_path, script, measure={"warmup": 1, "window_steps": 2})
    assert outcome.codes == [1]
    assert "the loss is NaN" in outcome.err[0]
    assert windows(outcome)[0] == (3, 2, 10, False)
    assert outcome.named("run_stop")[0].metadata["status"] == "aborted"


def test_after_kill_9_all_windows_so_far_are_there_in_whole_lines(tmp_path):
    script = f"""{CLOCK}
import os, signal
for number, batch in enumerate(meter.steps(loader(99))):
    spend(10)
    if number == 13:
        os.kill(os.getpid(), signal.SIGKILL)
"""
    outcome = train(tmp_path, script, measure={"warmup": 1, "window_steps": 4})
    assert outcome.codes == [-9]
    assert [step for step, *_ in windows(outcome)] == [5, 9, 13]
    assert (outcome.folder / "train.log").read_bytes().endswith(b"}\n")
    assert not outcome.named("run_stop")


def test_short_windows_are_written_together_and_kill_9_loses_half_a_second_of_them(tmp_path):
    script = f"""{CLOCK}
import os, signal
for number, batch in enumerate(meter.steps(loader(9999))):
    spend(1)
    if number == 2345:
        os.kill(os.getpid(), signal.SIGKILL)
"""
    outcome = train(tmp_path, script, measure={"warmup": 1, "window_steps": 4})
    ends = [step for step, *_ in windows(outcome)]
    assert ends == list(range(5, ends[-1] + 1, 4))
    assert 2345 - 510 < ends[-1] < 2345 - 10


def test_the_line_of_a_window_is_written_as_json_writes_it(tmp_path):
    script = f"""{CLOCK}
for batch in meter.steps(loader(9), samples=3):
    spend(7)
meter.window(steps=10, seconds=0.5)
meter.window(steps=10, seconds=0.5, samples=20, loss=0.1 + 0.2)
"""
    train(tmp_path, script, measure={"warmup": 1, "window_steps": 4})
    lines = [line for line in (tmp_path / "metrics" / "train.log").read_text().splitlines() if "tracked_stats" in line]
    assert len(lines) == 4
    for line in lines:
        assert line == f":::MLLOG {json.dumps(json.loads(line.partition(' ')[2]))}"


def test_children_that_a_training_forks_leave_its_log_alone(tmp_path):
    script = f"""{CLOCK}
import os
for number, batch in enumerate(meter.steps(loader(6))):
    spend(10)
    if number == 3 and os.fork() == 0:
        for other in meter.steps(loader(50)):
            spend(99)
        sys.exit(0)  # runs what is registered at exit
"""
    outcome = train(tmp_path, script, measure={"warmup": 1, "window_steps": 5})
    assert windows(outcome) == [(6, 5, 10, False)]
    assert len(outcome.named("run_stop")) == 1


def test_a_process_that_forks_before_it_trains_may_train_in_the_child(tmp_path):
    script = f"""{CLOCK}
import os
child = os.fork()
if child == 0:
    for batch in meter.steps(loader(6)):
        spend(10)
    sys.exit(0)
os.waitpid(child, 0)
"""
    outcome = train(tmp_path, script, measure={"warmup": 1, "window_steps": 5})
    assert windows(outcome) == [(6, 5, 10, False)]


@pytest.mark.parametrize(
    ("end", "status"), [("pass", "success"), ("raise ValueError", "aborted"), ("sys.exit(1)", "aborted")]
)
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_end_of_a_training_in_a_child_of_multiprocessing(tmp_path, method, end, status):
    script = f"""
import multiprocessing

def training():
    for batch in meter.steps([[0] * 8] * 6):
        pass
    {end}

if __name__ == "__main__":
    child = multiprocessing.get_context("{method}").Process(target=training)
    child.start()
    child.join()
"""
    outcome = train(tmp_path, script)
    assert outcome.codes == [0], outcome.err
    assert outcome.named("run_stop")[0].metadata["status"] == status


def test_a_surprise_within_the_meter_turns_it_off_with_one_line_and_the_training_goes_on(tmp_path):
    script = f"""{CLOCK}
seen = 0
for batch in meter.steps(loader(9), samples=lambda batch: 1 / (3 - seen)):
    seen += 1
print(seen)
"""
    outcome = train(tmp_path, script)
    assert (outcome.codes, outcome.out) == ([0], ["9\n"])
    assert outcome.err[0].startswith("hpcjobs: warning: the meter is off: ZeroDivisionError: ")
    assert outcome.err[0].count("\n") == 1
    assert "ZeroDivisionError" in outcome.note()["off"]


def test_a_measure_that_is_no_json_turns_the_meter_off_before_it_begins(tmp_path):
    outcome = train(tmp_path, "print(len(list(meter.steps([1, 2]))))", HPCJOBS_MEASURE="{")
    assert (outcome.codes, outcome.out) == ([0], ["2\n"])
    assert outcome.err[0].startswith("hpcjobs: warning: the meter is off: JSONDecodeError: ")


def test_the_log_of_an_earlier_process_of_the_attempt_is_kept_beside(tmp_path):
    script = f"{CLOCK}\nfor batch in meter.steps(loader(STEPS)):\n    spend(10)\n"
    train(tmp_path, script.replace("STEPS", "3"))
    outcome = train(tmp_path, script.replace("STEPS", "4"))
    assert len(outcome.named("run_start")) == 1
    assert "run_stop" in (outcome.folder / "train.1.log").read_text()


def test_a_loader_keeps_its_length_and_its_attributes(tmp_path):
    script = """
    class Loader(list):
        sampler = "shuffled"
    wrapped = meter.steps(Loader([[1], [2], [3]]))
    assert (len(wrapped), wrapped.sampler) == (3, "shuffled")
    iterator = iter(wrapped)
    assert next(iterator) == [1]
    """
    outcome = train(tmp_path, script)
    assert outcome.codes == [0], outcome.err


def test_a_window_of_a_loop_that_is_none(tmp_path):
    script = """
    for call in range(4):
        meter.window(steps=10, seconds=0.5, tokens=20000, loss=2.5)
    meter.flops(6e9)
    """
    outcome = train(tmp_path, script, measure={"warmup": 10})
    assert windows(outcome) == [(10, 10, 50, True), (20, 10, 50, False), (30, 10, 50, False), (40, 10, 50, False)]
    assert outcome.named("tracked_stats")[-1].value["throughput"] == pytest.approx(40000)
    assert outcome.named("tracked_stats")[-1].value["loss"] == 2.5
    run = outcome.last("hpcjobs_run")
    assert (run["unit"], run["local_batch"], run["flops_per_unit"]) == ("tokens", 2000, 6e9)


class Array:
    """As much of a tensor as the meter asks for."""

    def __init__(self, *shape: int) -> None:
        self.shape = shape


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (None, [64, 64, 10, 64, 64, 64]),
        (32, [32, 32, 5, 32, 32, 32]),  # pairs of two images, say: a short batch has its share
        (len, [2, 2, 2, 2, 2, 2]),
    ],
)
def test_batches_that_are_alike_count_as_each_alone_does(told: Any, expected: list[float]) -> None:
    counted = meter.Meter()
    counted.told = meter.Told(told, "samples")
    found = []
    for length in (64, 64, 10, 64, 64, 64):
        batch = [Array(length, 3), Array(length)]
        found.append(counted._units_of(batch))
    assert found == expected
    if told == 32:
        assert sum(counted._lengths.values()) + counted.running.again == 6
