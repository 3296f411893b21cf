"""Commands whose processes had fewer CPUs than the profile gives them are flagged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpcjobs.collect import cpus
from tests.control.sweeps import collect, done, planned, states, sweep


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", {0}), ("0-2,8", {0, 1, 2, 8}), ("", set()), ("None", set()), ("0-", set()), ("0x3", set())],
)
def test_lists_of_cpus(text: str, expected: set[int]) -> None:
    assert cpus.numbers(text) == expected


@pytest.mark.parametrize(
    ("lists", "per_process", "few"),
    [
        (["0-3"] * 4, 1, False),  # unbound, and as many CPUs as ranks
        (["0-1"] * 4, 1, True),  # unbound: four ranks share two
        (["0", "1", "2", "3"], 1, False),  # bound, each to its own
        (["0", "0"], 1, True),  # bound to the same one
        (["0-1", "2-3"], 2, False),
        (["0-1", "2-3"], 4, True),
        (["0,64", "1,65"], 1, False),  # both threads of a core
        (["0", ""], 1, False),  # one does not say
    ],
)
def test_the_distinct_cpus_of_a_host_are_what_its_ranks_have(
    lists: list[str], per_process: int, few: bool, tmp_path: Path
) -> None:
    for rank, each in enumerate(lists):
        # A second host has enough.
        for number, host, own in [(rank, "n1", each), (rank + 50, "n2", f"{rank * 8}-{rank * 8 + 7}")]:
            (tmp_path / f"rank-r{number:03d}.json").write_text(json.dumps({"host": host, "cpus": own}))
    assert cpus.too_few(tmp_path, per_process) == few


def test_a_node_s_own_process_counts_before_the_ranks_that_it_started(tmp_path: Path) -> None:
    for name in ("node-process-n1", "rank-r000", "rank-r001"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"host": "n1", "cpus": "0-3"}))
    assert not cpus.too_few(tmp_path, 4)
    assert cpus.too_few(tmp_path, 8)


def test_a_run_whose_ranks_share_too_few_cpus_has_the_flag(tmp_path: Path) -> None:
    where = sweep(tmp_path, [2])
    done(where, "g0002-r01")
    (attempt,) = where.attempts("g0002-r01")
    for rank in range(2):
        (attempt / f"rank-r{rank:03d}.json").write_text(json.dumps({"host": "n1", "cpus": "0"}))
    (run,) = [run for run in collect(where, planned(where), states(where)) if run.run == "g0002-r01"]
    assert "oversubscribed" in run.flags.split()
