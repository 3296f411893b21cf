"""The answer in sentences: what the table says of how far it scales, how sure that is, and what holds it back."""

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
    """The answer of a table that is one series, with plain blanks."""
    (found,) = sentences.answers(table(those), those)
    parts = {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}
    for name in ("how_far", "how_sure", "holds_back", "failed"):
        parts[name] = tuple(text.replace("\N{NO-BREAK SPACE}", " ") for text in parts[name])
    return Answer(**parts)


def repeated(rates: dict[int, float], spread: float) -> list[Run]:
    """Three runs of each size: its rate, and so much of it to either side."""
    return [run(gpus, rate * (1 + k * spread), k + 2) for gpus, rate in rates.items() for k in (-1, 0, 1)]


def test_five_sizes_say_speedup_and_efficiency_of_the_largest() -> None:
    first, second, _ = the(runs()).how_far
    # 64 x 16 images in 131 ms over 64 in 100.
    assert first.startswith("On 16 GPUs it trains 12.2 times as fast as on 1 (95 % interval 12.0 to 12.5): 7,8")
    assert first.endswith("instead of 640 images/s.")
    assert second.startswith("That is an efficiency of 76.3 % (74.8 % to 77.9 %)")
    assert "(weak scaling, batch 64 per GPU)" in second


def test_where_it_stops_to_scale_is_said() -> None:
    told = the(repeated({1: 100.0, 2: 190.0, 4: 300.0, 8: 280.0}, spread=0.001)).how_far
    assert "More GPUs are no gain beyond 4: 300 images/s there is the most." in told
    assert "The efficiency stays above 80 % up to 2 GPUs; on 4 GPUs it is 75.0 %." in told
    assert len(the([run(1, 100.0), run(2, 190.0)]).how_far) == 2


def test_what_the_intervals_do_not_tell_apart_is_not_called_the_most() -> None:
    told = the(repeated({1: 100.0, 2: 190.0, 4: 300.0, 8: 280.0, 16: 150.0}, spread=0.05)).how_far
    # 16 GPUs are slower beyond chance, 8 are not.
    assert (
        "The most that was measured is 300 images/s on 4 GPUs, but within the intervals 8 GPUs may be as fast." in told
    )
    assert (
        "As measured, the efficiency stays above 80 % up to 2 GPUs; on 4 GPUs it is 75.0 %"
        "; within the intervals it may fall at another size."
    ) in told
    assert not any("no gain" in sentence for sentence in told)


def test_one_run_a_size_does_not_tell_where_it_stops_to_scale() -> None:
    told = the([run(1, 100.0), run(2, 190.0), run(4, 300.0), run(8, 280.0)]).how_far
    assert told[0].startswith("On 8 GPUs it trains 2.8 times as fast as on 1 (one run a size, so no interval): 280")
    assert told[2:] == (
        "The most that was measured is 300 images/s on 4 GPUs; one run a size does not tell whether more GPUs are a gain.",
        "As measured, the efficiency stays above 80 % up to 2 GPUs; on 4 GPUs it is 75.0 %"
        "; one run a size does not tell where it falls.",
    )
    # The one that has no repeats is named.
    some = the([*repeated({1: 100.0, 2: 190.0}, spread=0.001), run(4, 180.0)]).how_far
    assert "(one run on 4 GPUs, so no interval)" in some[0]
    assert some[2].endswith("one run on 4 GPUs does not tell whether more GPUs are a gain.")


def test_a_speed_up_within_the_noise_is_no_speed_up() -> None:
    told = the(repeated({1: 100.0, 2: 101.0}, spread=0.05)).how_far
    assert told[0].startswith("On 2 GPUs it trains about as fast as on 1 (95 % interval ")
    assert told[2] == "The interval of the speed-up holds 1: it does not tell which of the two sizes is faster."
    sure = the(repeated({1: 100.0, 2: 190.0}, spread=0.001)).how_far
    assert not any("holds 1" in sentence for sentence in sure)


def test_strong_scaling_is_named_with_its_batch() -> None:
    first, second, *_ = the(runs((1, 2, 4), strong=True)).how_far
    assert first.startswith("On 4 GPUs it trains 2.3 times as fast as on 1")
    assert "(strong scaling, batch 64 in all)" in second


def test_weak_and_strong_have_an_answer_each() -> None:
    both = [*runs((2, 4)), *(each for each in runs((1, 2, 4), strong=True) if each.gpus > 1)]
    named = {found.name: found.how_far[1] for found in sentences.answers(table(both))}
    assert set(named) == {"weak scaling, batch 64 per GPU", "strong scaling, batch 64 in all"}


def test_one_size_says_that_it_says_nothing() -> None:
    found = the([run(4, 100.0)])
    assert found.how_far == ("One size alone does not say how it scales: 100 images/s on 4 GPUs.",)
    assert found.how_sure == (
        "It was measured once: how much a repeat would differ is not known, and there are no intervals.",
    )
    assert the([run(1, 100.0)]).how_far[0].endswith("100 images/s on 1 GPU.")
    below = sentences.answers(table([run(1, 50.0), run(2, 100.0)], baseline=2))[0].how_far
    assert below[0].startswith("No size above the base has a measurement: 100")
    assert found.holds_back == found.failed == ()


@pytest.mark.parametrize(
    ("repeats", "said"),
    [
        (1, "Each size was measured once: how much a repeat would differ is not known, and there are no intervals."),
        (2, "Each size was measured twice."),
        (3, "Each size was measured 3 times."),
    ],
)
def test_repeats(repeats: int, said: str) -> None:
    assert the(runs(repeats=repeats)).how_sure[0] == said


def test_uneven_repeats_name_the_sizes_without_an_interval() -> None:
    some = [run(1, 100.0), run(1, 101.0, 2), run(2, 190.0), run(2, 191.0, 2), run(4, 300.0)]
    assert the(some).how_sure[0] == "The sizes were measured 1 to 2 times; 4 GPUs once, hence without an interval."


def test_the_widest_interval_is_named() -> None:
    # Student's: 12.706 x 0.5 and 12.706 x 5 of 100 and 200 images/s.
    some = [run(1, 99.5), run(1, 100.5, 2), run(2, 195.0), run(2, 205.0, 2)]
    assert the(some).how_sure[1] == ("The 95 % intervals of throughput are ±31.8 % or narrower, widest on 2 GPUs.")


def test_flags_say_where_and_what_they_mean() -> None:
    flagged = [run(1, 100.0, flags="throttled dirty_code"), run(2, 190.0, flags="dirty_code")]
    first, second = the(flagged).flags
    assert (first.name, first.where) == ("throttled", "1 GPU")
    assert first.meaning == "a GPU was slowed by heat or its power supply"
    assert (second.name, second.where) == ("dirty_code", "")
    assert the([run(1, 1.0, flags="of_a_later_version")]).flags[0].meaning == "not known to this version"


def test_the_largest_loss_is_named_in_ms_and_per_cent() -> None:
    told = the(runs()).holds_back
    # Of 131 ms: 26 all-reduce, 3 skew, 2 input.
    assert told == (
        "On 16 GPUs a step takes 131 ms, and 31 ms of it (23.7 %) are lost against the base.",
        "The largest part is exposed all-reduce: 26 ms (19.8 % of the step).",
        "Next is waiting for the slowest rank, with 3 ms.",
    )


def test_a_loss_that_nobody_took_apart_is_not_explained() -> None:
    told = the([run(1, 100.0), run(2, 150.0)]).holds_back
    assert "(25.0 %)" in told[0]
    assert told[1] == "One run a size does not tell how much of that is chance."
    assert told[2].startswith("What takes them is not known")


def test_a_loss_within_the_noise_may_be_chance() -> None:
    noisy = [run(1, 99.0), run(1, 101.0, 2), run(2, 196.0), run(2, 199.0, 2)]
    assert "The interval of the efficiency holds 100 %: that loss may be chance." in the(noisy).holds_back


def test_nothing_lost_is_said() -> None:
    assert the([run(1, 100.0), run(2, 201.0)]).holds_back == (
        "On 2 GPUs nothing is lost: the step of 39.8 ms is no longer than the base's would be.",
        "One run a size does not tell more.",
    )
    noisy = the(repeated({1: 100.0, 2: 201.0}, spread=0.05)).holds_back
    assert noisy[1] == "Within the interval of the efficiency, 10.3 % may be lost."
    assert len(the(repeated({1: 100.0, 2: 210.0}, spread=0.001)).holds_back) == 1


def test_a_slow_node_is_named() -> None:
    slow = [dataclasses.replace(each, slowest_node="n7", slow_node_ms=20.0) for each in runs()]
    assert the(slow).holds_back[-1] == "n7 computes 20 ms longer than the other nodes, in several runs."


def test_a_failed_size_is_missing_from_the_answer_and_says_why() -> None:
    found = the(failing(runs(), 16))
    assert found.how_far[0].startswith("On 8 GPUs")
    assert found.how_far[-1] == "How it does on 16 GPUs is not known: there is no measurement."
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


def test_when_everything_failed_only_that_is_said() -> None:
    found = the([run(1, None, failure="data_missing: x"), run(2, None, failure="data_missing: x")])
    assert found.how_far == ("No run has a measurement, so there is nothing to say of how it scales.",)
    assert found.failed == ("None of the 2 runs on 1 and 2 GPUs has a measurement: all 2 failed (data_missing).",)
    assert found.how_sure == found.holds_back == ()


def test_sizes_that_share_no_batch_are_not_compared() -> None:
    odd = [run(1, 100.0, local_batch=8, global_batch=8), run(2, 150.0, local_batch=3, global_batch=6)]
    assert the(odd).how_far[1].startswith("The sizes share neither the batch of a GPU nor that of all GPUs")


def test_other_units_than_images() -> None:
    assert the([run(1, 100.0, experiment="gnmt", unit="tokens")]).how_far[0].endswith(": 100 tokens/s on 1 GPU.")


def test_no_rows_no_answer() -> None:
    assert sentences.answers([]) == []
