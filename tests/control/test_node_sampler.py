"""The sampler beside a command: its processes and files. GPUs are fakes; the control groups are files as kernels write them."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcjobs.base import contract
from hpcjobs.collect import nvml
from hpcjobs.nodes import cgroup, sampler
from tests.fake_gpus import pynvml, write_python
from tests.rank_scripts import records, write_wrapper
from tests.running import PATIENCE_S, until

HOST = os.uname().nodename


class Node:
    """rank.sh as a launcher starts it on this host, with a sampler that has two fake GPUs."""

    def __init__(self, folder: Path):
        self.wrapper, self.attempt = write_wrapper(folder), folder / "attempt"
        self.attempt.mkdir()
        self.python = write_python(folder)
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *command: str, **variables: str) -> subprocess.Popen[str]:
        ours = {
            "HPCJOBS_ATTEMPT_DIR": str(self.attempt),
            "HPCJOBS_RANK_WRAPPER": str(self.wrapper),
            "HPCJOBS_START": "rank",
            "HPCJOBS_SAMPLER": str(self.python),
        }
        argv = ["bash", str(self.wrapper), *command]
        process = subprocess.Popen(
            argv, env={**os.environ, **ours, **variables}, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self.started.append(process)
        return process

    def samplers(self) -> list[int]:
        """The processes that sample for this attempt."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if b"hpcjobs.nodes.sampler" in words and os.fsencode(self.attempt) in words:
                    found.append(int(entry.name))
        return found

    def lines(self) -> list[dict[str, str]]:
        path = self.attempt / contract.nvml_csv(HOST)
        if not path.exists():
            return []
        with path.open(newline="") as file:
            return list(csv.DictReader(file))


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    for process in made.started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def test_it_writes_beside_the_command_and_ends_with_it(node: Node) -> None:
    waits = f"until [ -s {node.attempt}/nvml-{HOST}.csv ]; do sleep 0.1; done; exit 3"
    process = node.start("bash", "-c", waits)
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, output) == (3, "")
    assert records(node.attempt)[0]["rc"] == 3
    until(lambda: not node.samplers())
    facts = json.loads((node.attempt / contract.node_json(HOST)).read_text())
    assert facts["host"] == HOST
    assert facts["gpus"] == ["Tesla V100-SXM2-16GB"] * 2
    assert facts["cpus"] <= (os.cpu_count() or 1)
    # Of hpcjobs' own Python nothing is said: it is not the command's.
    assert not {"python", "tensorflow"} & set(facts)
    assert not (node.attempt / contract.sampler_txt(HOST)).exists()


def test_its_lines_are_those_of_the_built_in_trainer_and_more(node: Node) -> None:
    process = node.start("sleep", "1000")
    until(lambda: len(node.lines()) >= 4)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(PATIENCE_S)
    for number, line in enumerate(node.lines()[:4]):
        assert tuple(line) == contract.NVML_COLUMNS
        assert (line["gpu"], line["power_w"], line["vendor"]) == (str(number % 2), "250.0", "NVIDIA")
        # This NVML has no counter of PCIe.
        assert (line["pcie_tx_kb_s"], line["nvlink_tx_kib"], line["nvlink_rx_kib"]) == ("", "138", "139")
    whole = (node.attempt / contract.nvml_csv(HOST)).read_text().splitlines(keepends=True)
    assert len(list(nvml.samples(whole))) == len(whole) - 1


def test_a_command_that_is_killed_leaves_no_sampler(node: Node) -> None:
    process = node.start("sleep", "1000")
    until(lambda: node.lines())
    assert len(node.samplers()) == 1
    os.kill(process.pid, signal.SIGKILL)
    process.wait(PATIENCE_S)
    until(lambda: not node.samplers())


def test_signals_to_all_processes_of_a_step_do_not_end_it(node: Node) -> None:
    node.start("bash", "-c", "trap '' USR1; sleep 1000 & wait; wait", HPCJOBS_STOP_SIGNAL="USR1")
    until(lambda: node.lines())
    (pid,) = node.samplers()
    os.kill(pid, signal.SIGUSR1)
    before = len(node.lines())
    until(lambda: len(node.lines()) > before + 2)


def test_one_rank_of_a_node_starts_it_and_no_command_hears_of_it(node: Node) -> None:
    second = node.start("env", HPCJOBS_FORK_RANK="1", HPCJOBS_FORK_SIZE="2")
    output, _ = second.communicate(timeout=PATIENCE_S)
    assert "HPCJOBS_SAMPLER" not in output
    assert not list(node.attempt.glob("node-*.json"))
    first = node.start("env", HPCJOBS_FORK_RANK="0", HPCJOBS_FORK_SIZE="2")
    output, _ = first.communicate(timeout=PATIENCE_S)
    assert "HPCJOBS_SAMPLER" not in output


@pytest.mark.parametrize(
    ("python", "line"),
    [
        ("/gone/python", f"hpcjobs: {HOST} is not sampled: it has no /gone/python"),
        # Without `-m hpcjobs.nodes.sampler` in it, as a Python that lacks hpcjobs.
        ("{folder}/empty", f"hpcjobs: sampler-{HOST}.txt: no hpcjobs here"),
    ],
)
def test_without_hpcjobs_own_python_it_is_left_out_with_one_line(node: Node, python: str, line: str) -> None:
    empty = node.attempt.parent / "empty"
    empty.write_text("#!/bin/sh\necho no hpcjobs here >&2\nexit 1\n")
    empty.chmod(0o755)
    process = node.start("sleep", "1", HPCJOBS_SAMPLER=python.format(folder=node.attempt.parent))
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, output) == (0, line + "\n")


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("srun: error: c4140-2: task 1: Terminated", ""),
        ("srun: Job step aborted: Waiting up to 12 seconds for job step to finish.", ""),
        ("srun: error: Unable to create step for job 7: Requested node configuration is not available", "told"),
    ],
)
def test_a_step_that_ends_with_its_job_is_no_error_of_the_sampler(node: Node, said: str, line: str) -> None:
    """Slurm's words: the first after a time limit under `start: once`, as the virtual cluster showed it."""
    ended = node.attempt.parent / "ended"
    ended.write_text(f"#!/bin/sh\necho '{said}' >&2\n")
    ended.chmod(0o755)
    process = node.start("sleep", "1", HPCJOBS_SAMPLER=str(ended))
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert output == (f"hpcjobs: sampler-{HOST}.txt: {said}\n" if line else "")
    assert len(list(node.attempt.glob("sampler-*.txt"))) == (1 if line else 0)


def test_rank_0_alone_has_nccl_write_a_log_unless_the_user_asked_for_one(node: Node) -> None:
    def asked(**variables: str) -> dict[str, str]:
        process = node.start("env", HPCJOBS_SAMPLER="", **variables)
        output, _ = process.communicate(timeout=PATIENCE_S)
        return {
            name: value for name, _, value in (line.partition("=") for line in output.splitlines()) if "NCCL" in name
        }

    assert asked(HPCJOBS_FORK_RANK="1", HPCJOBS_FORK_SIZE="2") == {}
    assert asked(HPCJOBS_START="node") == {}
    first = asked(HPCJOBS_FORK_RANK="0", HPCJOBS_FORK_SIZE="2")
    assert first == {
        "NCCL_DEBUG": "INFO",
        "NCCL_DEBUG_SUBSYS": "INIT,GRAPH",
        "NCCL_DEBUG_FILE": f"{node.attempt}/{contract.nccl_txt(0)}",
    }
    assert asked(NCCL_DEBUG="WARN") == {"NCCL_DEBUG": "WARN"}


# --- which GPUs, whose processes -----------------------------------------------------------------

FOUR = [("V100", f"GPU-{letter}") for letter in "abcd"]


@pytest.mark.parametrize(
    ("environment", "uuids"),
    [
        ({}, ["GPU-a", "GPU-b", "GPU-c", "GPU-d"]),
        ({"CUDA_VISIBLE_DEVICES": "2,3", "HPCJOBS_GPUS_PER_NODE": "2"}, ["GPU-c", "GPU-d"]),
        # Each rank sees its own GPU, and the run has all of the node.
        ({"CUDA_VISIBLE_DEVICES": "0", "HPCJOBS_GPUS_PER_NODE": "4"}, ["GPU-a", "GPU-b", "GPU-c", "GPU-d"]),
        # Which are the other one's is not known.
        ({"CUDA_VISIBLE_DEVICES": "0", "HPCJOBS_GPUS_PER_NODE": "2"}, ["GPU-a"]),
    ],
)
def test_the_gpus_of_the_run_are_sampled(environment: dict[str, str], uuids: list[str]) -> None:
    assert [uuid for _, uuid in sampler.of_run(FOUR, environment)] == uuids


@pytest.mark.parametrize(
    ("visible", "is_split", "found"),
    [("0,1", False, 2), ("0", False, 1), ("", False, 0), ("MIG-3f1a", True, 0), ("0", True, 0)],
)
def test_no_gpu_is_sampled_that_is_not_the_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str, is_split: bool, found: int
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", pynvml)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMigMode", lambda gpu: [int(is_split), 0], raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.delenv("HPCJOBS_GPUS_PER_NODE", raising=False)
    named, read = sampler.gpus(tmp_path)
    assert (len(named), len(list(read())) if read else 0) == (found, found)


def test_processes_of_the_run_are_known_by_their_environment(tmp_path: Path) -> None:
    mine = subprocess.Popen(["sleep", "1000"], env={"HPCJOBS_ATTEMPT_DIR": str(tmp_path)})
    other = subprocess.Popen(["sleep", "1000"], env={"HPCJOBS_ATTEMPT_DIR": f"{tmp_path}2"})
    try:
        until(lambda: b"sleep" in Path(f"/proc/{other.pid}/cmdline").read_bytes())
        assert sampler.Ours(tmp_path).of([{mine.pid, other.pid}, None, {2**22 + 1}]) == {mine.pid}
    finally:
        mine.kill()
        other.kill()


# --- control groups ------------------------------------------------------------------------------


def tree(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_the_jobs_group_of_version_2_is_above_those_of_its_steps(tmp_path: Path) -> None:
    job = "system.slice/slurmstepd.scope/job_17"
    tree(
        tmp_path,
        {
            "self": f"0::/{job}/step_0/user/task_3\n",
            f"{job}/cpu.stat": "usage_usec 2500000\nuser_usec 1\nnr_throttled 3\nthrottled_usec 40000\n",
            f"{job}/cpu.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=1500000\nfull avg10=0.00 total=7\n",
            f"{job}/memory.current": f"{3 << 30}\n",
            f"{job}/memory.stat": f"anon {1 << 30}\nfile {2 << 30}\n",
            f"{job}/memory.max": "max\n",
        },
    )
    group = cgroup.job_group(tmp_path / "self", tmp_path)
    assert group is not None
    figures = group.read()
    assert tuple(figures) == contract.CGROUP_COLUMNS[1:]
    assert figures == {
        "cpu_s": 2.5, "throttled_s": 0.04, "cpu_wait_s": 1.5, "memory_mib": 3072.0, "file_mib": 2048.0,
        "peak_mib": None, "limit_mib": None,
    }  # fmt: skip


def test_the_jobs_group_of_version_1_has_a_folder_for_each_controller(tmp_path: Path) -> None:
    job = "slurm/uid_1000/job_17"
    tree(
        tmp_path,
        {
            "self": f"9:cpuset:/{job}/step_0\n5:cpuacct,cpu:/{job}/step_0\n3:memory:/{job}/step_0/task_0\n1:name=x:/\n",
            f"cpuacct/{job}/cpuacct.usage": "2500000000\n",
            f"memory/{job}/memory.usage_in_bytes": f"{3 << 30}\n",
            f"memory/{job}/memory.max_usage_in_bytes": f"{4 << 30}\n",
            f"memory/{job}/memory.limit_in_bytes": "9223372036854771712\n",
            f"memory/{job}/memory.stat": f"cache 5\ntotal_cache {1 << 30}\n",
        },
    )
    group = cgroup.job_group(tmp_path / "self", tmp_path)
    assert group is not None
    assert group.read() == {
        "cpu_s": 2.5, "throttled_s": None, "cpu_wait_s": None, "memory_mib": 3072.0, "file_mib": 1024.0,
        "peak_mib": 4096.0, "limit_mib": None,
    }  # fmt: skip


@pytest.mark.parametrize("line", ["0::/user.slice/session-1.scope\n", "0::/docker/job_x\n", ""])
def test_a_group_that_is_no_jobs_is_not_counted(tmp_path: Path, line: str) -> None:
    tree(tmp_path, {"self": line, "user.slice/session-1.scope/cpu.stat": "usage_usec 1\n"})
    assert cgroup.job_group(tmp_path / "self", tmp_path) is None


def test_a_process_number_that_is_given_out_again_is_another_process() -> None:
    sleep = subprocess.Popen(["sleep", "1000"])
    process = sampler.Process(sleep.pid)
    assert process.lives()
    sleep.kill()
    until(lambda: not process.lives())  # A zombie.
    sleep.wait()
    assert not process.lives()
    assert not sampler.Process(sleep.pid).lives()
