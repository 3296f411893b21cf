"""Cuts of public logs that were read wrong or not at all after the first round, and variants that a judge would make."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from hpcjobs.collect.measurements import Throughput
from tests.control.logs_formats.reading import one, read, reasons
from tests.control.test_world import world


def event(at: float, key: str, value: object = None, **metadata: object) -> str:
    """A line of MLPerf, `at` s after the start."""
    return ":::MLLOG " + json.dumps(
        {"time_ms": 1_777_000_000_000 + round(1000 * at), "key": key, "value": value, "metadata": metadata}
    )


def blocks(ends: list[tuple[float, float, float]], samples: int, **more: int) -> list[str]:
    """Blocks of a training: begin, end, and the end of the evaluation after each, s."""
    found = []
    for number, (begin, end, evaluated) in enumerate(ends):
        done = samples * (number + 1)
        found += [event(begin, "block_start", samples_count=samples * number, **more)]
        found += [event(end, "block_stop", samples_count=done, **more), event(end, "eval_start", samples_count=done)]
        found += [event(evaluated, "eval_accuracy", 0.7, samples_count=done)]
        found += [event(evaluated, "eval_stop", samples_count=done)]
    return found


# MLPerf training v6.0, AMD/results/8xMI325X_EPYC_9575F_pytorch/flux1/result_0.txt (8 nodes of 8), and
# AMD/results/MI350X_EPYC_9575F_primus/llama31_8b/result_0.txt.
@pytest.mark.parametrize(
    ("batch", "steps", "micro", "split", "gpus"),
    [(2048, 1, 32, 1, 64), (32, 2, 2, 1, 8), (32, 2, 2, 4, 32), (33, 2, 2, 1, None)],
)
def test_v6_tells_the_gpus_by_the_batch_and_the_split(
    tmp_path: Path, batch: int, steps: int, micro: int, split: int, gpus: int | None
) -> None:
    head = [
        event(0, "submission_benchmark", "flux1"),
        event(0, "global_batch_size", batch),
        event(0, "gradient_accumulation_steps", steps),
        event(0, "tensor_parallelism", split),
        *(event(0, f"{name}_parallelism", 1) for name in ("pipeline", "context", "expert")),
        event(0, "micro_batch_size", micro),
        event(1, "run_start"),
    ]
    times = [(155.0, 278.0, 286.0), (286.0, 410.0, 414.0), (414.0, 537.5, 541.7), (541.7, 666.4, 670.7)]
    run = one(read(tmp_path, "\n".join([*head, *blocks(times, 262144)]) + "\n"))
    assert run.gpus == gpus
    assert run.throughput == pytest.approx(262144 / 124, rel=0.01)


# mlcommons/hpc_results_v2.0, HelmholtzAI/results/horeka_gpu_n512_pytorch1.13/strong/cosmoflow/result_0.txt
def test_nodes_and_accelerators_tell_the_gpus_without_ranks(tmp_path: Path) -> None:
    lines = [
        event(0, "submission_benchmark", "cosmoflow"),
        event(0, "number_of_nodes", 128),
        event(0, "accelerators_per_node", 4),
        event(14, "global_batch_size", 512),
        event(14, "train_samples", 524288),
        event(29, "run_start"),
    ]
    for number, (begin, end, rate) in enumerate([(56, 71.5, 36064.8), (71.5, 89, 30611.0), (89, 103.4, 37543.9)], 1):
        lines += [event(begin, "epoch_start", epoch_num=number), event(end, "epoch_stop", epoch_num=number)]
        lines += [event(end, "tracked_stats", {"throughput": rate}, epoch_num=number, step=number - 1)]
    run = one(read(tmp_path, "\n".join(lines) + "\n"))
    assert (run.gpus, run.nodes, run.local_batch) == (512, 128, 1)


# MLPerf training v6.0, Cisco/results/1xC880A_M8-8xB300-SXM-288GB/gpt_oss_20b/result_0.txt: one node of 8 GPUs.
SYSTEM = (
    ':::SYSJSON {"submitter":"X","number_of_nodes":"1","host_processors_per_node":"2","accelerators_per_node":"8"}\n'
)
NUMA = "num_gpus=8 num_sockets = 2 num_nodes=2 cores_per_socket=64\n"
LAUNCH = "+ srun -l --mpi=pmix --ntasks-per-node=8 --container-name=gpt_oss_20b_109 slurm2pytorch ./run_and_time.sh\n"


@pytest.mark.parametrize(
    ("text", "gpus", "nodes"),
    [
        (SYSTEM + LAUNCH + "slurm2pytorch: MASTER_ADDR=mlperf MASTER_PORT=29500 WORLD_SIZE=8\n" + NUMA, 8, 1),
        (SYSTEM + LAUNCH + NUMA, 8, 1),
        (LAUNCH + NUMA, None, None),  # the nodes of the job are not said
        (NUMA, None, None),
        ("Namespace(num_gpus=4)\nGraph(num_nodes=2708, num_edges=10556)\n", 4, None),
        ("Namespace(num_gpus=1)\nNumber of nodes: 2708\nNumber of edges: 10556\n", 1, None),
        ("Distributed environment: MULTI_GPU  Backend: nccl\nNum processes: 8\nProcess index: 0\n", 8, None),
        ("[20251023 12:39:12][rank-63/64][INFO ] x\n", 64, None),  # Primus
    ],
)
def test_nodes_of_memory_and_of_graphs_are_no_machines(text: str, gpus: int | None, nodes: int | None) -> None:
    found = world(text).resolve(math.inf)
    assert (found.gpus, found.nodes, found.contradiction) == (gpus, nodes, "")


def test_a_smaller_world_after_a_larger_one_is_a_contradiction() -> None:
    assert "world_size: 4" in world("WORLD_SIZE=8\nworld_size: 4\n").resolve(math.inf).contradiction


# After a public tutorial of Horovod on two clusters: ranks are tagged in the first run alone.
HOROVOD = (
    "[1,0]<stdout>:Batch size: 32\n[1,0]<stdout>:Number of GPUs: 8\n[1,0]<stdout>:Iter #0: 598.3 img/sec per GPU\n"
    "[1,0]<stdout>:Img/sec per GPU: 600.0 +-3.8\n[1,0]<stdout>:Total img/sec on 8 GPU(s): 4800.1 +-30.3\n"
    "Batch size: 32\nNumber of GPUs: {gpus}\nIter #0: 572.9 img/sec per GPU\n"
    "Img/sec per GPU: 573.2 +-3.8\nTotal img/sec on {gpus} GPU(s): {total} +-30.3\n"
)


@pytest.mark.parametrize(("gpus", "total"), [(16, 9171.2), (8, 4585.6)])
def test_a_horovod_run_without_tags_is_not_one_with_tags(tmp_path: Path, gpus: int, total: float) -> None:
    first, second = read(tmp_path, HOROVOD.format(gpus=gpus, total=total)).measurements
    assert isinstance(first, Throughput)
    assert isinstance(second, Throughput)
    assert (first.throughput, first.gpus) == (4800.1, 8)
    assert (second.throughput, second.gpus) == (total, gpus)


def test_a_total_that_is_not_the_mean_of_a_gpu_times_the_gpus_is_no_rate(tmp_path: Path) -> None:
    result = read(tmp_path, HOROVOD.format(gpus=16, total=4585.6))
    second = result.measurements[1]
    assert isinstance(second, Throughput)
    assert (second.throughput, second.per_gpu, second.gpus) == (None, None, 16)
    assert [each.reason for each in result.problems] == [
        "the log contradicts itself: Total img/sec (line 8) 4585.6/s; Img/sec per GPU (line 8) 573.2/s"
    ]


# PaddlePaddle/Perf, DeepLabV3P/logs/paddle/Deeplabv3_FP32_BS4-N32.log: the launcher of one node of four.
def test_paddleseg_says_the_gpus_of_all_nodes(tmp_path: Path) -> None:
    lines = "gpus: 0,1,2,3,4,5,6,7\nips: 127.0.0.1\nGPUs used: 32\nbatch_size: 4\n" + "".join(
        f"2021-05-31 20:12:0{step} [INFO]\t[TRAIN] epoch: 1, iter: {step}/20, loss: 2.8, lr: 0.01, batch_cost: {cost}, "
        f"reader_cost: 0.003, ips: {4 / cost:.4f} samples/sec | ETA 00:02:40\n"
        for step, cost in enumerate([8.4547, 0.7719, 0.7223, 0.7266, 0.7225], 1)
    )
    run = one(read(tmp_path, lines))
    assert (run.gpus, run.local_batch, run.global_batch) == (32, 4, 128)
    assert run.throughput == pytest.approx(128 / 0.7358, rel=0.001)


# PaddlePaddle/Perf, Bert/logs/base_bs96_fp16_gpu32_gradacc.log: a line that holds the end of a file has fewer samples.
def test_paddles_batches_may_vary_if_it_says_so(tmp_path: Path) -> None:
    costs = [(0.30933, 96.0), (0.15379, 96.0), (0.24725, 96.0), (0.10306, 62.4), (0.15447, 96.0)]
    lines = "PADDLE_TRAINERS_NUM: 32\n" + "".join(
        f"tobal step: {20 * at}, epoch: 0, batch: {at}, loss: 11.2, avg_reader_cost: 0.0 sec, avg_batch_cost: {cost} sec, "
        f"avg_samples: {samples:.5f}, ips: {samples / cost:.5f} sequences/sec\n"
        for at, (cost, samples) in enumerate(costs, 1)
    )
    run = one(read(tmp_path, lines))
    assert run.per_gpu == pytest.approx(sum(count for _, count in costs[1:]) / sum(cost for cost, _ in costs[1:]))
    assert run.local_batch is None
    unsaid = read(tmp_path, lines.replace("avg_samples", "avg_words"))
    assert one(unsaid).throughput is None
    assert "contradicts itself" in reasons(unsaid)


# After a public log of torchvision's reference: epochs of four steps, of which the first alone is printed.
def test_first_steps_of_epochs_are_no_steady_state(tmp_path: Path) -> None:
    lines = "Namespace(batch_size=256, world_size=1)\n" + "".join(
        f"Epoch: [{epoch}]  [0/4]  eta: 0:00:08  lr: 0.1  img/s: 2378.7  loss: 7.2 (7.2)  time: {time}  data: 2.03\n"
        f"Epoch: [{epoch}] Total time: {total}\n"
        for epoch, time, total in [(0, 27.6041, "0:00:50"), (1, 2.1524, "0:00:02"), (2, 2.1249, "0:00:02")]
    )
    result = read(tmp_path, lines)
    assert one(result).throughput is None
    assert one(result).step_ms is None
    assert "Total time over the steps of an epoch" in reasons(result)


DLL = "DLL 2022-05-29 09:2{minute}:0{second}.0 - Iteration: {second}  throughput_train : {rate} seq/s\n"


def test_iterations_that_begin_again_are_another_run(tmp_path: Path) -> None:
    runs = [(2, 16000.0), (3, 8000.0)]
    lines = "".join(
        DLL.format(minute=minute, second=at, rate=rate if at > 1 else 10) for minute, rate in runs for at in range(1, 8)
    )
    found = read(tmp_path, lines).measurements
    assert [run.throughput for run in found if isinstance(run, Throughput)] == pytest.approx([16000.0, 8000.0])


def test_an_infinite_rate_is_none(tmp_path: Path) -> None:
    lines = "".join(DLL.format(minute=1, second=at, rate=rate) for at, rate in enumerate(["inf", "nan", "1e999"], 1))
    assert not any(isinstance(run, Throughput) and run.throughput for run in read(tmp_path, lines).measurements)


# What follows decides whether a number is whole: the parts of others are no rates, and no times.
@pytest.mark.parametrize(
    "number", ["1,234.5", "1.234,5", "1234,5", "1.2345k", "1.2M", "1.2345e3", "1 234.5", "1.234.5"]
)
@pytest.mark.parametrize(
    ("line", "head"),
    [
        ("Total img/sec on 8 GPU(s): {} +-30.3", "Number of GPUs: 8"),
        ("total images/sec: {}", "Batch size:  896 global"),
        (" iteration  {at}/ 100 | elapsed time per iteration (ms): {} | global batch size:  4 | lm loss: 1.2", ""),
        ("completed step: {at}, seconds: 1.1, TFLOP/s/device: 470.0, Tokens/s/device: {}, loss: 1.0", "Num_devices: 8"),
        ("[Train][Epoch 1/9][Iter: {at}/626]lr: 0.1, batch_cost: {}s, ips: {} samples/s", "PADDLE_TRAINERS_NUM: 8"),
        ("[timer.py:198:stop] 0/{at}, RunningAvgSamplesPerSec={}, CurrSamplesPerSec=227.48", "world_size=8"),
        ("{{'train_runtime': 437.8, 'train_samples_per_second': {}, 'train_steps_per_second': 3.1, 'epoch': 3.0}}", ""),
        ("Epoch: [0][{at}/125]  Time 0.866 (0.866)  Speed {} ({})  Loss 1", ""),
        ("DLL 2020-09-15 14:29:1{at}.4 - Epoch: 0 Iteration: {at}  train.total_ips : {} img/s", ""),
        ("[0] Batch [{at}0]\tSpeed: {} samples/sec\taccuracy=0.9", ""),
    ],
)
def test_a_part_of_a_number_is_no_figure(tmp_path: Path, line: str, head: str, number: str) -> None:
    def rates(number: str) -> list[float]:
        lines = [line.replace("{}", number).format(at=at) for at in range(1, 6)]
        found = read(tmp_path, "\n".join([head, *lines]) + "\n").measurements
        return [run.throughput for run in found if isinstance(run, Throughput) and run.throughput]

    assert rates(number) in ([], rates("1234.5"))


MEGATRON = (
    " iteration {at}/ 100 | elapsed time per iteration (ms): 858.6 | global batch size:    16 | lm loss: 9.6E+00 |\n"
)
HF = "{'train_runtime': 922.0, 'train_samples_per_second': 183.358, 'train_steps_per_second': 1.9, 'epoch': 3.0}\n"


def test_trainings_of_two_formats_do_not_share_their_gpus(tmp_path: Path) -> None:
    megatron = "".join(MEGATRON.format(at=at) for at in range(1, 6))
    world_of = "using world size: 32, data-parallel-size: 32\n"
    for text, wanted in (
        (HF + world_of + megatron, [(183.358, None), (16 / 0.8586, 32)]),
        (world_of + megatron + HF, [(16 / 0.8586, 32), (183.358, None)]),
        (HOROVOD.format(gpus=8, total=4585.6) + megatron, [(4800.1, 8), (4585.6, 8), (16 / 0.8586, None)]),
    ):
        found = [run for run in read(tmp_path, text).measurements if isinstance(run, Throughput)]
        assert [run.gpus for run in found] == [gpus for _, gpus in wanted]
        assert [run.throughput for run in found] == pytest.approx([rate for rate, _ in wanted])


def test_a_run_of_mlperf_that_never_ended_does_not_take_the_next_ones_lines(tmp_path: Path) -> None:
    times = [(2.0, 102.0, 110.0), (110.0, 210.0, 218.0), (218.0, 318.0, 326.0)]
    first = [event(0, "init_start"), event(0, "global_batch_size", 8), event(1, "run_start"), *blocks(times, 800)]
    second = [line.replace("777", "778").replace('"value": 8,', '"value": 16,') for line in first]
    text = "\n".join([*first, "WORLD_SIZE=16", *second]) + "\n"
    found = [run for run in read(tmp_path, text).measurements if isinstance(run, Throughput)]
    assert [(run.gpus, run.global_batch) for run in found] == [(None, 8), (16, 16)]
    assert [run.throughput for run in found] == pytest.approx([8.0, 8.0], rel=0.01)


def test_the_first_step_alone_is_warm_up(tmp_path: Path) -> None:
    alone = read(tmp_path, MEGATRON.format(at=1))
    assert not alone.measurements
    assert "first step alone" in reasons(alone)
    assert one(read(tmp_path, MEGATRON.format(at=1) + MEGATRON.format(at=2))).throughput == pytest.approx(16 / 0.8586)


def test_a_throughput_whose_head_was_cut_off_is_no_rate(tmp_path: Path) -> None:
    lines = [event(at, "tracked_stats", {"throughput": 313233.2}, step=at) for at in range(5)]
    result = read(tmp_path, "\n".join(lines) + "\n")
    assert one(result).throughput is None
    assert "begin is missing" in reasons(result)


# huggingface/diffusers, as its examples/text_to_image/train_text_to_image.py prints it.
ACCELERATE = """\
Distributed environment: MULTI_GPU  Backend: nccl
Num processes: 4
***** Running training *****
  Num examples = 833
  Num Epochs = 100
  Instantaneous batch size per device = 4
  Total train batch size (w. parallel, distributed & accumulation) = 64
  Gradient Accumulation steps = 4
  Total optimization steps = 1000
Steps:   0%|          | 1/1000 [00:05<1:23:15,  5.00s/it, loss=0.1, lr=1e-5]
Steps:  10%|#         | 100/1000 [03:23<30:00,  2.00s/it, loss=0.1, lr=1e-5]
Steps: 100%|##########| 1000/1000 [33:23<00:00,  2.00s/it, loss=0.1, lr=1e-5]
"""


def test_a_bar_of_optimizer_steps_has_accumulated_batches(tmp_path: Path) -> None:
    run = one(read(tmp_path, ACCELERATE))
    assert (run.gpus, run.local_batch, run.global_batch) == (4, 4, 64)
    assert run.throughput == pytest.approx(32.0, rel=0.01)
