"""What a host is, by /proc, /sys and nvidia-smi alone: no framework is needed."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from hpcjobs.base.hostlist import expand_indices
from hpcjobs.nodes import nvidia


def machine() -> dict[str, Any]:
    """Kernel, processor and memory, as node-HOST.json has them. None stands for a fact that this host does not give."""
    return {
        "kernel": platform.release(),
        "cpu": first(r"^model name\s*: (.*)", read_text("/proc/cpuinfo")),
        "memory_mib": memory_mib("MemTotal"),
    }


def gpus(found: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Driver, models and UUIDs of GPUs, given as (model, UUID), as node-HOST.json has them."""
    those = list(found)
    driver = read_text("/sys/module/nvidia/version") or read_text("/sys/module/amdgpu/version")
    return {
        "driver": driver and driver.strip(),
        "gpus": [model for model, _ in those],
        "gpu_uuids": [uuid for _, uuid in those],
    }


def nvidia_gpus() -> list[tuple[str, str]]:
    """(model, UUID) of each of NVIDIA's GPUs, by nvidia-smi; none where there is no nvidia-smi."""
    return nvidia.named(nvidia.list_gpus())


def memory_mib(name: str) -> int | None:
    """A figure of /proc/meminfo (MemTotal, MemAvailable) in MiB."""
    found = first(rf"^{name}: +(\d+) kB", read_text("/proc/meminfo"))
    return None if found is None else int(found) >> 10


def numa_nodes(folder: Path = Path("/sys/devices/system/node")) -> dict[int, set[int]]:
    """The CPUs of each NUMA node; NUMA nodes without CPUs are left out."""
    lists = {int(path.parent.name[4:]): (read_text(path) or "").strip() for path in folder.glob("node[0-9]*/cpulist")}
    return {node: set(expand_indices(cpus)) for node, cpus in sorted(lists.items()) if cpus}


def filesystem(path: Path, mounts: str) -> str | None:
    """The type (`lustre`, `nfs4`, `ext4`) of the file system that holds `path`; `mounts`: the text of /proc/mounts."""
    deepest, found = -1, None
    for line in mounts.splitlines():
        _, point, kind, *_ = line.split()
        # /proc/mounts writes a blank as an octal escape.
        where = Path(re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), point))
        if path.is_relative_to(where) and len(where.parts) >= deepest:
            deepest, found = len(where.parts), kind
    return found


def read_text(path: str | Path) -> str | None:
    """The text of a file; None if it cannot be read."""
    with suppress(OSError):
        return Path(path).read_text()
    return None


def first(pattern: str, text: str | None) -> str | None:
    """Group 1 of the first match, in which ^ and $ stand for the ends of lines; None without a match."""
    found = re.search(pattern, text or "", flags=re.MULTILINE)
    return found[1] if found else None
