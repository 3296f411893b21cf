"""The memory that this process' control groups (version 1 or 2) leave: the limits of Slurm and of containers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

# For each version: the file of the limit, the file of the usage, and the keys of memory.stat for pages that the kernel
# drops under memory pressure.
_FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
    2: ("memory.max", "memory.current", ("inactive_file", "active_file")),
}


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
