"""Where the efficiency went: planted losses are found, by name and size.

The steps are simulated. The compute half splits them as it does on the nodes, and writes the same line to the log.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpcjobs.analysis.scaling import table
from hpcjobs.base.contract import LogKey
from hpcjobs.base.metrics import LOSSES, ScalingRow
from hpcjobs.meter import attribute, parts_known
from tests.control.logs import line, train_log
from tests.control.sweeps import collect, done, planned, run, states, sweep

COMPUTE_MS = 350.0
PLANTED_MS = 60.0
# measure.control_passes, control_steps and parts_precision, by default.
PASSES, STEPS, PRECISION = 16, 3, 0.02


def taken_apart(
    gpus: int, *, input_ms: float = 0.0, fabric_ms: float = 0.0, late_ms: float = 0.0, node_ms: float = 0.0,
    compute_ms: float = 0.0, slow: str = "n1", seed: int = 0,
) -> str:  # fmt: skip
    """The log of a run in which the steps of the ranks vary by 1 %.

    `late_ms` is added to one random rank of each step, `node_ms` to all ranks on the node `slow`.
    """
    random = np.random.default_rng((seed, gpus))
    everyone: list[dict[str, Any]] = [
        {"rank": rank, "host": f"n{rank // 4}", "passes": [], "collectives": []} for rank in range(gpus)
    ]

    def ranks() -> np.ndarray:
        steps = (COMPUTE_MS + compute_ms) * (1 + 0.01 * random.standard_normal((gpus, STEPS)))
        steps += node_ms * np.array([[one["host"] == slow] for one in everyone])
        if gpus > 1:
            steps[random.integers(gpus, size=STEPS), range(STEPS)] += late_ms
        return steps

    def together(extra_ms: float) -> np.ndarray:
        return np.tile(ranks().max(axis=0) + extra_ms, (gpus, 1))

    while len(everyone[0]["passes"]) < PASSES and not parts_known(everyone, PRECISION):
        blocks = together(fabric_ms + input_ms), together(fabric_ms), ranks()
        for one, *steps in zip(everyone, *blocks, strict=True):
            one["passes"].append(dict(zip("abc", map(list, steps), strict=True)))
            one["collectives"].append(0)
    timed = tuple(float(together(fabric_ms + input_ms).mean()) for _ in range(20))
    text = train_log(gpus=gpus, step_ms=timed, status=None) + line(LogKey.CONTROL, attribute(everyone), 1035)
    return text + line(LogKey.RUN_STOP, None, 1040.0, status="success")


def rows_of(folder: Path, logs: dict[int, str]) -> dict[int, ScalingRow]:
    where = sweep(folder, list(logs))
    for gpus, text in logs.items():
        done(where, f"g{gpus:04d}-r01", log=text)
    return {row.gpus: row for row in table(collect(where, planned(where), states(where)))}


def parts(row: ScalingRow) -> dict[str, float]:
    return {part: getattr(row, f"lost_{part}_ms") for part in LOSSES}


@pytest.mark.parametrize("gpus", [8, 16])
@pytest.mark.parametrize(
    ("planted", "part"),
    [
        ("input_ms", "input"),
        ("fabric_ms", "allreduce"),
        ("late_ms", "skew"),
        ("node_ms", "skew"),
        ("compute_ms", "compute"),
    ],
)
def test_a_planted_loss_is_found_within_a_tenth_of_its_size(tmp_path: Path, gpus: int, planted: str, part: str) -> None:
    rows = rows_of(tmp_path, {1: taken_apart(1), gpus: taken_apart(gpus, **{planted: PLANTED_MS})})
    found = parts(rows[gpus])
    # The slowest of many ranks is slower than a single rank: a skew that was not planted.
    expected = max_of(gpus) if part != "skew" else 0.0
    assert found[part] == pytest.approx(PLANTED_MS, abs=PLANTED_MS / 10)
    for other in set(LOSSES) - {part}:
        assert found[other] == pytest.approx(expected if other == "skew" else 0.0, abs=PLANTED_MS / 10)
    if planted == "node_ms":
        assert rows[gpus].slowest_node == "n1"
        assert rows[gpus].slow_node_ms == pytest.approx(PLANTED_MS, rel=0.1)


def max_of(ranks: int) -> float:
    """By how many ms the slowest of `ranks` equal ranks is slower than a typical one."""
    draws = np.random.default_rng(1).standard_normal((4000, ranks))
    return float(draws.max(axis=1).mean()) * 0.01 * COMPUTE_MS


def test_the_parts_sum_to_the_whole_in_ms_and_per_cent(tmp_path: Path) -> None:
    logs = {
        1: taken_apart(1),
        8: taken_apart(8, input_ms=20, fabric_ms=30, late_ms=10),
        16: taken_apart(16, node_ms=40),
    }
    for row in rows_of(tmp_path, logs).values():
        assert row.lost_ms is not None
        assert sum(parts(row).values()) == pytest.approx(row.lost_ms)
        cells = row.row()
        assert cells["lost_pct"] == pytest.approx(100 * (1 - row.efficiency))
        assert sum(cells[f"lost_{part}_pct"] for part in LOSSES) == pytest.approx(cells["lost_pct"])
        assert row.input_wait_ms + row.allreduce_ms + row.skew_ms + row.other_ms == pytest.approx(row.step_ms)


def test_a_loss_has_the_interval_that_the_passes_give(tmp_path: Path) -> None:
    """One run of each size: the intervals of the parts are those of its passes, and no repeat shows that of the step."""
    rows = rows_of(tmp_path, {1: taken_apart(1), 8: taken_apart(8, input_ms=20, fabric_ms=30)})
    base, row = rows[1], rows[8]
    assert row.control_passes == 6
    assert row.input_wait_ms_low < 20 < row.input_wait_ms_high < row.input_wait_ms_low + 20
    assert row.lost_input_ms_low < 20 < row.lost_input_ms_high
    assert row.lost_allreduce_ms_low < 30 < row.lost_allreduce_ms_high
    assert row.lost_compute_ms_low < 0 < row.lost_compute_ms_high
    widths = [each.input_wait_ms_high - each.input_wait_ms_low for each in (base, row)]
    # Wider than either alone, but not as wide as both together.
    assert max(widths) * 0.8 < row.lost_input_ms_high - row.lost_input_ms_low < sum(widths)
    # One rank has no all-reduce, and no error of it.
    assert (base.allreduce_ms, base.allreduce_ms_low, base.allreduce_ms_high, base.skew_ms) == (0.0, 0.0, 0.0, 0.0)
    lost = row.lost_allreduce_ms_high - row.lost_allreduce_ms_low
    assert lost == pytest.approx(row.allreduce_ms_high - row.allreduce_ms_low, rel=1e-3)
    assert (row.lost_ms_low, base.lost_input_ms_low) == (None, None)


def test_of_several_runs_that_took_the_step_apart_the_interval_is_students_over_them() -> None:
    own = {"input_wait_ms_low": 4.0, "input_wait_ms_high": 6.0, "control_passes": 8}
    one = run(1, 100.0, 1, input_wait_ms=5.0, **own)
    base, row = table(
        [one, *(run(2, 160.0, repeat, input_wait_ms=ms) for repeat, ms in ((1, 9.0), (2, 10.0), (3, 11.0)))]
    )
    assert (base.input_wait_ms_low, base.input_wait_ms_high) == (4.0, 6.0)
    assert row.input_wait_ms_high - 10.0 == pytest.approx(4.3027 * 1.0 / 3**0.5, rel=1e-4)
    # Standard errors 0.577 with 2 degrees of freedom, and 1 / 2.4469 with 6: Welch has 4.0 of them.
    half = row.lost_input_ms_high - row.lost_input_ms
    assert half == pytest.approx(2.7764 * (1 / 3 + 1 / 2.4469**2) ** 0.5, rel=0.02)


def test_repeats_give_the_lost_time_an_interval() -> None:
    runs = [run(gpus, rate * spread, repeat) for gpus, rate in ((1, 100.0), (2, 160.0)) for repeat, spread in enumerate((0.99, 1.0, 1.01), 1)]  # fmt: skip
    base, row = table(runs)
    assert row.lost_ms_low < 10.0 < row.lost_ms_high
    assert row.lost_ms_high - row.lost_ms == pytest.approx(2.82 * (0.5**2 / 3 + 0.4**2 / 3) ** 0.5, rel=0.05)
    assert (base.lost_ms, base.lost_ms_low) == (0.0, None)


def test_the_base_loses_nothing(tmp_path: Path) -> None:
    base = rows_of(tmp_path, {1: taken_apart(1), 8: taken_apart(8)})[1]
    assert (base.lost_ms, parts(base)) == (0.0, dict.fromkeys(LOSSES, 0.0))


def test_a_loss_without_measured_parts_is_unexplained() -> None:
    parts_of_base = {"input_wait_ms": 1.0, "allreduce_ms": 0.0, "skew_ms": 0.0}
    _, row = table([run(1, 100.0, **parts_of_base), run(2, 160.0)])
    assert (row.lost_input_ms, row.lost_skew_ms, row.lost_compute_ms) == (None, None, None)
    assert row.lost_ms == row.lost_other_ms == pytest.approx(10.0)  # 50 ms; the base takes 40


def test_strong_scaling_is_compared_with_a_step_of_fewer_images() -> None:
    base = run(1, 100.0, local_batch=8, global_batch=8, input_wait_ms=8.0)  # a step of 80 ms
    half = run(2, 160.0, local_batch=4, global_batch=8, input_wait_ms=6.0)  # a step of 50 ms; 40 would be ideal
    _, row = table([base, half])
    assert (row.scaling, row.lost_ms) == ("strong", pytest.approx(10.0))
    assert row.lost_input_ms == pytest.approx(6.0 - 8.0 / 2)


def test_a_node_that_is_slow_in_several_runs_is_flagged(tmp_path: Path) -> None:
    slow, quick = {"node_ms": 30.0}, {"node_ms": 0.0}
    rows = rows_of(tmp_path / "twice", {4: taken_apart(4), 8: taken_apart(8, **slow), 16: taken_apart(16, **slow)})
    assert [rows[gpus].flags for gpus in (4, 8, 16)] == ["", "slow_node", "slow_node"]
    once = rows_of(tmp_path / "once", {4: taken_apart(4), 8: taken_apart(8, **quick), 16: taken_apart(16, **slow)})
    assert [once[gpus].flags for gpus in (4, 8, 16)] == [""] * 3
    others = {8: taken_apart(8, **slow, slow="n0"), 16: taken_apart(16, **slow, slow="n3")}
    assert [row.flags for row in rows_of(tmp_path / "others", others).values()] == [""] * 2
    assert once[16].slowest_node == "n1"  # it is still named
