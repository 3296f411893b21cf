"""The figures of real logs, whose sources are in SOURCES.md."""

from __future__ import annotations

import pytest

from hpcjobs.collect.reading import read_log
from tests.control.logs_formats.reading import SAMPLES, one, reasons


@pytest.mark.parametrize(
    ("name", "total", "gpus", "batch"),
    [
        ("fp16_1gpus", 1888.37, 1, 448),
        ("fp16_2gpus", 3744.75, 2, 448),
        ("fp16_4gpus", 7479.90, 4, 448),
        ("fp16_8gpus", 14815.25, 8, 448),
        ("fp32_1gpus", 643.51, 1, 224),
        ("fp32_8gpus", 5035.80, 8, 224),
    ],
)
def test_tf_cnn_benchmarks(name: str, total: float, gpus: int, batch: int) -> None:
    result = read_log(SAMPLES / f"tf_cnn_{name}.log.gz")
    measured = one(result)
    assert (measured.throughput, measured.gpus, measured.gpus_from) == (total, gpus, "log")
    assert (measured.local_batch, measured.global_batch) == (batch, batch * gpus)
    assert (measured.model, measured.gpu_model, measured.device) == ("resnet50", "A100-SXM4-40GB", "gpu")
    assert measured.figure == "total images/sec"
    assert measured.steady is not None
    assert measured.steady.windows == 11
    assert measured.steady.rate == pytest.approx(total, rel=0.002)
    assert (result.format, result.problems) == ("tf_cnn_benchmarks", ())


@pytest.mark.parametrize(("gpus", "total"), [(1, 416.19), (8, 3279.67)])
def test_ngc_resnet50(gpus: int, total: float) -> None:
    measured = one(read_log(SAMPLES / f"ngc_gpu{gpus}.txt.gz"))
    assert measured.throughput == pytest.approx(total, abs=0.005)
    assert (measured.gpus, measured.local_batch, measured.global_batch) == (gpus, 256, 256 * gpus)
    assert (measured.figure, measured.unit) == ("train_throughput of the summary", "images")
    assert (measured.model, measured.precision) == ("resnet50", "float32")


def test_dllogger_json() -> None:
    measured = one(read_log(SAMPLES / "dllogger_resnet.json.gz"))
    assert measured.throughput == pytest.approx(661.9801574510492)
    assert (measured.gpus, measured.local_batch, measured.precision) == (1, 128, "amp")
    assert measured.steady is not None
    assert measured.steady.rate == pytest.approx(675, abs=1)


def test_dllogger_without_a_throughput_gives_no_row_and_a_reason() -> None:
    result = read_log(SAMPLES / "dllogger_stdout.txt")
    assert result.measurements == ()
    assert reasons(result) == "no line of the format dllogger that gives a figure"


def test_mlperf_v06() -> None:
    measured = one(read_log(SAMPLES / "mlperf_v0.6_dgx1.txt.gz"))
    # 1,281,167 images in epochs of 114.18 s; MXNet's own Speed lines in the same log say 11,220 on average.
    assert measured.throughput == pytest.approx(11220.9, abs=0.1)
    assert (measured.gpus, measured.nodes, measured.local_batch, measured.global_batch) == (8, 1, 208, 1664)
    assert (measured.gpu_model, measured.precision, measured.model) == ("Tesla V100-SXM2-16GB", "float16", "resnet")
    assert measured.time_to_train_s == pytest.approx(6920.2, abs=0.1)
    assert measured.time_to_train_kind == "measured_to_target"
    assert measured.score == 0.762
    assert (measured.epoch_s, measured.eval_s) == (pytest.approx(114.176, abs=0.001), pytest.approx(4.376, abs=0.001))


def test_the_speeds_of_the_mlperf_log_are_over_all_ranks() -> None:
    # Only Node[0] prints them; its batch is 208, but speed x time / batches is 1,664.
    measured = one(read_log(SAMPLES / "mlperf_v0.6_dgx1.txt.gz", "mxnet"))
    assert measured.throughput == pytest.approx(11225, rel=0.002)
    assert (measured.gpus, measured.global_batch) == (8, 1664)
    assert measured.steady is not None
    assert measured.steady.windows + measured.steady.warmup == 2280
