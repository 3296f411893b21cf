"""What NCCL's own lines say of its transports.

The texts are made up, line for line in the formats of NCCL's sources (src/debug.cc, src/init.cc, src/graph/search.cc,
src/transport/{p2p,shm,net,net_ib,net_socket}.cc) and of logs in github.com/NVIDIA/nccl: issue 707 for 2.10, 601 for
sockets, 1358 and 1412 for later ones. We have no GPU to record our own.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hpcjobs.base import nccl_log
from hpcjobs.base.contract import RunConfig
from hpcjobs.base.nccl_log import Transport
from hpcjobs.chexnet.train import __main__
from hpcjobs.nodes import transport
from tests.train.launch import run_config

# 2.18 on rank 3, the last of a node of four V100s with NVLink and one InfiniBand port.
NVLINK_AND_IB = """\
n01:4410:4410 [3] NCCL INFO cudaDriverVersion 12020
n01:4410:4410 [3] NCCL INFO Bootstrap : Using ib0:10.1.0.1<0>
n01:4410:4410 [3] NCCL INFO NET/Plugin : No plugin found (libnccl-net.so), using internal implementation
n01:4410:4522 [3] NCCL INFO NET/IB : Using [0]mlx5_0:1/IB [RO]; OOB ib0:10.1.0.1<0>
n01:4410:4522 [3] NCCL INFO Using network IB
n01:4410:4522 [3] NCCL INFO === System : maxBw 12.0 totalBw 60.0 ===
n01:4410:4522 [3] NCCL INFO CPU/0 (1/1/2)
n01:4410:4522 [3] NCCL INFO + PCI[12.0] - NIC/18000
n01:4410:4522 [3] NCCL INFO               + NET[12.5] - NET/0 (88b7a50003a4c024/1/12.500000)
n01:4410:4522 [3] NCCL INFO Pattern 4, crossNic 0, nChannels 2, bw 12.000000/12.000000, type NVL/PHB, sameChannels 1
n01:4410:4522 [3] NCCL INFO  0 : NET/0 GPU/0 GPU/1 GPU/2 GPU/3 NET/0
n01:4410:4522 [3] NCCL INFO Pattern 1, crossNic 0, nChannels 2, bw 24.000000/12.000000, type NVL/PHB, sameChannels 1
n01:4410:4522 [3] NCCL INFO Ring 00 : 2 -> 3 -> 4
n01:4410:4522 [3] NCCL INFO Trees [0] -1/-1/-1->3->2 [1] -1/-1/-1->3->2
n01:4410:4522 [3] NCCL INFO Channel 00/0 : 3[3] -> 4[0] [send] via NET/IB/0/GDRDMA
n01:4410:4522 [3] NCCL INFO Channel 01/0 : 3[3] -> 4[0] [send] via NET/IB/0/GDRDMA
n01:4410:4522 [3] NCCL INFO Connected all rings
n01:4410:4522 [3] NCCL INFO Channel 00/0 : 3[3] -> 2[2] via P2P/IPC
n01:4410:4522 [3] NCCL INFO Channel 01/0 : 3[3] -> 2[2] via P2P/IPC
n01:4410:4522 [3] NCCL INFO Connected all trees
"""

# 2.10 on rank 0 of two nodes with two GPUs each, behind PCIe switches, and Ethernet.
PCIE_AND_SOCKETS = """\
n01:1188:1188 [0] NCCL INFO Bootstrap : Using eth0:10.0.0.1<0>
n01:1188:1188 [0] NCCL INFO NET/Plugin : No plugin found (libnccl-net.so), using internal implementation
n01:1188:1188 [0] NCCL INFO NET/IB : No device found.
n01:1188:1188 [0] NCCL INFO NET/Socket : Using [0]eth0:10.0.0.1<0> [1]ib0:10.1.0.1<0>
n01:1188:1188 [0] NCCL INFO Using network Socket
NCCL version 2.10.3+cuda11.0
n01:1188:1200 [0] NCCL INFO Pattern 4, crossNic 0, nChannels 1, speed 1.200000/1.200000, type PIX/SYS, sameChannels 1
n01:1188:1200 [0] NCCL INFO Channel 00/02 :    0   1   2   3
n01:1188:1200 [0] NCCL INFO Channel 01/02 :    0   1   2   3
n01:1188:1200 [0] NCCL INFO Channel 00 : 3[1b000] -> 0[1a000] [receive] via NET/Socket/0
n01:1188:1200 [0] NCCL INFO Channel 00 : 0[1a000] -> 1[1b000] via P2P/IPC
"""


def channel(via: str) -> str:
    return f"n01:1:2 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[1] {via}\n"


def ring(path: str) -> str:
    return f"n01:1:2 [0] NCCL INFO Pattern 4, crossNic 0, nChannels 2, bw 10.0/10.0, type {path}/PIX, sameChannels 1\n"


def test_nvlink_within_a_node_and_infiniband_between():
    assert nccl_log.parse(NVLINK_AND_IB) == Transport(
        nccl=None, network="IB", devices=("mlx5_0",), transports=("IB", "NVLINK"), gpudirect=True
    )


def test_pcie_within_a_node_and_sockets_between():
    assert nccl_log.parse(PCIE_AND_SOCKETS) == Transport(
        nccl="2.10.3", network="Socket", devices=("eth0", "ib0"), transports=("PCIE", "SOCKET"), gpudirect=False
    )


@pytest.mark.parametrize(
    ("lines", "name"),
    [
        (ring("NVB") + channel("via P2P/CUMEM/read"), "NVLINK"),
        (ring("SYS") + channel("via P2P/direct pointer"), "PCIE"),
        (ring("NVL") + ring("PHB") + channel("via P2P/IPC"), "PCIE"),
        (ring("LOC") + ring("NVL") + channel("via P2P/IPC"), "NVLINK"),
        (channel("via P2P/IPC"), "P2P"),
        (ring("LOC") + channel("via P2P/MNNVL"), "NVLINK"),
        (ring("SYS") + channel("via SHM/direct/direct"), "SHM"),
        (channel("via direct shared memory"), "SHM"),
        (channel("[send] via NET/IB/0(2)/GDRDMA/Shared"), "IB"),
        (channel("[receive] via NET/IBext_v8/1"), "IBext_v8"),
        (channel("[send] via NET/AWS Libfabric/0/GDRDMA"), "AWS Libfabric"),
        (channel("[receive] via NET/Socket/0/Shared"), "SOCKET"),
    ],
)
def test_every_kind_of_channel_has_a_name(lines: str, name: str):
    assert nccl_log.parse(lines).transports == (name,)


def test_a_gpu_alone_has_no_channel():
    alone = (
        "n01:1:2 [0] NCCL INFO Using network Socket\n" + ring("LOC") + "n01:1:2 [0] NCCL INFO Channel 00/32 :    0\n"
    )
    assert nccl_log.parse(alone) == Transport(None, "Socket", (), (), None)
    assert nccl_log.parse("") == Transport(None, None, (), (), None)


def test_one_channel_through_the_host_is_not_gpudirect():
    lines = channel("[send] via NET/IB/0/GDRDMA") + channel("[receive] via NET/IB/0")
    assert nccl_log.parse(lines).gpudirect is False


def test_what_the_ranks_found_is_told_in_one():
    found = [
        Transport("2.18.3", "IB", ("mlx5_0",), ("NVLINK",), None),
        Transport(None, "IB", ("mlx5_0", "mlx5_1"), ("IB", "SHM"), True),
        None,
    ]
    assert nccl_log.merge(found) == Transport("2.18.3", "IB", ("mlx5_0", "mlx5_1"), ("IB", "NVLINK", "SHM"), True)
    assert nccl_log.merge([None, None]) is None


def test_sockets_beside_infiniband_are_warned_of():
    sockets, fast = nccl_log.parse(PCIE_AND_SOCKETS), nccl_log.parse(NVLINK_AND_IB)
    text = transport.warning(sockets, True)
    assert text is not None
    assert "\n" not in text
    assert all(word in text for word in ("sockets (eth0, ib0)", "NCCL_IB_HCA", "NCCL_IB_DISABLE", "/dev/infiniband"))
    assert transport.warning(sockets, False) is None
    assert transport.warning(fast, True) is None
    assert transport.warning(None, True) is None


@pytest.mark.parametrize(
    ("layers", "has"),
    [
        ({}, False),
        ({"mlx5_0": "InfiniBand"}, True),
        ({"mlx5_0": "Ethernet", "mlx5_1": "InfiniBand"}, True),
        ({"mlx5_0": "Ethernet"}, False),  # RoCE
        ({"efa_0": "Unspecified"}, False),
    ],
)
def test_a_port_is_infiniband_by_its_link_layer(tmp_path: Path, layers: dict[str, str], has: bool):
    for name, layer in layers.items():
        port = tmp_path / name / "ports" / "1"
        port.mkdir(parents=True)
        (port / "link_layer").write_text(f"{layer}\n")
    assert transport.has_infiniband(tmp_path) is has
    assert transport.has_infiniband(tmp_path / "none") is False


def config(device: str) -> RunConfig:
    experiment = {"horovod": {"fusion_mib": None, "cycle_ms": None}}
    return run_config(gpus=4, tasks_per_node=4, cpus_per_task=2, device=device, experiment=experiment)


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment of its own, as launched for rank 3."""
    monkeypatch.setattr(os, "environ", {"OMPI_COMM_WORLD_RANK": "3"})
    monkeypatch.setattr(__main__.heap, "keep_freed_memory", lambda: None)
    return monkeypatch


def test_each_rank_on_a_gpu_asks_nccl_for_a_file_that_it_reads(tmp_path: Path, fresh: pytest.MonkeyPatch):
    __main__._prepare_environment(config("gpu"), tmp_path)
    asked = {name: value for name, value in os.environ.items() if name.startswith("NCCL_")}
    path = tmp_path / "nccl-r003.txt"
    assert asked == {"NCCL_DEBUG": "INFO", "NCCL_DEBUG_SUBSYS": "INIT,GRAPH", "NCCL_DEBUG_FILE": str(path)}
    assert transport.read(tmp_path) is None
    path.write_bytes(b"\xff\n" + PCIE_AND_SOCKETS.encode())
    assert transport.read(tmp_path) == nccl_log.parse(PCIE_AND_SOCKETS)


def test_a_percent_sign_in_a_path_is_no_placeholder(tmp_path: Path, fresh: pytest.MonkeyPatch):
    transport.ask_nccl(tmp_path / "50%hot")
    assert os.environ["NCCL_DEBUG_FILE"] == f"{tmp_path}/50%%hot/nccl-r003.txt"


def test_the_users_own_debugging_and_ranks_without_gpu_are_left_alone(tmp_path: Path, fresh: pytest.MonkeyPatch):
    __main__._prepare_environment(config("cpu"), tmp_path)
    assert not any(name.startswith("NCCL_") for name in os.environ)
    os.environ["NCCL_DEBUG"] = "WARN"
    __main__._prepare_environment(config("gpu"), tmp_path)
    assert [name for name in os.environ if name.startswith("NCCL_")] == ["NCCL_DEBUG"]
