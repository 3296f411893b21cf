"""A fake of NVIDIA's binding: two V100s that draw 250 W each and count it."""

from __future__ import annotations

import os
import time
from types import SimpleNamespace

NVML_SUCCESS = 0
NVML_CLOCK_SM, NVML_CLOCK_MEM = 1, 2
NVML_TEMPERATURE_GPU = 0
NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_VOLATILE_ECC = 1, 0
NVML_PCIE_UTIL_TX_BYTES, NVML_PCIE_UTIL_RX_BYTES = 0, 1
NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX, NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX = 138, 139
POWER_W = 250


class NVMLError(Exception):
    pass


def nvmlInit() -> None:
    pass


def nvmlDeviceGetCount() -> int:
    return 2


def nvmlDeviceGetHandleByIndex(index: int) -> int:
    return index


def nvmlDeviceGetHandleByUUID(uuid: str) -> int:
    return int(uuid[-1])


def nvmlDeviceGetIndex(gpu: int) -> int:
    return gpu


def nvmlDeviceGetName(gpu: int) -> bytes:
    return b"Tesla V100-SXM2-16GB"


def nvmlDeviceGetUUID(gpu: int) -> str:
    return f"GPU-{os.uname().nodename}-{gpu}"


def nvmlDeviceGetClockInfo(gpu: int, clock: int) -> int:
    return {NVML_CLOCK_SM: 1530, NVML_CLOCK_MEM: 877}[clock]


def nvmlDeviceGetPowerUsage(gpu: int) -> int:
    return POWER_W * 1000


def nvmlDeviceGetEnforcedPowerLimit(gpu: int) -> int:
    return 300_000


def nvmlDeviceGetTemperature(gpu: int, sensor: int) -> int:
    return 61


def nvmlDeviceGetCurrentClocksThrottleReasons(gpu: int) -> int:
    return 0


def nvmlDeviceGetTotalEccErrors(gpu: int, kind: int, counter: int) -> int:
    return 0


def nvmlDeviceGetTotalEnergyConsumption(gpu: int) -> int:
    return round(time.time() * 1000) * POWER_W


def nvmlDeviceGetPcieThroughput(gpu: int, counter: int) -> int:
    raise NVMLError("Not Supported")


def nvmlDeviceGetFieldValues(gpu: int, fields: list[tuple[int, int]]) -> list[SimpleNamespace]:
    return [SimpleNamespace(nvmlReturn=NVML_SUCCESS, value=SimpleNamespace(ullVal=field)) for field, _ in fields]


def nvmlDeviceGetComputeRunningProcesses(gpu: int) -> list[SimpleNamespace]:
    # Of the run: the process that started this one's shell, if a test tells it.
    return [SimpleNamespace(pid=int(pid)) for pid in os.environ.get("FAKE_GPU_PIDS", "").split()]
