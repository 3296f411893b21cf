"""nvml-HOST.csv: NVML's readings of a node's GPUs, once a second.

Not run by us: needs a GPU. The tests run it with a fake of NVIDIA's binding.
"""

from __future__ import annotations

import csv
import io
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from hpcjobs.base.contract import NVML_COLUMNS, THROTTLE_REASONS

_PERIOD_S = 1.0
# NVML may hang on a broken GPU: the run waits at most this long for the last sample.
_LAST_S = 5.0


@contextmanager
def sampled(path: Path, gpus: Collection[str | None], pids: Collection[int]) -> Iterator[None]:
    """Append samples (contract.NVML_COLUMNS) to `path` from a thread while the block runs.

    One rank of each node calls it. `gpus` are the UUIDs of the node's ranks (if one is None, all GPUs of the node are
    sampled), `pids` the ranks' processes. Without NVML nothing is written. Neither a full disk nor an error of NVML
    ends the run.
    """
    ended = threading.Event()
    thread = threading.Thread(target=_watch, args=(path, gpus, pids, ended), name="telemetry", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(_LAST_S)


def _watch(path: Path, gpus: Collection[str | None], pids: Collection[int], ended: threading.Event) -> None:
    try:
        import pynvml as nvml

        nvml.nvmlInit()
    except ImportError:
        return
    except nvml.NVMLError:
        return
    watched = find(nvml, gpus)
    # Unbuffered: every line is written at once, and a line that a full disk cut short is not written again.
    with suppress(OSError), path.open("ab", buffering=0) as file:
        with suppress(OSError):
            file.write(_lines([NVML_COLUMNS]))
        while not ended.wait(_PERIOD_S):
            with suppress(OSError):
                file.write(_lines([row[column] for column in NVML_COLUMNS] for row in sample(nvml, watched, pids)))


def _lines(rows: Iterable[Sequence[object]]) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue().encode()


def find(nvml: ModuleType, gpus: Collection[str | None]) -> list[Any]:
    """NVML's handles of these GPUs, or of all GPUs if a UUID is None. A GPU that NVML does not find is left out."""
    known = [uuid for uuid in gpus if uuid is not None]
    handles = []
    if len(known) == len(gpus):
        for uuid in known:
            with suppress(nvml.NVMLError):
                handles.append(nvml.nvmlDeviceGetHandleByUUID(uuid))
    else:
        with suppress(nvml.NVMLError):
            handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    return handles


def sample(nvml: ModuleType, handles: Collection[Any], pids: Collection[int]) -> list[dict[str, object]]:
    """A row (contract.NVML_COLUMNS) for each GPU; None for a value that NVML does not give."""
    now = f"{time.time():.3f}"
    running = [_ask(nvml, "nvmlDeviceGetComputeRunningProcesses", handle) for handle in handles]
    found = [None if processes is None else {process.pid for process in processes} for processes in running]
    return [
        {"time": now, **_row(nvml, handle), "foreign_pids": listed}
        for handle, listed in zip(handles, foreign(found, pids), strict=True)
    ]


def _ask(nvml: ModuleType, question: str, *of: Any) -> Any:
    try:
        return getattr(nvml, question)(*of)
    except nvml.NVMLError:
        return None


def _row(nvml: ModuleType, handle: Any) -> dict[str, object]:
    power = _ask(nvml, "nvmlDeviceGetPowerUsage", handle)
    cap = _ask(nvml, "nvmlDeviceGetEnforcedPowerLimit", handle)
    bits = _ask(nvml, "nvmlDeviceGetCurrentClocksThrottleReasons", handle)
    names = [name for name, bit in THROTTLE_REASONS.items() if (bits or 0) & bit]
    uncorrected = (nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC)
    return {
        "gpu": _ask(nvml, "nvmlDeviceGetIndex", handle),
        "uuid": _ask(nvml, "nvmlDeviceGetUUID", handle),
        "sm_mhz": _ask(nvml, "nvmlDeviceGetClockInfo", handle, nvml.NVML_CLOCK_SM),
        "memory_mhz": _ask(nvml, "nvmlDeviceGetClockInfo", handle, nvml.NVML_CLOCK_MEM),
        # NVML gives milliwatts.
        "power_w": None if power is None else power / 1000,
        "power_cap_w": None if cap is None else cap / 1000,
        "temperature_c": _ask(nvml, "nvmlDeviceGetTemperature", handle, nvml.NVML_TEMPERATURE_GPU),
        "throttle_bits": None if bits is None else f"0x{bits:x}",
        "throttle": " ".join(names),
        "ecc_uncorrected": _ask(nvml, "nvmlDeviceGetTotalEccErrors", handle, *uncorrected),
    }


def foreign(found: Sequence[set[int] | None], pids: Collection[int]) -> list[str | None]:
    """For each GPU the processes that are not in `pids`, as in column foreign_pids; None if that is not known.

    In a container NVML may give the host's process numbers, in which ours do not occur: if no GPU shows a process
    of ours, no process can be called foreign.
    """
    if not any(on_gpu and not on_gpu.isdisjoint(pids) for on_gpu in found):
        return [None] * len(found)
    return [
        None if on_gpu is None else " ".join(map(str, sorted(on_gpu.difference(pids)))) or "none" for on_gpu in found
    ]
