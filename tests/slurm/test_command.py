"""Training commands on a real Slurm by `hpcjobs sweep ... -- COMMAND`: Python scripts whose ranks meet over sockets."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from hpcjobs.base.contract import EXIT_INTERRUPTED, EXIT_JSON, JOB_LOG
from tests.running import hpcjobs, status, until

from .conftest import Slurm, profile

pytestmark = pytest.mark.slurm

TESTS = Path(__file__).parent.parent
PLAIN_SOCKETS = TESTS.parent / "examples" / "plain_sockets" / "train.py"
TRAINING = TESTS / "slurm" / "fakes" / "training.py"
RATE = r"step (?P<step>\d+) samples/s: (?P<throughput>[\d.]+)"
STOP = ("--set", "stop.signal=USR1", "--set", "stop.exit_code=85")
FINAL = {"done", "failed", "cancelled", "lost"}


def command(script: Path, *words: str, start: str = "rank") -> tuple[str, ...]:
    """The words after which a sweep runs a Python script, by itself or by the stand-in for torchrun."""
    torchrun = (str(TESTS / "fake_torchrun.py"), "--nnodes={nodes}", "--nproc-per-node={gpus_per_node}")
    return ("--start", start, "--", sys.executable, *(torchrun if start == "node" else ()), str(script), *words)


@dataclasses.dataclass(frozen=True)
class Site:
    """A folder from which sweeps of commands are submitted."""

    folder: Path
    cluster: Slurm

    def sweep(self, out: str, gpus: str, *words: str, pattern: str | None = RATE, **changes: Any) -> None:
        """Submit a sweep; `words` end with `-- COMMAND`. `changes` are keys of the profile."""
        about = self.folder / f"about-{out}"
        about.mkdir()
        small = {"sharing": "shared", "cpus_per_gpu": 1, "mem_per_gpu_mib": 1000, "collect": {"job": False}}
        small |= {"mpi_plugin": self.cluster.mpi_plugin}
        where = ("--gpus", gpus, "--repeats", "1", "--cluster", profile(about, **{**small, **changes}), "--out", out)
        measure = () if pattern is None else ("--pattern", pattern)
        hpcjobs("sweep", *where, *measure, *words, cwd=self.folder, env=self.cluster.env)

    def runs(self, out: str) -> dict[str, dict[str, Any]]:
        """`hpcjobs status` by run."""
        return status(out, cwd=self.folder, env=self.cluster.env, code=None)

    def attempt(self, out: str, run: str, number: int = 1) -> Path:
        """The folder of an attempt."""
        return self.folder / out / "runs" / run / f"a{number:03d}"

    def log(self, out: str, run: str, number: int = 1) -> str:
        """What the command of an attempt has printed so far."""
        path = self.attempt(out, run, number) / JOB_LOG
        return path.read_text() if path.exists() else ""

    def ended(self, *outs: str) -> dict[str, dict[str, dict[str, Any]]]:
        """Wait until all runs of these sweeps have ended; returns their status by sweep and run."""
        for out in outs:
            until(lambda: all(list(run.glob(f"a*/{EXIT_JSON}")) for run in (self.folder / out / "runs").iterdir()))  # noqa: B023
            until(lambda: {run["state"] for run in self.runs(out).values()} <= FINAL)  # noqa: B023
        return {out: self.runs(out) for out in outs}

    def ranks(self, out: str, run: str, number: int = 1) -> list[dict[str, Any]]:
        """The records of the ends of an attempt's ranks, by rank."""
        return [json.loads(path.read_text()) for path in sorted(self.attempt(out, run, number).glob("rank-r*.json"))]

    def rc(self, out: str, run: str, number: int = 1) -> int:
        """The exit code of an attempt that has ended."""
        code: int = json.loads((self.attempt(out, run, number) / EXIT_JSON).read_text())["rc"]
        return code

    def table(self, out: str) -> list[dict[str, str]]:
        """The rows of scaling-report.csv."""
        hpcjobs("report", out, cwd=self.folder, env=self.cluster.env, code=None)
        with (self.folder / out / "report" / "scaling-report.csv").open(newline="") as file:
            return list(csv.DictReader(file))


@pytest.fixture
def site(tmp_path: Path, cluster: Slurm) -> Site:
    return Site(tmp_path, cluster)


def test_from_1_to_16_ranks_over_sockets_to_a_scaling_table(site: Site) -> None:
    """Processes of srun, of mpirun, and of the stand-in for torchrun; a parameter of two values."""
    small = ("--batch={batch.local}", "--steps=60")
    batch = ("--set", "batch.local=4", "--set", "measure.warmup=20")
    site.sweep("srun", "1,2,4,8,16", *batch, *command(PLAIN_SOCKETS, *small))
    site.sweep("node", "1,4,8", *batch, *command(PLAIN_SOCKETS, *small, start="node"))
    lr = ("--set", "params.lr=0.001,0.002")
    mpirun = command(PLAIN_SOCKETS, *small, "--lr={params.lr}")
    site.sweep("mpirun", "2,4", *batch, *lr, *mpirun, launcher="mpirun", gpus_per_node=2)
    ended = site.ended("srun", "node", "mpirun")
    assert {run["state"] for runs in ended.values() for run in runs.values()} == {"done"}

    def sizes(out: str) -> list[tuple[int, int]]:
        return [(int(row["gpus"]), int(row["nodes"])) for row in tables[out]]

    tables = {out: site.table(out) for out in ended}
    assert sizes("srun") == [(1, 1), (2, 1), (4, 1), (8, 2), (16, 4)]
    assert sizes("node") == [(1, 1), (4, 1), (8, 2)]
    assert sizes("mpirun") == [(2, 1), (4, 2)] * 2
    assert [row["param.lr"] for row in tables["mpirun"]] == ["0.001"] * 2 + ["0.002"] * 2
    for out, rows in tables.items():
        for row in rows:
            assert (row["unit"], row["local_batch"], row["scaling"]) == ("samples", "4", "weak")
            run = next(name for name in ended[out] if row["job_ids"] == ended[out][name]["job"])
            rates = [float(rate) for step, rate in re.findall(RATE, site.log(out, run)) if int(step) > 20]
            assert len(rates) == 4
            assert min(rates) <= float(row["throughput"]) <= max(rates)
            ends = site.ranks(out, run)
            assert [(each["rank"], each["rc"]) for each in ends] == [(rank, 0) for rank in range(int(row["gpus"]))]
            assert len({each["host"] for each in ends}) == int(row["nodes"])
        for row in rows:
            base = next(each for each in rows if each["params"] == row["params"])
            speedup = float(row["throughput"]) / float(base["throughput"])
            assert float(row["speedup"]) == pytest.approx(speedup, rel=1e-4)


@pytest.mark.timeout(400)
def test_a_command_with_a_stop_signal_continues_after_its_time_limit_and_one_without_has_a_timeout(site: Site) -> None:
    """Four ranks on two nodes write a checkpoint and exit with 85, under srun and under the stand-in for torchrun."""
    wide: dict[str, Any] = {"gpus_per_node": 2, "time": "2", "signal_s": 20}
    starts = ("rank", "node")
    for start in starts:
        site.sweep(start, "4", *STOP, *command(TRAINING, "stop", start=start), **wide)
    site.sweep("without", "4", *command(TRAINING, "stop"), **wide)
    until(lambda: all("step 20 " in site.log(out, "g0004-r01") for out in (*starts, "without")))
    jobs = {out: site.runs(out)["g0004-r01"]["job"] for out in (*starts, "without")}
    end = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + 3))
    site.cluster.run("scontrol", "update", f"jobid={jobs['without']}", f"EndTime={end}")
    for start in starts:
        # As Slurm does before the time limit.
        site.cluster.run("scancel", "--batch", "--signal=USR1", jobs[start])
    for start in starts:
        until((site.attempt(start, "g0004-r01") / EXIT_JSON).exists)
        assert site.rc(start, "g0004-r01") == EXIT_INTERRUPTED
        assert [rank["rc"] for rank in site.ranks(start, "g0004-r01")] == [85] * 4
        # The line comes after exit.json.
        until(lambda start=start: "continues in restart 1 of 3\n" in site.log(start, "g0004-r01"))

    until(lambda: site.runs("without")["g0004-r01"]["state"] == "failed")
    run = site.runs("without")["g0004-r01"]
    assert (run["failure"], run["attempt"]) == ("timeout", "a001")
    assert "continues" not in site.log("without", "g0004-r01")

    for start in starts:
        until((site.attempt(start, "g0004-r01", 2) / EXIT_JSON).exists)
        begun = (site.folder / start / "runs" / "g0004-r01" / "checkpoint").read_text()
        assert f"4 ranks trained from step {begun} to {int(begun) + 20}\n" in site.log(start, "g0004-r01", 2)
        run = site.runs(start)["g0004-r01"]
        assert (run["state"], run["attempt"], run["job"]) == ("done", "a002", jobs[start])
        until(
            lambda: (
                site.cluster.run("sacct", "-D", "-X", "-n", "-P", "-j", jobs[start], "-o", "State").split()  # noqa: B023
                == ["REQUEUED", "COMPLETED"]
            )
        )


@pytest.mark.timeout(400)
def test_the_evidence_is_what_the_command_said_not_what_srun_says_of_its_end(site: Site) -> None:
    ends = "import sys; sys.exit('config key lr is missing')"
    fails = "echo 'ERROR: dataset /data/x not found'; exit 3"
    said = {
        "file": (("python3", "sdg.py"), "exit_code", r"python3: can't open file .*sdg\.py"),
        "words": (("python3", "-c", ends), "exit_code", "config key lr is missing"),
        "error": (("bash", "-c", fails), "exit_code", "ERROR: dataset /data/x not found"),
        "typo": (("pyton3", "x.py"), "launch", "exec: pyton3: not found"),
    }
    for name, (words, _, _) in said.items():
        site.sweep(name, "4", "--", *words, gpus_per_node=2)
    for name, runs in site.ended(*said).items():
        (about,) = runs.values()
        _, kind, words = said[name]
        assert about["failure"] == kind, about
        assert re.search(words, about["reason"]), about
        assert "srun: error" not in about["reason"]


@pytest.mark.timeout(400)
def test_a_rank_that_ends_badly_ends_its_job_and_is_named_with_its_node(site: Site) -> None:
    """One of four ranks on two nodes. A job ends within about 5 s of the rank, if its ranks heed SIGTERM of srun."""
    deeds = {
        "kill": ("signal", "ended with signal 9"),
        "exit": ("exit_code", "ended with exit code 3"),
        "raise": ("traceback", "ValueError: the shapes differ"),
    }
    for start in ("rank", "node"):
        words = ("--set", f"params.deed={','.join(deeds)}", *command(TRAINING, "{params.deed}", start=start))
        site.sweep(start, "4", *words, gpus_per_node=2)
    site.sweep("stall", "4", "--set", "stall_s=10", *command(TRAINING, "stall"), gpus_per_node=2)
    ended = site.ended("rank", "node", "stall")
    for start in ("rank", "node"):
        for (run, about), (kind, words) in zip(ended[start].items(), deeds.values(), strict=True):
            assert (about["state"], about["failure"]) == ("failed", kind), about
            named = re.search(r"ranks? ([\d, ]+) on ([\w, -]+)", about["reason"])
            assert named, about
            assert words in about["reason"]
            assert about["nodes"][1] in named[2]
            if kind == "traceback":
                # The others lose their connection at once, and end with an exception, too.
                assert "3" in named[1]
            else:
                assert named[1] == "3"
                assert site.rc(start, run) == {"signal": 137, "exit_code": 3}[kind]
    run = ended["stall"]["g0004-r01"]
    assert (run["state"], run["failure"]) == ("failed", "stalled")
    assert re.fullmatch(r"no output for 10 s; job.log ends with: step 4 samples/s: [\d.]+", run["reason"])


def test_array_tasks_that_share_a_node_meet_at_ports_of_their_own(site: Site) -> None:
    """Two runs of two ranks on one node at once: each run waits until the other has begun."""
    both = "; ".join(
        (
            'echo "$MASTER_PORT" >"$HPCJOBS_ATTEMPT_DIR/port-$RANK"',
            'until [ "$(ls "$HPCJOBS_RUN_DIR"/../*/a001/port-* | wc -l)" = 4 ]; do sleep 0.1; done',
            'exec "$@"',
        )
    )
    script = ("--", "bash", "-c", both, "bash", sys.executable, str(TRAINING))
    site.sweep("o", "2", "--repeats", "2", *script, nodelist="c4140-2")
    runs = site.ended("o")["o"]
    assert [(run["state"], run["nodes"]) for run in runs.values()] == [("done", ["c4140-2"])] * 2
    ports = [{path.read_text() for path in site.attempt("o", run).glob("port-*")} for run in runs]
    assert [len(own) for own in ports] == [1, 1]
    assert ports[0] != ports[1]


def test_a_command_that_starts_once_finds_an_allocation_for_its_own_srun(site: Site) -> None:
    inner = (
        'echo "alone on $(hostname)"; srun --mpi=none bash -c \'RANK=$SLURM_PROCID WORLD_SIZE=4 exec "$@"\' bash "$@"'
    )
    site.sweep(
        "o", "4", "--start", "once", "--", "bash", "-c", inner, "bash", sys.executable, str(TRAINING), gpus_per_node=2
    )
    run = site.ended("o")["o"]["g0004-r01"]
    log = site.log("o", "g0004-r01")
    assert run["state"] == "done"
    assert re.findall("alone on (.*)", log) == [run["nodes"][0]]
    assert log.count("4 ranks trained from step 0 to 30") == 1
    assert len(run["nodes"]) == 2


def test_a_run_without_a_rate_is_done_only_if_none_is_asked_for(site: Site) -> None:
    """In one job of the largest size, which runs the sizes one after another."""
    one = ("--one-allocation", *command(TRAINING, "silent"))
    site.sweep("none", "1,2,4", "--set", "measure.format=none", *one, pattern=None, gpus_per_node=2)
    site.sweep("looked", "1,2", *command(TRAINING, "silent"))
    ended = site.ended("none", "looked")
    assert {run["state"] for run in ended["none"].values()} == {"done"}
    assert len({run["job"] for run in ended["none"].values()}) == 1
    for row in site.table("none"):
        assert (row["throughput"], row["unit"]) == ("", "")
        assert float(row["time_to_train_s"]) >= 0
    assert {(run["state"], run["failure"]) for run in ended["looked"].values()} == {("failed", "no_measurement")}
    for run in ended["looked"].values():
        assert f"pattern '{RATE}' matches no line of job.log" in run["reason"]


METERED = """\
import json, os, sys
import meter

for batch in meter.steps([[0] * 8] * 60, samples=8):
    pass
told = json.loads(os.environ["HPCJOBS_MEASURE"])
print("path", os.environ["PYTHONPATH"].split(":"), "told", told["run"], told["device"], flush=True)
"""


@pytest.mark.parametrize("start", ["rank", "node"])
def test_the_meter_is_in_every_process_on_every_node(start: str, site: Site) -> None:
    """By srun, and through the stand-in for torchrun."""
    (site.folder / "metered.py").write_text(METERED)
    site.sweep("o", "4", *command(site.folder / "metered.py", start=start), pattern=None, gpus_per_node=2)
    assert site.ended("o")["o"]["g0004-r01"]["state"] == "done"
    python = str(site.folder / "o" / "scripts" / "python")
    lines = [line for line in site.log("o", "g0004-r01").splitlines() if line.startswith("path ")]
    assert len(lines) == 4
    assert all(line.endswith(" told g0004-r01 cpu") for line in lines)
    assert all(line.startswith(f"path ['{python}/inject'") and f"'{python}']" in line for line in lines)
    (row,) = site.table("o")
    assert (row["gpus"], row["nodes"], row["local_batch"], row["global_batch"]) == ("4", "2", "8", "32")
