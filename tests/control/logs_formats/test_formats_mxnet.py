"""MXNet's Speed lines of one worker or of all, and MLPerf logs of v0.6 and later."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.control.logs_formats.reading import one, read, reasons

ARGUMENTS = "2020-06-20 09:08:05,869 Node[{}] start with arguments Namespace(batch_size={}, dtype='float16', gpus='{}', image_shape='4,224,224', kv_store='{}', network='resnet', num_examples=1281167)\n"
SPEED = "2020-06-20 09:{:02d}:{:06.3f} Node[{}] Epoch[0] Batch [{}-{}]\tSpeed: {} samples/sec\taccuracy=0.001\n"


def speeds(worker: int, speed: float, batch: int, count: int = 6) -> str:
    """Lines of every 20 batches, at the times that the batch and the speed give."""
    text = ""
    for number in range(count):
        at = (number + 1) * 20 * batch / speed
        line = SPEED.format(int(at // 60), at % 60, worker, 20 * number, 20 * number + 20, speed)
        text += line.replace(".", ",", 1)
    return text


def test_horovod_prints_the_total_on_rank_0(tmp_path: Path) -> None:
    # As mlcommons/training_results_v0.7, NVIDIA/results/dgxa100_ngc20.06_mxnet/resnet/result_1.txt does.
    text = "".join(ARGUMENTS.format(rank, 408, rank, "horovod") for rank in range(8)) + speeds(0, 21999.24, 3264)
    result = read(tmp_path, text)
    measured = one(result)
    assert measured.throughput == pytest.approx(21999.24)
    assert (measured.gpus, measured.local_batch, measured.global_batch) == (8, 408, 3264)
    assert (measured.figure, measured.unit, measured.precision) == ("Speed of batches", "images", "float16")
    assert result.problems == ()


def test_workers_of_a_kvstore_print_their_own_speeds(tmp_path: Path) -> None:
    arguments = "".join(ARGUMENTS.format(worker, 128, "0,1,2,3", "dist_sync") for worker in (0, 1))
    text = arguments + speeds(0, 1000.0, 128) + speeds(1, 1100.0, 128)
    measured = one(read(tmp_path, text))
    assert measured.throughput == pytest.approx(2100.0)
    assert (measured.gpus, measured.local_batch, measured.global_batch) == (8, 32, 256)
    # One worker's file alone is not doubled.
    result = read(tmp_path, arguments + speeds(0, 1000.0, 128))
    assert one(result).throughput is None
    assert "only 1 of 2 workers print their speed" in reasons(result)


def test_one_process_with_all_gpus(tmp_path: Path) -> None:
    text = "INFO:root:start with arguments Namespace(batch_size=512, gpus='0,1,2,3', kv_store='device', network='resnet')\n"
    text += "INFO:root:Epoch[0] Batch [20]\tSpeed: 1234.56 samples/sec\taccuracy=0.1\n" * 3
    measured = one(read(tmp_path, text))
    assert measured.throughput == pytest.approx(1234.56)
    assert (measured.gpus, measured.local_batch, measured.global_batch) == (4, 128, 512)


def test_horovods_example_prints_ranks(tmp_path: Path) -> None:
    # horovod/horovod, examples/mxnet/mxnet_imagenet_resnet50.py
    text = "INFO:root:Namespace(batch_size=128, dtype='float32', model='resnet50_v1', no_cuda=False)\n"
    for batch in (40, 80, 120):
        for rank in range(4):
            text += f"[1,{rank}]<stderr>:INFO:root:Epoch[0] Rank[{rank}] Batch[{batch}]\taccuracy=0.1\tlr=0.1\n"
        text += f"[1,0]<stderr>:INFO:root:Epoch[0] Batch[{batch}]\tSpeed: 1400.5 samples/sec\n"
    text += "[1,0]<stderr>:INFO:root:Epoch[0]\tSpeed: 1300.5 samples/sec\n"
    measured = one(read(tmp_path, text))
    assert measured.throughput == pytest.approx(1400.5)
    assert (measured.gpus, measured.global_batch) == (4, 512)


def test_gluoncv_prints_epochs(tmp_path: Path) -> None:
    text = "".join(
        f"[Epoch {epoch}] speed: {speed} samples/sec\ttime cost: 100.5\n"
        for epoch, speed in ((0, 900), (1, 1200), (2, 1200))
    )
    measured = one(read(tmp_path, text))
    assert (measured.throughput, measured.figure) == (pytest.approx(1200), "Speed of epochs")


def test_a_bare_speed_is_the_total_and_nothing_more_is_known(tmp_path: Path) -> None:
    result = read(tmp_path, "Epoch[0] Batch [20]\tSpeed: 21999.24 samples/sec\n" * 2)
    assert (one(result).throughput, one(result).gpus) == (pytest.approx(21999.24), None)
    assert "one worker's or the total" in reasons(result)
    ranks = "".join(f"[1,{rank}]<stdout>:Epoch[0] Batch [20]\tSpeed: {500 + rank} samples/sec\n" for rank in (0, 1))
    assert one(read(tmp_path, ranks)).throughput is None


def event(key: str, at: float, value: object = None, **metadata: object) -> str:
    entry = {"namespace": "", "time_ms": int(at * 1000), "event_type": "POINT_IN_TIME", "key": key, "value": value}
    return f":::MLLOG {json.dumps({**entry, 'metadata': {'file': 'x.py', 'lineno': 1, **metadata}})}\n"


def mlperf(epochs: int = 3, *, samples: int | None = 1_281_167) -> str:
    text = event("submission_benchmark", 0, "resnet") + event("submission_platform", 0, "2xC4140")
    text += event("global_batch_size", 0, 1664) + event("run_start", 10)
    if samples:
        text += event("train_samples", 10, samples)
    at = 10.0
    for number in range(1, epochs + 1):
        took = 200.0 if number == 1 else 100.0
        text += event("epoch_start", at, epoch_num=number) + event("epoch_stop", at + took, epoch_num=number)
        text += event("eval_start", at + took, epoch_num=number) + event("eval_stop", at + took + 5, epoch_num=number)
        at += took + 5
    return text + event("eval_accuracy", at, 0.76, epoch_num=epochs) + event("run_stop", at, status="success")


def ranks(text: str) -> str:
    """Every line twice, with the prefixes that srun -l gives two ranks."""
    return "".join(f"{rank}: {line}\n" for line in text.splitlines() for rank in (0, 1))


@pytest.mark.parametrize("twice", [False, True])
def test_mlperf_epochs(tmp_path: Path, twice: bool) -> None:
    text = "".join(ARGUMENTS.format(rank, 208, rank, "horovod") for rank in range(8))
    text += ranks(mlperf()) if twice else mlperf()
    result = read(tmp_path, text)
    measured = one(result)
    assert (result.format, measured.throughput) == ("mlperf", pytest.approx(12811.67))
    assert (measured.gpus, measured.nodes, measured.local_batch, measured.global_batch) == (8, 2, 208, 1664)
    assert (measured.epoch_s, measured.eval_s, measured.time_to_train_s) == (100.0, 5.0, 415.0)
    assert (measured.score, measured.unit) == (0.76, "images")


def test_mlperf_tracked_stats(tmp_path: Path) -> None:
    text = event("submission_benchmark", 0, "bert") + event("run_start", 0)
    for number, rate in enumerate((900.0, 1000.0, 1000.0)):
        text += event("tracked_stats", number, {"throughput": rate, "loss": 1.0}, step=100 * number)
        text += event("tracked_stats", number, {"train_epoch_timing": 3.5}, step=100 * number)
    text += event("run_stop", 99, status="aborted")
    measured = one(read(tmp_path, "world_size=1\n" + text))
    assert (measured.throughput, measured.unit) == (pytest.approx(1000.0), "sequences")
    assert (measured.figure, measured.time_to_train_s) == ("throughput of tracked_stats", None)
    assert measured.steady is not None
    assert (measured.steady.windows, measured.steady.warmup) == (2, 1)
    # Of two ranks, or of nobody knows how many, it may be the rate of each.
    for several in (ranks(text), text):
        result = read(tmp_path, several)
        assert one(result).throughput is None
        assert "may be of one GPU or of all: no figure confirms it" in reasons(result)


def test_mlperf_throughputs_by_other_names(tmp_path: Path) -> None:
    # mlcommons/training_results_v2.1, ASUSTeK/results/ESC8000A-E11-8xA100-PCIE-80GB-NVBridge: resnet, bert
    text = event("submission_benchmark", 0, "resnet") + event("train_samples", 0, 1281167) + event("run_start", 0)
    for number, rate in enumerate((20000.5, 24172.5, 24172.5), 1):
        text += event("epoch_start", 60.0 * number, epoch_num=number)
        text += event("epoch_stop", 60.0 * number + 53, epoch_num=number)
        text += event("tracked_stats", 60.0 * number, {"imgs_sec": rate}, step=number) + event("throughput", 1, rate)
    measured = one(read(tmp_path, text + event("run_stop", 200, status="success")))
    assert (measured.throughput, measured.figure) == (pytest.approx(24172.5), "throughput of tracked_stats")
    text = event("submission_benchmark", 0, "bert") + event("run_start", 0) + event("epoch_start", 0, epoch_num=1)
    text += event("epoch_stop", 1500, epoch_num=2700096) + event("train_samples", 1500, 2700096)
    text += event("run_stop", 1500, status="success")
    assert one(read(tmp_path, text)).throughput == pytest.approx(2700096 / 1500)
    text += "{'e2e_time': 1521.4, 'training_sequences_per_second': 1990.3, 'final_loss': 0.0}\n"
    measured = one(read(tmp_path, text))
    assert (measured.throughput, measured.figure) == (1990.3, "training_sequences_per_second")


def test_mlperf_seconds_and_strings(tmp_path: Path) -> None:
    # mlcommons/training_results_v0.7, Alibaba/results/v100-256/result_1.txt
    text = ""
    for line in mlperf().splitlines():
        entry = json.loads(line.removeprefix(":::MLLOG "))
        entry["time_s"] = entry.pop("time_ms") / 1000
        entry["value"] = str(entry["value"]) if entry["value"] is not None else None
        text += f":::MLLOG {json.dumps(entry)}\n"
    assert one(read(tmp_path, text)).throughput == pytest.approx(12811.67)


def test_mlperf_runs_in_one_file(tmp_path: Path) -> None:
    result = read(tmp_path, mlperf() + mlperf(5))
    assert [run.time_to_train_s for run in result.measurements] == [415.0, 625.0]  # type: ignore[union-attr]


def test_an_mlperf_log_without_samples_is_read_by_its_other_lines(tmp_path: Path) -> None:
    text = "".join(ARGUMENTS.format(rank, 408, rank, "horovod") for rank in range(8)).replace(
        "num_examples=1281167", "x=1"
    )
    text += mlperf(samples=None).replace("1664", "3264")
    assert one(read(tmp_path, text)).missing == ("throughput",)
    result = read(tmp_path, text + speeds(0, 21999.24, 3264))
    assert (result.format, one(result).throughput) == ("mxnet", pytest.approx(21999.24))
    assert "read as mxnet: as mlperf it has no figure" in reasons(result)


def test_mlperf_blocks_leave_validation_out(tmp_path: Path) -> None:
    text = event("train_samples", 0, 1000) + event("run_start", 0)
    for number in range(3):
        at = 100.0 * number
        text += event("block_start", at, first_epoch_num=number, epoch_count=2)
        text += (
            event("eval_start", at + 80)
            + event("eval_stop", at + 90)
            + event("block_stop", at + 90, first_epoch_num=number)
        )
    measured = one(read(tmp_path, text))
    assert (measured.throughput, measured.figure) == (pytest.approx(25.0), "samples over the time of blocks")
