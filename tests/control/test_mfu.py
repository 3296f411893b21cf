"""Model FLOPs utilisation: of what GPU, in what precision, by what peak. No figure of these tests was measured."""

from __future__ import annotations

import dataclasses
import re

import pytest

from hpcjobs.base import gpu_peaks
from hpcjobs.base.contract import RunConfig
from hpcjobs.base.metrics import Measurement
from hpcjobs.collect import utilisation
from hpcjobs.collect.nvml import Energy

A100 = "NVIDIA A100-SXM4-80GB"


def config(**measure: object) -> RunConfig:
    return RunConfig(
        sweep="s", run="g0008-r01", params="", repeat=1, seed=1, gpus=8, nodes=2, tasks_per_node=4, cpus_per_task=1,
        device="gpu", data_dir="", experiment={"name": "x", "measure": measure},
    )  # fmt: skip


def measured(**more: object) -> Measurement:
    return Measurement(gpus=8, throughput=1000.0, **more)


def test_it_is_the_work_done_by_the_peak_of_all_gpus() -> None:
    found = utilisation.of_run(config(), measured(flops_per_unit=1e12, flops_precision="bf16"), [A100], None)
    # 1e12 FLOP x 1000/s over 8 GPUs of 312 TFLOP/s.
    assert found["mfu"] == pytest.approx(1e15 / (8 * 312e12))
    assert found["flops_precision"] == "bf16"


def test_what_the_log_says_counts_before_what_the_experiment_says() -> None:
    asked = config(flops_per_unit=2e12, flops_precision="tf32")
    said = utilisation.of_run(asked, measured(flops_per_unit=1e12, precision="mixed_bfloat16"), [A100], None)
    assert (said["flops_per_unit"], said["flops_precision"]) == (1e12, "tf32")
    alone = utilisation.of_run(asked, measured(), [A100], None)
    assert alone["mfu"] == pytest.approx(2e15 / (8 * 156e12))


@pytest.mark.parametrize(
    ("models", "about"),
    [
        ([], {"flops_precision": "bf16"}),
        (["NVIDIA GeForce RTX 4090"], {"flops_precision": "bf16"}),
        # Two kinds of GPU have no common peak.
        ([A100, "NVIDIA H200"], {"flops_precision": "bf16"}),
        ([A100], {}),
        # TF32 or not: float32 does not say it.
        ([A100], {"precision": "float32"}),
        ([A100], {"flops_precision": "fp8"}),
        (["Tesla V100-SXM2-32GB"], {"flops_precision": "bf16"}),
    ],
)
def test_what_the_table_does_not_have_is_empty_and_never_guessed(models: list[str], about: dict[str, str]) -> None:
    found = utilisation.of_run(config(), measured(flops_per_unit=1e12, **about), models, None)
    assert "mfu" not in found


def test_without_flops_there_is_none() -> None:
    found = utilisation.of_run(config(), measured(precision="mixed_float16"), [A100], None)
    assert (found["flops_per_unit"], found["flops_precision"], found.get("mfu")) == (None, "", None)


# (name as nvidia-smi or amdsmi prints it, precision, TFLOP/s of the vendor's data sheet)
@pytest.mark.parametrize(
    ("name", "precision", "tflops"),
    [
        ("Tesla P100-PCIE-16GB", "fp16", 18.7),
        ("Tesla V100-PCIE-32GB", "fp16", 112),
        ("Tesla V100-SXM2-16GB", "fp16", 125),
        ("Tesla V100-SXM2-16GB", "fp32", 15.7),
        ("Tesla T4", "fp16", 65),
        ("NVIDIA A100-PCIE-40GB", "tf32", 156),
        ("A100-SXM4-40GB", "bf16", 312),
        ("NVIDIA A100 80GB PCIe", "fp32", 19.5),
        ("NVIDIA A40", "bf16", 149.7),
        ("NVIDIA L40S", "fp8", 733),
        ("NVIDIA H100 80GB HBM3", "bf16", 989.4),
        ("NVIDIA H100 PCIe", "bf16", 756),
        ("NVIDIA H100 NVL", "bf16", 835.5),
        ("NVIDIA H200", "fp8", 1978.9),
        ("NVIDIA GH200 480GB", "bf16", 989.4),
        ("NVIDIA B200", "bf16", 2250),
        ("AMD Instinct MI250X", "bf16", 191.5),
        ("AMD Instinct MI300X", "fp16", 1307.4),
    ],
)
def test_the_peaks_are_dense(name: str, precision: str, tflops: float) -> None:
    assert gpu_peaks.peak(name, precision) == tflops * 1e12


def test_each_name_has_one_entry_and_each_entry_a_source() -> None:
    names = ["NVIDIA H100 80GB HBM3", "NVIDIA H100 NVL", "NVIDIA H200", "NVIDIA H200 NVL", "NVIDIA L4", "NVIDIA L40S"]
    for name in names:
        assert sum(bool(re.fullmatch(each.names, name)) for each in gpu_peaks.TABLE) == 1, name
    assert all("data sheet" in each.source or "white paper" in each.source for each in gpu_peaks.TABLE)
    for each in gpu_peaks.TABLE:
        assert set(each.tflops) <= {"fp32", "tf32", "fp16", "bf16", "fp8"}
        # Tensor or matrix cores: fewer bits are never slower.
        assert each.tflops.get("fp32", 0) <= each.tflops["fp16"] <= each.tflops.get("fp8", 1e9)


@pytest.mark.parametrize(
    ("text", "model", "precision"),
    [
        ("mixed_float16", A100, "fp16"),
        ("bf16-mixed", A100, "bf16"),
        ("BFloat16", A100, "bf16"),
        ("float32", "Tesla V100-SXM2-16GB", "fp32"),
        ("float32", A100, ""),
        ("float32", "a GPU that no table has", ""),
        ("tf32", "Tesla V100-SXM2-16GB", "fp32"),
        ("int8", A100, ""),
    ],
)
def test_words_of_logs_for_precisions(text: str, model: str, precision: str) -> None:
    assert gpu_peaks.precision_of(text, model) == precision


def test_flops_of_another_unit_than_the_counted_one_are_none() -> None:
    """The experiment says the operations of a token, and the log counts samples."""
    asked = config(flops_per_unit=1e9, flops_precision="bf16", unit="tokens")
    assert "mfu" in utilisation.of_run(asked, measured(unit="tokens"), [A100], None)
    for said in ({}, {"flops_per_unit": 1e9}):
        found = utilisation.of_run(asked, measured(unit="samples", **said), [A100], None)
        assert (found["flops_per_unit"], found.get("mfu")) == (None, None)
    # What a script says of its own unit by meter.flops() stands.
    assert "mfu" in utilisation.of_run(asked, measured(unit="samples", flops_per_unit=1e12), [A100], None)


def test_gpus_that_do_not_train_or_share_a_sensor_have_no_energy() -> None:
    eight = Energy(2400.0, 8, "counter")
    on_cpus = dataclasses.replace(config(), device="cpu")
    assert "energy_per_unit_j" not in utilisation.of_run(on_cpus, measured(), [], eight)
    # Two dies of a card: the first shows the power of both, the other none.
    assert "gpu_power_w" not in utilisation.of_run(config(), measured(), ["AMD Instinct MI250X"], eight)
    assert "gpu_power_w" in utilisation.of_run(config(), measured(), ["AMD Instinct MI210"], eight)


def test_energy_counts_only_if_every_gpu_of_the_run_was_sampled() -> None:
    whole = utilisation.of_run(config(), measured(), [A100], Energy(2400.0, 8, "counter"))
    assert (whole["energy_per_unit_j"], whole["gpu_power_w"], whole["energy_source"]) == (2.4, 300.0, "counter")
    for gpus in (4, 16):
        part = utilisation.of_run(config(), measured(), [A100], Energy(2400.0, gpus, "counter"))
        assert "energy_per_unit_j" not in part
        assert "gpu_power_w" not in part
