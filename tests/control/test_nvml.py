"""The flags of a run from its nodes' GPU files. The lines are invented, in the form that the trainer writes.

Clocks, power and reasons are those of V100-SXM2 cards in NVIDIA's documents; they were not recorded on a GPU.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from hpcjobs.base import contract
from hpcjobs.base.contract import LogKey
from hpcjobs.base.records import RunState
from hpcjobs.base.sweepdir import SweepDir
from hpcjobs.collect import mllog, nvml, sweep_runs
from hpcjobs.engine.follow import Readings
from hpcjobs.trainers.registry import check_run
from tests.control.logs import attempt, line, train_log

HEADER = "time,gpu,uuid,sm_mhz,memory_mhz,power_w,power_cap_w,temperature_c,throttle_bits,throttle,ecc_uncorrected,foreign_pids\n"
WINDOWS = [(100.0, 110.0), (110.0, 120.0), (150.0, 160.0)]


def row(at: float, *, uuid: str = "GPU-a", bits: str = "0x0", ecc: str = "0", foreign: str = "none") -> str:
    return f"{at},0,{uuid},1530,877,287.3,300.0,61,{bits},,{ecc},{foreign}\n"


def lines(text: str) -> list[str]:
    """The lines of a file, with their line ends."""
    return text.splitlines(keepends=True)


def flags(texts: list[str], windows: list[tuple[float, float]]) -> list[str]:
    return nvml.flags(map(lines, texts), windows)


def test_the_header_is_that_of_version_0_1_and_later_columns_come_after_it() -> None:
    assert HEADER.strip().split(",") == list(contract.NVML_COLUMNS_0_1)
    assert contract.NVML_COLUMNS[: len(contract.NVML_COLUMNS_0_1)] == contract.NVML_COLUMNS_0_1
    assert list(nvml.samples(lines(HEADER))) == []


def test_gpus_that_fared_well_raise_no_flag() -> None:
    assert flags([HEADER + row(101) + row(102, bits="0x1") + row(103, bits="0x2")], WINDOWS) == []
    assert flags([], WINDOWS) == flags([""], WINDOWS) == []


# Bits of nvmlClocksThrottleReason* in nvml.h.
@pytest.mark.parametrize("bits", ["0x8", "0x20", "0x40", "0x80", "0x48", "0x24"])
def test_one_slowdown_by_heat_or_power_supply_is_throttling(bits: str) -> None:
    assert flags([HEADER + row(101) + row(102, bits=bits) + row(103)], WINDOWS) == ["throttled"]


def test_a_gpu_at_its_power_cap_most_of_the_time_is_capped_not_throttled() -> None:
    capped = "".join(row(at, bits="0x4") for at in (101, 102, 103))
    idle = "".join(row(at, uuid="GPU-b") for at in range(101, 110))
    assert flags([HEADER + capped + row(104) + idle], WINDOWS) == ["power_capped"]
    assert flags([HEADER + capped + row(104) + row(105) + row(106)], WINDOWS) == []


def test_ecc_errors_and_foreign_processes_on_any_node() -> None:
    nodes = [HEADER + row(101), HEADER + row(101, ecc="2"), HEADER + row(102, foreign="4711 4712")]
    assert flags(nodes, WINDOWS) == ["ecc_errors", "foreign_processes"]


@pytest.mark.parametrize(
    ("at", "counts"), [(99.9, False), (100, True), (115, True), (120, True), (130, False), (161, False)]
)
def test_only_what_happened_in_a_timed_window_counts(at: float, counts: bool) -> None:
    assert flags([row(at, bits="0x40", ecc="1", foreign="7")], WINDOWS) == (
        ["throttled", "ecc_errors", "foreign_processes"] if counts else []
    )
    assert flags([row(at, bits="0x40")], []) == []


def test_what_is_not_known_is_no_fault() -> None:
    assert flags([row(101, bits="", ecc="", foreign="")], WINDOWS) == []


@pytest.mark.parametrize(
    "damage",
    [
        "102.0,0,GPU-a,1530,877\n",
        "\0\0\0\0\n",
        "102.0,0,GPU-a,1530,877,287.3,300.0,61,0x4_,,0,7\n",
        "yesterday,0,GPU-a,1530,877,287.3,300.0,61,0x40,,0,none\n",
        "102.0,0,GPU-a,1530,102.0,0,GPU-a,1530,877,287.3,300.0,61,0x40,,0,none\n",
        '"\n',
        "\n",
    ],
)
def test_damaged_lines_are_skipped(damage: str) -> None:
    assert flags([HEADER + damage + row(103, ecc="1")], WINDOWS) == ["ecc_errors"]


def test_the_last_line_of_a_killed_run_is_skipped() -> None:
    # A line that is cut within the number of errors or of a process does not count at all.
    cut = row(102, ecc="12", foreign="4711")
    for end in range(len(cut)):
        assert flags([HEADER + row(101) + cut[:end]], WINDOWS) == []
    assert flags([HEADER + row(101) + cut], WINDOWS) == ["ecc_errors", "foreign_processes"]


def test_timed_windows_leave_the_warm_up_out(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    # Of five steps: one window of the warm-up, and two that end at 1002 and 1003 s.
    path.write_text(train_log(step_ms=(40.0, 60.0), start=1000.0) + line(LogKey.WINDOW, {"step_ms": None}, steps=5))
    assert mllog.window_times(mllog.read(path)) == [
        (pytest.approx(1001.8), 1002.0),
        (pytest.approx(1002.7), 1003.0),
    ]
    assert mllog.window_times(mllog.TrainLog(())) == []


def test_collect_flags_the_run_whose_gpus_were_slowed(tmp_path: Path) -> None:
    where = SweepDir(tmp_path)
    where.sweep_yaml.write_text(yaml.safe_dump({"version": 1, "sweep": "s", "cluster": {}}))
    experiment = {
        "name": "x",
        "mode": "train",
        "batch": {"local": 4},
        "train": {"steps": 40},
        "measure": {"warmup_steps": 5},
    }
    for name, at in (("g0002-r01", 1002.9), ("g0002-r02", 1010.0)):
        config = contract.RunConfig(
            sweep="s", run=name, params="", repeat=1, seed=1, gpus=2, nodes=1, tasks_per_node=2, cpus_per_task=1,
            device="gpu", data_dir="/data", experiment=experiment,
        )  # fmt: skip
        folder = attempt(where.run(name) / "a001", log=train_log(step_ms=(40.0, 60.0), start=1000.0))
        (folder.parent / contract.RUN_YAML).write_text(contract.dump_run(config))
        (folder / contract.nvml_csv("n1")).write_text(HEADER + row(at, bits="0x40"))
        (folder / contract.nvml_csv("n2")).write_text(HEADER + row(at))
    runs = sweep_runs.collect(
        where, {}, dict.fromkeys(["g0002-r01", "g0002-r02"], (RunState.DONE, "")), Readings().attempt, check_run
    )
    assert [run.flags for run in runs] == ["throttled", ""]
