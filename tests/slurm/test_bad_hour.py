"""A bad hour on a real Slurm: its controller is restarted, nodes go down and come back, jobs are preempted."""

from __future__ import annotations

import itertools
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from . import cluster as virtual
from .conftest import Slurm
from .quick import Quick, quick
from .test_bad_days import stop

pytestmark = [pytest.mark.slurm, pytest.mark.bad_days]

EATER = "import time; much = bytearray(700_000_000); time.sleep(600)"
# How a run fails, by the class that it must get. The last two take as long as Slurm does, so only the soak has them.
ENDS = {
    "traceback": 'echo "RuntimeError: boom" >&2; exit 1',
    "signal": "kill -9 $$",
    "no_measurement": "exit 0",
    "disk_full": 'echo "OSError: [Errno 28] No space left on device" >&2; exit 1',
    "exit_code": "exit 3",
    "import_error": "echo \"ModuleNotFoundError: No module named 'horovod'\" >&2; exit 1",
    "file_system": 'echo "OSError: [Errno 116] Stale file handle" >&2; exit 1',
    "cuda_error": 'echo "RuntimeError: CUDA error: an illegal memory access was encountered" >&2; exit 1',
    "out_of_memory": f"{sys.executable} -c '{EATER}'",
    "timeout": "sleep 1000",
}


class Trouble(threading.Thread):
    """Until it is stopped: one trouble after the other, in turn."""

    def __init__(self, cluster: Slurm, every_s: float) -> None:
        super().__init__(daemon=True)
        self.cluster, self.every_s = cluster, every_s
        self.over = threading.Event()
        self.made: Counter[str] = Counter()

    def run(self) -> None:
        nodes = itertools.cycle(virtual.NODES)
        troubles: tuple[Callable[[str], None], ...] = (self.controller_is_restarted, self.node_fails, self.preemption)
        for trouble in itertools.cycle(troubles):
            if self.over.wait(self.every_s):
                return
            trouble(next(nodes))
            self.made[trouble.__name__] += 1

    def controller_is_restarted(self, _: str) -> None:
        command = ("slurmctld", "-D", "-f", str(self.cluster.cluster.slurm_conf))
        stop(self.cluster, *command)
        self.cluster.cluster._spawn(virtual.HEAD, "slurmctld", list(command))

    def node_fails(self, node: str) -> None:
        for state in ("down", "resume"):
            self.cluster.cluster.run("scontrol", "update", f"nodename={node}", f"state={state}", "reason=test")
            time.sleep(2)

    def preemption(self, node: str) -> None:
        urgent = ("--partition=urgent", f"--nodelist={node}", "--gres=gpu:v100:4", "--mem=100", "--output=/dev/null")
        self.cluster.cluster.run("sbatch", *urgent, "--wrap=sleep 2")


def worked(site: Quick, run: str) -> int:
    """How many attempts of a run have ended with 0."""
    paths = (site.folder / "o" / "runs" / run).glob("a*/exit.json")
    return sum(json.loads(path.read_text())["rc"] == 0 for path in paths)


@pytest.mark.timeout(7200)
def test_every_run_comes_to_its_right_end(tmp_path: Path, cluster: Slurm, nodes_come_back: None, soak: bool) -> None:
    """A tenth fails, each in another way. Of the others each works once, however often it must begin."""
    again = {"node_failure": 99, "preempted": 99, "boot_failure": 99, "interrupted": 99}
    site = quick(tmp_path, cluster, partition="scavenge", retry=again, requeues=0, time="3", signal_s=10)
    ends = dict(itertools.islice(ENDS.items(), None if soak else 6))
    repeats, every_s = (500, 60.0) if soak else (8, 5.0)
    expected: dict[str, str] = {}
    for number in range(4 * repeats):
        run = f"g{2 ** (number % 4):04d}-r{number // 4 + 1:02d}"
        expected[run] = list(ends)[number // 10 % len(ends)] if number % 10 == 7 else ""
        # A few seconds of work, in which trouble may come.
        site.behave(run, ends[expected[run]] if expected[run] else f"sleep {number % 4}")
    trouble = Trouble(cluster, every_s)
    trouble.start()
    began = time.monotonic()
    try:
        site.do(*site.words("--repeats", str(repeats), gpus="1,2,4,8"), code=None, timeout=600)
        more: tuple[str, ...] = ("--retryable",)
        while time.monotonic() < began + (6600 if soak else 500):
            # While the controller is away, `resume` ends with 3.
            site.do("resume", "o", *more, code=None, timeout=600)
            found = {name: run["failure"] or run["state"] for name, run in site.runs().items()}
            if found == {name: failure or "done" for name, failure in expected.items()}:
                break
            # A step that is created while the controller is away fails: its user resumes without --retryable.
            more = () if "launch" in found.values() else ("--retryable",)
            time.sleep(5)
    finally:
        trouble.over.set()
        trouble.join()
    print(f"{len(expected)} runs in {time.monotonic() - began:.0f} s: {Counter(found.values())}; {trouble.made}")
    assert found == {name: failure or "done" for name, failure in expected.items()}
    assert {worked(site, name) for name, failure in expected.items() if not failure} == {1}
    assert min(trouble.made.values(), default=0) >= 1
