"""Small cuts of real logs of training frameworks, each with its source."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.control.logs_formats.made import MADE
from tests.control.logs_formats.reading import one, read, reasons
from tests.control.logs_formats.truth import Truth

# bigscience-workshop/bigscience, experiments/gpt2-meg
MEGATRON_2021 = """\
using world size: 32, data-parallel-size: 1, tensor-model-parallel size: 4, pipeline-model-parallel size: 8
 iteration       10/    1000 | consumed samples:           40 | elapsed time per iteration (ms): 3171.3 | learning rate: 0.000E+00 | global batch size:     4 | loss scale: 8388608.0 | number of skipped iterations:  10 | number of nan iterations:   0 |
 iteration       40/    1000 | consumed samples:          160 | elapsed time per iteration (ms): 1625.2 | learning rate: 1.499E-04 | global batch size:     4 | lm loss: 1.377455E+01 | loss scale: 16384.0 | grad norm: 81.041 | number of skipped iterations:   0 | number of nan iterations:   0 |
 iteration       50/    1000 | consumed samples:          200 | elapsed time per iteration (ms): 1623.8 | learning rate: 1.497E-04 | global batch size:     4 | lm loss: 1.016227E+01 | loss scale: 16384.0 | grad norm: 15.954 | number of skipped iterations:   0 | number of nan iterations:   0 |
"""
# NVIDIA/nccl, issue 743
MEGATRON_2022 = """\
 iteration       10/ 1000000 | consumed samples:           40 | elapsed time per iteration (ms): 356.2 | learning rate: 0.000E+00 | global batch size:     4 | loss scale: 8388608.0 | number of skipped iterations:  10 | number of nan iterations:   0 |
time (ms) | forward-compute: 193.77 | backward-compute: 73.02 | backward-params-all-reduce: 20.10 |
 iteration       20/ 1000000 | consumed samples:           80 | elapsed time per iteration (ms): 140.6 | learning rate: 2.020E-08 | global batch size:     4 | lm loss: 1.005022E+01 | sop loss: 8.174902E-01 |
"""
# FlagAI-Open/OpenSeek, docs of the baseline
MEGATRON_2025 = """\
[default0]: [2025-05-27 15:23:07] iteration        1/    24000 | consumed samples:          1024 | elapsed time per iteration (ms): 271607.0 | throughput per GPU (TFLOP/s/GPU): 40.4 | learning rate: 1.500000E-06 | global batch size:  1024 | lm loss: 1.192634E+01 | loss scale: 1.0 | number of nan iterations:    0 |
"""
# NVIDIA-BioNeMo/bionemo-recipes, pull request 740
NEMO = """\
Training epoch 0, iteration 120/149 | lr: 3e-05 | consumed_samples: 121 | global_batch_size: 1 | global_step: 120 | reduced_train_loss: 1.233 | train_step_timing in s: 0.03146 | val_loss: 4.106
Training epoch 0, iteration 121/149 | lr: 3e-05 | consumed_samples: 122 | global_batch_size: 1 | global_step: 121 | reduced_train_loss: 1.288 | train_step_timing in s: 0.03163 | val_loss: 4.106
"""
# NVIDIA-NeMo/Speech, issue 13903: bars of micro-batches, each drawn twice
NEMO_BAR = """\
olmo2_cpt/0 [default0]:Epoch 0:   0%|          | 33/2383206 [01:00<1217:48:45,  0.54it/s, v_num=mu23, global_step=0.000, train_step_timing in s=2.200, reduced_train_loss=2.390, tps=8967.0, lr=1e-6]
"""
# bigscience-workshop/bigscience, experiments/gpt2-hf-ds: every rank prints the summary
TRAINER = """\
[2021-05-26 04:40:56,473] [INFO] [config.py:752:print]   train_batch_size ............. 1024
[2021-05-26 04:40:56,473] [INFO] [config.py:752:print]   world_size ................... 64
[2021-05-26 04:51:31,919] [INFO] [config.py:752:print]   train_batch_size ............. 512
[2021-05-26 04:51:31,919] [INFO] [config.py:752:print]   train_micro_batch_size_per_gpu  8
[2021-05-26 04:51:31,919] [INFO] [config.py:752:print]   world_size ................... 64
{'train_runtime': 273.0148, 'train_samples_per_second': 3.663, 'train_steps_per_second': 0.007, 'epoch': 1.0}
{'train_runtime': 273.0144, 'train_samples_per_second': 3.663, 'train_steps_per_second': 0.007, 'epoch': 1.0}
"""
# deepspeedai/DeepSpeed, issue 1825
DEEPSPEED = """\
[2022-03-11 02:06:58,985] [INFO] [timer.py:189:stop] 0/40, SamplesPerSec=83.48609168106144, MemAllocated=0.26GB, MaxMemAllocated=9.02GB
[2022-03-11 02:07:14,130] [INFO] [timer.py:189:stop] 0/50, SamplesPerSec=83.73838805358588, MemAllocated=0.26GB, MaxMemAllocated=9.02GB
"""
# pytorch/tutorials, intermediate_source/memory_format_tutorial.py, after Apex' example
IMAGENET = """\
# Epoch: [0][10/125] Time 0.866 (0.866) Speed 230.949 (230.949) Loss 0.6735125184 (0.6735) Prec@1 61.000 (61.000) Prec@5 100.000 (100.000)
# Epoch: [0][20/125] Time 0.259 (0.562) Speed 773.481 (355.693) Loss 0.6968704462 (0.6852) Prec@1 55.000 (58.000) Prec@5 100.000 (100.000)
"""
# huggingface/optimum-habana, examples/pytorch-image-models/README.md
TIMM = """\
Train: 0 [   0/73 (  1%)]  Loss: 6.86 (6.86)  Time: 9.575s,   13.37/s  (9.575s,   13.37/s)  LR: 1.000e-05  Data: 0.844 (0.844)
Train: 0 [  50/73 ( 70%)]  Loss: 6.77 (6.83)  Time: 0.320s,  400.32/s  (0.470s,  272.39/s)  LR: 1.000e-05  Data: 0.217 (0.047)
"""
# facebookresearch/detr, issue 257, shortened
DETR = """\
Namespace(aux_loss=True, backbone='resnet50', batch_size=2, dist_backend='nccl', distributed=True, gpu=0, rank=0, world_size=8)
Epoch: [0]  [   0/7393]  eta: 16:41:59  lr: 0.000100  class_error: 99.64  loss: 76.2864 (76.2864)  time: 8.1320  data: 0.5310  max mem: 2823
Epoch: [0]  [  10/7393]  eta: 1:21:09  lr: 0.000100  class_error: 0.00  loss: 62.0498 (68.0700)  time: 1.4000  data: 0.0597  max mem: 2823
Epoch: [0]  [  20/7393]  eta: 1:20:09  lr: 0.000100  class_error: 0.00  loss: 62.0498 (68.0700)  time: 0.6000  data: 0.0097  max mem: 2823
"""
# microsoft/Swin-Transformer, issue 183; the first line as its main.py prints it
SWIN = """\
RANK and WORLD_SIZE in environ: 0/8
[2022-03-14 09:05:16 swin_v1_tiny_patch4_window7_224_WindowAttention] (main.py 226): INFO Train: [14/300][250/1251]\teta 0:10:52 lr 0.000710\ttime 0.6408 (0.6516)\tloss 6.5584 (6.3074)\tgrad_norm 6.5613 (10.6225)\tmem 14764MB
[2022-03-14 09:05:48 swin_v1_tiny_patch4_window7_224_WindowAttention] (main.py 226): INFO Train: [14/300][300/1251]\teta 0:10:17 lr 0.000712\ttime 0.6398 (0.6494)\tloss 6.0243 (6.2928)\tgrad_norm 8.5172 (10.1990)\tmem 14764MB
"""
# open-mmlab/mmdetection, issue 64: before mmcv said eta and memory
MMCV = """\
2018-10-23 10:51:07,015 - INFO - Epoch [3][50/2500]     lr: 0.02000, time: 1.090, data_time: 0.015, loss_reg: 0.0096, acc: 99.0479, loss: 0.0394
2018-10-23 10:51:58,164 - INFO - Epoch [3][100/2500]    lr: 0.02000, time: 1.023, data_time: 0.006, loss_reg: 0.0099, acc: 99.0254, loss: 0.0403
2018-10-23 10:52:50,521 - INFO - Epoch [3][150/2500]    lr: 0.02000, time: 1.047, data_time: 0.007, loss_reg: 0.0097, acc: 98.9961, loss: 0.0408
"""
# open-mmlab/mmengine, docs/en/common_usage/large_model_training.md
MMENGINE = """\
08/18 11:56:34 - mmengine - INFO - Epoch(train) [1][ 10/196] lr: 3.3333e-04 eta: 0:10:31 time: 0.3238  data_time: 0.0344  memory: 597  loss: 3.8766
08/18 11:56:35 - mmengine - INFO - Epoch(train)  [1][ 20/196]  lr: 3.3333e-04  eta: 0:06:56  time: 0.1057  data_time: 0.0338  memory: 597  loss: 2.3797
08/18 11:56:36 - mmengine - INFO - Epoch(train)  [1][ 30/196]  lr: 3.3333e-04  eta: 0:05:45  time: 0.1068  data_time: 0.0342  memory: 597  loss: 2.3219
"""
# PaddlePaddle/PaddleSeg, pull request 928
PADDLESEG = """\
2021-03-30 06:55:57 [INFO]\t[TRAIN] epoch: 1, iter: 20/500, loss: 2.0859, lr: 0.009657, batch_cost: 0.5344, reader_cost: 0.07273, ips: 3.7425 samples/sec | ETA 00:04:16
2021-03-30 06:56:04 [INFO]\t[TRAIN] epoch: 1, iter: 40/500, loss: 1.8769, lr: 0.009295, batch_cost: 0.3483, reader_cost: 0.00205, ips: 5.7421 samples/sec | ETA 00:02:40
2021-03-30 06:56:11 [INFO]\t[TRAIN] epoch: 1, iter: 60/500, loss: 1.7455, lr: 0.008931, batch_cost: 0.3532, reader_cost: 0.00204, ips: 5.6622 samples/sec | ETA 00:02:35
"""
# PaddlePaddle/PaddleFleetX, docs of GPT's pretraining with data parallelism
FLEETX = """\
[2022-07-27 12:40:00,833] [    INFO] - global step 1, epoch: 0, batch: 0, loss: 11.083364487, avg_reader_cost: 0.23392 sec, avg_batch_cost: 2.05344 sec, speed: 0.49 step/s, ips_total: 3989 tokens/s, ips: 499 tokens/s, learning rate: 5.55556e-09
[2022-07-27 12:40:00,967] [    INFO] - global step 2, epoch: 0, batch: 1, loss: 11.054802895, avg_reader_cost: 0.00014 sec, avg_batch_cost: 0.13314 sec, speed: 7.51 step/s, ips_total: 61529 tokens/s, ips: 7691 tokens/s, learning rate: 8.33333e-09
[2022-07-27 12:40:01,075] [    INFO] - global step 3, epoch: 0, batch: 2, loss: 11.082803726, avg_reader_cost: 0.00013 sec, avg_batch_cost: 0.10738 sec, speed: 9.31 step/s, ips_total: 76289 tokens/s, ips: 9536 tokens/s, learning rate: 1.11111e-08
"""
# AI-Hypercomputer/maxtext, pull request 2232, which says 24576 tokens of a device
MAXTEXT = """\
completed step: 9, seconds: 5.667, TFLOP/s/device: 134.924, Tokens/s/device: 8672.758, total_weights: 196608, loss: 10.374
"""
# pytorch/torchtitan, pull request 1349
TORCHTITAN = """\
[rank0]:[titan] 2025-06-26 18:12:46,592 - root - INFO - Building 1-D device mesh with ['dp_shard'], [8]
[rank0]:[titan] 2025-06-26 18:23:14,389 - root - INFO - step:  1  loss:  8.1996  memory:  2.65GiB(2.79%)  tps: 1,772  tflops: 0.13  mfu: 0.01%
[rank0]:[titan] 2025-06-26 18:23:14,486 - root - INFO - step:  2  loss:  8.1709  memory:  2.66GiB(2.80%)  tps: 168,877  tflops: 12.14  mfu: 1.23%
[rank0]:[titan] 2025-06-26 18:23:14,580 - root - INFO - step:  3  loss:  8.1121  memory:  2.66GiB(2.80%)  tps: 175,100  tflops: 12.59  mfu: 1.27%
"""
# KellerJordan/modded-nanogpt, records
STEP_AVG = """\
world_size = int(os.environ['WORLD_SIZE'])
step:0/1490 val_loss:10.8258 train_time:0ms step_avg:nanms
step:13/1490 train_time:399ms step_avg:133.06ms
step:1489/1490 train_time:212893ms step_avg:143.94ms
step:1490/1490 train_time:213044ms step_avg:143.95ms
step:1490/1490 val_loss:3.2794 train_time:213121ms step_avg:144.00ms
"""


# NERSC/sc22-dl-tutorial, example_logs
NERSC = """\
2021-11-12 00:32:26,119 - root - INFO - global_batch_size 64
2021-11-12 00:32:26,119 - root - INFO - base_batch_size 64
2021-11-12 00:32:26,119 - root - INFO - Nsamples 65536
2021-11-12 00:32:26,150 - root - INFO - rank 0, begin data loader init
2021-11-12 00:46:23,492 - root - INFO - Time taken for epoch 1 is 752.9529612064362 sec, avg 87.03863770585806 samples/sec
2021-11-12 00:46:23,492 - root - INFO -   Avg train loss=0.014280
2021-11-12 00:47:36,657 - root - INFO -   Total validation time: 73.16440415382385 sec
2021-11-12 00:59:52,873 - root - INFO - Time taken for epoch 2 is 736.1673448085785 sec, avg 89.02323698837927 samples/sec
2021-11-12 01:13:09,400 - root - INFO - Time taken for epoch 3 is 725.6503672599792 sec, avg 90.31346631499791 samples/sec
"""


@pytest.mark.parametrize(
    ("text", "format", "rate", "unit", "gpus", "batch"),
    [
        (MEGATRON_2021, "megatron", 4 / 1.6245, "sequences", 32, 4),
        (MEGATRON_2022, "megatron", 4 / 0.1406, "sequences", None, 4),
        (MEGATRON_2025.replace(" 1/", " 2/"), "megatron", 1024 / 271.607, "sequences", None, 1024),
        (NEMO, "nemo", 1 / 0.03163, "sequences", None, 1),
        (TRAINER, "huggingface", 3.663, "samples", 64, 512),
        (DEEPSPEED, "deepspeed", 84.72, "samples", None, None),
        (IMAGENET, "imagenet", 200 / 0.258, "images", None, 200),
        (TIMM, "timm", 128 / 0.2879, "images", None, 128),
        (DETR, "torchvision", 16 / ((11 * 1.4 - 8.132) / 10), "samples", 8, 16),
        (FLEETX, "paddle", 8192 / 0.12026, "tokens", 8, 8192),
        (NERSC, "epochs", 2 * 65536 / (736.1673 + 725.6504), "samples", None, 64),
        (TORCHTITAN, "torchtitan", 8 * 171933, "tokens", 8, None),
    ],
)
def test_a_rate_over_all_gpus(
    tmp_path: Path, text: str, format: str, rate: float, unit: str, gpus: int | None, batch: int | None
) -> None:
    result = read(tmp_path, text)
    measured = one(result)
    assert result.format == format
    assert measured.throughput == pytest.approx(rate, rel=1e-3)
    assert (measured.unit, measured.gpus, measured.global_batch) == (unit, gpus, batch)


@pytest.mark.parametrize(
    ("text", "format", "step_ms", "gpus"),
    [
        (SWIN, "swin", 638.4, 8),
        (MMCV, "mmengine", 1035.0, None),
        (MMENGINE, "mmengine", 106.25, None),
        (STEP_AVG, "step_avg", 143.95, None),
    ],
)
def test_the_time_of_a_step_without_a_batch_gives_no_rate(
    tmp_path: Path, text: str, format: str, step_ms: float, gpus: int | None
) -> None:
    result = read(tmp_path, text)
    measured = one(result)
    assert (result.format, measured.gpus, measured.throughput) == (format, gpus, None)
    assert measured.step_ms == pytest.approx(step_ms, rel=1e-3)
    assert "there is no rate" in reasons(result)


@pytest.mark.parametrize(
    ("text", "per_gpu", "unit"), [(PADDLESEG, 2 / 0.35075, "samples"), (MAXTEXT, 24576 / 5.667, "tokens")]
)
def test_the_rate_of_one_gpu_is_not_multiplied_by_a_number_that_nobody_says(
    tmp_path: Path, text: str, per_gpu: float, unit: str
) -> None:
    measured = one(read(tmp_path, text))
    if unit == "tokens":
        per_gpu = 8672.758
    assert measured.per_gpu == pytest.approx(per_gpu, rel=2e-3)
    assert (measured.throughput, measured.gpus, measured.unit) == (None, None, unit)
    total = one(read(tmp_path, text, gpus_from=r"s(o)me|(?!)")).throughput
    assert total is None


def test_epochs_that_do_not_fit_their_samples_have_no_rate(tmp_path: Path) -> None:
    result = read(tmp_path, NERSC.replace("Nsamples 65536", "Nsamples 32768"))
    assert one(result).throughput is None
    assert "samples of an epoch 65536 (line 5); Nsamples 32768 (line 3)" in reasons(result)


def test_a_step_of_micro_batches_is_refused(tmp_path: Path) -> None:
    result = read(tmp_path, NEMO_BAR + NEMO_BAR.replace("global_step=0.000", "global_step=1.000"))
    assert (one(result).throughput, one(result).step_ms) == (None, None)
    assert "the log does not say the batch" in reasons(result)


HEAD = """\
***** Running training *****
  Num examples = 1,000
  Num Epochs = 3
  Instantaneous batch size per device = 4
  Total train batch size (w. parallel, distributed & accumulation) = 32
  Gradient Accumulation steps = 2
  Total optimization steps = 93
"""
SUMMARY = "{'train_runtime': 300.0, 'train_samples_per_second': 10.0, 'train_steps_per_second': 0.31, 'epoch': 3.0}\n"


def test_accumulation_counts_in_the_batch_and_gives_the_gpus(tmp_path: Path) -> None:
    measured = one(read(tmp_path, HEAD + "{'loss': 0.28, 'learning_rate': 2.8e-06, 'epoch': 2.83}\n" + SUMMARY))
    assert (measured.throughput, measured.gpus, measured.local_batch, measured.global_batch) == (10.0, 4, 4, 32)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (HEAD + "  Continuing training from global step 60\n" + SUMMARY, "goes on from a checkpoint"),
        (HEAD + " 50%|#####     | 46/93 [02:29<02:33,  3.25s/it]\n" + SUMMARY, "of which 46 were done"),
        (HEAD + SUMMARY.replace("3.0}", "1.2}"), "of which 1.2 were done"),
        (HEAD + SUMMARY.replace("10.0", "1.25"), "contradicts itself"),
    ],
)
def test_a_summary_that_counts_what_was_planned_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    result = read(tmp_path, text)
    assert one(result).throughput is None
    assert reason in reasons(result)


def test_without_a_summary_the_bar_of_all_steps_counts(tmp_path: Path) -> None:
    bars = "".join(
        f"\r{step:3d}%|##| {step}/93 [{3 * step // 60:02d}:{3 * step % 60:02d}<01:00,  3.00s/it]"
        for step in range(1, 90)
    )
    measured = one(read(tmp_path, HEAD + bars + "\n"))
    assert measured.throughput == pytest.approx(32 / 3, rel=0.02)
    assert (measured.unit, measured.gpus) == ("samples", 4)


def test_two_trainings_in_one_log_are_two_runs(tmp_path: Path) -> None:
    other = (
        MEGATRON_2021.replace("world size: 32", "world size: 64").replace("1625.2", "825.2").replace("1623.8", "823.8")
    )
    first, second = read(tmp_path, MEGATRON_2021 + other).measurements
    assert [getattr(run, "gpus", None) for run in (first, second)] == [32, 64]


def test_a_scripts_own_prints_and_downloads_are_not_claimed(tmp_path: Path) -> None:
    text = (
        "Epoch 3 step 10 loss 0.5 time 0.4\nEpoch: [0] done, time: 3.1\nTrain: 0 of 10\nstep: 5 loss: 0.1\n"
        "model.safetensors: 100%|####| 440M/440M [00:04<00:00, 103MB/s]\n"
        "100%|##########| 100/100 [00:04<00:00, 23.10it/s]\n"
        "throughput: 512.3 tps: 12\n"
    )
    result = read(tmp_path, text)
    assert (result.format, result.measurements) == ("", ())


# pytorch/torchtitan until the end of 2024: wps, later called tps.
def test_torchtitans_words_a_second_are_its_tokens_a_second(tmp_path: Path) -> None:
    text = MADE["torchtitan"].make(Truth())
    assert one(read(tmp_path, text.replace("tps: ", "wps: "))).throughput == one(read(tmp_path, text)).throughput
