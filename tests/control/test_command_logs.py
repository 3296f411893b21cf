"""The log of a command's run becomes its measurement, and the log of a running one its progress."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from hpcjobs.base.errors import InputError
from hpcjobs.base.records import Progress
from hpcjobs.collect.claims import Sizes
from hpcjobs.collect.command_logs import AUTO, CommandLog, read_command_log
from hpcjobs.collect.log_progress import TAIL_BYTES, tail_progress
from hpcjobs.collect.pattern import Pattern

RATE = Pattern(r"tokens/s: (?P<throughput>[\d.]+)", of="rank", unit="tokens", warmup=1)
RUN = Sizes(gpus=8, nodes=2, local_batch=32)
HOROVOD = """\
Model: ResNet50
Batch size: 32
Number of GPUs: {gpus}
Iter #0: 601.2 img/sec per GPU
Iter #1: 599.2 img/sec per GPU
Img/sec per GPU: 600.2 +-5.3
Total img/sec on {gpus} GPU(s): {total} +-42.7
"""


def read(tmp_path: Path, text: str, how: Pattern | str, known: Sizes = RUN, unit: str = "") -> CommandLog:
    (tmp_path / "job.log").write_text(text)
    return read_command_log(tmp_path / "job.log", how, known, unit)


def test_a_pattern_s_figure_of_one_rank_becomes_that_of_the_run(tmp_path: Path) -> None:
    found = read(tmp_path, "tokens/s: 10\n" + "tokens/s: 4096\n" * 5, RATE)
    one = found.measurement
    assert (one.throughput, one.unit, one.gpus) == (pytest.approx(8 * 4096), "tokens", 8)
    assert (one.local_batch, one.global_batch, one.windows, one.outlier_windows) == (32, 256, 5, 0)
    # 256 sequences have an unknown number of tokens.
    assert one.step_ms is None
    assert (found.problems, found.looked_for) == ((), "")


def test_a_step_time_becomes_a_rate_by_the_run_s_own_batch(tmp_path: Path) -> None:
    found = read(tmp_path, "step took 500 ms\n", Pattern(r"(?P<step_ms>\d+) ms", warmup=0))
    assert (found.measurement.throughput, found.measurement.step_ms) == (512.0, 500.0)


@pytest.mark.parametrize("how", [AUTO, "horovod"])
def test_a_known_format_is_read_and_what_it_does_not_say_is_the_run_s(how: str, tmp_path: Path) -> None:
    one = read(tmp_path, HOROVOD.format(gpus=8, total=4801.4), how).measurement
    assert (one.throughput, one.unit, one.global_batch) == (4801.4, "images", 256)
    # MXNet's Speaker says neither its GPUs nor its batch.
    mxnet = "INFO:root:Epoch[0] Batch [20]\tSpeed: 1250.50 samples/sec\taccuracy=0.1\n" * 9
    one = read(tmp_path, mxnet, AUTO).measurement
    assert (one.throughput, one.gpus, one.step_ms) == (pytest.approx(1250.5), 8, pytest.approx(256 / 1.2505))


@pytest.mark.parametrize(
    ("text", "how", "said"),
    [
        ("hello\n", RATE, "pattern 'tokens/s: (?P<throughput>[\\d.]+)' matches no line of job.log"),
        ("tokens/s: 5\n", RATE, "job.log: 1 line matches the pattern, and none counts: 1 warm-up (warmup is 1 match)"),
        ("hello\n", AUTO, "job.log holds no line of a known format (hpcjobs, mlperf, horovod,"),
        ("hello\n", "horovod", "job.log holds no line of the format horovod that gives a rate"),
        (HOROVOD.format(gpus=4, total=2400), AUTO, "job.log: the log's measurement in line 4 says 4 GPUs, the run has 8"),
        (HOROVOD.format(gpus=8, total=4801).replace("size: 32", "size: 64"), AUTO, "job.log: the log's measurement in line 4 says 64 as batch of one GPU, the run has 32"),
        ("world size: 4\n" + "tokens/s: 5\n" * 3, RATE, "job.log: the log says 4 GPUs (line 1), the run has 8"),
        (HOROVOD.format(gpus=8, total=4801) + HOROVOD.format(gpus=8, total=2000), AUTO, "job.log holds 2 measurements (lines 4, 11), and which one is the run's is not known"),
    ],
)  # fmt: skip
def test_no_measurement_says_what_was_looked_for(text: str, how: Pattern | str, said: str, tmp_path: Path) -> None:
    found = read(tmp_path, text, how)
    assert found.measurement is None
    assert found.looked_for.startswith(said)
    assert "\n" not in found.looked_for


def test_a_log_that_is_missing_is_said(tmp_path: Path) -> None:
    path = tmp_path / "job.log"
    assert read_command_log(path, AUTO, RUN).looked_for == "job.log is missing"
    assert read_command_log(path, RATE, RUN).looked_for.startswith("job.log is missing, so pattern")
    with pytest.raises(InputError, match="no such format"):
        read_command_log(path, "horovd", RUN)


def test_a_measurement_that_is_printed_twice_is_one(tmp_path: Path) -> None:
    twice = HOROVOD.format(gpus=8, total=4801) + HOROVOD.format(gpus=8, total=4800)
    assert read(tmp_path, twice, AUTO).measurement.throughput == pytest.approx(4800, rel=1e-3)


def progress(tmp_path: Path, text: str, how: Pattern | None = RATE, known: Sizes = RUN) -> Progress:
    (tmp_path / "job.log").write_text(text)
    return tail_progress(tmp_path / "job.log", how, known)


def test_progress_is_the_newest_match_over_all_ranks(tmp_path: Path) -> None:
    pattern = Pattern(r"step (?P<step>\d+): (?P<throughput>\S+) tokens/s", of="rank", unit="tokens")
    text = "step 1: 10 tokens/s\nstep 2: 20 tokens/s\nstep 3: nan tokens/s\n"
    found = progress(tmp_path, text, pattern)
    assert (found.step, found.throughput, found.unit) == (2, 160.0, "tokens")
    # The line that is still being written does not count: its number may be cut.
    assert progress(tmp_path, text + "step 4: 3", pattern).step == 2


def test_progress_says_how_long_ago_the_log_was_written(tmp_path: Path) -> None:
    progress(tmp_path, "tokens/s: 5\n")
    then = time.time() - 3600
    os.utime(tmp_path / "job.log", (then, then))
    assert tail_progress(tmp_path / "job.log", RATE, RUN).ago_s >= 3600
    assert tail_progress(tmp_path / "nowhere.log", RATE, RUN) == Progress()


def test_progress_reads_no_more_than_the_end_of_a_log(tmp_path: Path) -> None:
    path = tmp_path / "job.log"
    with path.open("wb") as file:
        file.seek(1 << 40)  # a sparse terabyte
        file.write(b"\ntokens/s: 7\n")
    assert tail_progress(path, RATE, RUN).throughput == 56.0
    path.write_text("tokens/s: 7\n" + "x\n" * TAIL_BYTES)
    assert tail_progress(path, RATE, RUN).throughput is None


def test_progress_of_a_known_format_needs_no_pattern(tmp_path: Path) -> None:
    found = progress(tmp_path, HOROVOD.format(gpus=8, total=4801.4), None)
    assert (found.throughput, found.unit) == (4801.4, "images")
    found = progress(tmp_path, "Iter #3: 612.1 img/sec per GPU\n", None)
    assert found.throughput == pytest.approx(8 * 612.1)
    assert progress(tmp_path, "epoch 1\n", None).throughput is None


def test_a_pattern_that_is_too_slow_gives_no_progress_and_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpcjobs.collect.pattern.LINE_S", 0.05)
    found = progress(tmp_path, "a" * 1000 + "!\n", Pattern(r"(a+)+$|(?P<throughput>\d+)"))
    assert (found.throughput, found.ago_s is not None) == (None, True)


def test_a_step_time_of_a_running_command_needs_its_batch(tmp_path: Path) -> None:
    pattern = Pattern(r"(?P<step_ms>\d+) ms")
    assert progress(tmp_path, "500 ms\n", pattern).throughput == 512.0
    assert progress(tmp_path, "500 ms\n", pattern, Sizes(gpus=8)).throughput is None
    assert progress(tmp_path, "500 ms\n", Pattern(pattern.pattern, unit="steps"), Sizes(gpus=8)).throughput == 2.0


def test_gpus_of_one_node_do_not_contradict_a_plan_of_two(tmp_path: Path) -> None:
    steps = "".join(
        f"Train: 0 [{step:4d}/400 ({step // 4}%)]  Loss: 6.9 (6.9)  Time: 0.400s, 640.00/s  (0.400s, 640.00/s)  LR: 1\n"
        for step in range(0, 400, 50)
    )
    (tmp_path / "job.log").write_text("Number of GPUs: 4\n" + steps)
    measured = read_command_log(tmp_path / "job.log", AUTO, Sizes(8, 2)).measurement
    assert measured is not None
    assert (measured.gpus, measured.throughput) == (8, pytest.approx(640, rel=0.01))
    refused = read_command_log(tmp_path / "job.log", AUTO, Sizes(8, 1))
    assert "says 4 GPUs, the run has 8" in refused.looked_for
