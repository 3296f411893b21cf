"""Energy of GPUs from samples (invented, in the form of nvml-HOST.csv), and of nodes from lines of sacct (invented, too)."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
import yaml

from hpcjobs.analysis import predict, scaling
from hpcjobs.analysis.energy import PowerModel
from hpcjobs.base import contract
from hpcjobs.base.contract import NVML_COLUMNS, NVML_COLUMNS_0_1
from hpcjobs.base.errors import SchedulerUnreachable
from hpcjobs.base.files import read_json, write_json
from hpcjobs.base.metrics import Run
from hpcjobs.base.records import RunState
from hpcjobs.base.sweepdir import SweepDir
from hpcjobs.collect import nvml, sweep_runs
from hpcjobs.engine import node_energy
from hpcjobs.engine.follow import Readings
from hpcjobs.engine.sweep import Sweep
from hpcjobs.schedulers.slurm import parse
from hpcjobs.trainers.registry import check_run
from tests.control import sweeps
from tests.control.logs import attempt, train_log

WINDOWS = [(100.0, 110.0), (120.0, 130.0)]
HEADER = ",".join(NVML_COLUMNS) + "\n"


def row(at: float, *, uuid: str = "GPU-a", power: object = 300, joules: object = "") -> str:
    energy = round(joules * 1000) if isinstance(joules, (int, float)) else joules
    return f"{at},0,{uuid},1530,877,{power},300.0,61,0x0,,0,none,{energy},,,,,NVIDIA\n"


def energy(*files: str, windows: list[tuple[float, float]] = WINDOWS) -> nvml.Energy | None:
    return nvml.energy([text.splitlines(keepends=True) for text in files], windows)


def test_the_counter_counts_before_power_and_between_windows_nothing_counts() -> None:
    # 200 W within the windows and 50 W between them; the samples of power, once a second, say something else.
    used, lines = 0.0, ""
    for at in range(95, 140):
        lines += row(at, power=777, joules=used)
        used += 200 if any(begin <= at < end for begin, end in WINDOWS) else 50
    assert energy(HEADER + lines) == nvml.Energy(pytest.approx(200), 1, "counter")


def test_without_a_counter_power_is_integrated() -> None:
    # A ramp from 100 W at 100 s: the trapezoid rule is exact.
    lines = "".join(row(at, power=100 + 10 * (at - 100)) for at in range(100, 131))
    assert energy(HEADER + lines) == nvml.Energy(pytest.approx((150 + 350) / 2), 1, "power")


def test_powers_of_all_gpus_of_all_nodes_add_up() -> None:
    first = "".join(row(at, uuid=uuid, power=250) for at in range(99, 132) for uuid in ("GPU-a", "GPU-b"))
    second = "".join(row(at, uuid="GPU-c", power=100) for at in range(99, 132))
    assert energy(HEADER + first, HEADER + second) == nvml.Energy(pytest.approx(600), 3, "power")


def test_one_gpu_without_a_counter_makes_all_count_by_power() -> None:
    first = "".join(row(at, uuid="GPU-a", power=250, joules=200 * (at - 90)) for at in range(99, 132))
    second = "".join(row(at, uuid="GPU-b", power=100) for at in range(99, 132))
    assert energy(HEADER + first + second) == nvml.Energy(pytest.approx(350), 2, "power")


@pytest.mark.parametrize(
    "lines",
    [
        "",
        row(105),
        # Less than half of the windows has samples.
        "".join(row(at) for at in range(100, 108)),
        # Samples more than 10 s apart.
        row(99) + row(115) + row(131),
        # The power of one GPU is not known.
        "".join(row(at) + row(at, uuid="GPU-b", power="") for at in range(99, 132)),
        "".join(row(at, uuid="") for at in range(99, 132)),
        "".join(row(at, power="nan") for at in range(99, 132)),
    ],
)
def test_what_is_not_measured_is_empty(lines: str) -> None:
    assert energy(HEADER + lines) is None


def test_without_timed_windows_there_is_no_energy() -> None:
    assert energy(HEADER + "".join(row(at) for at in range(99, 132)), windows=[]) is None


def test_a_counter_that_begins_again_is_left_out_for_that_second() -> None:
    lines = "".join(row(at, power=1, joules=200 * (at - 90 if at < 105 else at - 105)) for at in range(99, 132))
    assert energy(HEADER + lines) == nvml.Energy(pytest.approx(200), 1, "counter")


def test_a_sensor_that_shows_nothing_does_not_measure() -> None:
    still = "".join(row(at, uuid="GPU-b", power=0, joules=0) for at in range(99, 132))
    moving = "".join(row(at, power=200, joules=200 * at) for at in range(99, 132))
    assert energy(HEADER + moving + still) is None


def test_samples_may_end_a_little_before_the_last_window_does() -> None:
    lines = "".join(row(at + 0.4, power=300) for at in range(100, 129))
    assert energy(HEADER + lines) == nvml.Energy(pytest.approx(300), 1, "power")


def test_files_of_version_0_1_are_read_and_have_power() -> None:
    old = ",".join(NVML_COLUMNS_0_1) + "\n"
    old += "".join(",".join(row(at).split(",")[:12]) + "\n" for at in range(99, 132))
    assert energy(old) == nvml.Energy(pytest.approx(300), 1, "power")


def test_a_run_has_the_energy_of_a_unit_and_its_nodes(tmp_path: Path) -> None:
    where = SweepDir(tmp_path)
    where.sweep_yaml.write_text(yaml.safe_dump({"version": 1, "sweep": "s", "cluster": {"sharing": "exclusive"}}))
    experiment = {
        "name": "x",
        "mode": "train",
        "batch": {"local": 4},
        "train": {"steps": 40},
        "measure": {"warmup_steps": 5},
    }
    config = contract.RunConfig(
        sweep="s", run="g0002-r01", params="", repeat=1, seed=1, gpus=2, nodes=1, tasks_per_node=2, cpus_per_task=1,
        device="gpu", data_dir="/data", experiment=experiment,
    )  # fmt: skip
    folder = attempt(where.run("g0002-r01") / "a001", log=train_log(step_ms=(200.0, 200.0), start=1000.0))
    (folder.parent / contract.RUN_YAML).write_text(contract.dump_run(config))
    lines = "".join(row(at, uuid=uuid, power=250) for at in range(999, 1010) for uuid in ("GPU-a", "GPU-b"))
    (folder / contract.nvml_csv("n1")).write_text(HEADER + lines)
    write_json(where.node_energy, {"plugin": "ipmi", "joules": {"1_0": 7_200_000}})
    (found,) = sweep_runs.collect(where, {}, {"g0002-r01": (RunState.DONE, "")}, Readings().attempt, check_run)
    # 8 images in 200 ms: 40 images/s by 500 W.
    assert found.throughput == pytest.approx(40)
    assert (found.energy_per_unit_j, found.gpu_power_w) == (pytest.approx(12.5), pytest.approx(250))
    assert (found.node_energy_kwh, found.node_energy_plugin) == (2.0, "ipmi")
    (table,) = scaling.table([found])
    assert table.energy_per_unit_j == found.energy_per_unit_j


# --- Slurm ---------------------------------------------------------------------------------------

SACCT = """\
12_0|2|91000|hpcjobs-x-g0001-s01
12_0.batch|1|30000|batch
12_0.extern|2|61500|extern
12_0.0|2|60000|0
12_1|4|0|hpcjobs-x-g0001-s01
12_1.batch|1|10000|batch
12_1.0|3|31000|0
12_1.1|1|5|1
12_2|1||hpcjobs-x-g0001-s01
12_2.batch|1|18446744073709551614|batch
12_2.0|1|0|0
12_3|2|7|hpcjobs-x-g0001-s01
12_3.batch|1|7|batch
12_4|1|8000|hpcjobs-x-g0001-s01
12_4.batch|1|8000|batch
12_4.0|1|7000|0
13_0|1|900|stranger
13_0.0|1|900|0
sacct: error: something
"""


def test_the_energy_of_a_job_counts_no_node_twice() -> None:
    # By extern, by batch and mpirun's step, not known twice, by batch; 13_0 is another's job that got the id.
    assert parse.energy(SACCT, "hpcjobs-x-") == {"12_0": 61500, "12_1": 41000, "12_4": 8000}


@pytest.mark.parametrize(
    ("line", "plugin"),
    [
        ("AcctGatherEnergyType    = acct_gather_energy/ipmi", "ipmi"),
        ("AcctGatherEnergyType    = acct_gather_energy/pm_counters", "pm_counters"),
        ("AcctGatherEnergyType    = acct_gather_energy/none", ""),
        ("AcctGatherEnergyType    = (null)", ""),
        ("AccountingStorageType   = x", ""),
    ],
)
def test_the_plugin_that_measures_it(line: str, plugin: str) -> None:
    assert parse.energy_plugin(f"Configuration data\nA = b\n{line}\nAcctGatherFilesystemType = x\n") == plugin


class FakeSlurm:
    """A scheduler that measures, or does not, or does not answer."""

    def __init__(self, *answers: object):
        self.answers, self.asked = list(answers), []

    def node_energy(self, tasks: list[str], mark: str) -> object:
        self.asked.append(tasks)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def updated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slurm: FakeSlurm, times: int, **changes: object) -> object:
    """node-energy.json after so many reports of a sweep on whole nodes whose one run has ended."""
    new = sweeps.written(tmp_path / "o", (4,), "c4140")
    cluster = msgspec.structs.replace(new.plan.cluster, **changes)
    new = dataclasses.replace(new, plan=dataclasses.replace(new.plan, cluster=cluster))
    attempt(new.where.run("g0004-r01") / "a001", job="1_0")
    monkeypatch.setattr(Sweep, "scheduler", property(lambda _: slurm))
    ended = SimpleNamespace(run="g0004-r01", state=RunState.DONE)
    for _ in range(times):
        node_energy.update(new, [ended])
    return read_json(new.where.node_energy)


def test_what_slurm_says_is_asked_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # No answer, an answer before accounting has the job, and then the energy.
    slurm = FakeSlurm(SchedulerUnreachable("away"), ("ipmi", {}), ("ipmi", {"1_0": 5000}))
    assert updated(tmp_path, monkeypatch, slurm, 5) == {"plugin": "ipmi", "joules": {"1_0": 5000}}
    assert slurm.asked == [["1_0"]] * 3


def test_a_site_that_measures_nothing_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slurm = FakeSlurm(("", {}))
    assert updated(tmp_path, monkeypatch, slurm, 3) == {"plugin": "", "joules": {}}


def test_the_energy_of_shared_nodes_is_not_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert updated(tmp_path, monkeypatch, FakeSlurm(), 1, sharing="shared") is None


# --- prediction ----------------------------------------------------------------------------------


def runs(sizes: tuple[int, ...], power: tuple[float, ...]) -> list[Run]:
    found = []
    for gpus, watts in zip(sizes, power, strict=True):
        rate = 100.0 * gpus / (1 + 0.02 * (gpus - 1))
        found.append(
            Run(
                run=f"g{gpus}",
                attempt="a001",
                state=RunState.DONE,
                failure="",
                source="",
                experiment="x",
                params="",
                gpus=gpus,
                nodes=1,
                gpus_per_node=gpus,
                local_batch=8,
                global_batch=8 * gpus,
                throughput=rate,
                step_ms=8000 * gpus / rate,
                unit="images",
                gpu_power_w=watts,
                energy_per_unit_j=watts * gpus / rate,
            )
        )
    return found


def test_the_energy_of_a_size_that_was_not_run_follows_from_power_and_rate() -> None:
    sizes = (1, 2, 4, 8, 16)
    # 60 W idle and 2 J a unit: exactly what the model says.
    rates = [100 / (1 + 0.02 * (gpus - 1)) for gpus in sizes]
    rows = scaling.table(runs(sizes, tuple(60 + 2 * rate for rate in rates)))
    (series,) = predict.predict(rows, [32], resamples=50)
    (size,) = [each for each in series.models[0].predictions if each.gpus == 32]
    assert size.energy_per_unit_j is not None
    right = 60 / (size.throughput.value / 32) + 2
    assert size.energy_per_unit_j.value == pytest.approx(right, rel=1e-3)
    assert size.energy_per_unit_j.low <= right <= size.energy_per_unit_j.high


def test_the_interval_holds_what_the_power_scatters() -> None:
    model = PowerModel.fit([(100.0, 250.0), (90.0, 262.0), (80.0, 235.0), (70.0, 228.0), (60.0, 241.0)])
    assert model is not None
    near, far = model.at(80.0), model.at(10.0)
    assert near.low < 235 < near.high
    assert far.high - far.low > near.high - near.low
    # A GPU takes no less than nothing.
    assert model.at(-1000.0).low == 0.0


def test_too_few_measured_sizes_give_no_energy() -> None:
    rows = scaling.table(runs((1, 2, 4), (250.0, 240.0, 230.0)))
    assert PowerModel.of(rows) is None
    whole = scaling.table(runs((1, 2, 4, 8, 16), (250.0,) * 5))
    assert PowerModel.of(whole) is not None


def test_sizes_of_equal_rate_give_the_mean_power() -> None:
    model = PowerModel.fit([(100.0, 250.0), (100.0, 260.0), (100.0, 240.0), (100.0, 250.0)])
    assert model is not None
    assert model.at(100.0).value == pytest.approx(250)
