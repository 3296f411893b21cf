"""What looks like a figure of a training and is none: made as each framework prints it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcjobs.collect.measurements import Throughput
from tests.control.logs_formats.reading import one, read, reasons


def bars(name: str, steps: int, seconds: float) -> str:
    """A bar of tqdm in `seconds` s a step."""
    rate = f"{1 / seconds:.2f}it/s" if seconds < 1 else f"{seconds:.2f}s/it"
    return "".join(
        f"{name} {100 * done // steps:3d}%|####      | {done}/{steps} "
        f"[{int(done * seconds) // 60:02d}:{int(done * seconds) % 60:02d}<00:10,  {rate}]\n"
        for done in range(steps // 10, steps + 1, steps // 10)
    )


@pytest.mark.parametrize(
    ("name", "steps", "seconds"),
    [
        ("Epochs:", 10, 60.0),
        ("Epoch:", 10, 60.0),
        ("Training:", 10, 60.0),  # for epoch in tqdm(range(10), desc="Training")
        ("Filtering train split:", 1000, 0.02),
        ("Reading train images:", 1000, 0.02),
        ("train examples:", 1000, 0.02),
    ],
)
def test_bars_of_epochs_and_of_data_are_no_steps(tmp_path: Path, name: str, steps: int, seconds: float) -> None:
    result = read(tmp_path, "global batch size: 256\nworld_size: 4\n" + bars(name, steps, seconds))
    found = [run for run in result.measurements if isinstance(run, Throughput)]
    assert all(run.throughput is None and run.step_ms is None for run in found)


def test_bars_of_one_epoch_each_are_steps(tmp_path: Path) -> None:
    text = "".join(bars(f"Epoch {epoch}:", 100, 0.2) for epoch in range(3))
    assert one(read(tmp_path, "global batch size: 256\nworld_size: 4\n" + text)).throughput == pytest.approx(1280)


# Of transformers 4.5: its samples a second are the steps, 30 in 37.2 s. d2l-ai and others' notebooks print it so.
OLD = "TrainOutput(global_step=30, training_loss=2.5, metrics={'train_runtime': 37.1978, 'train_samples_per_second': 0.806, 'epoch': 3.0})\n"
SUMMARY = "{'train_runtime': 50.0, 'train_samples_per_second': 160.0, 'train_steps_per_second': 20.0, 'epoch': 2.0}\n"


def planned(first: int, last: int) -> str:
    return "".join(
        f" {done // 10}%|####      | {done}/1000 [00:{(done - first) // 10:02d}<00:40, 10.00it/s]\r"
        for done in [0, *range(first, last + 1, 10)]
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (OLD, "is the steps a second in versions until 4.5"),
        (planned(501, 1000) + "\n" + SUMMARY, "of which it began at 501"),
        (planned(1, 481) + "\n" + SUMMARY, "of which 481 were done"),
    ],
)
def test_summaries_of_the_trainer_that_count_what_was_not_run(tmp_path: Path, text: str, why: str) -> None:
    result = read(tmp_path, text)
    assert one(result).throughput is None
    assert why in reasons(result)


def test_a_whole_run_of_the_trainer_without_its_head(tmp_path: Path) -> None:
    assert one(read(tmp_path, planned(1, 1000) + "\n" + SUMMARY)).throughput == 160


# As mmdetection 2.0 to 2.7 print it, whose range(0, 1) is of any distributed training.
MMDET = """\
2020-05-01 03:22:00,000 - mmdet - INFO - Distributed training: {distributed}
data = dict(
    samples_per_gpu=2)
gpu_ids = range(0, 1)
2020-05-01 03:23:53,663 - mmdet - INFO - Epoch [1][50/7330]	lr: 0.00399, time: 0.500, data_time: 0.016, memory: 7966, loss: 2.7
2020-05-01 03:24:53,663 - mmdet - INFO - Epoch [1][100/7330]	lr: 0.00399, time: 0.500, data_time: 0.016, memory: 7966, loss: 2.7
"""


@pytest.mark.parametrize(("distributed", "gpus", "rate"), [(True, None, None), (False, 1, 4.0)])
def test_one_gpu_of_a_distributed_training_of_mmcv(
    tmp_path: Path, distributed: bool, gpus: int | None, rate: float | None
) -> None:
    measured = one(read(tmp_path, MMDET.format(distributed=distributed)))
    assert (measured.gpus, measured.throughput) == (gpus, rate)


def meters(lag: int) -> str:
    """Lines of PyTorch's ImageNet example from two ranks without prefixes, one of which is `lag` steps late."""
    text = "global batch size: 256\n"
    for epoch in range(2):
        for step in range(0, 1000, 10):
            for at in (step, step - lag):
                if at >= 0:
                    text += f"Epoch: [{epoch}][{at:4d}/1000]\tTime  0.200 ( {(5 + 0.2 * at) / (at + 1):.3f})\tData 0.1 (0.1)\n"
    return text


def test_another_ranks_late_lines_begin_no_run(tmp_path: Path) -> None:
    assert one(read(tmp_path, meters(30))).step_ms == pytest.approx(200, rel=0.02)


def test_accumulated_steps_of_the_imagenet_example_are_refused(tmp_path: Path) -> None:
    result = read(tmp_path, "gradient_accumulation_steps: 4\n" + meters(0))
    assert one(result).throughput is None
    assert "gradients are accumulated" in reasons(result)


DEEPSPEED = """\
[2023-11-07 01:00:00,000] [INFO] [config.py:904:print]   train_batch_size ............. 64
[2023-11-07 01:00:00,000] [INFO] [config.py:904:print]   world_size ................... 4
[2023-11-07 01:55:23,714] [INFO] [timer.py:260:stop] epoch=0/micro_step=40/global_step=10, RunningAvgSamplesPerSec=64.0, CurrSamplesPerSec=64.1, MemAllocated=4.32GB
[2023-11-07 01:55:33,714] [INFO] [timer.py:260:stop] epoch=0/micro_step=80/global_step=20, RunningAvgSamplesPerSec=64.0, CurrSamplesPerSec=64.1, MemAllocated=4.32GB
"""


@pytest.mark.parametrize(("head", "gpus"), [("", 4), ("tensor model parallel size: 2\n", None)])
def test_the_engines_world_size_is_no_gpus_where_some_share_the_model(
    tmp_path: Path, head: str, gpus: int | None
) -> None:
    measured = one(read(tmp_path, head + DEEPSPEED))
    assert (measured.gpus, measured.throughput) == (gpus, 64)


@pytest.mark.parametrize(
    ("options", "gpus"),
    [
        ("--gpus=0,1,2,3", 4),
        ("--ips=10.0.0.1,10.0.0.2 --gpus=0,1,2,3", 8),
        ("--nnodes=2 --gpus=0,1,2,3", 8),
        ("--nnodes=2:4 --gpus=0,1,2,3", None),
    ],
)
def test_gpus_of_paddles_launcher(tmp_path: Path, options: str, gpus: int | None) -> None:
    lines = "".join(
        f"[Train][Epoch 1/120][Iter: {step}/626]lr: 0.1, batch_cost: 0.36000s, reader_cost: 0.2, ips: 177.77778 samples/s\n"
        for step in range(0, 200, 10)
    )
    assert one(read(tmp_path, f"python -m paddle.distributed.launch {options} train.py\n" + lines)).gpus == gpus


def resumed(head: str, lines: str) -> str:
    """Two starts of a training in one file: on 8 GPUs, and then on 16 from its next step on."""
    return "".join(
        head.format(gpus) + "".join(lines.format(step=step, epoch=epoch) for step in range(first, first + 200, 10))
        for gpus, first, epoch in ((8, 10, 1), (16, 210, 2))
    )


@pytest.mark.parametrize(
    ("head", "lines", "per_gpu"),
    [
        (
            "Namespace(batch_size=32, world_size={})\n",
            "Epoch: [{epoch}]  [{step}/1000]  eta: 0:30:12  loss: 6.9 (6.9)  time: 0.2500  data: 0.0100  max mem: 8000\n",
            128,
        ),
        (
            "[titan] - root - INFO - Building 1-D device mesh with ['dp_shard'], [{}]\n",
            "[titan] - root - INFO - step: {step}  loss:  7.4  memory: 40.00GiB(50.00%)  tps: 8,192  mfu: 40.50%\n",
            8192,
        ),
        (
            "Num_devices: {}, shape (1)\n",
            "completed step: {step}, seconds: 2.000, TFLOP/s/device: 451.2, Tokens/s/device: 4096.000, total_weights: 1\n",
            4096,
        ),
        (
            "PADDLE_TRAINERS_NUM: {}\n",
            "[Train][Epoch {epoch}/120][Iter: {step}/626]lr: 0.1, batch_cost: 0.50000s, ips: 128.00000 samples/s\n",
            128,
        ),
        (
            "mmdet - INFO - Distributed training: True\ndata = dict(samples_per_gpu=2)\ngpu_ids = range(0, {})\n",
            "mmdet - INFO - Epoch [{epoch}][{step}/7330]	lr: 0.00399, time: 0.500, data_time: 0.016, memory: 7966\n",
            4,
        ),
    ],
    ids=["torchvision", "torchtitan", "maxtext", "paddle", "mmengine"],
)
def test_a_training_that_goes_on_with_other_gpus_is_another_run(
    tmp_path: Path, head: str, lines: str, per_gpu: float
) -> None:
    found = [run for run in read(tmp_path, resumed(head, lines)).measurements if isinstance(run, Throughput)]
    assert [run.gpus for run in found] == [8, 16]
    assert [run.per_gpu for run in found] == pytest.approx([per_gpu, per_gpu])


def test_two_starts_that_no_line_parts_have_no_number_of_gpus(tmp_path: Path) -> None:
    text = "world_size=8\n" + meters(0) + "world_size=16\n" + meters(0).replace("[1]", "[3]").replace("[0]", "[2]")
    result = read(tmp_path, text)
    assert one(result).gpus is None
    assert "are of two starts of the training" in reasons(result)


# Tensor and pipeline parallelism: the global batch over the GPUs is no local batch.
MEGATRON = """\
using world size: 8, data-parallel size: 1, tensor-model-parallel size: 4, pipeline-model-parallel size: 2
 iteration       10/    1000 | consumed samples:          160 | elapsed time per iteration (ms): 2000.0 | learning rate: 1.0E-04 | global batch size:    16 | lm loss: 1.0E+01 |
 iteration       20/    1000 | consumed samples:          320 | elapsed time per iteration (ms): 2000.0 | learning rate: 1.0E-04 | global batch size:    16 | lm loss: 1.0E+01 |
"""


def test_gpus_that_share_a_model_have_no_batch_each(tmp_path: Path) -> None:
    measured = one(read(tmp_path, MEGATRON))
    assert (measured.gpus, measured.throughput, measured.global_batch, measured.local_batch) == (8, 8, 16, None)
