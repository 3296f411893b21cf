"""What rank.sh says to a process of a command, and what it writes down of its end."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from hpcjobs.collect import cpus
from tests.rank_scripts import FAKE_TORCHRUN, RANK_PROGRAM, job_script, records, write_wrapper
from tests.running import PATIENCE_S, until

TELL = "import json, os; print(json.dumps(dict(os.environ)))"
SAID = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK")
SLURMS = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE", "SLURM_NODEID", "SLURM_NNODES")


class Wrapper:
    """rank.sh in a folder of its own, as a launcher starts it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.path = write_wrapper(folder)
        self.attempt = folder / "attempt"
        self.attempt.mkdir()

    def start(self, *command: str, **more: Any) -> subprocess.Popen[str]:
        """Names in capitals are environment variables, others of Popen."""
        variables = {name: more.pop(name) for name in list(more) if name.isupper()}
        ours = {"HPCJOBS_ATTEMPT_DIR": str(self.attempt), "HPCJOBS_RANK_WRAPPER": str(self.path)}
        environment = {**os.environ, **ours, "HPCJOBS_START": "rank", "HPCJOBS_PROCESSES_PER_NODE": "4", **variables}
        argv = ["bash", str(self.path), *command]
        return subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, text=True, **more)

    def run(self, *command: str, **more: Any) -> tuple[int, str]:
        """(exit code, output). A negative exit code is a signal."""
        process = self.start(*command, **more)
        output, _ = process.communicate(timeout=PATIENCE_S)
        return process.returncode, output

    def tells(self, **more: Any) -> dict[str, str]:
        """The environment of the command."""
        code, output = self.run(sys.executable, "-c", TELL, **more)
        assert code == 0
        environment: dict[str, str] = json.loads(output)
        return environment


@pytest.fixture
def wrapper(tmp_path: Path) -> Wrapper:
    return Wrapper(tmp_path)


def said(environment: dict[str, str]) -> list[str | None]:
    return [environment.get(name) for name in SAID]


# Task 9 of 10, alone but for one other on the last of three nodes.
STEP = {
    **{"SLURM_JOB_NODELIST": "n[1-3]", "SLURM_STEP_ID": "0", "SLURM_PROCID": "9", "SLURM_STEP_NUM_TASKS": "10"},
    **{"SLURM_LOCALID": "1", "SLURM_NODEID": "2", "SLURM_STEP_NUM_NODES": "3", "SLURM_NTASKS": "16"},
    **{"SLURM_STEP_TASKS_PER_NODE": "4(x2),2", "SLURM_NNODES": "4"},
}
# The same rank under mpirun; OMPI_COMM_WORLD_NODE_RANK is the rank on its node. SLURM_PROCID is that of mpirun's daemon.
MPIRUN = {
    **{"OMPI_COMM_WORLD_RANK": "9", "OMPI_COMM_WORLD_SIZE": "10", "OMPI_COMM_WORLD_LOCAL_RANK": "1"},
    **{"OMPI_COMM_WORLD_LOCAL_SIZE": "2", "OMPI_COMM_WORLD_NODE_RANK": "1", "SLURM_JOB_NODELIST": "n[1-3]"},
    **{"SLURM_STEP_ID": "0", "SLURM_PROCID": "1", "SLURM_NODEID": "1", "SLURM_STEP_NUM_TASKS": "2"},
}


@pytest.mark.parametrize("launcher", [STEP, MPIRUN], ids=["srun", "mpirun"])
def test_a_rank_on_a_smaller_last_node_knows_its_place(wrapper: Wrapper, launcher: dict[str, str]) -> None:
    told = wrapper.tells(**launcher)
    assert said(told) == ["9", "10", "1", "2", "2"]
    assert [told[name] for name in SLURMS] == ["9", "10", "1", "2", "2", "3"]


def test_without_slurm_no_variable_of_slurm_appears(wrapper: Wrapper) -> None:
    told = wrapper.tells(HPCJOBS_FORK_RANK="1", HPCJOBS_FORK_SIZE="3")
    assert said(told) == ["1", "3", "1", "3", "0"]
    assert not any(name.startswith("SLURM_") for name in told)
    assert said(wrapper.tells()) == ["0", "1", "0", "1", "0"]


def test_what_the_user_has_set_stays_and_the_record_has_the_launchers_rank(wrapper: Wrapper) -> None:
    told = wrapper.tells(RANK="77", LOCAL_RANK="", **STEP)
    assert said(told) == ["77", "10", "", "2", "2"]
    assert set(records(wrapper.attempt)) == {9}


def test_torchrun_is_told_its_node_alone(wrapper: Wrapper) -> None:
    mine = {"HPCJOBS_START": "node", "HPCJOBS_PROCESSES_PER_NODE": "1"}
    told = wrapper.tells(**mine, **{**STEP, "SLURM_PROCID": "2", "SLURM_STEP_TASKS_PER_NODE": "1(x3)"})
    assert said(told) == [None, None, None, None, "2"]
    assert told["PYTHON_EXEC"] == str(wrapper.path)
    assert told["SLURM_NTASKS"] == "16"
    assert wrapper.tells(**mine, PYTHON_EXEC="/theirs")["PYTHON_EXEC"] == "/theirs"
    # On a file system without execution torchrun starts its ranks itself.
    wrapper.path.chmod(0o644)
    assert "PYTHON_EXEC" not in wrapper.tells(**mine)


def test_torchrun_is_told_how_to_meet_only_where_the_nodes_name_does_not_resolve(wrapper: Wrapper) -> None:
    fakes = wrapper.folder / "fakes"
    fakes.mkdir()
    for name, does in {"getent": "exit ${FOUND:-2}", "ip": 'echo "$5 via 10.0.0.9 dev ib0 src 10.0.0.3 uid 0"'}.items():
        (fakes / name).write_text(f"#!/bin/bash\n{does}\n")
        (fakes / name).chmod(0o755)
    mine = {"PATH": f"{fakes}:{os.environ['PATH']}", "HPCJOBS_START": "node", "MASTER_ADDR": "10.0.0.1"}

    def met(**more: str) -> list[str | None]:
        told = wrapper.tells(**mine, **more)
        return [told.get("PET_RDZV_CONF"), told.get("PET_LOCAL_ADDR")]

    assert met(**STEP) == ["is_host=0", "10.0.0.3"]
    assert met(**{**STEP, "SLURM_NODEID": "0"}) == ["is_host=1", "10.0.0.3"]
    assert met(PET_RDZV_CONF="timeout=60", PET_LOCAL_ADDR="10.0.0.4", **STEP) == ["timeout=60", "10.0.0.4"]
    assert met(FOUND="0", **STEP) == [None, None]


@pytest.mark.parametrize(
    ("command", "code", "rc", "number"),
    [
        ("exit 0", 0, 0, 0),
        ("exit 3", 3, 3, 0),
        ("exit 255", 255, 255, 0),
        ("kill -9 $$", -9, 137, 9),
        ("kill -SEGV $$", -11, 139, 11),
        ("kill -TERM $$", -15, 143, 15),
        ("kill -INT $$", -2, 130, 2),
    ],
)
def test_the_end_of_the_command_is_passed_on_and_recorded(
    wrapper: Wrapper, command: str, code: int, rc: int, number: int
) -> None:
    began = time.time()
    assert wrapper.run("bash", "-c", f"echo $$; {command}", **STEP)[0] == code
    record = records(wrapper.attempt)[9]
    assert list(record) == ["rank", "local_rank", "host", "pid", "cpus", "rc", "signal", "start", "end"]
    assert cpus.numbers(record["cpus"]) == os.sched_getaffinity(0)
    assert (record["local_rank"], record["host"], record["rc"], record["signal"]) == (
        1,
        os.uname().nodename,
        rc,
        number,
    )
    assert began - 1 <= record["start"] <= record["end"] <= time.time() + 1
    assert [path.name for path in wrapper.attempt.iterdir()] == ["rank-r009.json"]


def test_pid_input_output_and_words_are_the_commands_own(wrapper: Wrapper) -> None:
    odd = "a b\n$(x) 'q' *"
    code, output = wrapper.run("bash", "-c", 'cat; printf "%s %s" "$$" "$1"', "x", odd, stdin=subprocess.DEVNULL)
    assert (code, output) == (0, f"{records(wrapper.attempt)[0]['pid']} {odd}")
    assert wrapper.run("/no/such/program", stderr=subprocess.DEVNULL)[0] == 127
    assert records(wrapper.attempt)[0]["rc"] == 127


@pytest.mark.parametrize("number", ["TERM", "USR1", "USR2", "INT", "HUP", "CONT"])
def test_a_signal_to_all_processes_of_a_step_ends_the_command_and_not_the_record(wrapper: Wrapper, number: str) -> None:
    command = f"import signal, time; signal.signal(signal.SIG{number}, lambda *_: exit(75)); print(1, flush=True); time.sleep(300)"
    process = wrapper.start(sys.executable, "-c", command, start_new_session=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "1\n"
    os.killpg(process.pid, signal.Signals[f"SIG{number}"])
    assert process.wait(PATIENCE_S) == 75
    assert records(wrapper.attempt)[0]["rc"] == 75


def test_a_command_without_a_handler_dies_of_its_signal(wrapper: Wrapper) -> None:
    process = wrapper.start("bash", "-c", "echo 1; exec sleep 300", start_new_session=True)
    assert process.stdout is not None
    process.stdout.readline()
    os.killpg(process.pid, signal.SIGUSR1)
    assert process.wait(PATIENCE_S) == -signal.SIGUSR1
    assert records(wrapper.attempt)[0]["signal"] == signal.SIGUSR1


def test_a_record_that_cannot_be_written_changes_nothing(wrapper: Wrapper) -> None:
    def full_disk() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))

    assert wrapper.run("bash", "-c", "exit 3", preexec_fn=full_disk, stderr=subprocess.DEVNULL)[0] == 3
    assert list(wrapper.attempt.iterdir()) == []
    wrapper.attempt.rmdir()
    assert wrapper.run("bash", "-c", "exit 4")[0] == 4


def test_odd_names_of_hosts_are_safe(wrapper: Wrapper) -> None:
    fake = wrapper.folder / "bin" / "uname"
    fake.parent.mkdir()
    odd = 'n"1\\2/../$(touch x)'
    fake.write_text(f"#!{sys.executable}\nprint({odd!r})\n")
    fake.chmod(0o755)
    wrapper.run("true", PATH=f"{fake.parent}:{os.environ['PATH']}", HPCJOBS_START="node")
    (path,) = wrapper.attempt.iterdir()
    assert path.name == "node-process-n_1_2_..___touch_x_.json"
    assert json.loads(path.read_text())["host"] == odd


@pytest.mark.parametrize("venv", [True, False], ids=["by its path", "by PATH"])
def test_each_rank_of_torchrun_runs_on_its_python_and_is_recorded(wrapper: Wrapper, venv: bool) -> None:
    python = FAKE_TORCHRUN[0] if venv else "python3"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    tell = wrapper.folder / "tell.py"
    tell.write_text(
        "import os, sys, time\n"
        "said = f\"{sys.prefix} {sys.argv} {os.environ.get('PYTHON_EXEC')}\"\n"
        "open(f\".told-{os.environ['RANK']}\", 'w').write(said)\n"
        "os.rename(f\".told-{os.environ['RANK']}\", f\"told-{os.environ['RANK']}\")\n"
        "while not os.path.exists('told-2'): time.sleep(0.05)\n"  # torchrun ends it when the other one has failed
        "sys.exit(3 if os.environ['RANK'] == '3' else 0)\n"
    )
    words = [python, FAKE_TORCHRUN[1], "--nproc-per-node=2", "--nnodes=2", str(tell), "a b"]
    mine = {"HPCJOBS_START": "node", "NODE_RANK": "1", "PATH": path, "HPCJOBS_STOP_SIGNAL": "USR1"}
    assert wrapper.run(*words, cwd=wrapper.folder, **mine)[0] == 1
    assert (wrapper.folder / "told-2").read_text() == f"{sys.prefix} ['{tell}', 'a b'] None"
    assert {rank: record["rc"] for rank, record in records(wrapper.attempt).items()} == {2: 0, 3: 3} or (
        records(wrapper.attempt)[2]["signal"] == signal.SIGTERM  # torchrun ended it before its own end
    )
    (node,) = records(wrapper.attempt, "node-process-*.json").values()
    assert (node["rc"], node["signal"]) == (1, 0)


def test_only_the_last_start_of_a_rank_counts(wrapper: Wrapper) -> None:
    program = "import os, sys; sys.exit(5 if os.environ['TORCHELASTIC_RESTART_COUNT'] == '0' else 0)"
    script = wrapper.folder / "p.py"
    script.write_text(program)
    words = [*FAKE_TORCHRUN, "--nproc-per-node=1", "--max-restarts=1", str(script)]
    assert wrapper.run(*words, HPCJOBS_START="node", NODE_RANK="0")[0] == 0
    assert records(wrapper.attempt)[0]["rc"] == 0


@pytest.mark.parametrize("forward", [True, False], ids=["to its group alone", "to all processes"])
def test_the_stop_signal_reaches_the_ranks_of_torchrun_and_not_torchrun(wrapper: Wrapper, forward: bool) -> None:
    """mpirun signals a process group, srun every process of a step. torchrun's ranks have sessions of their own."""
    heard = wrapper.folder / "heard"
    heard.mkdir()
    mine = {"HPCJOBS_START": "node", "NODE_RANK": "0", "HPCJOBS_STOP_SIGNAL": "USR1"}
    if forward:
        mine["HPCJOBS_FORWARD"] = "1"
    words = [*FAKE_TORCHRUN, "--nproc-per-node=2", RANK_PROGRAM, str(heard)]
    process = wrapper.start(*words, start_new_session=True, **mine)
    until(lambda: len(list(heard.glob("ready-*"))) == 2)
    os.killpg(process.pid, signal.SIGUSR1)
    if not forward:
        for path in heard.glob("place-*"):
            os.kill(json.loads(path.read_text())["pid"], signal.SIGUSR1)
    assert process.wait(PATIENCE_S) == 1
    for rank in "01":
        # A program that asks before it sets its handler finds the default, as it would without torchrun.
        assert json.loads((heard / f"place-{rank}").read_text())["sigusr1"] == "SIG_DFL"
        assert (heard / f"heard-{rank}").read_text() == "SIGUSR1\n"
    assert 75 in {record["rc"] for record in records(wrapper.attempt).values()}


def test_all_parts_pass_bash_and_shellcheck(wrapper: Wrapper) -> None:
    paths = [str(wrapper.path), str(job_script(wrapper.folder, "true"))]
    for path in paths:
        subprocess.run(["bash", "-n", path], check=True)
    shellcheck = shutil.which("shellcheck")
    assert shellcheck, "run `make setup-test`"
    done = subprocess.run([shellcheck, *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
