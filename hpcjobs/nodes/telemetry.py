"""nvml-HOST.csv: NVML's readings of a node's GPUs, once a second.

Not run by us: needs a GPU. The tests run it with a fake of NVIDIA's binding.
"""

from __future__ import annotations

import csv
import io
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
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
    with suppress(OSError), Table(path, NVML_COLUMNS) as table:
        while not ended.wait(_PERIOD_S):
            table.add(sample(nvml, watched, pids))


class Table:
    """A CSV file with these columns that grows line by line. Opening it raises OSError; writing to it raises nothing.

    Unbuffered: every line is written at once, and a line that a full disk cut short is not written again.
    """

    def __init__(self, path: Path, columns: Sequence[str]):
        self._columns = columns
        self._file = path.open("ab", buffering=0)
        with suppress(OSError):
            self._file.write(_lines([columns]))

    def __enter__(self) -> Table:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, rows: Iterable[Mapping[str, object]]) -> None:
        """Append these rows."""
        lines = _lines([row[column] for column in self._columns] for row in rows)
        with suppress(OSError):
            self._file.write(lines)


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


def named(nvml: ModuleType) -> list[tuple[str, str]]:
    """(model, UUID) of each GPU that NVML shows, in its order, which is that of CUDA_DEVICE_ORDER=PCI_BUS_ID."""
    asked = (
        (_ask(nvml, "nvmlDeviceGetName", each), _ask(nvml, "nvmlDeviceGetUUID", each)) for each in find(nvml, [None])
    )
    # Older bindings answer in bytes.
    texts = (tuple(each.decode() if isinstance(each, bytes) else str(each or "") for each in pair) for pair in asked)
    return [(model, uuid) for model, uuid in texts]


def is_split(nvml: ModuleType, uuid: str) -> bool:
    """Whether the GPU is split into slices (MIG): jobs share its power and its energy counter."""
    handle = _ask(nvml, "nvmlDeviceGetHandleByUUID", uuid)
    modes = None if handle is None else _ask(nvml, "nvmlDeviceGetMigMode", handle)
    return modes is not None and modes[0] == 1


def sample(nvml: ModuleType, handles: Collection[Any], pids: Collection[int]) -> list[dict[str, object]]:
    """A row (contract.NVML_COLUMNS) for each GPU; None for a value that NVML does not give."""
    now = f"{time.time():.3f}"
    return [
        {"time": now, **_row(nvml, handle), "foreign_pids": listed, **_counters(nvml, handle)}
        for handle, listed in zip(handles, foreign(processes(nvml, handles), pids), strict=True)
    ]


def processes(nvml: ModuleType, handles: Collection[Any]) -> list[set[int] | None]:
    """The processes on each GPU; None where NVML does not tell."""
    running = [_ask(nvml, "nvmlDeviceGetComputeRunningProcesses", handle) for handle in handles]
    return [None if found is None else {process.pid for process in found} for found in running]


def _ask(nvml: ModuleType, question: str, *of: Any) -> Any:
    try:
        return getattr(nvml, question)(*of)
    except (nvml.NVMLError, AttributeError):  # An older binding lacks a function.
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


def _counters(nvml: ModuleType, handle: Any) -> dict[str, object]:
    """Energy and traffic. A GPU without NVLink, or an NVML without one of them, leaves it empty."""
    tx, rx = (getattr(nvml, f"NVML_PCIE_UTIL_{way}_BYTES", None) for way in ("TX", "RX"))
    link = [
        getattr(nvml, name, None)
        for name in ("NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX", "NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX")
    ]
    sent, received = (None if field is None else _field(nvml, handle, field) for field in link)
    return {
        "energy_mj": _ask(nvml, "nvmlDeviceGetTotalEnergyConsumption", handle),
        "pcie_tx_kb_s": None if tx is None else _ask(nvml, "nvmlDeviceGetPcieThroughput", handle, tx),
        "pcie_rx_kb_s": None if rx is None else _ask(nvml, "nvmlDeviceGetPcieThroughput", handle, rx),
        "nvlink_tx_kib": sent,
        "nvlink_rx_kib": received,
        "vendor": "NVIDIA",
    }


def _field(nvml: ModuleType, handle: Any, field: int) -> int | None:
    """The counter of that field id over all of the GPU's links (scope UINT_MAX in nvml.h)."""
    found = _ask(nvml, "nvmlDeviceGetFieldValues", handle, [(field, 0xFFFFFFFF)])
    if not found or found[0].nvmlReturn != nvml.NVML_SUCCESS:
        return None
    return int(found[0].value.ullVal)


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
