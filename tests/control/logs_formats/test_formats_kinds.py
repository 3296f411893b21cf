"""Real logs whose figures are easily mixed up: one for each kind of fault, with the right value or the refusal.

kinds/SOURCES.md has their sources.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from hpcjobs.collect.measurements import LogResult, Throughput
from hpcjobs.collect.reading import read_log
from tests.control.logs_formats.reading import one, reasons, table

KINDS = Path(__file__).parent / "kinds"


def kind(name: str) -> LogResult:
    return read_log(KINDS / f"{name}.txt.gz")


@pytest.mark.parametrize(
    ("name", "rate", "gpus", "batch"),
    [
        # 289 images/s are one GPU's: 4,572 "samples" of an epoch are steps of 256 images.
        ("ssd_one_gpus_rate", 8 * 289, 8, 256),
        ("retinanet_one_gpus_rate", 9.52 * 256, 8, 256),
        # 12,191 steps of 96 images in 6,563 s; the 12,191 stand as train_samples.
        ("retinanet_steps_as_samples", 178, None, 96),
        # The summary at its end says 39,241; 3,148,481 samples took 140 s.
        ("bert_wrong_summary", 22_974, 16, 1536),
        # It stopped after 3,289,088 of 3,993,600 planned samples.
        ("bert_planned_length", 506, None, 1024),
        # Arguments of 13 of 16 ranks are legible; srun starts 16, and 3,264 / 204 is 16.
        ("resnet_lost_arguments", 53_800, 16, 3264),
        # block_start counts steps, block_stop samples.
        ("lora_block_marks", 2.8, None, 64),
        # Blocks begin six times and end once.
        ("llama31_open_blocks", 22.6, None, 448),
        # 313,233 a second are tokens, 2,048 of a sequence.
        ("gpt3_tokens", 153, None, 2048),
        # Iterations 1 and 2 repeat until the loss scale fits.
        ("dllogger_repeated_iterations", 16_143, None, None),
        ("nemo_dllogger", 62.3, None, 2048),
        # batch_size=192 is that of 192 GPUs: 609 batches of an epoch are COCO.
        ("mxnet_horovod", 1_168, 192, 192),
        ("gluoncv_num_gpus", 75.4, 8, 64),
    ],
)
def test_a_rate_that_other_figures_confirm(name: str, rate: float, gpus: int | None, batch: int | None) -> None:
    measured = one(kind(name))
    assert measured.throughput == pytest.approx(rate, rel=0.08)
    assert (measured.gpus, measured.global_batch) == (gpus, batch)
    if batch and measured.throughput:
        assert measured.step_ms == pytest.approx(1000 * batch / measured.throughput)


def test_a_figure_that_the_others_outvote_is_named() -> None:
    told = reasons(kind("bert_wrong_summary"))
    assert "training_sequences_per_second (line 128) 39241.4/s" in told
    assert "contradicts throughput of tracked_stats (lines 38 to 127)" in told


def test_a_log_that_contradicts_itself_gives_no_rate_and_names_both_lines() -> None:
    measured = one(kind("oc20_contradicts_itself"))
    assert (measured.throughput, measured.per_gpu, measured.gpus, measured.step_ms) == (None, None, None, None)
    told = reasons(kind("oc20_contradicts_itself"))
    assert "number_of_ranks (line 8: 64) and 128 nodes x 4 accelerators (line 9: 512) contradict each other" in told
    assert "throughput of tracked_stats (lines 27 to 159) 680.9" in told
    assert "train_samples over the time of epochs (lines 31 to 163) 10634/s" in told


def test_each_thing_is_told_once() -> None:
    told = reasons(kind("oc20_contradicts_itself"))
    assert (told.count("the number of GPUs"), told.count("the log contradicts itself")) == (1, 1)


def test_evaluations_that_only_their_steps_show_are_no_training_time() -> None:
    # 46,144 sequences in the 1,970.7 s from a block's begin to its evaluation; no event begins that.
    assert one(kind("llama31_open_blocks")).throughput == pytest.approx(46_144 / 1970.7, rel=0.01)


def test_pauses_that_a_timer_leaves_out_are_told() -> None:
    assert "consumed_samples over time (" in reasons(kind("nemo_dllogger"))


def test_lines_of_one_worker_are_no_rate_of_four() -> None:
    measured = one(kind("tf_cnn_parameter_servers"))
    assert (measured.throughput, measured.gpus, measured.global_batch, measured.step_ms) == (None, 4, 4096, None)
    assert "one of 4 workers" in reasons(kind("tf_cnn_parameter_servers"))


def test_epochs_of_zero_seconds_count_by_the_total() -> None:
    # 2.287 s for 20 epochs of 14 steps; eighteen of them took "0s".
    measured = one(kind("keras_whole_seconds"))
    assert (measured.step_ms, measured.gpus) == (pytest.approx(8.167, abs=0.001), 8)


def test_a_rank_whose_line_is_damaged_is_a_rank() -> None:
    assert {(row.ranks, row.nodes) for row in table(kind("nccl_lost_rank"))} == {(16, 2)}


def test_a_table_of_collectives_and_a_training_are_both_reported(tmp_path: Path) -> None:
    texts = [
        gzip.decompress((KINDS / f"{name}.txt.gz").read_bytes()) for name in ("nccl_lost_rank", "gluoncv_num_gpus")
    ]
    for number, both in enumerate((texts, texts[::-1])):
        path = tmp_path / f"{number}.log"
        path.write_bytes(b"\n".join(both))
        result = read_log(path)
        (training,) = [each for each in result.measurements if isinstance(each, Throughput)]
        assert (training.format, training.gpus, training.throughput) == ("mxnet", 8, pytest.approx(71.9, abs=0.1))
        assert {each.ranks for each in result.measurements if not isinstance(each, Throughput)} == {16}
        assert result.problems == ()


# mlcommons/training_results_v0.5, google/resnet-tpuv3-8/results/tpu/resnet/result_1.txt
V05 = """:::MLPv0.5.0 resnet 1541660379.238688946 (resnet/resnet_main.py:523) run_start
:::MLPv0.5.0 resnet 1541660379.425901175 (resnet/resnet_main.py:551) input_batch_size: 1024
:::MLPv0.5.0 resnet 1541660379.428521633 (resnet/resnet_main.py:592) preproc_num_train_examples: 1281167
:::MLPv0.5.0 resnet 1541660379.430144310 (resnet/resnet_main.py:668) train_epoch: 0
:::MLPv0.5.0 resnet 1541660638.857645035 (in_memory_eval.py:230) eval_start
:::MLPv0.5.0 resnet 1541660665.438885927 (in_memory_eval.py:257) eval_stop
:::MLPv0.5.0 resnet 1541660665.439851284 (in_memory_eval.py:262) eval_accuracy: {"epoch": 0, "value": 0.05619}
:::MLPv0.5.0 resnet 1541661353.230486155 (in_memory_eval.py:230) eval_start
:::MLPv0.5.0 resnet 1541661366.343222857 (in_memory_eval.py:257) eval_stop
:::MLPv0.5.0 resnet 1541661366.344174147 (in_memory_eval.py:262) eval_accuracy: {"epoch": 4, "value": 0.38531}
:::MLPv0.5.0 resnet 1541662054.003998280 (in_memory_eval.py:230) eval_start
:::MLPv0.5.0 resnet 1541662068.292686224 (in_memory_eval.py:257) eval_stop
:::MLPv0.5.0 resnet 1541662068.293640137 (in_memory_eval.py:262) eval_accuracy: {"epoch": 8, "value": 0.47115}
:::MLPv0.5.0 resnet 1541662068.294 (in_memory_eval.py:270) run_stop: {"success": "true"}
"""


def test_mlperf_v05(tmp_path: Path) -> None:
    (tmp_path / "result_1.txt").write_text(V05)
    measured = one(read_log(tmp_path / "result_1.txt"))
    # Eight epochs of 1,281,167 images in 1,375.5 s without the evaluations.
    assert (measured.throughput, measured.model) == (pytest.approx(7451, rel=0.002), "resnet")
    assert measured.time_to_train_s == pytest.approx(1689.1, abs=0.1)
