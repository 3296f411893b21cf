"""Logs of Horovod's synthetic benchmarks and of tf_cnn_benchmarks, as in their scripts and public READMEs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.control.logs_formats.reading import one, read, reasons

RUN = """Model: ResNet50
Batch size: 32
Number of GPUs: 8
Running warmup...
Running benchmark...
Iter #0: 592.3 img/sec per GPU
Iter #1: 599.6 img/sec per GPU
Iter #2: 600.7 img/sec per GPU
Iter #3: 600.2 img/sec per GPU
Img/sec per GPU: 600.2 +-5.3
Total img/sec on 8 GPU(s): 4801.4 +-42.7
"""


def tagged(text: str, prefix: str) -> str:
    return "".join(f"{prefix}{line}\n" for line in text.splitlines())


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "[1,0]<stdout>:",
        "Tue Jun 14 15:39:05 2022[1,0]<stdout>:",
        "[prterun-n1-4711@1,0]<stdout>: ",
        "[0]<stdout>:",
        "[n1:1,0]",
        " 0: ",
        "0: [1,0]<stdout>:",
        "[0] ",
        "\x1b[32m[1,0]<stdout>:\x1b[0m",
        "2022-06-14 15:39:05,123 INFO ",
    ],
)
def test_the_total_behind_any_prefix(tmp_path: Path, prefix: str) -> None:
    measured = one(read(tmp_path, tagged(RUN, prefix)))
    assert (measured.throughput, measured.per_gpu, measured.gpus) == (4801.4, pytest.approx(600.175), 8)
    assert (measured.local_batch, measured.global_batch, measured.model) == (32, 256, "ResNet50")
    assert measured.sd == pytest.approx(42.7 / 1.96)  # +- is 1.96 standard deviations
    assert measured.figure == "Total img/sec"


def test_a_log_cut_off_gives_its_iterations_and_says_so(tmp_path: Path) -> None:
    result = read(tmp_path, RUN[: RUN.index("Img/sec")])
    measured = one(result)
    # Three windows after the first: a tenth, at least one.
    assert measured.throughput == pytest.approx(8 * 3 / (1 / 599.6 + 1 / 600.7 + 1 / 600.2))
    assert measured.figure == "Iter # img/sec per GPU"
    assert measured.steady is not None
    assert (measured.steady.windows, measured.steady.warmup) == (3, 1)
    assert reasons(result) == "the log ends before the benchmark's own mean: its Iter lines count"


def test_without_gpus_the_row_names_what_is_missing(tmp_path: Path) -> None:
    text = "Iter #0: 592.3 img/sec per GPU\nImg/sec per GPU: 600.2 +-5.3\n"
    result = read(tmp_path, text)
    measured = one(result)
    assert (measured.throughput, measured.per_gpu, measured.gpus) == (None, 600.2, None)
    assert measured.missing == ("throughput", "gpus", "batch")
    assert "how many GPUs" in reasons(result)
    measured = one(read(tmp_path, text, gpus_from="s(o)me"))
    assert measured.gpus is None
    path = tmp_path / "n4-g16"
    path.mkdir()
    measured = one(read(path, text, gpus_from=r"g(\d+)/"))
    assert (measured.throughput, measured.gpus, measured.gpus_from) == (pytest.approx(9603.2), 16, "option")


def test_the_log_counts_before_the_option(tmp_path: Path) -> None:
    path = tmp_path / "g16"
    path.mkdir()
    result = read(path, RUN, gpus_from=r"g(\d+)/")
    assert (one(result).gpus, one(result).gpus_from) == (8, "log")
    assert "the log says 8 GPUs, the path 16" in reasons(result)


def test_runs_one_after_another_are_several(tmp_path: Path) -> None:
    second = RUN.replace("Number of GPUs: 8", "Number of GPUs: 2").replace("on 8 GPU(s): 4801.4", "on 2 GPU(s): 1200.4")
    cut = second[: second.index("Img/sec")]
    result = read(tmp_path, RUN + cut + second)
    assert [(run.gpus, run.figure) for run in result.measurements] == [  # type: ignore[union-attr]
        (8, "Total img/sec"),
        (2, "Iter # img/sec per GPU"),
        (2, "Total img/sec"),
    ]
    assert [run.line for run in result.measurements] == [6, 17, 26]


def test_ranks_that_all_print_count_once(tmp_path: Path) -> None:
    own = {0: "4801.4", 1: "4799.4"}
    lines = []
    for line in RUN.splitlines():
        lines += [f"[1,{rank}]<stdout>:{line.replace('4801.4', total)}\n" for rank, total in own.items()]
    assert one(read(tmp_path, "".join(lines))).throughput == pytest.approx(4800.4)
    alike = "".join(line + "\n" for line in RUN.splitlines() for _ in range(8))  # without tags
    assert one(read(tmp_path, alike)).throughput == pytest.approx(4801.4)


def test_totals_in_a_row_are_separate_runs(tmp_path: Path) -> None:
    text = "Total img/sec on 8 GPU(s): 4801.4 +-42.7\nTotal img/sec on 8 GPU(s): 4790.1 +-2.7\n"
    text += "Total img/sec on 16 GPU(s): 9401.4 +-42.7\n"
    result = read(tmp_path, text)
    assert [(run.throughput, run.gpus) for run in result.measurements] == [  # type: ignore[union-attr]
        (4801.4, 8),
        (4790.1, 8),
        (9401.4, 16),
    ]
    result = read(tmp_path, "total images/sec: 100.00\ntotal images/sec: 200.00\n")
    assert [run.throughput for run in result.measurements] == [100.0, 200.0]  # type: ignore[union-attr]


def test_on_cpus(tmp_path: Path) -> None:
    measured = one(read(tmp_path, RUN.replace("GPU", "CPU")))
    assert (measured.device, measured.gpus, measured.throughput) == ("cpu", 8, 4801.4)


HEADER = """TensorFlow:  1.10
Model:       resnet50
Dataset:     imagenet (synthetic)
Mode:        training
SingleSess:  False
Batch size:  64 global
             32 per device
Num batches: 100
Num epochs:  0.00
Devices:     ['horovod/gpu:0', 'horovod/gpu:1']
Data format: NCHW
Optimizer:   sgd
Variables:   horovod
Horovod on:  cpu
==========
"""  # bytedance/byteps, issue 29


def test_tf_cnn_under_horovod_prints_everything_twice(tmp_path: Path) -> None:
    body = "Step\tImg/sec\ttotal_loss\n1\timages/sec: 100.0 +/- 0.0 (jitter = 0.0)\t8.2\n"
    body += "10\timages/sec: 110.0 +/- 0.1 (jitter = 0.2)\t8.1\n"
    tell = "----\ntotal images/sec: {}\n----\n"
    lines = [f"[1,{rank}]<stdout>:{line}" for line in HEADER.splitlines() for rank in (0, 1)]
    lines += [f"[1,{rank}]<stdout>:{line}" for line in body.splitlines() for rank in (0, 1)]
    lines += [f"[1,{rank}]<stdout>:{line}" for rank in (0, 1) for line in tell.format(220.5 + rank).splitlines()]
    measured = one(read(tmp_path, "\n".join(lines) + "\n"))
    assert (measured.throughput, measured.gpus) == (221.0, 2)  # each rank's estimate of the total: their mean
    assert (measured.local_batch, measured.global_batch) == (32, 64)
    # Without its total, one rank's mean counts twice.
    cut = read(tmp_path, "\n".join(lines[:-6]) + "\n")
    assert (one(cut).throughput, one(cut).figure) == (220.0, "images/sec of the last step")
    assert "ends before the total" in reasons(cut)


def test_tf_cnn_windows_follow_from_the_means(tmp_path: Path) -> None:
    steps = [(1, 100.0), (10, 190.0), (20, 195.0)]  # 100, then 200 images/s
    text = HEADER + "".join(f"{step}\timages/sec: {rate} +/- 0.0 (jitter = 0.0)\t7\n" for step, rate in steps)
    measured = one(read(tmp_path, text.replace("Variables:   horovod", "Variables:   replicated")))
    assert measured.steady is not None
    assert (measured.steady.windows, measured.steady.rate) == (3, pytest.approx(20 / (1 / 100 + 19 / 200)))


def test_tf_cnn_runs_in_one_file_and_modes(tmp_path: Path) -> None:
    total = "1\timages/sec: 100.0 +/- 0.0 (jitter = 0.0)\t8.2\ntotal images/sec: {}\n"
    text = HEADER + total.format(10.5) + HEADER.replace("training", "forward-only") + total.format(99.5)
    text += HEADER.replace("'horovod/gpu:0', 'horovod/gpu:1'", "'/cpu:0'") + total.format(11.5)
    result = read(tmp_path, text)
    assert [(run.throughput, run.gpus, run.device) for run in result.measurements] == [  # type: ignore[union-attr]
        (10.5, 2, "gpu"),
        (11.5, 1, "cpu"),
    ]
    assert "mode forward-only: not a training" in reasons(result)


def test_tf_cnn_header_across_the_border_of_blocks(tmp_path: Path) -> None:
    run = HEADER + "1\timages/sec: 100.0 +/- 0.0 (jitter = 0.0)\t8.2\ntotal images/sec: 100.00\n"
    for before in range((1 << 20) - len(run), (1 << 20) + 1, 97):
        filler = ("x" * 99 + "\n") * (before // 100) + "x" * (before % 100 - 1) + "\n" * (before % 100 > 0)
        measured = one(read(tmp_path, filler + run, format="tf_cnn_benchmarks"))
        assert (measured.gpus, measured.global_batch, measured.model) == (2, 64, "resnet50"), before
