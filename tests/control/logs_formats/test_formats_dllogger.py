"""NVIDIA's DLLogger: lines of public logs (PaddlePaddle/Perf, Apache-2.0; some fields left out) and its variants."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.control.logs_formats.reading import one, read, reasons

# ResNet50V1.5/OtherReports/PyTorch/logs/V100-LOG/pytorch_gpu32_amp_bs256.txt
PYTORCH = """Wed Jun  1 10:54:33 2022[1,2]<stdout>:read 1281167 files from 1000 directories
Wed Jun  1 10:54:35 2022[1,0]<stdout>:DLL 2022-06-01 10:54:35.952290 - PARAMETER data : ./data/imagenet  data_backend : dali-cpu  arch : resnet50  epochs : 1  image_size : None  batch_size : 256  optimizer_batch_size : -1  lr : 0.1  resume : None  amp : True  gpu : 0  world_size : 32 
Wed Jun  1 10:54:35 2022[1,0]<stdout>:DLL 2022-06-01 10:54:35.952949 - PARAMETER model.num_classes : 1000  model.trt : False 
Wed Jun  1 10:54:47 2022[1,0]<stdout>:DLL 2022-06-01 10:54:47.073847 - Epoch: 0 Iteration: 1  train.loss : 7.09693  train.total_ips : 829.74 img/s
Wed Jun  1 10:54:47 2022[1,0]<stdout>:DLL 2022-06-01 10:54:47.460408 - Epoch: 0 Iteration: 2  train.loss : 6.99618  train.total_ips : 21193.44 img/s
Wed Jun  1 10:54:47 2022[1,0]<stdout>:DLL 2022-06-01 10:54:47.832584 - Epoch: 0 Iteration: 3  train.loss : 6.96660  train.total_ips : 22016.60 img/s
Wed Jun  1 10:54:48 2022[1,0]<stdout>:DLL 2022-06-01 10:54:48.201947 - Epoch: 0 Iteration: 4  train.loss : 6.93778  train.total_ips : 22183.30 img/s
Wed Jun  1 10:55:29 2022[1,2]<stdout>:Experiment ended
Wed Jun  1 10:55:29 2022[1,0]<stdout>:DLL 2022-06-01 10:55:29.927306 - Epoch: 0  train.loss : 6.67479  train.total_ips : 21259.81 img/s
Wed Jun  1 10:55:29 2022[1,0]<stdout>:DLL 2022-06-01 10:55:29.927470 - Epoch: 0  lr : 0.1  train.compute_ips : 21332.24 img/s train.data_time : 0.00132 s train.compute_time : 0.47581 s
Wed Jun  1 10:55:30 2022[1,0]<stdout>:DLL 2022-06-01 10:55:30.379795 - Summary: train.loss : 6.67479  train.total_ips : 21259.81 img/s
Wed Jun  1 10:55:30 2022[1,0]<stdout>:DLL 2022-06-01 10:55:30.379937 - Summary: lr : 0.1  train.compute_ips : 21332.24 img/s train.data_time : 0.00132 s
"""

# ResNet50V1.5/OtherReports/MxNet/logs/A100_LOG/mxnet_gpu8_amp_bs256.txt
MXNET = """[1,0]<stdout>:DLL 2023-07-31 12:56:58.635725 - PARAMETER arch : resnetv15  gpus : [0, 1, 2, 3, 4, 5, 6, 7]  kv_store : horovod  dtype : float16  amp : False  batch_size : 2048  num_epochs : 3  image_shape : [4, 224, 224]  input_layout : NCHW 
[1,7]<stderr>:[[1,7]<stderr>:12:56:58] ../src/storage/storage.cc:196: Using Pooled (Naive) StorageManager for CPU[1,7]<stderr>:
[1,7]<stderr>:2023-07-31 12:56:58,707:INFO: starting epoch 0
[1,0]<stdout>:DLL 2023-07-31 12:59:59.168606 - Epoch: 2 Iteration: 399  train.loss : 5.988438248634338  train.ips : 24008.82713191414 images/s train.lr : 0 
[1,0]<stdout>:DLL 2023-07-31 13:00:00.877205 - Epoch: 2 Iteration: 419  train.loss : 6.002675104141235  train.ips : 23978.186082469118 images/s train.lr : 0 
[1,0]<stdout>:DLL 2023-07-31 13:00:02.589834 - Epoch: 2 Iteration: 439  train.loss : 6.011355209350586  train.ips : 23920.14173975384 images/s train.lr : 0 
[1,0]<stdout>:DLL 2023-07-31 13:00:07.766110 - Epoch: 2  train.loss : 5.991541827201844  train.ips : 23860.02619506858 images/s
[1,0]<stdout>:DLL 2023-07-31 13:00:07.812707 - Summary: train.loss : 5.991541827201844  train.ips : 21814.612938110015 images/s
train.ips
           |    256    |
------------------------
     8     |   22690   |
"""


def test_pytorch_where_batch_size_is_per_gpu(tmp_path: Path) -> None:
    measured = one(read(tmp_path, PYTORCH))
    assert (measured.throughput, measured.gpus) == (21259.81, 32)
    assert (measured.local_batch, measured.global_batch) == (256, 8192)  # rates x time stamps say some 8,190
    assert (measured.figure, measured.unit) == ("train.total_ips of the summary", "images")
    assert (measured.model, measured.precision) == ("resnet50", "amp")
    assert measured.steady is not None
    assert (measured.steady.windows, measured.steady.warmup) == (3, 1)


def test_mxnet_where_batch_size_is_global(tmp_path: Path) -> None:
    measured = one(read(tmp_path, MXNET))
    assert measured.throughput == pytest.approx(21814.612938)
    assert (measured.gpus, measured.local_batch, measured.global_batch) == (8, 256, 2048)
    assert measured.precision == "float16"


def test_without_time_stamps_the_batch_is_left_open(tmp_path: Path) -> None:
    lines = [line for line in PYTORCH.splitlines() if "Iteration" not in line]
    measured = one(read(tmp_path, "\n".join(lines)))
    assert (measured.throughput, measured.gpus) == (21259.81, 32)
    assert (measured.local_batch, measured.global_batch, measured.missing) == (None, None, ("batch",))


def test_without_a_summary_the_steady_state_of_iterations_counts(tmp_path: Path) -> None:
    lines = [line for line in PYTORCH.splitlines() if "Summary" not in line and "Epoch: 0  " not in line]
    measured = one(read(tmp_path, "\n".join(lines)))
    assert measured.figure == "train.total_ips of iterations"
    assert measured.throughput == pytest.approx(3 / (1 / 21193.44 + 1 / 22016.60 + 1 / 22183.30))


def test_several_runs_in_one_file(tmp_path: Path) -> None:
    result = read(tmp_path, MXNET + PYTORCH.replace("Wed Jun  1 10:54:35 2022", "") + MXNET)
    assert [run.gpus for run in result.measurements] == [8, 32, 8]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "line",
    [
        "DLL 2020-05-04 03:02:01.255469 - Training Epoch: 3  train_throughput : 416.5 images/s ",
        "DLL 2020-05-04 03:02:01.255469 - () train_throughput : 416.5 images/s",
        "DLLL 2019-10-10 16:42:54.500902 - Summary: train_throughput : 416.5 ",
        'DLLL {"timestamp": "1570716916.143421", "type": "LOG", "step": [], "data": {"train_throughput": 416.5}}',
        '{"timestamp": "1570716916.1", "elapsedtime": "1.5", "datetime": "2020-05-04 03:02:01.2", "type": "LOG", "step": [], "data": {"train_throughput": 416.5}}',
        'DLLL {"timestamp": "1570716916.1", "type": "LOG", "step": [], "data": {"training_sequences_per_second": 416.5}}',
    ],
)
def test_the_forms(tmp_path: Path, line: str) -> None:
    result = read(tmp_path, f"Num GPUs 2\nPer-GPU Batch Size 64\n{line}\n")
    measured = one(result)
    assert (result.format, measured.throughput, measured.gpus) == ("dllogger", pytest.approx(416.5), 2)
    assert (measured.local_batch, measured.global_batch) == (64, 128)
    assert measured.unit == ("sequences" if "sequences" in line else "images" if "images" in line else "samples")


def test_validation_and_inference_are_not_training(tmp_path: Path) -> None:
    entries = [
        {"type": "LOG", "step": "PARAMETER", "data": {"mode": "inference_benchmark", "world_size": 1}},
        {"type": "LOG", "step": [0, 3, 7], "data": {"train.total_ips": 1.0}},  # of a validation
        {"type": "LOG", "step": [0], "data": {"val.total_ips": 2.0}},
    ]
    text = "".join(f"DLLL {json.dumps({'timestamp': '1.5', **entry})}\n" for entry in entries)
    assert read(tmp_path, text).measurements == ()
    result = read(tmp_path, text + 'DLLL {"timestamp": "1.5", "type": "LOG", "step": [], "data": {"throughput": 5}}\n')
    assert "not a training" in reasons(result)
