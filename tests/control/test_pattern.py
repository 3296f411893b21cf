"""A pattern reads the rate of any program: its groups, its numbers, its warm-up, and the ranks that print it."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hpcjobs.base.errors import InputError
from hpcjobs.collect import pattern as patterns
from hpcjobs.collect.claims import Sizes
from hpcjobs.collect.pattern import Pattern
from hpcjobs.collect.pattern_needle import needle
from hpcjobs.collect.pattern_numbers import figures
from tests.control.patterns import RATE, STEP, lines, rate, read


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("", "expected a regular expression"),
        ("(?P<throughput>", "pattern '(?P<throughput>': not a regular expression: missing ) at position 15"),
        (r"(?P<speed>\d+)", "no such group as 'speed'; known: throughput, step_ms, step_s, samples, step, score"),
        (r"tokens/s: (\d+)", "no group gives a rate: name one of throughput, step_ms, step_s, or samples with step_ms"),
        (r"step (?P<step>\d+): (?P<score>\d+)", "no group gives a rate"),
        (r"(?P<samples>\d+) samples", "samples alone is no rate: a log's lines have no time"),
        (r"(?P<throughput>\d+) (?P<samples>\d+)", "throughput and samples exclude each other"),
    ],
)
def test_a_wrong_pattern_says_what_would_be_right(pattern: str, said: str) -> None:
    with pytest.raises(InputError) as refused:
        Pattern(pattern)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"of": "ranks"}, "of 'ranks': did you mean 'rank'?"),
        ({"take": "average"}, "take 'average': known: last, mean, median"),
        ({"warmup": -1}, "warmup -1: expected a number of matches or steps, 0 or more"),
        ({"warmup": True}, "warmup True"),
        ({"unit": "tokens per s"}, "unit 'tokens per s': expected one word"),
    ],
)
def test_a_wrong_key_of_a_pattern_is_named(keys: dict, said: str) -> None:
    with pytest.raises(InputError) as refused:
        Pattern(RATE, **keys)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("812", 812.0), ("812.5", 812.5), ("1,234.5", 1234.5), ("1,234,567", 1234567.0), ("1.2e3", 1200.0), (".5", 0.5),
        ("12.3k", 12300.0), ("1.5M", 1.5e6), ("2G", 2e9), ("+7", 7.0),
        ("nan", None), ("inf", None), ("1e999", None), ("-4", None), ("0", None), ("1,23", None), ("12:30", None), ("N/A", None),
    ],
)  # fmt: skip
def test_a_figure_is_what_a_number_is(text: str, value: float | None) -> None:
    found = figures(Pattern(r"rate=(?P<throughput>\S+)").search(f"rate={text} ok"))
    assert found.throughput == value
    assert bool(found.wrong) == (value is None)


@pytest.mark.parametrize(
    ("pattern", "line", "value"),
    [
        # The group ends inside the number, as in the documentation's own example.
        (RATE, "tokens/s: 1,234.5 (8 GPUs)", 1234.5),
        (r"at (?P<throughput>\d+)", "at 812.75 tokens/s", 812.75),
        (r"at (?P<throughput>[\d.]+)", "at 12.3k tokens/s", 12300.0),
        (r"at (?P<throughput>[\d.]+)k tok", "at 12.3k tokens/s", 12300.0),
        # A table with commas has no numbers with commas.
        (r"^(?P<step>\d+),(?P<throughput>[\d.]+)", "100,200.5,3", 200.5),
        (r"^\d+,(?P<throughput>\d+)", "100,812,300", 812.0),
        # A unit that begins with a letter of the powers is none.
        (r"at (?P<throughput>[\d.]+)", "at 12.3kilotokens", 12.3),
        # A greedy .* leaves only the last digit.
        (r".*(?P<throughput>[\d.]+)", "rate 1234.5", None),
    ],
)
def test_a_group_that_cuts_a_number_gets_all_of_it_or_is_refused(pattern: str, line: str, value: float | None) -> None:
    found = figures(Pattern(pattern).search(line))
    assert found.throughput == value
    if value is None:
        assert "begins inside a number" in found.wrong


@given(st.floats(min_value=1e-3, max_value=1e12), st.sampled_from(["{:.3f}", "{:,.3f}", "{:.6e}", "{:g}"]))
@example(1234.5, "{:,.3f}")
def test_any_number_that_python_prints_is_read_back(value: float, form: str) -> None:
    text = form.format(value)
    found = figures(Pattern(RATE).search(f"loss 2.1 tokens/s: {text} lr 1e-4"))
    assert found.throughput == float(text.replace(",", ""))


@given(st.text(max_size=60))
@example("step 5 ms: 1" + "0" * 30)
def test_no_line_makes_a_pattern_fail(text: str) -> None:
    match = Pattern(r"(?P<throughput>\S+)\s*(?P<step>\S*)").search(text)
    if match is not None:
        found = figures(match)
        assert found.wrong or (found.throughput and 0 < found.throughput < math.inf)


@given(
    st.lists(
        st.tuples(
            st.text("ab/: .(", min_size=1, max_size=4), st.sampled_from(["", "+", "?", "*", "{0,2}", "|", "(?:", "i"])
        )
    ),
    st.data(),
)
def test_every_match_contains_the_needle(pieces: list[tuple[str, str]], data: st.DataObject) -> None:
    expression, opened, flags = "", 0, ""
    for text, after in pieces:
        expression += re.escape(text) + (after if after != "i" else "")
        opened += after == "(?:"
        flags = "(?i)" if after == "i" else flags
    expression = flags + expression + ")" * opened
    match = data.draw(st.from_regex(re.compile(expression), fullmatch=True))
    assert needle(expression) in match.encode()


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        (RATE, "tokens/s: "),
        (STEP, "step "),
        (r"(?:iteration +(?P<step>\d+)/).* per iteration \(ms\): (?P<step_ms>\d+)", " per iteration (ms): "),
        (r"speed (?P<throughput>\d+)|rate (?P<throughput2>\d+)", ""),
        (r"(?i)Speed (?P<throughput>\d+)", ""),
        (r"(?i:Speed) at (?P<throughput>\d+)", " at "),
        (r"(?:speed )?(?P<throughput>\d+)", ""),
        (r"größe: (?P<samples>\d+)", "größe: "),
        (r"(?P<throughput>\d+(?|a|b))", ""),
        (r"(?:tokens){e<=1} (?P<throughput>\d+)", ""),
        (r"\{\"tps\": (?P<throughput>\d+)\}", '{"tps": '),
    ],
)
def test_the_needle_is_the_longest_text_that_a_match_must_have(expression: str, text: str) -> None:
    assert needle(expression).decode() == text


def test_a_line_that_open_mpi_tags_in_the_middle_is_found(tmp_path: Path) -> None:
    assert rate(tmp_path, "[1,0]<stdout>:tok[1,0]<stdout>:ens/s: 5\n") == 5.0


def test_a_loss_that_is_not_a_number_does_not_cost_the_rate() -> None:
    found = figures(Pattern(r"loss (?P<score>\S+) at (?P<throughput>\d+)").search("loss nan at 5"))
    assert (found.throughput, str(found.score), found.wrong) == (5.0, "nan", "")


def test_a_catastrophic_pattern_ends_with_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "LINE_S", 0.05)
    with pytest.raises(InputError) as refused:
        read(tmp_path, "a" * 1000 + "!\n", Pattern(r"(a+)+$|(?P<throughput>\d+)"))
    assert "pattern '(a+)+$|(?P<throughput>\\d+)': takes more than 0.05 s on one line" in str(refused.value)


def test_a_long_line_is_cut_before_it_is_searched(tmp_path: Path) -> None:
    text = lines(5) + "x" * 1990 + "tokens/s: 7000\n" + lines(5)
    assert rate(tmp_path, text) == 5.0


def test_the_mean_is_work_over_time_and_an_outlier_is_counted(tmp_path: Path) -> None:
    # 100, 100, 100 and 50 tokens/s over equal work: the slow one takes twice as long.
    figures = [100.0] * 9 + [50.0]
    one = read(tmp_path, lines(*figures), Pattern(RATE, unit="tokens", warmup=0), Sizes(gpus=4)).throughput
    assert one.throughput == pytest.approx(10 / (9 / 100 + 1 / 50))
    assert (one.per_gpu, one.unit, one.gpus) == (one.throughput / 4, "tokens", 4)
    assert (one.steady.windows, one.steady.outliers, one.steady.rate) == (10, 1, one.throughput)
    assert rate(tmp_path, lines(*figures), take="median") == 100.0
    assert rate(tmp_path, lines(*figures), take="last") == 50.0


def test_the_warm_up_is_left_out_by_matches_or_by_steps(tmp_path: Path) -> None:
    assert rate(tmp_path, lines(1, 1, 100, 100), warmup=2) == 100.0
    # Steps of 50 begin at 50: its window holds the warm-up. A second epoch begins again at 50, and has none.
    text = "".join(f"step {step} of 100 ms: {ms}\n" for step, ms in [(50, 900), (100, 10), (50, 10), (100, 10)])
    found = read(tmp_path, text, Pattern(STEP, unit="steps"))
    assert (found.throughput.throughput, found.throughput.step_ms) == (100.0, 10.0)
    assert [match.left_out for match in found.matches.first] == ["warm-up", "", "", ""]
    # Steps from 0 to 9 are ten.
    text = "".join(f"step {step} of 100 ms: {100 if step < 10 else 10}\n" for step in range(20))
    assert read(tmp_path, text, Pattern(STEP, unit="steps")).matches.counted == 10


def test_a_log_that_is_all_warm_up_has_no_rate_and_says_so(tmp_path: Path) -> None:
    found = read(tmp_path, lines(5, 5, 5), Pattern(RATE))
    assert found.throughput is None
    assert [problem.reason for problem in found.result.problems] == [
        "3 lines match the pattern, and none counts: 3 warm-up (warmup is 10 matches): give "
        "`--warmup N` (in an experiment: measure.warmup), or the pattern a group step"
    ]
    pattern = Pattern(STEP, unit="steps")
    (problem,) = read(tmp_path, "step 1 of 9 ms: 5\n", pattern).result.problems
    assert problem.reason.endswith("(warmup is 10 steps): give `--warmup N` (in an experiment: measure.warmup)")


def test_matches_are_told_with_their_line_and_why_they_do_not_count(tmp_path: Path) -> None:
    found = read(tmp_path, "begin\n" + lines(1, "1.2.3", 5), Pattern(RATE, warmup=1))
    told = [(match.line, match.text, match.found.throughput, match.left_out) for match in found.matches.first]
    assert told == [
        (2, "tokens/s: 1", 1.0, "warm-up"),
        (3, "tokens/s: 1.2.3", None, "throughput '1.2.3' is not a number"),
        (4, "tokens/s: 5", 5.0, ""),
    ]
    assert found.matches.left_out == {"warm-up": 1, "not a number": 1}


def test_a_long_log_keeps_its_first_and_last_matches_alone(tmp_path: Path) -> None:
    found = read(tmp_path, lines(*range(1, 50_001)), Pattern(RATE))
    matches = found.matches
    assert (len(matches.first), len(matches.last), matches.total, matches.hidden) == (20, 20, 50_000, 49_960)
    assert (matches.first[0].line, matches.last[-1].line) == (1, 50_000)
    assert found.throughput.throughput == pytest.approx(49_990 / sum(1 / n for n in range(11, 50_001)))


RANKS = {
    "mpirun": "[1,{}]<stdout>:",
    "mpirun 5": "[prterun-n1-42@1,{}]<stdout>: ",
    "srun": "{}: ",
    "PyTorch": "[rank{}]: ",
    "torchrun": "[default{}]:",
}


@pytest.mark.parametrize("prefix", RANKS.values(), ids=RANKS)
def test_a_figure_of_one_rank_is_multiplied_and_one_of_all_counts_once(prefix: str, tmp_path: Path) -> None:
    known = Sizes(gpus=4)
    each = "".join(lines(10, prefix=prefix.format(rank)) for _ in range(5) for rank in range(4))
    assert rate(tmp_path, each, known, of="rank", warmup=2) == pytest.approx(40.0)
    # Only rank 0 prints.
    assert rate(tmp_path, lines(10, 10, 10, prefix=prefix.format(0)), known, of="rank", warmup=2) == pytest.approx(40.0)
    found = read(tmp_path, each, Pattern(RATE, unit="tokens", warmup=2), known)
    assert found.throughput.throughput == pytest.approx(10.0)
    assert found.matches.left_out == {"the line of another rank": 15, "warm-up": 2}
    assert [problem.reason for problem in found.result.problems] == [
        "4 ranks print it, and each the same: is it the rate of one? (--of rank; in an experiment measure.of: rank)"
    ]
    assert found.throughput.flags == ()


def test_ranks_that_differ_are_averaged_and_not_summed(tmp_path: Path) -> None:
    text = lines(10, 10, prefix="0: ") + lines(30, 30, prefix="1: ")
    assert rate(tmp_path, text, Sizes(gpus=8), of="rank") == 160.0
    found = read(tmp_path, text, Pattern(RATE, unit="tokens", warmup=0), Sizes(gpus=8))
    assert found.throughput.throughput == 10.0
    (problem,) = found.result.problems
    assert problem.reason.startswith("2 ranks print figures that differ; of all counts those of the first.")
    assert found.throughput.flags == ("rate_of_rank",)
    # The loss is that of each rank, but the rate is the same.
    text = "0: loss 1 tokens/s: 10\n1: loss 2 tokens/s: 10\n" * 2
    same = read(tmp_path, text, Pattern(RATE, unit="tokens", warmup=0), Sizes(gpus=8))
    assert same.throughput.flags == ()


STEPS = Pattern(r"step (?P<step>\d+): (?P<throughput>[\d.]+)", warmup=0)


@pytest.mark.parametrize(
    ("text", "gpus", "flags"),
    [
        ("".join(f"step {step}: {rate}\n" for step in range(5) for rate in (100, 101)), 2, ("rate_of_rank",)),
        # One rank has no others.
        ("".join(f"step {step}: {rate}\n" for step in range(5) for rate in (100, 101)), 1, ()),
        # Each step once, in two epochs.
        ("".join(f"step {step}: {rate}\n" for rate in (100, 101) for step in range(5)), 2, ()),
        # A step that is printed again after a restart.
        ("step 1: 5\nstep 2: 6\nstep 2: 7\nstep 3: 8\n", 2, ()),
    ],
)
def test_a_step_that_has_several_figures_is_printed_by_several_ranks(
    text: str, gpus: int, flags: tuple[str, ...], tmp_path: Path
) -> None:
    found = read(tmp_path, text, STEPS, Sizes(gpus=gpus))
    assert found.throughput.flags == flags
    assert ["so 2 ranks print it: is it the rate of one?" in each.reason for each in found.result.problems] == [True] * len(flags)  # fmt: skip
    assert read(tmp_path, text, Pattern(STEPS.pattern, of="rank", warmup=0), Sizes(gpus=gpus)).throughput.flags == ()


def test_a_figure_of_one_rank_needs_the_number_of_ranks(tmp_path: Path) -> None:
    found = read(tmp_path, lines(10), Pattern(RATE, of="rank", warmup=0))
    assert (found.throughput.throughput, found.throughput.per_gpu) == (None, 10.0)
    assert found.throughput.missing == ("throughput", "gpus", "batch")
    assert [problem.reason for problem in found.result.problems] == [
        "the figure is of one rank, and the number of ranks is not known"
    ]


@pytest.mark.parametrize("known", [None, Sizes(gpus=4)])
def test_a_count_of_steps_is_not_taken_for_a_rank(known: Sizes | None, tmp_path: Path) -> None:
    text = "".join(lines(100 if step < 3 else 10, prefix=f"{step}: ") for step in range(30))
    assert rate(tmp_path, text, known, warmup=3) == 10.0
    pattern = Pattern(r"^(?P<step>\d+): tokens/s: (?P<throughput>[\d.]+)", unit="tokens", warmup=3)
    found = read(tmp_path, text, pattern, known)
    assert (found.throughput.throughput, found.matches.first[5].found.step) == (10.0, 5)


def test_ranks_without_a_prefix_that_print_the_same_of_a_step_count_once(tmp_path: Path) -> None:
    text = "".join(f"step {step} of 9 ms: {100 if step == 1 else 10}\n" * 4 for step in (1, 2, 3, 1, 2))
    found = read(tmp_path, text, Pattern(STEP, unit="steps", warmup=1))
    assert (found.matches.total, found.matches.left_out) == (20, {"a copy of a line before": 15, "warm-up": 1})
    assert found.throughput.steady.windows == 4
    # The ranks of another rate are no copies.
    text = "".join(f"step {step} of 9 ms: {ms}\n" for step in (1, 2) for ms in (10, 30))
    assert read(tmp_path, text, Pattern(STEP, unit="steps", warmup=0)).throughput.step_ms == 20.0


def test_a_pattern_may_name_the_prefix_itself(tmp_path: Path) -> None:
    text = lines(10, prefix="[rank0]: ") + lines(10, prefix="[rank1]: ")
    found = read(tmp_path, text, Pattern(r"\[rank\d\]: tokens/s: (?P<throughput>\d+)", warmup=0), Sizes(gpus=2))
    assert (found.throughput.throughput, [match.rank for match in found.matches.first]) == (10.0, ["0", "1"])
