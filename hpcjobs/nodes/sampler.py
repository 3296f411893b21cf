"""Beside a command, on each node of its job: `python -m hpcjobs.nodes.sampler ATTEMPT PID`.

The command may be anybody's, in any Python: this process has hpcjobs' own, and no part in the run. It writes
node-HOST.json once, and until process PID has ended a line per second and GPU into nvml-HOST.csv and a line per second
into cgroup-HOST.csv. `step` in the place of PID stands for a step of its own, which is ended from outside. A file whose
source is missing is not written. It takes no GPU and only reads counters.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from hpcjobs.base import contract
from hpcjobs.base.files import write_json
from hpcjobs.base.hostlist import fold_indices
from hpcjobs.nodes import amd, cgroup, host_facts, nvidia, telemetry

_PERIOD_S = 1.0

# The rows of all GPUs now.
Read = Callable[[], Iterable[dict[str, object]]]


def main(words: Sequence[str]) -> None:
    """Sample until the process ends. Raises OSError where the attempt's folder cannot be written."""
    # A launcher sends the signals of a run to all processes of a step. Only SIGTERM and SIGKILL are for this one.
    for name in ("SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGALRM"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    attempt = Path(words[0])
    parent = None if words[1] == "step" else Process(int(words[1]))
    # Not bound to the CPUs of the rank that started it: the kernel allows all CPUs of the job, and no more.
    with suppress(OSError):
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
    with suppress(OSError):
        os.nice(10)
    host = socket.gethostname()
    found, read = gpus(attempt)
    facts = {
        "host": host,
        "cpus": len(os.sched_getaffinity(0)),
        "numa": {str(node): fold_indices(cpus) for node, cpus in host_facts.numa_nodes().items()},
        **host_facts.machine(),
        **host_facts.gpus(found),
    }
    write_json(attempt / contract.node_json(host), facts)
    group = cgroup.job_group()
    with ExitStack() as stack:
        nvml = read and stack.enter_context(telemetry.Table(attempt / contract.nvml_csv(host), contract.NVML_COLUMNS))
        used = group and stack.enter_context(
            telemetry.Table(attempt / contract.cgroup_csv(host), contract.CGROUP_COLUMNS)
        )
        if not (nvml or used):
            return
        following = time.monotonic()
        while parent is None or parent.lives():
            if nvml and read:
                nvml.add(read())
            if used and group:
                used.add([{"time": f"{time.time():.3f}", **group.read()}])
            following += _PERIOD_S
            time.sleep(max(0.1, following - time.monotonic()))


class Process:
    """A process that has this number now. The number may be given out again when it has ended."""

    def __init__(self, pid: int):
        self._pid, self._begun = pid, _begun(pid)

    def lives(self) -> bool:
        """Whether it still runs."""
        return self._begun is not None and _begun(self._pid) == self._begun


def _begun(pid: int) -> str | None:
    """When a process started, in ticks since the boot; None if it has ended."""
    with suppress(OSError):
        # The name, in parentheses, may hold anything. A zombie has ended.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    return None


def gpus(attempt: Path) -> tuple[list[tuple[str, str]], Read | None]:
    """(model, UUID) of the run's GPUs on this node, and a function that samples them; None where there is none."""
    nvml = _nvml()
    if nvml is not None:
        # Where CUDA shows none, or slices of GPUs, nothing of a whole GPU is the run's.
        mine = [each for each in of_run(telemetry.named(nvml), os.environ) if not telemetry.is_split(nvml, each[1])]
        handles = telemetry.find(nvml, [uuid for _, uuid in mine])
        ours = Ours(attempt)

        def read() -> list[dict[str, object]]:
            return telemetry.sample(nvml, handles, ours.of(telemetry.processes(nvml, handles)))

        return mine, read if handles else None
    smi = amd.open_smi()
    if smi is None:
        return [], None
    theirs, ours = amd.handles(smi), Ours(attempt)

    def read_amd() -> list[dict[str, object]]:
        on_gpus = [amd.processes(smi, handle) for handle in theirs]
        return amd.sample(smi, theirs, telemetry.foreign(on_gpus, ours.of(on_gpus)))

    return amd.gpus(smi), read_amd


def _nvml() -> ModuleType | None:
    """NVIDIA's binding, initialised; None where it, the driver or a GPU is missing."""
    try:
        import pynvml
    except ImportError:
        return None
    nvml: ModuleType = pynvml
    try:
        nvml.nvmlInit()
        return nvml if nvml.nvmlDeviceGetCount() else None
    except nvml.NVMLError:
        return None


def of_run(listed: Sequence[tuple[str, str]], environment: Any) -> list[tuple[str, str]]:
    """Those GPUs of a node, as (model, UUID), that the run has: what CUDA_VISIBLE_DEVICES shows, or all.

    It may show this process only a part of them, if each rank has its own. Then all count, if the run has as many on a
    node.
    """
    text = "".join(f"GPU {index}: {model} (UUID: {uuid})\n" for index, (model, uuid) in enumerate(listed))
    shown = set(nvidia.visible_uuids(text, environment.get("CUDA_VISIBLE_DEVICES")))
    asked = environment.get("HPCJOBS_GPUS_PER_NODE", "")
    if asked.isdigit() and len(shown) < int(asked) == len(listed):
        return list(listed)
    return [each for each in listed if each[1] in shown]


class Ours:
    """Tells the processes of this run from others: by the attempt in their environment, or by the job's group.

    What each process is was looked at once: a process cannot change it, and numbers are given out again late.
    """

    def __init__(self, attempt: Path, proc: Path = Path("/proc")):
        self._proc = proc
        self._mark = b"HPCJOBS_ATTEMPT_DIR=" + os.fsencode(attempt)
        self._group = self._job(proc / "self")
        self._known: dict[int, bool] = {}

    def of(self, on_gpus: Iterable[set[int] | None]) -> set[int]:
        """Those of the processes on GPUs that belong to the run."""
        pids = {pid for each in on_gpus if each is not None for pid in each}
        self._known = {pid: self._known[pid] if pid in self._known else self._is_ours(pid) for pid in pids}
        return {pid for pid, is_ours in self._known.items() if is_ours}

    def _is_ours(self, pid: int) -> bool:
        with suppress(OSError):
            if self._mark in (self._proc / str(pid) / "environ").read_bytes().split(b"\0"):
                return True
        return self._group is not None and self._job(self._proc / str(pid)) == self._group

    def _job(self, process: Path) -> str | None:
        return host_facts.first(r"^\d+:.*/(job_\d+)(?:/|$)", host_facts.read_text(process / "cgroup"))


if __name__ == "__main__":
    main(sys.argv[1:])
