"""Tables of nccl-tests and of the OSU micro-benchmarks, of several versions, from public threads and READMEs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.control.logs_formats.reading import read, reasons, table

NEW = """# nccl-tests version 2.19.6 nccl-headers=22809 nccl-library=22809
# Collective test starting: all_gather_perf
# nThread 1 nGpus 1 minBytes 536870912 maxBytes 17179869184 step: 2(factor) warmup iters: 1 iters: 20 agg iters: 1 validation: 1 graph: 0 unalign: 0
#
# Using devices
#  Rank  0 Group  0 Pid 1668270 on  spark-101 device  0 [000f:01:00] NVIDIA GB10
#  Rank  1 Group  0 Pid 1563448 on  spark-102 device  0 [000f:01:00] NVIDIA GB10
#
#                                                              out-of-place                       in-place          
#       size         count      type   redop    root     time   algbw   busbw  #wrong     time   algbw   busbw  #wrong 
#        (B)    (elements)                               (us)  (GB/s)  (GB/s)             (us)  (GB/s)  (GB/s)         
   536870912      67108864     float    none      -1  14594.4   36.79   18.39       0  13778.0   38.97   19.48       0
  8589934592    1073741824     float    none      -1   183338   46.85   23.43       0   179211   47.93   23.97     N/A
# Out of bounds values : 0 OK
# Avg bus bandwidth    : 21.3
#
"""

OLD = """$ mpirun -np 2 ./build/all_reduce_perf -b 8 -e 128M
# nThread 1 nGpus 1 minBytes 1310720000 maxBytes 1310720000 step: 1048576(bytes) warmup iters: 5 iters: 20 validation: 1
#
# Using devices
#   Rank  0 Pid   1320 on ip-172-31-20-228 device  0 [0x00] Tesla V100-SXM2-16GB
#   Rank  1 Pid   2066 on ip-172-31-20-228 device  1 [0x00] Tesla V100-SXM2-16GB
#
#                                                       out-of-place                       in-place
#       size         count    type   redop     time   algbw   busbw  error     time   algbw   busbw  error
#        (B)    (elements)                     (us)  (GB/s)  (GB/s)            (us)  (GB/s)  (GB/s)
     1048576        262144   float     sum    40.64   25.80   25.80  0e+00    45.02   23.29   23.29  0e+00
"""


@pytest.mark.parametrize("prefix", ["", "[1,0]<stdout>:", "0: "])
def test_nccl_tests(tmp_path: Path, prefix: str) -> None:
    rows = table(read(tmp_path, "".join(prefix + line + "\n" for line in NEW.splitlines())))
    assert [(row.size, row.in_place, row.time_us, row.algbw, row.busbw) for row in rows] == [
        (536870912, False, 14594.4, 36.79, 18.39),
        (536870912, True, 13778.0, 38.97, 19.48),
        (8589934592, False, 183338.0, 46.85, 23.43),
        (8589934592, True, 179211.0, 47.93, 23.97),
    ]
    assert {(row.op, row.ranks, row.nodes, row.gpu_model) for row in rows} == {("all_gather", 2, 2, "NVIDIA GB10")}
    assert [row.wrong for row in rows] == [0, 0, 0, None]
    assert (rows[0].dtype, rows[0].redop, rows[0].root, rows[0].line) == ("float", "", None, 12)


def test_nccl_tests_of_2021_which_lack_columns(tmp_path: Path) -> None:
    rows = table(read(tmp_path, OLD))
    assert [(row.op, row.ranks, row.nodes, row.time_us, row.busbw) for row in rows] == [
        ("all_reduce", 2, 1, 40.64, 25.80),
        ("all_reduce", 2, 1, 45.02, 23.29),
    ]
    assert rows[0].redop == "sum"


def test_tables_one_after_another(tmp_path: Path) -> None:
    rows = table(read(tmp_path, NEW + OLD + NEW.replace("all_gather", "reduce_scatter")))
    assert [(row.op, row.ranks) for row in rows[::2]] == [
        ("all_gather", 2), ("all_gather", 2), ("all_reduce", 2), ("reduce_scatter", 2), ("reduce_scatter", 2),
    ]  # fmt: skip


def test_an_operation_that_the_log_does_not_say_is_left_open(tmp_path: Path) -> None:
    result = read(tmp_path, OLD[OLD.index("# nThread") :])
    assert {(row.op, row.missing) for row in table(result)} == {("", ("op",))}
    assert "which operation" in reasons(result)


def test_processes_without_mpi_print_separate_tables(tmp_path: Path) -> None:
    # NVIDIA/nccl-tests, issue 107
    text = OLD.replace("Rank  1 Pid", "Rank  0 Pid")
    result = read(tmp_path, text)
    assert {row.ranks for row in table(result)} == {1}
    assert "built without MPI" in reasons(result)


def test_a_table_cut_off_gives_its_whole_figures(tmp_path: Path) -> None:
    rows = table(read(tmp_path, NEW[: NEW.index("  47.93")]))
    assert [(row.size, row.in_place) for row in rows][-1] == (8589934592, False)
    assert len(rows) == 3


# EESSI/software-layer, pull request 716; open-mpi/ompi, pull request 12318
BANDWIDTH = """$ mpirun -np 2 osu_bw -d cuda D D
# OSU MPI-CUDA Bandwidth Test v7.2
# Send Buffer on DEVICE (D) and Receive Buffer on DEVICE (D)
# Size      Bandwidth (MB/s)
# Datatype: MPI_CHAR.
1                       1.01
33554432            93130.52
"""
REDUCE = """
# OSU MPI-CUDA Reduce Latency Test v7.3
# Datatype: MPI_CHAR.
# Size       Avg Latency(us)   Min Latency(us)   Max Latency(us)  Iterations
1                      53.34             24.80            158.96        1000
2048                   58.17             25.93            167.34        1000
"""
ALLREDUCE = """# OSU MPI Allreduce Latency Test v5.6.2
# Size       Avg Latency(us)
[1678205653.809882] [node_name:903  :0]        ucc_coll.c:255  UCC_COLL INFO  coll_init: Allreduce sum
1048576                 86.10
"""
BARRIER = "# OSU MPI Barrier Latency Test v5.6.2\n# Avg Latency(us)\n             3.05\n"
PAIRS = """# OSU MPI Multiple Bandwidth / Message Rate Test v5.6.2
# [ pairs: 4 ] [ window size: 64 ]
# Size                  MB/s        Messages/s
1048576             98765.43         94190.62
"""


@pytest.mark.parametrize("prefix", ["", "[1,0]<stdout>:", "0: "])
def test_osu(tmp_path: Path, prefix: str) -> None:
    text = BANDWIDTH + REDUCE + ALLREDUCE + BARRIER + PAIRS
    rows = table(read(tmp_path, "".join(prefix + line + "\n" for line in text.splitlines())))
    assert [(row.op, row.size, row.time_us, row.algbw, row.ranks, row.device) for row in rows] == [
        ("bandwidth", 1, None, 0.00101, 2, "gpu"),
        ("bandwidth", 33554432, None, 93.13052, 2, "gpu"),
        ("reduce", 1, 53.34, None, None, ""),  # a build for GPUs; where its buffers are is not said
        ("reduce", 2048, 58.17, None, None, ""),
        ("all_reduce", 1048576, 86.10, None, None, "cpu"),
        ("barrier", None, 3.05, None, None, "cpu"),
        ("multi_bandwidth", 1048576, None, 98.76543, 8, "cpu"),
    ]
    assert (rows[2].min_us, rows[2].max_us) == (24.80, 158.96)


@pytest.mark.parametrize(
    ("title", "columns", "op", "ranks"),
    [
        ("OSU MPI Latency Test v4.3", "Size          Latency (us)", "latency", 2),
        ("OSU MPI Bi-Directional Bandwidth Test v5.3", "Size      Bandwidth (MB/s)", "bi_bandwidth", 2),
        ("OSU MPI_Put Bandwidth Test v5.6.2", "Size      Bandwidth (MB/s)", "put_bandwidth", 2),
        ("OSU MPI Broadcast Latency Test v5.6.2", "Size       Avg Latency(us)", "broadcast", None),
        ("OSU MPI All-to-All Personalized Exchange Latency Test v5.3", "Size       Avg Latency(us)", "alltoall", None),
        ("OSU MPI Non-blocking Allreduce Latency Test v5.6.1", "Size   Overall(us)", "non_blocking_all_reduce", None),
        ("OSU NCCL-CUDA Reduce_scatter Latency Test v7.2", "Size       Avg Latency(us)", "reduce_scatter", None),
        ("OSU MPI-ROCM Allgather Latency Test v7.2", "Size       Avg Latency(us)", "all_gather", None),
    ],
)
def test_titles_of_osu(tmp_path: Path, title: str, columns: str, op: str, ranks: int | None) -> None:
    (row,) = table(read(tmp_path, f"# {title}\n# {columns}\n4                  9.77\n"))
    assert (row.op, row.ranks, row.device) == (
        op,
        ranks,
        "gpu" if "NCCL" in title else "" if "-ROCM" in title else "cpu",
    )


@pytest.mark.parametrize(
    ("command", "words", "device"),
    [
        # open-mpi/ompi, pull request 12318; ofiwg/libfabric; eth-cscs/cscs-docs
        ("srun -N2 --mpi=pmix ./pt2pt/osu_bw --validation D D", "", "gpu"),
        ("mpirun -np 2 ./osu_bw H H", "", "cpu"),
        ("", "# Send Buffer on DEVICE (D) and Receive Buffer on DEVICE (D)\n", "gpu"),
        ("", "# Send Buffer on HOST (H) and Receive Buffer on HOST (H)\n", "cpu"),
        ("", "# Send Buffer on HOST (H) and Receive Buffer on DEVICE (D)\n", ""),
        ("", "", ""),
    ],
)
def test_the_device_of_osu_by_its_words(tmp_path: Path, command: str, words: str, device: str) -> None:
    text = f"$ {command}\n# OSU MPI-CUDA Bandwidth Test v7.1\n{words}# Size      Bandwidth (MB/s)\n1   1.01\n"
    (row,) = table(read(tmp_path, text))
    assert (row.device, row.missing) == (device, () if device else ("device",))


def test_the_ranks_of_a_collective_are_the_launchers(tmp_path: Path) -> None:
    text = "$ mpirun -np 16 ./osu_allreduce\n" + ALLREDUCE
    assert [row.ranks for row in table(read(tmp_path, text))] == [16]


def test_rows_under_an_unknown_title_do_not_count(tmp_path: Path) -> None:
    rows = table(read(tmp_path, ALLREDUCE + "# OSU 2030 Something else v9\n# Size  Latency (us)\n4   9.77\n"))
    assert [row.op for row in rows] == ["all_reduce"]


@pytest.mark.parametrize("text", [NEW, ALLREDUCE + BARRIER, BANDWIDTH + BANDWIDTH])
def test_rows_that_every_rank_writes_count_once(tmp_path: Path, text: str) -> None:
    lines = [f"[1,{rank}]<stdout>:{line}\n" for line in text.splitlines() for rank in (0, 1)]
    once = [(row.op, row.size, row.in_place) for row in table(read(tmp_path, text))]
    assert [(row.op, row.size, row.in_place) for row in table(read(tmp_path, "".join(lines)))] == once
