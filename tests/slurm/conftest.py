"""The virtual cluster as a fixture: started for the session, and stopped at its end, whatever happens."""

from __future__ import annotations

import dataclasses
import functools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from hpcjobs.config import profiles, to_builtins
from tests.running import until

from . import cluster as virtual

TOOL = Path(virtual.__file__)
# States that may still change. Every other state is final.
MOVING = ("PENDING", "RUNNING", "REQUEUED", "SUSPENDED", "COMPLETING", "CONFIGURING")


@dataclasses.dataclass(frozen=True)
class Slurm:
    """A running virtual cluster, and its users' commands, each with a timeout."""

    cluster: virtual.VirtualCluster
    found_up: bool

    @property
    def state(self) -> Path:
        """The state folder."""
        return self.cluster.state

    @property
    def env(self) -> dict[str, str]:
        """The environment, with SLURM_CONF, in which Slurm's commands reach the cluster."""
        return self.cluster.env()

    @functools.cached_property
    def mpi_plugin(self) -> str:
        """For `srun --mpi`: pmix, or none where Slurm was built without it. Ranks without MPI start with either."""
        listed = self.cluster.run("srun", "--mpi=list")
        return "pmix" if "pmix" in listed.stdout + listed.stderr else "none"

    def run(self, *argv: str | Path, timeout: float = 30) -> str:
        """Run a command that must succeed. Returns its standard output."""
        done = self.cluster.run(*argv, timeout=timeout)
        assert done.returncode == 0, f"{argv}: exit {done.returncode}: {done.stderr}"
        return done.stdout

    def tool(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `cluster.py --state STATE WORDS`."""
        return run_tool(self.state, *words)

    def sbatch(self, script: Path, *options: str) -> str:
        """Submit a script from its own folder. Returns the job's id."""
        return self.run("sbatch", "--parsable", f"--chdir={script.parent}", *options, script).strip()

    def sacct(self, job: str, *fields: str) -> list[dict[str, str]]:
        """One row per job or array task."""
        table = self.run("sacct", "-X", "-n", "-P", "-j", job, "-o", ",".join(fields))
        return [dict(zip(fields, line.split("|"), strict=True)) for line in table.splitlines()]

    def wait(self, job: str, *fields: str, tasks: int = 1, timeout: float = 60) -> list[dict[str, str]]:
        """The rows of `sacct` (JobID, State, ExitCode and `fields`), once all `tasks` of the job are final.

        For some seconds after the end of a short array, sacct shows a single row under the bare job id.
        """
        deadline = time.monotonic() + timeout
        while True:
            rows = self.sacct(job, "JobID", "State", "ExitCode", *fields)
            if len(rows) == tasks and not any(row["State"] in MOVING for row in rows):
                return rows
            assert time.monotonic() < deadline, f"job {job} after {timeout} s: {rows}"
            time.sleep(0.3)


def run_tool(state: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run cluster.py as its users do, in a separate process."""
    argv = [sys.executable, str(TOOL), "--state", str(state), *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)


# Files whose tests measure rates or depend on time limits. They run last in this folder: by then the other lanes of
# `make test` have ended.
_BY_THE_CLOCK = ("test_probe.py", "test_limits.py", "test_states.py", "test_survival.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the tests of this folder, and leave those of other folders where they are."""
    places = [place for place, item in enumerate(items) if item.path.parent == Path(__file__).parent]
    ordered = sorted((items[place] for place in places), key=lambda item: item.path.name in _BY_THE_CLOCK)
    for place, item in zip(places, ordered, strict=True):
        items[place] = item


@pytest.fixture(scope="session")
def cluster() -> Iterator[Slurm]:
    """A running cluster. If one runs before the tests, it is used and not stopped."""
    if os.geteuid() != 0:
        pytest.skip("the virtual cluster needs root")
    missing = [name for name in virtual.PROGRAMS if shutil.which(name, path=virtual.DAEMON_ENV["PATH"]) is None]
    assert not missing, f"{' '.join(missing)} not found: run `make setup-test`"
    state = Path(os.environ.get(virtual.STATE_VARIABLE, virtual.DEFAULT_STATE)).resolve()
    slurm = Slurm(virtual.VirtualCluster(state), found_up=run_tool(state, "status").returncode == 0)
    try:
        up = run_tool(state, "up")
        assert up.returncode == 0, up.stderr
        yield slurm
    finally:
        if not slurm.found_up:
            down = run_tool(state, "down")
            assert down.returncode == 0, down.stderr


@pytest.fixture
def pmix(cluster: Slurm) -> None:
    """Leave a test out whose ranks srun must connect by PMIx, if this Slurm was built without it."""
    if cluster.mpi_plugin != "pmix":
        pytest.skip("this Slurm has no PMIx")


@pytest.fixture(autouse=True)
def _no_job_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Cancel the jobs of a test after it, whatever its result, and wait for their end: the next one needs the nodes."""
    if "cluster" not in request.fixturenames:
        yield
        return
    cluster: Slurm = request.getfixturevalue("cluster")

    def queue() -> set[str]:
        return set(cluster.run("squeue", "-h", "-o", "%A").split())

    before = queue()
    yield
    deadline = time.monotonic() + 120
    while (left := queue() - before) and time.monotonic() < deadline:
        # Again and again: a job that is being requeued may miss it.
        cluster.cluster.run("scancel", *sorted(left))
        time.sleep(1)


@pytest.fixture
def nodes_come_back(cluster: Slurm) -> Iterator[None]:
    """Make all nodes usable again after each test."""
    yield
    for node in virtual.NODES:
        if "down" in cluster.run("sinfo", "-h", "-N", "-n", node, "-o", "%T"):
            cluster.run("scontrol", "update", f"nodename={node}", "state=resume")
    until(lambda: cluster.cluster.usable_nodes() == len(virtual.NODES))


def profile(folder: Path, **changes: object) -> str:
    """Write a profile that differs from `virtual` in `changes`. Returns its path."""
    path = folder / "other.yaml"
    path.write_text(yaml.safe_dump({**to_builtins(profiles.cluster("virtual")), "name": "other", **changes}))
    return str(path)


def ranks(folder: Path) -> list[int]:
    """The pids of the ranks of the run in that folder, on all nodes, ascending.

    While it imports modules, a rank starts helper processes. Between fork and exec a helper has the command line of its
    rank, so a process whose parent is a rank does not count.
    """
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes()
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if line.startswith(f"{sys.executable}\0-m\0hpcjobs.chexnet.train\0{folder}/".encode()):
                found[int(entry.name)] = parent
    return sorted(pid for pid, parent in found.items() if parent not in found)
