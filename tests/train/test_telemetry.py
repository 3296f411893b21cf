"""What is written of a node's GPUs, with a fake of NVIDIA's binding: there is no GPU here."""

from __future__ import annotations

import csv
import sys
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from hpcjobs.base.contract import NVML_COLUMNS
from hpcjobs.collect import nvml
from hpcjobs.nodes import telemetry

# An error in the thread fails the test, and is not just told.
pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")

V100 = {
    "uuid": "GPU-aaaa-0",
    "clocks": {1: 1530, 2: 877},
    "power": 298_640,
    "cap": 300_000,
    "temperature": 64,
    "reasons": 0x4,
    "ecc": 0,
    "pids": [501],
    "energy": 7_200_000,
    "pcie": {0: 1200, 1: 3400},
    "nvlink": {138: 5_000, 139: 6_000},
}


class NVMLError(Exception):
    pass


class FakeNvml(ModuleType):
    """pynvml on a node with these GPUs: a key that a GPU lacks is an error, and so is NVML itself on a node without."""

    NVMLError = NVMLError
    NVML_CLOCK_SM, NVML_CLOCK_MEM = 1, 2
    NVML_TEMPERATURE_GPU = 0
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_VOLATILE_ECC = 1, 0
    NVML_SUCCESS = 0
    NVML_PCIE_UTIL_TX_BYTES, NVML_PCIE_UTIL_RX_BYTES = 0, 1
    NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX, NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX = 138, 139

    def __init__(self, *gpus: dict[str, Any]):
        super().__init__("pynvml")
        self.gpus = gpus
        self.rounds = 0
        self.asked_thrice = threading.Event()

    def answer(self, gpu: int, key: str) -> Any:
        if key not in self.gpus[gpu]:
            raise NVMLError(key)
        return self.gpus[gpu][key]

    def nvmlInit(self) -> None:
        if not self.gpus:
            raise NVMLError("Driver Not Loaded")

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:
        for index, gpu in enumerate(self.gpus):
            if gpu["uuid"] == uuid:
                return index
        raise NVMLError("Not Found")

    def nvmlDeviceGetIndex(self, gpu: int) -> int:
        self.rounds += 1
        if self.rounds == 3 * len(self.gpus):
            self.asked_thrice.set()
        return gpu

    def nvmlDeviceGetUUID(self, gpu: int) -> str:
        return self.answer(gpu, "uuid")

    def nvmlDeviceGetClockInfo(self, gpu: int, clock: int) -> int:
        return self.answer(gpu, "clocks")[clock]

    def nvmlDeviceGetPowerUsage(self, gpu: int) -> int:
        return self.answer(gpu, "power")

    def nvmlDeviceGetEnforcedPowerLimit(self, gpu: int) -> int:
        return self.answer(gpu, "cap")

    def nvmlDeviceGetTemperature(self, gpu: int, sensor: int) -> int:
        return self.answer(gpu, "temperature")

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, gpu: int) -> int:
        return self.answer(gpu, "reasons")

    def nvmlDeviceGetTotalEccErrors(self, gpu: int, kind: int, counter: int) -> int:
        return self.answer(gpu, "ecc")

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu: int) -> int:
        return self.answer(gpu, "energy")

    def nvmlDeviceGetPcieThroughput(self, gpu: int, counter: int) -> int:
        return self.answer(gpu, "pcie")[counter]

    def nvmlDeviceGetFieldValues(self, gpu: int, fields: list[tuple[int, int]]) -> list[SimpleNamespace]:
        """Where a GPU has no NVLink, the call works and each field says that it is not supported (3)."""
        links = self.gpus[gpu].get("nvlink", {})
        # Scope UINT_MAX: all links.
        assert all(scope == 0xFFFFFFFF for _, scope in fields)
        return [
            SimpleNamespace(nvmlReturn=0 if field in links else 3, value=SimpleNamespace(ullVal=links.get(field, 0)))
            for field, _ in fields
        ]

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: int) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=pid) for pid in self.answer(gpu, "pids")]


def record(path: Path, fake: ModuleType | None, monkeypatch: pytest.MonkeyPatch, gpus=(None,), pids=(501,)) -> None:
    """Have the thread write to `path` until the fake was asked three times about its GPUs."""
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setattr(telemetry, "_PERIOD_S", 0.001)
    with telemetry.sampled(path, gpus, pids):
        assert not getattr(fake, "gpus", ()) or fake.asked_thrice.wait(550)


def test_a_line_says_how_a_gpu_fares():
    (row,) = telemetry.sample(FakeNvml(V100 | {"reasons": 0x44}), [0], [501])
    assert tuple(row) == NVML_COLUMNS
    del row["time"]
    assert row == {
        "gpu": 0,
        "uuid": "GPU-aaaa-0",
        "sm_mhz": 1530,
        "memory_mhz": 877,
        "power_w": 298.64,
        "power_cap_w": 300.0,
        "temperature_c": 64,
        "throttle_bits": "0x44",
        "throttle": "sw_power_cap hw_thermal",
        "ecc_uncorrected": 0,
        "foreign_pids": "none",
        "energy_mj": 7_200_000,
        "pcie_tx_kb_s": 1200,
        "pcie_rx_kb_s": 3400,
        "nvlink_tx_kib": 5_000,
        "nvlink_rx_kib": 6_000,
        "vendor": "NVIDIA",
    }


@pytest.mark.parametrize(
    ("key", "columns"),
    [
        ("uuid", {"uuid"}),
        ("clocks", {"sm_mhz", "memory_mhz"}),
        ("power", {"power_w"}),
        ("cap", {"power_cap_w"}),
        ("temperature", {"temperature_c"}),
        ("reasons", {"throttle_bits"}),
        ("ecc", {"ecc_uncorrected"}),
        ("pids", {"foreign_pids"}),
        ("energy", {"energy_mj"}),
        ("pcie", {"pcie_tx_kb_s", "pcie_rx_kb_s"}),
        ("nvlink", {"nvlink_tx_kib", "nvlink_rx_kib"}),
    ],
)
def test_what_nvml_does_not_tell_stays_empty_and_the_rest_is_told(key: str, columns: set[str]):
    (row,) = telemetry.sample(FakeNvml({name: value for name, value in V100.items() if name != key}), [0], [501])
    assert {name for name, value in row.items() if value is None} == columns


@pytest.mark.parametrize(
    ("on_gpus", "words"),
    [
        ([{501}, {502}], ["none", "none"]),
        ([{501, 77, 9}, {502}], ["9 77", "none"]),
        ([{501}, set()], ["none", "none"]),
        ([{501}, None], ["none", None]),
        # A container: NVML gives the host's numbers.
        ([{40501}, {40502}], [None, None]),
        # Before TensorFlow's first operation.
        ([set(), set()], [None, None]),
    ],
)
def test_processes_that_are_none_of_the_ranks_are_foreign(on_gpus: list, words: list):
    assert telemetry.foreign(on_gpus, [501, 502]) == words


def test_the_gpus_of_the_ranks_are_watched_and_all_where_one_is_not_known():
    fake = FakeNvml(V100, V100 | {"uuid": "GPU-bbbb-1"}, V100 | {"uuid": "GPU-cccc-2"})
    assert telemetry.find(fake, ["GPU-cccc-2", "GPU-aaaa-0"]) == [2, 0]
    assert telemetry.find(fake, ["GPU-cccc-2", None]) == [0, 1, 2]
    assert telemetry.find(fake, ["GPU-gone-9", "GPU-bbbb-1"]) == [1]


def test_the_thread_writes_a_header_and_then_a_line_per_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "nvml-n01.csv"
    record(path, FakeNvml(V100, V100 | {"uuid": "GPU-bbbb-1", "pids": [502, 77]}), monkeypatch, pids=(501, 502))
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == NVML_COLUMNS
    assert [row["uuid"] for row in rows[:4]] == ["GPU-aaaa-0", "GPU-bbbb-1"] * 2
    assert [row["foreign_pids"] for row in rows[:2]] == ["none", "77"]
    lines = path.read_text().splitlines(keepends=True)
    assert nvml.flags([lines], [(0.0, float("inf"))]) == ["power_capped", "foreign_processes"]


def test_without_nvml_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for absent in (FakeNvml(), None):  # A node without a driver; a Python without the binding.
        record(tmp_path / "nvml-n01.csv", absent, monkeypatch)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_no_failure(monkeypatch: pytest.MonkeyPatch):
    fake = FakeNvml(V100)
    record(Path("/dev/full"), fake, monkeypatch)
    assert fake.asked_thrice.is_set()


def test_a_folder_that_is_gone_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(V100))
    with telemetry.sampled(tmp_path / "gone" / "nvml-n01.csv", [None], [501]):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_fake_speaks_as_nvidias_binding_does():
    binding = pytest.importorskip("pynvml")
    for name, value in vars(FakeNvml).items():
        if name.startswith("nvml"):
            assert callable(getattr(binding, name))
        elif name.startswith("NVML_"):
            assert getattr(binding, name) == value
    assert issubclass(binding.NVMLError, Exception)
