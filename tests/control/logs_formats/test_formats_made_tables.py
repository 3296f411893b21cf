"""Tables of collectives made up from known figures: each row is found as it is or left out, and never another figure."""

from __future__ import annotations

from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpcjobs.collect.measurements import Bandwidth, LogResult
from tests.control.logs_formats.reading import read, table

made = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
# (size in bytes, time in us): as the programs print them, sizes in order.
rows = st.dictionaries(st.integers(0, 34).map(lambda power: 2**power), st.floats(1, 1e6), min_size=1, max_size=12)
prefixes = st.sampled_from(["", "[1,0]<stdout>:", "0: "])
worlds = st.tuples(st.integers(2, 32), st.integers(1, 8))  # ranks, ranks of a node


def nccl_tests(ranks: int, per_node: int, figures: dict[int, float]) -> tuple[str, set[tuple[int, float, float]]]:
    """The log of all_reduce_perf, and its (size, us, busbw): busbw is algbw x 2 (n - 1) / n."""
    text = "# Collective test starting: all_reduce_perf\n# nThread 1 nGpus 1 minBytes 1 maxBytes 9 warmup iters: 1\n# Using devices\n"
    for rank in range(ranks):
        text += f"#  Rank {rank:2d} Group  0 Pid {4000 + rank} on n{rank // per_node} device {rank % per_node:2d} [0000:01:00] NVIDIA A100\n"
    text += (
        "#                                                              out-of-place                       in-place\n"
        "#       size         count      type   redop    root     time   algbw   busbw  #wrong     time   algbw   busbw  #wrong\n"
        "#        (B)    (elements)                               (us)  (GB/s)  (GB/s)             (us)  (GB/s)  (GB/s)\n"
    )
    truth = set()
    for size, us in sorted(figures.items()):
        algbw = size / us / 1000
        time, alg, bus = f"{us:.2f}", f"{algbw:.2f}", f"{algbw * 2 * (ranks - 1) / ranks:.2f}"
        text += f"{size:12d} {size // 4:13d}     float     sum      -1 {time} {alg} {bus}       0 {time} {alg} {bus}     N/A\n"
        truth.add((size, float(time), float(bus)))
    return text + "# Out of bounds values : 0 OK\n# Avg bus bandwidth    : 1.0\n#\n", truth


def osu(ranks: int, figures: dict[int, float]) -> tuple[str, set[tuple[int, float]]]:
    """The log of osu_allreduce under srun, and its (size, us)."""
    text = f"+ srun --ntasks={ranks} osu_allreduce\n\n# OSU MPI Allreduce Latency Test v7.0\n# Size       Avg Latency(us)\n"
    truth = set()
    for size, us in sorted(figures.items()):
        text += f"{size:<12d} {us:14.2f}\n"
        truth.add((size, float(f"{us:.2f}")))
    return text, truth


def prefixed(text: str, prefix: str) -> str:
    return "".join(f"{prefix}{line}\n" for line in text.splitlines())


def found(result: LogResult) -> list[Bandwidth]:
    return table(result)


@given(world=worlds, figures=rows, prefix=prefixes)
@made
def test_each_row_of_nccl_tests_is_found_with_its_ranks(
    tmp_path: Path, world: tuple[int, int], figures: dict[int, float], prefix: str
) -> None:
    ranks, per_node = world
    text, truth = nccl_tests(ranks, per_node, figures)
    measured = found(read(tmp_path, prefixed(text, prefix)))
    assert {(one.size, one.time_us, one.busbw) for one in measured} == truth
    assert {(one.op, one.ranks, one.nodes) for one in measured} == {("all_reduce", ranks, -(-ranks // per_node))}


@given(world=worlds, figures=rows, lost=st.integers(0, 31))
@made
def test_a_list_of_ranks_with_a_hole_gives_no_smaller_number(
    tmp_path: Path, world: tuple[int, int], figures: dict[int, float], lost: int
) -> None:
    ranks, per_node = world
    text, truth = nccl_tests(ranks, per_node, figures)
    text = "".join(line for line in text.splitlines(True) if not line.startswith(f"#  Rank {lost % ranks:2d} "))
    measured = found(read(tmp_path, text))
    assert {(one.size, one.time_us) for one in measured} <= {each[:2] for each in truth}
    assert {one.ranks for one in measured} <= {None, ranks} or lost % ranks == ranks - 1


@given(figures=rows, ranks=st.integers(2, 64), cut=st.floats(0, 1))
@made
def test_a_table_of_osu_that_is_cut_off_has_no_row_that_was_not_printed(
    tmp_path: Path, figures: dict[int, float], ranks: int, cut: float
) -> None:
    text, truth = osu(ranks, figures)
    whole = found(read(tmp_path, text))
    assert {(one.size, one.time_us) for one in whole} == truth
    assert {(one.op, one.ranks) for one in whole} == {("all_reduce", ranks)}
    lines = text.splitlines(True)
    kept = lines[: round(cut * len(lines))]
    assert {(one.size, one.time_us) for one in found(read(tmp_path, "".join(kept)))} <= truth
