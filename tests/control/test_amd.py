"""Samples of AMD's GPUs with a fake of amdsmi, in the words of ROCm 5.7 and of ROCm 7: there is no GPU here."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from hpcjobs.base.contract import NVML_COLUMNS
from hpcjobs.nodes import amd

UNKNOWN = 2**32 - 1
# An MI250X by the binding of ROCm 5.7, and an MI300X by that of ROCm 7.
OLD = {
    "amdsmi_get_gpu_asic_info": {"market_name": "AMD Instinct MI250X"},
    "amdsmi_get_gpu_device_uuid": "aa-0",
    "amdsmi_get_power_info": {"current_socket_power": UNKNOWN, "average_socket_power": 420, "power_limit": 560},
    "amdsmi_get_energy_count": {"power": 2_000_000, "counter_resolution": 15.3, "timestamp": 1},
    "amdsmi_get_clock_info": {"gfx": {"cur_clk": 1700}, "mem": {"cur_clk": 1600}},
    "amdsmi_get_temp_metric": 61,
    "amdsmi_get_gpu_total_ecc_count": {"correctable_count": 3, "uncorrectable_count": 0},
    "amdsmi_get_gpu_process_list": ["handle of 501"],
    "amdsmi_get_gpu_process_info": {"pid": 501},
}
NEW = {
    **OLD,
    "amdsmi_get_gpu_asic_info": {"market_name": "AMD Instinct MI300X"},
    "amdsmi_get_power_info": {"socket_power": 650, "average_socket_power": "N/A", "power_limit": 750_000_000},
    "amdsmi_get_energy_count": {"energy_accumulator": 2_000_000, "counter_resolution": 15.3},
    "amdsmi_get_clock_info": {"gfx": {"clk": 2100}, "mem": {"clk": 1300}},
    "amdsmi_get_gpu_process_list": [{"pid": 501, "name": "N/A"}, {"pid": 77, "name": "other"}],
}


class AmdSmiException(Exception):
    pass


class FakeAmdSmi(ModuleType):
    """amdsmi on a node with these GPUs: a question that a GPU has no answer to is an error."""

    AmdSmiException = AmdSmiException
    AmdSmiClkType = SimpleNamespace(GFX="gfx", MEM="mem")
    AmdSmiTemperatureType = SimpleNamespace(HOTSPOT="hotspot")
    AmdSmiTemperatureMetric = SimpleNamespace(CURRENT="current")

    def __init__(self, *gpus: dict[str, Any]):
        super().__init__("amdsmi")
        self.gpus = gpus

    def amdsmi_init(self) -> None:
        pass

    def amdsmi_get_processor_handles(self) -> list[int]:
        return list(range(len(self.gpus)))

    def __getattr__(self, question: str) -> Any:
        if not question.startswith("amdsmi_get"):
            raise AttributeError(question)

        def ask(gpu: int, *of: Any) -> Any:
            if question not in self.gpus[gpu]:
                raise AmdSmiException(question)
            answer = self.gpus[gpu][question]
            return answer[of[0]] if question == "amdsmi_get_clock_info" else answer

        return ask


@pytest.mark.parametrize(
    ("gpu", "figures"),
    [
        (OLD, {"sm_mhz": 1700, "memory_mhz": 1600, "power_w": 420, "power_cap_w": 560, "energy_mj": 30600}),
        (NEW, {"sm_mhz": 2100, "memory_mhz": 1300, "power_w": 650, "power_cap_w": 750, "energy_mj": 30600}),
    ],
)
def test_bindings_of_all_versions_fill_the_same_columns(gpu: dict[str, Any], figures: dict[str, float]) -> None:
    (row,) = amd.sample(FakeAmdSmi(gpu), [0], ["none"])
    assert tuple(row) == NVML_COLUMNS
    assert {name: row[name] for name in figures} == figures
    assert (row["vendor"], row["uuid"], row["foreign_pids"], row["ecc_uncorrected"]) == ("AMD", "aa-0", "none", 0)
    # Their bits mean something else, and there is no NVLink.
    assert (row["throttle_bits"], row["nvlink_tx_kib"]) == (None, None)


def test_what_it_does_not_tell_stays_empty() -> None:
    (row,) = amd.sample(FakeAmdSmi({}), [0], [None])
    assert {name for name, value in row.items() if value is not None} == {"time", "gpu", "vendor"}


def test_names_and_processes() -> None:
    smi = FakeAmdSmi(OLD, NEW, {})
    assert amd.gpus(smi) == [("AMD Instinct MI250X", "aa-0"), ("AMD Instinct MI300X", "aa-0"), ("", "")]
    assert [amd.processes(smi, gpu) for gpu in amd.handles(smi)] == [{501}, {501, 77}, None]


def test_without_amds_driver_or_gpu_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "amdsmi", None)
    assert amd.open_smi() is None
    monkeypatch.setitem(sys.modules, "amdsmi", FakeAmdSmi())
    assert amd.open_smi() is None
    there = FakeAmdSmi(NEW)
    monkeypatch.setitem(sys.modules, "amdsmi", there)
    assert amd.open_smi() is there
