"""Control groups, of version 1 or 2: the memory that this process' own leave, and what the whole job's has used.

Slurm and containers limit memory and CPUs by them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

# For each version: the file of the limit, the file of the usage, and the keys of memory.stat for pages that the kernel
# drops under memory pressure.
_FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
    2: ("memory.max", "memory.current", ("inactive_file", "active_file")),
}

_MIB = 1 / (1 << 20)


def free_memory(process: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that this process may still take within its groups and their parents; None if no group has a limit."""
    left = [free for version, folder in _groups(process, mount) if (free := _free(version, folder)) is not None]
    return min(left, default=None)


def _groups(process: Path, mount: Path) -> Iterator[tuple[int, Path]]:
    """(version, folder) of each group, from the innermost outwards; a container may not show all of them."""
    with suppress(OSError):
        for line in process.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            version, root = (1, mount / "memory") if controllers else (2, mount)
            group = root / path.lstrip("/")
            yield from ((version, folder) for folder in (group, *group.parents) if folder.is_relative_to(root))


def _free(version: int, folder: Path) -> int | None:
    limit, used, droppable = _FILES[version]
    try:
        most, now = ((folder / name).read_text().strip() for name in (limit, used))
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    # Without a limit version 1 writes a number larger than any memory.
    return None if most == "max" else int(most) - int(now) + sum(int(stat.get(key, 0)) for key in droppable)


@dataclasses.dataclass(frozen=True)
class JobGroup:
    """The control group of a whole job on this node: its folders, by what the kernel counts there.

    Slurm names it job_N, above those of the job's steps and tasks (its docs/cgroups.html). Version 2 has all in one
    folder, version 1 a folder for each controller.
    """

    version: int
    cpu: Path
    memory: Path

    def read(self) -> dict[str, float | None]:
        """The figures of contract.CGROUP_COLUMNS but for time; None for what the kernel does not give."""
        return _version_2(self.cpu) if self.version == 2 else _version_1(self.cpu, self.memory)


def job_group(process: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> JobGroup | None:
    """The group of the job that this process belongs to; None if it is in no group of a single job."""
    folders: dict[str, Path] = {}
    with suppress(OSError):
        for line in process.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            of_job = re.match(r".*/job_\d+(?=/|$)", path)
            for name in controllers.split(",") if of_job else ():
                folders[name or "unified"] = mount / name / of_job[0].lstrip("/")  # type: ignore[index]
    if (whole := folders.get("unified")) and (whole / "cpu.stat").is_file():
        return JobGroup(2, whole, whole)
    cpu, memory = folders.get("cpuacct"), folders.get("memory")
    return JobGroup(1, cpu or Path(), memory or Path()) if cpu or memory else None


def _version_2(folder: Path) -> dict[str, float | None]:
    used, stat = _table(folder / "cpu.stat"), _table(folder / "memory.stat")
    waited = re.search(r"^some .*\btotal=(\d+)", _text(folder / "cpu.pressure"))
    return {
        "cpu_s": _scaled(used.get("usage_usec"), 1e-6),
        "throttled_s": _scaled(used.get("throttled_usec"), 1e-6),
        "cpu_wait_s": _scaled(waited and int(waited[1]), 1e-6),
        "memory_mib": _scaled(_number(folder / "memory.current"), _MIB),
        "file_mib": _scaled(stat.get("file"), _MIB),
        "peak_mib": _scaled(_number(folder / "memory.peak"), _MIB),
        "limit_mib": _scaled(_number(folder / "memory.max"), _MIB),
    }


def _version_1(cpu: Path, memory: Path) -> dict[str, float | None]:
    limit = _number(memory / "memory.limit_in_bytes")
    return {
        "cpu_s": _scaled(_number(cpu / "cpuacct.usage"), 1e-9),
        "throttled_s": _scaled(_table(cpu / "cpu.stat").get("throttled_time"), 1e-9),
        "cpu_wait_s": None,
        "memory_mib": _scaled(_number(memory / "memory.usage_in_bytes"), _MIB),
        "file_mib": _scaled(_table(memory / "memory.stat").get("total_cache"), _MIB),
        "peak_mib": _scaled(_number(memory / "memory.max_usage_in_bytes"), _MIB),
        # Without a limit the kernel writes a number larger than any memory.
        "limit_mib": _scaled(limit if limit is not None and limit < 1 << 60 else None, _MIB),
    }


def _scaled(figure: int | None, factor: float) -> float | None:
    return None if figure is None else round(figure * factor, 3)


def _text(path: Path) -> str:
    with suppress(OSError):
        return path.read_text()
    return ""


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _table(path: Path) -> dict[str, int]:
    return {name: int(figure) for name, figure in re.findall(r"^(\w+) (\d+)$", _text(path), flags=re.MULTILINE)}
