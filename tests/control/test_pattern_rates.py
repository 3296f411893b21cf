"""What a pattern makes of a whole log: rates by step time and batch, contradictions, hints."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from hpcjobs.collect.claims import Sizes
from hpcjobs.collect.pattern import Pattern
from hpcjobs.collect.pattern_hints import likely_lines
from hpcjobs.collect.pattern_log import read_pattern
from tests.control.patterns import RATE, STEP, lines, read


def test_a_step_time_needs_the_batch_and_the_batch_must_count_the_unit(tmp_path: Path) -> None:
    text = "step 1 of 2 ms: 500\n"
    steps = Pattern(STEP, warmup=0)
    assert read(tmp_path, text, steps, Sizes(gpus=2, local_batch=8)).throughput.throughput == 32.0
    lost = read(tmp_path, text, steps, Sizes(gpus=2))
    assert (lost.throughput.throughput, lost.throughput.step_ms) == (None, 500.0)
    assert lost.result.problems[0].reason == "step_ms is a rate only with the batch, which is missing"
    tokens = read(tmp_path, text, Pattern(STEP, warmup=0, unit="tokens"), Sizes(gpus=2, local_batch=8))
    assert tokens.throughput.throughput is None
    assert "a batch counts samples" in tokens.result.problems[0].reason
    assert read(tmp_path, text, Pattern(STEP, warmup=0, unit="steps")).throughput.throughput == 2.0


def test_a_batch_of_sequences_says_nothing_of_the_step_time_of_tokens(tmp_path: Path) -> None:
    known = Sizes(gpus=2, local_batch=8)
    one = read(tmp_path, lines(4096), Pattern(RATE, unit="tokens", warmup=0), known).throughput
    assert (one.throughput, one.step_ms, one.global_batch) == (4096.0, None, 16)
    one = read(tmp_path, lines(64), Pattern(RATE, unit="samples", warmup=0), known).throughput
    assert one.step_ms == 250.0


def test_samples_over_the_time_of_their_step_are_a_rate(tmp_path: Path) -> None:
    pattern = Pattern(r"(?P<samples>\d+) sequences in (?P<step_ms>[\d.]+) ms", unit="sequences", warmup=0)
    text = "8 sequences in 100 ms\n24 sequences in 100 ms\n"
    one = read(tmp_path, text, pattern, Sizes(gpus=2)).throughput
    assert (one.throughput, one.step_ms, one.figure) == (160.0, 100.0, "samples / step_ms")


def test_the_last_score_counts(tmp_path: Path) -> None:
    pattern = Pattern(rf"{RATE}|accuracy (?P<score>[\d.]+)", warmup=0)
    one = read(tmp_path, "accuracy 0.3\n" + lines(5) + "accuracy 0.7\n", pattern).throughput
    assert (one.throughput, one.score) == (5.0, 0.7)


def test_a_progress_bar_a_compressed_log_and_colours_are_read_as_other_formats_are(tmp_path: Path) -> None:
    bar = b"\x1b[32m" + b"\r".join(b"%d%%|## | tokens/s: %d" % (n, n) for n in (1, 10, 10)) + b"\x1b[0m\n"
    (tmp_path / "job.log.gz").write_bytes(gzip.compress(bar))
    one = read_pattern(tmp_path / "job.log.gz", Pattern(RATE, warmup=1)).throughput
    assert (one.throughput, one.steady.windows) == (10.0, 2)


def test_figures_that_cannot_all_be_right_are_told(tmp_path: Path) -> None:
    pattern = Pattern(r"(?P<throughput>[\d.]+) samples/s, (?P<step_ms>\d+) ms", warmup=0)
    known = Sizes(gpus=4, local_batch=8)
    right = read(tmp_path, "320 samples/s, 100 ms\n", pattern, known)
    wrong = read(tmp_path, "80 samples/s, 100 ms\n", pattern, known)
    assert right.contradiction == ""
    assert wrong.contradiction == (
        "throughput x step_ms is 8 samples a step, but the global batch is 32: is the figure that of one rank? "
        "(--of rank; in an experiment: measure.of)"
    )
    assert wrong.throughput.flags == ("rate_of_rank",)


def test_a_batch_that_the_figures_contradict_is_not_the_row_s(tmp_path: Path) -> None:
    pattern = Pattern(r"(?P<throughput>[\d.]+) samples/s, (?P<step_ms>\d+) ms", warmup=0)
    found = read(tmp_path, "10240 samples/s, 100 ms\n", pattern, Sizes(gpus=4, global_batch=16))
    one = found.throughput
    assert (one.throughput, one.local_batch, one.global_batch, one.step_ms) == (10240.0, None, None, 100.0)
    assert (one.missing, one.flags) == (("batch",), ())
    assert [problem.reason for problem in found.result.problems] == [
        "throughput x step_ms is 1024 samples a step, but the global batch is 16: if the figures are right, so is "
        "--batch 1024 (in an experiment: batch)"
    ]


# bigscience-workshop/bigscience, experiments/gpt2-meg: Megatron-LM on 32 GPUs.
MEGATRON = """\
using world size: 32, data-parallel-size: 1, tensor-model-parallel size: 4, pipeline-model-parallel size: 8 
  world_size ...................................... 32
setting number of micro-batches to constant 4
 iteration       10/    1000 | consumed samples:           40 | elapsed time per iteration (ms): 3171.3 | learning rate: 0.000E+00 | global batch size:     4 | loss scale: 8388608.0 |
time (ms) | forward-compute: 1212.41 | backward-compute: 355.19
 iteration       20/    1000 | consumed samples:           80 | elapsed time per iteration (ms): 1572.7 | learning rate: 3.750E-05 | global batch size:     4 | lm loss: 1.210588E+01 | loss scale: 32768.0 |
 iteration       30/    1000 | consumed samples:          120 | elapsed time per iteration (ms): 1613.7 | learning rate: 9.375E-05 | global batch size:     4 | lm loss: 1.069671E+01 | loss scale: 32768.0 |
"""


def test_a_real_log_gives_its_ranks_and_its_rate(tmp_path: Path) -> None:
    pattern = Pattern(
        r"iteration +(?P<step>\d+)/.* per iteration \(ms\): (?P<step_ms>[\d.]+)(?:.* lm loss: (?P<score>\S+))?",
        unit="sequences",
    )
    found = read(tmp_path, MEGATRON, pattern, Sizes(global_batch=4))
    one = found.throughput
    assert (one.gpus, one.gpus_from, one.steady.windows, one.score) == (32, "log", 2, 10.69671)
    assert one.throughput == pytest.approx(4 / 1.5932)
    assert found.contradiction == ""


@pytest.mark.parametrize(
    ("text", "known", "said"),
    [
        ("world size: 4\n", Sizes(gpus=8), "the log says 4 GPUs (line 1), the run has 8"),
        ("using world size: 8, data-parallel-size: 4\n", Sizes(gpus=8), ""),
        ("data parallel world size: 4\n", Sizes(gpus=8), ""),
        ("Namespace(world_size=1, lr=0.1)\n", Sizes(gpus=8), ""),
        ("Number of GPUs: 4\n", Sizes(gpus=8, nodes=2), ""),
        ("Number of GPUs: 4\n", Sizes(gpus=8, nodes=1), "the log says 4 GPUs (line 1), the run has 8"),
        ("world size: 1\nworld size: 8\n", Sizes(gpus=8), ""),
        ("global batch size: 256\n", Sizes(gpus=8, local_batch=8), "the log says 256 as global batch (line 1), the run has 64"),
        ("Instantaneous batch size per device = 8\n", Sizes(gpus=8, local_batch=8), ""),
        ("per_device_batch_size: 16\n", Sizes(gpus=8, local_batch=8), "the log says 16 as batch of one GPU (line 1), the run has 8"),
    ],
)  # fmt: skip
def test_a_log_that_contradicts_the_run_is_told(text: str, known: Sizes, said: str, tmp_path: Path) -> None:
    assert read(tmp_path, text + lines(5), Pattern(RATE, warmup=0), known).contradiction == said


def test_lines_that_look_like_a_rate_are_hints(tmp_path: Path) -> None:
    (tmp_path / "job.log").write_text(
        "loading 3 shards\n45%|####5     | 45/100 [00:12<00:15, 3.61it/s]\n46%|####6     | 46/100 [00:12<00:15, 3.60it/s]\n"
        "epoch 1 avg 87.04 samples/sec\n" + MEGATRON
    )
    assert [each.number for each in likely_lines(tmp_path / "job.log")] == [2, 4, 8, 10]
    (tmp_path / "job.log").write_text("nothing 5\nstep 3 loss 2.5\n")
    assert [each.text for each in likely_lines(tmp_path / "job.log")] == ["step 3 loss 2.5"]
