"""The answer in sentences: how far it scales, how sure that is, and what holds it back."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest

from hpcjobs.analysis.scaling import table
from hpcjobs.base.metrics import Run
from hpcjobs.base.records import RunState
from hpcjobs.report import sentences
from hpcjobs.report.sentences import Answer
from tests.control.studies import failing, runs
from tests.control.sweeps import run


def the(those: Sequence[Run]) -> Answer:
    """The answer for a table of one series, with plain spaces."""
    (found,) = sentences.answers(table(those), those)
    parts = {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}
    for name in ("how_far", "how_sure", "holds_back", "failed"):
        parts[name] = tuple(text.replace("\N{NO-BREAK SPACE}", " ") for text in parts[name])
    return Answer(**parts)


def repeated(rates: dict[int, float], spread: float) -> list[Run]:
    """Three runs of each size: one at its rate, the others `spread` (a fraction) below and above it."""
    return [run(gpus, rate * (1 + k * spread), k + 2) for gpus, rate in rates.items() for k in (-1, 0, 1)]


def test_five_sizes_say_speedup_and_efficiency_of_the_largest() -> None:
    first, second, third, fourth = the(runs()).how_far
    # 64 x 16 images in 131 ms over 64 in 100.
    assert first.startswith("On 16 GPUs it trains 12.2 times as fast as on 1 (95 % interval 12.0 to 12.5): 7,8")
    assert first.endswith("instead of 640 images/s.")
    assert second == "The efficiency is 76.3 % (74.8 % to 77.9 %) with weak scaling, batch 64 per GPU."
    assert third == "The efficiency stays above 80 % up to 8 GPUs; on 16 GPUs it is 76.3 %."
    assert fourth == "Within the intervals it may fall at another size."


def test_the_size_where_it_stops_scaling_is_named() -> None:
    found = the(repeated({1: 100.0, 2: 190.0, 4: 300.0, 8: 280.0}, spread=0.001)).how_far
    assert "It is fastest with 300 images/s on 4 GPUs; more GPUs are slower." in found
    assert "The efficiency stays above 80 % up to 2 GPUs; on 4 GPUs it is 75.0 %." in found
    assert len(the([run(1, 100.0), run(2, 190.0)]).how_far) == 2


def test_sizes_whose_intervals_overlap_may_be_as_fast() -> None:
    found = the(repeated({1: 100.0, 2: 190.0, 4: 300.0, 8: 280.0, 16: 150.0}, spread=0.05)).how_far
    # 16 GPUs are slower beyond chance, 8 are not.
    assert "The fastest measurement is 300 images/s on 4 GPUs, but within the intervals 8 GPUs may be as fast." in found
    assert found[-2:] == (
        "The efficiency stays above 80 % up to 2 GPUs; on 4 GPUs it is 75.0 %.",
        "Within the intervals it may fall at another size.",
    )
    assert not any("are slower" in sentence for sentence in found)


def test_one_run_per_size_does_not_show_where_it_stops_scaling() -> None:
    found = the([run(1, 100.0), run(2, 190.0), run(4, 300.0), run(8, 280.0)]).how_far
    assert found[0].startswith("On 8 GPUs it trains 2.8 times as fast as on 1 (one run per size, so no interval): 280")
    assert found[2:] == (
        "The fastest measurement is 300 images/s on 4 GPUs, but one run per size does not show whether more GPUs are slower.",
        "The efficiency stays above 80 % up to 2 GPUs; on 4 GPUs it is 75.0 %.",
        "One run per size does not show whether it falls at another size.",
    )
    # If only one size has no repeats, it is named.
    some = the([*repeated({1: 100.0, 2: 190.0}, spread=0.001), run(4, 180.0)]).how_far
    assert "(one run on 4 GPUs, so no interval)" in some[0]
    assert some[2].endswith("one run on 4 GPUs does not show whether more GPUs are slower.")


def test_a_speed_up_within_the_noise_is_no_speed_up() -> None:
    found = the(repeated({1: 100.0, 2: 101.0}, spread=0.05)).how_far
    assert found[0].startswith("On 2 GPUs it trains about as fast as on 1 (95 % interval ")
    assert found[2] == "The interval of the speed-up contains 1: it does not show which of the two sizes is faster."
    sure = the(repeated({1: 100.0, 2: 190.0}, spread=0.001)).how_far
    assert not any("contains 1" in sentence for sentence in sure)


def test_strong_scaling_is_named_with_its_batch() -> None:
    first, second, *_ = the(runs((1, 2, 4), strong=True)).how_far
    assert first.startswith("On 4 GPUs it trains 2.3 times as fast as on 1")
    assert "with strong scaling, batch 64 in all" in second


def test_weak_and_strong_have_an_answer_each() -> None:
    both = [*runs((2, 4)), *(each for each in runs((1, 2, 4), strong=True) if each.gpus > 1)]
    named = {found.name: found.how_far[1] for found in sentences.answers(table(both))}
    assert set(named) == {"weak scaling, batch 64 per GPU", "strong scaling, batch 64 in all"}


def test_one_size_alone_does_not_show_scaling() -> None:
    found = the([run(4, 100.0)])
    assert found.how_far == ("One size alone does not show how it scales: 100 images/s on 4 GPUs.",)
    assert found.how_sure == (
        "It was measured once, so the variation from run to run is not known and there are no intervals.",
    )
    assert the([run(1, 100.0)]).how_far[0].endswith("100 images/s on 1 GPU.")
    below = sentences.answers(table([run(1, 50.0), run(2, 100.0)], baseline=2))[0].how_far
    assert below[0].startswith("No size above the base has a measurement: 100")
    assert found.holds_back == found.failed == ()


@pytest.mark.parametrize(
    ("repeats", "sentence"),
    [
        (1, "Each size was measured once, so the variation from run to run is not known and there are no intervals."),
        (2, "Each size was measured twice."),
        (3, "Each size was measured 3 times."),
    ],
)
def test_repeats(repeats: int, sentence: str) -> None:
    assert the(runs(repeats=repeats)).how_sure[0] == sentence


def test_uneven_repeats_name_the_sizes_without_an_interval() -> None:
    some = [run(1, 100.0), run(1, 101.0, 2), run(2, 190.0), run(2, 191.0, 2), run(4, 300.0)]
    assert the(some).how_sure[0] == "The sizes were measured 1 to 2 times. There is one run on 4 GPUs, so no interval."


def test_the_widest_interval_is_named() -> None:
    # Student's: 12.706 x 0.5 and 12.706 x 5 of 100 and 200 images/s.
    some = [run(1, 99.5), run(1, 100.5, 2), run(2, 195.0), run(2, 205.0, 2)]
    assert the(some).how_sure[1] == "The widest 95 % interval of throughput is ±31.8 %, on 2 GPUs."


def test_flags_say_where_and_what_they_mean() -> None:
    flagged = [run(1, 100.0, flags="throttled dirty_code"), run(2, 190.0, flags="dirty_code")]
    first, second = the(flagged).flags
    assert (first.name, first.where) == ("throttled", "1 GPU")
    assert first.meaning == "a GPU was slowed by heat or its power supply"
    assert (second.name, second.where) == ("dirty_code", "")
    assert the([run(1, 1.0, flags="of_a_later_version")]).flags[0].meaning == "not known to this version"


def test_the_largest_loss_is_named_in_ms_and_per_cent() -> None:
    found = the(runs()).holds_back
    # Of 131 ms: 26 all-reduce, 3 skew, 2 input.
    assert found == (
        "On 16 GPUs a step takes 131 ms. Of that, 31 ms (23.7 %) are lost compared with ideal scaling.",
        "The largest part is exposed all-reduce: 26 ms (19.8 % of the step; 95 % interval 26.0 to 26.0 ms).",
        "The second largest is waiting for the slowest rank: 3 ms.",
    )


def test_parts_that_the_control_blocks_do_not_tell_apart_are_named() -> None:
    """One run measured them, with 6 passes; a twentieth of this step is 5 ms."""
    own = {
        "control_passes": 6,
        "allreduce_ms": 8.0,
        "input_wait_ms": 1.0,
        "input_wait_ms_low": -3.0,
        "input_wait_ms_high": 5.0,
    }
    base = run(1, 40.0, allreduce_ms=0.0, allreduce_ms_low=-1.0, allreduce_ms_high=1.0, control_passes=6)
    wide = run(2, 72.0, **own, allreduce_ms_low=-3.0, allreduce_ms_high=19.0)
    narrow = run(2, 72.0, **own, allreduce_ms_low=6.0, allreduce_ms_high=10.0)
    found = the([base, wide]).holds_back
    assert (
        found[2] == "The largest part is exposed all-reduce: 8 ms (7.2 % of the step; 95 % interval -3.0 to 19.0 ms)."
    )
    assert found[3] == "That interval contains 0, so this part may be chance."
    assert the([base, wide]).how_sure == (
        "Each size was measured once, so the variation from run to run is not known and rates have no intervals. Those "
        "of the losses are within single runs, over control blocks.",
    )
    assert "The control blocks differ so much that they do not tell exposed all-reduce apart from nothing." in found
    assert not [text for text in the([base, narrow]).holds_back if "apart" in text or "contains 0" in text]


@pytest.mark.parametrize(
    ("flag", "why"),
    [
        ("ranks_wait_for_cpus", "Its ranks wait for CPUs all the time, so"),
        ("allreduce_not_claimed", "No block ran without communication between ranks, so"),
    ],
)
def test_parts_that_cannot_be_told_are_named_with_the_reason(flag: str, why: str) -> None:
    base = run(1, 40.0, input_wait_ms=1.0, allreduce_ms=0.0, skew_ms=0.0, compute_ms=39.0)
    found = the([base, run(2, 72.0, input_wait_ms=1.0, flags=flag)]).holds_back
    assert f"{why} all-reduce, skew and computing are not told apart." in found
    assert "all-reduce, skew" not in " ".join(the([base, run(2, 72.0, input_wait_ms=1.0)]).holds_back)


def test_a_loss_whose_parts_were_not_measured_is_not_explained() -> None:
    found = the([run(1, 100.0), run(2, 150.0)]).holds_back
    assert "(25.0 %)" in found[0]
    assert found[1] == "One run per size does not show how much of that is chance."
    assert found[2] == "The cause is not known: no log takes the step apart."


def test_time_in_the_loader_is_no_loss_until_control_blocks_say_so() -> None:
    """A training without control blocks: its device may have computed while the loader was busy."""
    loader = {"flags": "loader_time_only"}
    those = [run(1, 100.0, input_wait_ms=2.0, **loader), run(2, 150.0, input_wait_ms=30.0, **loader)]
    largest = table(those)[-1]
    assert (largest.input_wait_ms, largest.lost_input_ms, largest.other_ms) == (30.0, None, None)
    assert largest.lost_other_ms == largest.lost_ms
    assert the(those).holds_back[-2:] == (
        "The cause is not known: no log takes the step apart.",
        "Its slowest rank in the loader spends 30 ms of a step there, and how much of that is lost, only a benchmark "
        "tells.",
    )


def test_a_loss_within_the_noise_may_be_chance() -> None:
    noisy = [run(1, 99.0), run(1, 101.0, 2), run(2, 196.0), run(2, 199.0, 2)]
    assert "The interval of the efficiency contains 100 %, so this loss may be chance." in the(noisy).holds_back


def test_nothing_lost_is_said() -> None:
    assert the([run(1, 100.0), run(2, 201.0)]).holds_back == (
        "On 2 GPUs nothing is lost: a step takes 39.8 ms, no longer than with ideal scaling.",
        "One run per size does not show whether that is chance.",
    )
    noisy = the(repeated({1: 100.0, 2: 201.0}, spread=0.05)).holds_back
    assert noisy[1] == "Within the interval of the efficiency, up to 10.3 % may be lost."
    assert len(the(repeated({1: 100.0, 2: 210.0}, spread=0.001)).holds_back) == 1


def test_a_slow_node_is_named() -> None:
    slow = [dataclasses.replace(each, slowest_node="n7", slow_node_ms=20.0) for each in runs()]
    assert the(slow).holds_back[-1] == "In several runs node n7 computes 20 ms longer than the other nodes."


def test_a_failed_size_is_named_with_its_reason() -> None:
    found = the(failing(runs(), 16))
    assert found.how_far[0].startswith("On 8 GPUs")
    assert found.how_far[-1] == "The speed on 16 GPUs is not known: there is no measurement."
    assert found.failed == ("None of the 3 runs on 16 GPUs has a measurement: all 3 failed (out_of_memory).",)
    assert found.how_sure[0] == "Each measured size was measured 3 times."


def test_single_failed_runs_are_counted() -> None:
    some = [run(1, 100.0), run(1, None, 2, failure="time_limit: too long"), run(1, None, 3, state=RunState.CANCELLED)]
    assert the(some).failed == ("2 of 3 runs on 1 GPU have no measurement: 1 failed (time_limit) and 1 cancelled.",)
    one = the([run(1, 100.0), run(1, None, 2, failure="oom: x"), run(2, None)])
    assert one.failed == (
        "1 of 2 runs on 1 GPU has no measurement: failed (oom).",
        "The run on 2 GPUs has no measurement: failed.",
    )


def test_if_all_runs_failed_the_answer_says_only_that() -> None:
    found = the([run(1, None, failure="data_missing: x"), run(2, None, failure="data_missing: x")])
    assert found.how_far == ("No run has a measurement, so its scaling is not known.",)
    assert found.failed == ("None of the 2 runs on 1 and 2 GPUs has a measurement: all 2 failed (data_missing).",)
    assert found.how_sure == found.holds_back == ()


def test_sizes_that_share_no_batch_are_not_compared() -> None:
    odd = [run(1, 100.0, local_batch=8, global_batch=8), run(2, 150.0, local_batch=3, global_batch=6)]
    assert the(odd).how_far[1].startswith("The sizes share neither the local batch nor the global batch")


def test_other_units_than_images() -> None:
    assert the([run(1, 100.0, experiment="gnmt", unit="tokens")]).how_far[0].endswith(": 100 tokens/s on 1 GPU.")


def test_no_rows_no_answer() -> None:
    assert sentences.answers([]) == []
