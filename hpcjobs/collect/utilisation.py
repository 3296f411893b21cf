"""What a run's figures are as a fraction of what its GPUs could do, and what they cost in energy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hpcjobs.base import gpu_peaks
from hpcjobs.base.contract import RunConfig
from hpcjobs.base.metrics import Measurement
from hpcjobs.collect.nvml import Energy


def of_run(config: RunConfig, measured: Measurement, models: list[str], energy: Energy | None) -> dict[str, Any]:
    """flops_per_unit, flops_precision, mfu, energy_per_unit_j, gpu_power_w and energy_source of a run, as far as known.

    `models` are the names of its GPUs, each once. What the log says of FLOPs counts before what the experiment says.
    """
    asked: Mapping[str, Any] = config.experiment.get("measure") or {}
    flops = measured.flops_per_unit or asked.get("flops_per_unit")
    if flops == asked.get("flops_per_unit") and asked.get("unit") not in (None, measured.unit):
        flops = None  # It is that of another unit than the one which was counted.
    model = models[0] if len(models) == 1 else ""
    said = (measured.flops_precision, asked.get("flops_precision"), measured.precision)
    meant = (gpu_peaks.precision_of(str(text), model) for text in said if text)
    precision = next((each for each in meant if each), "")
    top = gpu_peaks.peak(model, precision)
    found: dict[str, Any] = {"flops_per_unit": flops, "flops_precision": precision if flops else ""}
    if flops and top:
        found["mfu"] = flops * measured.throughput / (measured.gpus * top)
    # A GPU that was not sampled would make the energy too small; one of another job would make it too large. A training
    # on CPUs does not draw what idle GPUs of its nodes draw.
    shared = any(gpu_peaks.shares_card(each) for each in models)
    if energy is not None and energy.gpus == config.gpus and config.device == "gpu" and not shared:
        found["energy_per_unit_j"] = energy.power_w / measured.throughput
        found["gpu_power_w"] = energy.power_w / energy.gpus
        found["energy_source"] = energy.source
    return found
