"""Samples of AMD's GPUs, by ROCm's amdsmi, in the columns of nvml-HOST.csv.

Not run by us: needs a GPU of AMD's. The tests run it with a fake of the binding, in the words of ROCm 5.7 to 7.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import ModuleType
from typing import Any

# What the driver gives for a figure that it does not know: the largest number of 16, 32 or 64 bits.
_UNKNOWN = {2**16 - 1, 2**32 - 1, 2**64 - 1}


def open_smi() -> ModuleType | None:
    """amdsmi, initialised; None where it or its driver is missing."""
    try:
        import amdsmi
    except (ImportError, OSError, KeyError, AttributeError):  # It loads ROCm's library when it is imported.
        return None
    smi: ModuleType = amdsmi
    try:
        smi.amdsmi_init()
        found = smi.amdsmi_get_processor_handles()
    except smi.AmdSmiException:
        return None
    return smi if found else None


def gpus(smi: ModuleType) -> list[tuple[str, str]]:
    """(model, UUID) of each GPU."""
    handles = smi.amdsmi_get_processor_handles()
    return [(str(_get(_ask(smi, "amdsmi_get_gpu_asic_info", each), "market_name") or ""), _uuid(smi, each) or "")
            for each in handles]  # fmt: skip


def handles(smi: ModuleType) -> list[Any]:
    """amdsmi's handles of the GPUs that this process may open."""
    return list(smi.amdsmi_get_processor_handles())


def processes(smi: ModuleType, handle: Any) -> set[int] | None:
    """The processes on a GPU; None if that is not known."""
    listed = _ask(smi, "amdsmi_get_gpu_process_list", handle)
    if listed is None:
        return None
    # Before ROCm 6 the list has handles, whose information is asked for one by one.
    infos = [
        each if isinstance(each, dict) else _ask(smi, "amdsmi_get_gpu_process_info", handle, each) for each in listed
    ]
    return {int(info["pid"]) for info in infos if isinstance(info, dict) and "pid" in info}


def sample(smi: ModuleType, those: Sequence[Any], foreign: Sequence[str | None]) -> list[dict[str, object]]:
    """A row (contract.NVML_COLUMNS) for each GPU, with its column foreign_pids; None for what amdsmi does not give."""
    now = f"{time.time():.3f}"
    return [
        {"time": now, **_row(smi, index, handle), "foreign_pids": listed, **_counters(smi, handle)}
        for index, (handle, listed) in enumerate(zip(those, foreign, strict=True))
    ]


def _row(smi: ModuleType, index: int, handle: Any) -> dict[str, object]:
    power = _ask(smi, "amdsmi_get_power_info", handle)
    kinds, sensors = smi.AmdSmiClkType, smi.AmdSmiTemperatureType
    sensor = getattr(sensors, "HOTSPOT", None) or getattr(sensors, "JUNCTION", None)
    ecc = _ask(smi, "amdsmi_get_gpu_total_ecc_count", handle)
    cap = _get(power, "power_limit")
    return {
        "gpu": index,
        "uuid": _uuid(smi, handle),
        "sm_mhz": _clock(smi, handle, kinds.GFX),
        "memory_mhz": _clock(smi, handle, kinds.MEM),
        # MI300 has the first two, MI200 the last.
        "power_w": _get(power, "socket_power", "current_socket_power", "average_socket_power"),
        # Up to ROCm 6 in W, later in uW.
        "power_cap_w": cap / 1e6 if cap is not None and cap >= 1e5 else cap,
        "temperature_c": _ask(smi, "amdsmi_get_temp_metric", handle, sensor, smi.AmdSmiTemperatureMetric.CURRENT),
        # Its bits have other meanings than THROTTLE_REASONS.
        "throttle_bits": None,
        "throttle": None,
        "ecc_uncorrected": _get(ecc, "uncorrectable_count"),
    }


def _counters(smi: ModuleType, handle: Any) -> dict[str, object]:
    found = _ask(smi, "amdsmi_get_energy_count", handle)
    # `power` up to ROCm 6.0. The resolution is in uJ.
    count, unit = _get(found, "energy_accumulator", "power"), _get(found, "counter_resolution")
    return {
        "energy_mj": None if count is None or unit is None else round(count * unit / 1000),
        "pcie_tx_kb_s": None,
        "pcie_rx_kb_s": None,
        "nvlink_tx_kib": None,
        "nvlink_rx_kib": None,
        "vendor": "AMD",
    }


def _clock(smi: ModuleType, handle: Any, kind: Any) -> Any:
    return _get(_ask(smi, "amdsmi_get_clock_info", handle, kind), "clk", "cur_clk")


def _uuid(smi: ModuleType, handle: Any) -> str | None:
    found = _ask(smi, "amdsmi_get_gpu_device_uuid", handle)
    return None if found is None else str(found)


def _ask(smi: ModuleType, question: str, *of: Any) -> Any:
    try:
        return getattr(smi, question)(*of)
    except (smi.AmdSmiException, AttributeError):  # Bindings of other versions lack a function.
        return None


def _get(answer: Any, *names: str) -> Any:
    """The first of these figures that an answer has; None if it has none. `N/A` is no figure."""
    found = [answer.get(name) for name in names] if isinstance(answer, dict) else []
    return next((each for each in found if each not in (None, "N/A") and each not in _UNKNOWN), None)
