"""What is written of a node: some read from this machine, the rest from texts as other nodes give them."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path

import pytest

from hpcjobs.base.contract import RunConfig
from hpcjobs.nodes import host_facts, node_facts
from tests.train.launch import run_config

LISTING = """\
GPU 0: Tesla V100-SXM2-16GB (UUID: GPU-aaaa-0)
GPU 1: Tesla V100-SXM2-16GB (UUID: GPU-bbbb-1)
"""

MOUNTS = """\
rootfs / rootfs rw 0 0
/dev/sda1 / ext4 rw,relatime 0 0
10.0.0.9@o2ib:/scratch /scratch lustre rw,flock 0 0
fs:/home /home nfs4 rw,vers=4.2 0 0
tmpfs /scratch/my\\040data tmpfs rw 0 0
"""


def config(data: Path, cache: str = "none") -> RunConfig:
    experiment = {"data": {"cache": cache}}
    return run_config(gpus=2, tasks_per_node=2, device="gpu", data_dir=str(data), experiment=experiment)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/data", "ext4"),
        ("/scratch", "lustre"),
        ("/scratch/chestxray14", "lustre"),
        ("/scratch2", "ext4"),
        ("/scratch/my data/x", "tmpfs"),
        ("/home/me", "nfs4"),
    ],
)
def test_the_file_system_is_that_of_the_deepest_mount(path: str, kind: str):
    assert host_facts.filesystem(Path(path), MOUNTS) == kind


def test_no_mounts_no_file_system():
    assert host_facts.filesystem(Path("/data"), "") is None


# NCCL_VERSION_CODE of nccl.h; the digits moved with 2.9.
@pytest.mark.parametrize(
    ("code", "version"),
    [(0, None), (2708, "2.7.8"), (2804, "2.8.4"), (20908, "2.9.8"), (21003, "2.10.3"), (21803, "2.18.3")],
)
def test_nccl_tells_its_version_as_a_number(code: int, version: str | None):
    assert node_facts.nccl_version(code) == version


def test_numa_nodes_without_cpus_are_left_out(tmp_path: Path):
    for name, cpus in (("node0", "0-3,8-11\n"), ("node1", "4-7,12\n"), ("node2", "\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cpulist").write_text(cpus)
    assert host_facts.numa_nodes(tmp_path) == {0: {0, 1, 2, 3, 8, 9, 10, 11}, 1: {4, 5, 6, 7, 12}}


def test_a_node_tells_how_its_ranks_are_bound_and_what_they_run_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(host_facts.nvidia, "list_gpus", lambda: LISTING)
    monkeypatch.setattr(host_facts, "numa_nodes", lambda: {0: {0, 1, 4, 5}, 1: {2, 3, 6, 7}})
    monkeypatch.setattr(node_facts.cgroup, "free_memory", lambda: 180 << 30)
    ranks = [node_facts.Place(4, "n02", 100, (0, 4), "GPU-aaaa-0"), node_facts.Place(5, "n02", 101, (1, 2, 3, 4), None)]
    node_facts.write(tmp_path, config(tmp_path, "memory"), ranks)
    told = json.loads((tmp_path / "node-n02.json").read_text())
    assert told["ranks"] == [
        {"rank": 4, "pid": 100, "cpus": "0,4", "numa": [0], "gpu": "GPU-aaaa-0"},
        {"rank": 5, "pid": 101, "cpus": "1-4", "numa": [0, 1], "gpu": None},
    ]
    # CPU 4 is one, though both ranks may use it.
    assert (told["cpus"], told["cpus_per_task"]) == (5, 1)
    assert told["numa"] == {"0": "0-1,4-5", "1": "2-3,6-7"}
    assert (told["gpus"], told["gpu_uuids"]) == (["Tesla V100-SXM2-16GB"] * 2, ["GPU-aaaa-0", "GPU-bbbb-1"])
    assert (told["data"]["cache"], told["data"]["memory_free_in_group_mib"]) == ("memory", 184320)
    assert 0 < told["data"]["memory_available_mib"] < told["memory_mib"]
    assert (told["kernel"], told["python"]) == (platform.release(), platform.python_version())
    # This Horovod's, as scripts/setup.sh builds it.
    built = {"mpi_built": True, "nccl_built": False, "cuda_built": False, "rocm_built": False, "nccl": None}
    assert built.items() <= told.items()
    assert told["mpi"].startswith("Open MPI v")
    assert set(told["threads"]) == {"intra_op", "inter_op", "omp"}


def test_what_a_host_does_not_tell_is_null(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(node_facts.cgroup, "free_memory", lambda: None)
    monkeypatch.setattr(host_facts.nvidia, "list_gpus", lambda: "")
    here = [node_facts.Place(0, "n02", os.getpid(), (0,), None)]
    read = host_facts.read_text
    monkeypatch.setattr(host_facts, "read_text", lambda path: read(path) if str(path) == "/proc/meminfo" else None)
    told = node_facts.describe(config(tmp_path), here)
    assert (told["driver"], told["gpus"], told["cpu"], told["numa"]) == (None, [], None, {})
    assert {name for name, value in told["data"].items() if value is None} == {
        "filesystem",
        "memory_free_in_group_mib",
        "vfs_cache_pressure",
        "transparent_hugepage",
    }
