"""NCCL Inspector's records, in the form of its README; the figures are invented. And the transport of a command's rank 0."""

from __future__ import annotations

import json
from pathlib import Path

from hpcjobs.base import contract
from hpcjobs.collect import inspector, nccl_transport
from hpcjobs.report import tables


def record(op: str, size: int, time_us: float, ranks: int = 8, **damage: object) -> str:
    found = {
        "header": {"id": "0x7f8c496ae9f661", "rank": 2, "n_ranks": ranks, "nnodes": 1},
        "metadata": {"inspector_output_format_version": "v4.0", "hostname": "n1", "pid": 7},
        "coll_perf": {
            "coll": op, "coll_sn": 1, "coll_msg_size_bytes": size, "coll_exec_time_us": time_us,
            "coll_timing_source": "kernel_gpu", "coll_algobw_gbs": size / time_us / 1e3,
            "coll_busbw_gbs": size / time_us / 1e3 * 1.75, **damage,
        },
    }  # fmt: skip
    return json.dumps(found)


def test_records_of_all_ranks_are_joined_by_operation_and_size(tmp_path: Path) -> None:
    folder = tmp_path / inspector.FOLDER / "17"
    folder.mkdir(parents=True)
    times = [100.0, 120.0, 110.0]
    (folder / "n1-pid7.log").write_text("".join(record("AllReduce", 1_000_000, time) + "\n" for time in times))
    (folder / "n2-pid9.log").write_text(record("AllReduce", 4, 20.0) + record("Broadcast", 4, 9.0) + "\n")
    found = inspector.read(tmp_path, "g0008-r01", 8)
    assert [(each.op, each.size, each.count) for each in found] == [
        ("AllReduce", 4, 1), ("AllReduce", 1_000_000, 3), ("Broadcast", 4, 1),
    ]  # fmt: skip
    large = found[1]
    assert (large.time_us, large.slowest_us, large.ranks) == (110.0, 120.0, 8)
    assert large.busbw == 1.75 * large.algbw
    cells = tables.collectives(found)
    assert cells.rows[1][:6] == ("g0008-r01", "AllReduce", "8", "8", "1000000", "3")
    assert "all-reduce" not in " ".join(cells.header)


def test_damaged_records_are_left_out(tmp_path: Path) -> None:
    folder = tmp_path / inspector.FOLDER
    folder.mkdir()
    cut = record("AllReduce", 8, 30.0)[:-20]
    strange = record("AllReduce", 8, 30.0, coll_exec_time_us="N/A")
    never = record("AllReduce", 8, 30.0, coll_exec_time_us=float("nan"))
    (folder / "a.log").write_text(
        "\n".join(["{", "nccl", strange, never, record("AllReduce", 8, 40.0), "{}", "[1]", cut])
    )
    (each,) = inspector.read(tmp_path, "r", 8)
    assert (each.count, each.time_us) == (1, 40.0)


def test_without_the_plugin_there_is_no_table(tmp_path: Path) -> None:
    assert inspector.read(tmp_path, "r", 8) == []


CHANNELS = """\
n01:1:1 [0] NCCL INFO NCCL version 2.18.3+cuda12.2
n01:1:1 [0] NCCL INFO Using network IB
n01:1:1 [0] NCCL INFO Pattern 4, crossNic 0, nChannels 2, bw 12.0/12.0, type NVL/PHB, sameChannels 1
n01:1:1 [0] NCCL INFO Channel 00/0 : 3[3] -> 0[0] [receive] via NET/IB/0/GDRDMA
n01:1:1 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[1] via P2P/IPC
"""


def test_the_transport_of_rank_0_is_told_in_a_few_words(tmp_path: Path) -> None:
    assert nccl_transport.read(tmp_path) == ""
    (tmp_path / contract.nccl_txt(0)).write_text(CHANNELS)
    assert nccl_transport.read(tmp_path) == "IB with GPUDirect, NVLINK"
    # The built-in trainer has every rank write.
    (tmp_path / contract.nccl_txt(1)).write_text(
        CHANNELS.replace("/GDRDMA", "").replace("P2P/IPC", "SHM/direct/direct")
    )
    assert nccl_transport.read(tmp_path) == "IB without GPUDirect, NVLINK, SHM"
