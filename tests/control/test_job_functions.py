"""What a job around any command does beside it: where its ranks meet, when it has stalled, how it ended."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from hpcjobs.base.contract import EXIT_INTERRUPTED, ErrorCode
from tests.rank_scripts import FAKE_TORCHRUN, RANK_PROGRAM, first, job_script, records
from tests.running import PATIENCE_S, until


def start(folder: Path, lines: str, **more: Any) -> subprocess.Popen[str]:
    """Start a job script with these lines. Names in capitals are environment variables, others of Popen."""
    variables = {name: more.pop(name) for name in list(more) if name.isupper()}
    environment = {**os.environ, "HPCJOBS_START": "rank", "HPCJOBS_PROCESSES_PER_NODE": "2", **variables}
    argv = ["bash", str(job_script(folder, lines))]
    return subprocess.Popen(
        argv, env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more
    )


def run(folder: Path, lines: str, **more: Any) -> tuple[int, str]:
    """(exit code, output) of such a job script."""
    process = start(folder, lines, **more)
    output, _ = process.communicate(timeout=PATIENCE_S)
    return process.returncode, output


# Meeting

SCONTROL = """#!/bin/sh
case "$*" in
    "show hostnames n[1-2]") echo n1; echo n2 ;;
    "--oneliner show node n1") echo "NodeName=n1 Arch=x86_64 NodeAddr=10.1.2.3 NodeHostName=n1" ;;
    *) exit 1 ;;
esac
"""
MEET = 'meet; echo "$MASTER_ADDR $MASTER_PORT"; env | grep -c ^MASTER_'


def programs(folder: Path, **texts: str) -> str:
    """A PATH on which these programs come first."""
    (folder / "bin").mkdir()
    for name, text in texts.items():
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    return f"{folder / 'bin'}:{os.environ['PATH']}"


def test_ranks_meet_at_the_first_host_by_number_if_its_name_is_unknown(tmp_path: Path) -> None:
    path = programs(tmp_path, scontrol=SCONTROL)
    slurm = {"PATH": path, "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_ID": "3001"}
    assert run(tmp_path, MEET, **slurm) == (0, f"10.1.2.3 {20000 + 3001 * 7 % 12000}\n2\n")
    (tmp_path / "bin" / "getent").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "getent").chmod(0o755)
    assert run(tmp_path, MEET, **slurm)[1].startswith("n1 ")


def test_without_slurm_ranks_meet_here_and_what_is_set_stays(tmp_path: Path) -> None:
    assert run(tmp_path, MEET)[1].startswith("127.0.0.1 2") or run(tmp_path, MEET)[1].startswith("127.0.0.1 3")
    assert run(tmp_path, MEET, MASTER_ADDR="h", MASTER_PORT="5")[1] == "h 5\n2\n"


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_port_in_use_is_not_chosen(tmp_path: Path, family: socket.AddressFamily) -> None:
    _, output = run(tmp_path, MEET, SLURM_JOB_ID="77")
    port = int(output.split()[1])
    with socket.socket(family) as taken:
        taken.bind(("", port))
        taken.listen()
        assert run(tmp_path, MEET, SLURM_JOB_ID="77")[1].split()[1] == str(port + 1)


def test_tasks_of_an_array_that_start_at_once_on_one_node_get_ports_of_their_own(tmp_path: Path) -> None:
    # Each holds its port while the others choose.
    hold = f'meet; {sys.executable} -c \'import os, socket, sys; s = socket.socket(); s.bind(("", int(os.environ["MASTER_PORT"]))); s.listen(); print(os.environ["MASTER_PORT"], flush=True); sys.stdin.read()\''
    script = job_script(tmp_path, hold)
    tasks = [
        subprocess.Popen(
            ["bash", str(script)],
            env={**os.environ, "SLURM_JOB_ID": str(5000 + task)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for task in range(12)
    ]
    ports = [task.stdout.readline() for task in tasks if task.stdout]
    for task in tasks:
        task.communicate(timeout=PATIENCE_S)
    assert len(set(ports)) == 12
    assert "" not in ports


# Ranks without a launcher

FORK = 'fork_ranks {n} {command} & launcher=$!; trap "signalled=1; kill -USR1 $launcher" USR1; trap "signalled=1; kill -TERM $launcher" TERM; await "$launcher"; code=$?; outcome "$code"; echo "$code $?"'


def forked(folder: Path, n: int, *command: str, **more: Any) -> subprocess.Popen[str]:
    (folder / "ranks").mkdir()
    text = " ".join(f"'{word}'" for word in command or (sys.executable, RANK_PROGRAM, str(folder / "ranks")))
    return start(folder, FORK.format(n=n, command=text), **more)


@pytest.mark.parametrize(("deed", "code"), [("exit3", 3), ("kill", 137), ("segv", 139)])
def test_if_a_rank_fails_the_others_are_ended_and_its_code_is_the_jobs(tmp_path: Path, deed: str, code: int) -> None:
    output, _ = forked(tmp_path, 3, DEEDS=f"1:{deed}").communicate(timeout=PATIENCE_S)
    assert output == f"{code} {code}\n"
    assert first(tmp_path / "attempt") == (1, code)
    assert {rank: record["rc"] for rank, record in records(tmp_path / "attempt").items()} == {0: 143, 1: code, 2: 143}


def test_ranks_that_all_succeed(tmp_path: Path) -> None:
    assert forked(tmp_path, 2, "true").communicate(timeout=PATIENCE_S)[0] == "0 0\n"


def test_output_and_errors_of_all_ranks_are_the_jobs_and_no_words_of_bash(tmp_path: Path) -> None:
    command = ("bash", "-c", 'echo "out $RANK"; echo "error $RANK" >&2; if [ "$RANK" = 1 ]; then kill -9 $$; fi')
    output, _ = forked(tmp_path, 2, *command).communicate(timeout=PATIENCE_S)
    assert sorted(output.splitlines()) == ["137 137", "error 0", "error 1", "out 0", "out 1"]


def test_the_end_of_a_ranks_shell_by_a_signal_is_not_reported_as_code_of_the_script(tmp_path: Path) -> None:
    # Whoever runs out of memory, or ignores SIGTERM for 30 s, is killed: bash would print the whole subshell.
    kill_shell = 'if [ "$RANK" = 1 ]; then kill -9 "$(ps -o ppid= "$PPID")"; fi'
    output, _ = forked(tmp_path, 2, "bash", "-c", kill_shell.replace("'", "")).communicate(timeout=PATIENCE_S)
    assert output == "137 137\n"


@pytest.mark.parametrize("name", ["USR1", "TERM"])
@pytest.mark.parametrize("torchrun", [False, True], ids=["rank", "node"])
def test_the_stop_signal_reaches_every_rank_and_the_run_is_interrupted(
    tmp_path: Path, torchrun: bool, name: str
) -> None:
    stop = {"HPCJOBS_STOP_SIGNAL": name, "HPCJOBS_STOP_CODE": "75", "SAVE_S": "1"}
    if name == "TERM":
        stop["HANDLE_TERM"] = "1"
    ranks = tmp_path / "ranks"
    if torchrun:
        words = [*FAKE_TORCHRUN, "--nproc-per-node=2", RANK_PROGRAM, str(ranks)]
        job = forked(tmp_path, 1, *words, HPCJOBS_START="node", **stop)
    else:
        job = forked(tmp_path, 2, **stop)
    until(lambda: len(list(ranks.glob("ready-*"))) == 2)
    job.send_signal(signal.SIGUSR1)
    output, _ = job.communicate(timeout=PATIENCE_S)
    assert output.endswith("1 75\n" if torchrun else "75 75\n")
    assert all(f"SIG{name}\n" in (ranks / f"heard-{rank}").read_text() for rank in "01")


def test_a_launcher_that_is_ended_ends_all_and_leaves_no_process(tmp_path: Path) -> None:
    job = forked(tmp_path, 2, "bash", "-c", 'sleep 3000 & echo $! >>"$HPCJOBS_ATTEMPT_DIR/pids"; wait')
    pids = tmp_path / "attempt" / "pids"
    until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    job.send_signal(signal.SIGTERM)
    assert job.communicate(timeout=PATIENCE_S)[0] == "143 143\n"
    left = subprocess.run(
        ["ps", "-o", "stat=", "-p", ",".join(pids.read_text().split())], capture_output=True, text=True
    )
    assert set(left.stdout.split()) <= {"Z"}  # its new parent may not have waited for it yet


# How it ended

NOTHING: dict[int, tuple[int, int, float]] = {}


@pytest.mark.parametrize(
    ("launcher", "stop", "ends", "code"),
    [
        (0, "", {0: (0, 0, 1.0)}, 0),
        # srun answers 143 for a rank that exited with 3; torchrun answers 1.
        (143, "", {0: (143, 15, 1.0), 1: (3, 0, 2.0)}, 3),
        (1, "", {0: (1, 0, 3.0), 1: (137, 9, 2.0)}, 137),
        # Ranks that lose another one notice at once, and their records may be the earlier ones.
        (143, "", {0: (1, 0, 1.0), 1: (134, 6, 1.1), 2: (3, 0, 1.2)}, 3),
        (143, "", {0: (1, 0, 1.0), 1: (3, 0, 1.7)}, 1),
        (143, "", {0: (143, 15, 1.0)}, 143),
        (9, "", NOTHING, 9),
        # Every rank that ended by itself said that it is to be started again.
        (143, "85", {0: (85, 0, 1.0), 1: (143, 15, 2.0), 2: (0, 0, 3.0)}, EXIT_INTERRUPTED),
        (0, "85", {0: (85, 0, 1.0)}, EXIT_INTERRUPTED),
        (85, "85", NOTHING, EXIT_INTERRUPTED),
        # One did not, or died before the others were told to end.
        (85, "85", {0: (85, 0, 1.0), 1: (4, 0, 2.0)}, 4),
        (75, "75", {0: (75, 0, 1.0), 1: (4, 0, 2.0), 2: (75, 0, 3.0)}, 4),
        (143, "85", {0: (85, 0, 2.0), 1: (139, 11, 1.0)}, 139),
        (143, "85", {0: (143, 15, 1.0)}, 143),
        # Without `stop` nothing is an interruption; only `stop` with this very code makes it one.
        (75, "", {0: (75, 0, 1.0)}, 75),
        (75, "85", {0: (75, 0, 1.0)}, 1),
        (75, "85", NOTHING, 1),
    ],
)
def test_the_code_of_a_run_comes_from_its_ranks(
    tmp_path: Path, launcher: int, stop: str, ends: dict[int, tuple[int, int, float]], code: int
) -> None:
    (tmp_path / "attempt").mkdir()
    for rank, (rc, number, end) in ends.items():
        form = '{{"rank": {}, "local_rank": 0, "host": "n1", "pid": 5, "rc": {}, "signal": {}, "start": 0.000000, "end": {:.6f}}}\n'
        (tmp_path / "attempt" / f"rank-r{rank:03d}.json").write_text(form.format(rank, rc, number, end))
    assert run(tmp_path, f"outcome {launcher}", HPCJOBS_STOP_CODE=stop) == (code, "")


def test_a_stalled_run_is_no_interrupted_one(tmp_path: Path) -> None:
    (tmp_path / "attempt").mkdir()
    (tmp_path / "attempt" / "abort-r000.json").write_text('{"code": "stalled", "message": ""}\n')
    assert run(tmp_path, "outcome 75", HPCJOBS_STOP_CODE="75")[0] == 1


def test_a_file_that_is_written_in_a_trap_is_no_failure_to_write(tmp_path: Path) -> None:
    # In a trap a bare `return` returns the code from before the trap.
    lines = """trap 'put "$attempt_dir/exit.json" "{}" || echo "cannot be written: $why"' EXIT; exit 3"""
    assert run(tmp_path, lines) == (3, "")
    assert (tmp_path / "attempt" / "exit.json").read_text() == "{}\n"


# Stalled

WATCH = 'exec >"$attempt_dir/job.log" 2>&1; {command} & launcher=$!; watch_output "$launcher" {limit} & watcher=$!; await "$launcher"; code=$?; kill "$watcher" 2>/dev/null; wait "$watcher" 2>/dev/null; exit "$code"'


def test_a_command_that_writes_nothing_is_ended_with_its_last_words(tmp_path: Path) -> None:
    program = tmp_path / "program.sh"
    program.write_text("""printf 'step 7 "\\\\\\351 ok\\n\\n'; exec sleep 3000\n""")
    # What hpcjobs itself writes each second is no sign of life.
    busy = 'for i in {1..40}; do echo x | tee -a "$attempt_dir/"{nvml,cgroup}-n1.csv >"$attempt_dir/sampler-n1.txt"; sleep 0.5; done &\n'
    code, _ = run(tmp_path, busy + WATCH.format(command=f"bash {program}", limit=4))
    assert code == 143
    abort = json.loads((tmp_path / "attempt" / "abort-r000.json").read_text())
    # Which rank stalls is not known.
    assert (abort["code"], abort["nodes"], "rank" in abort) == (ErrorCode.STALLED, [], False)
    assert abort["message"] == 'no output for 4 s; job.log ends with: step 7 "\\ ok'
    assert time.time() - 300 < abort["time"] <= time.time()
    log = (tmp_path / "attempt" / "job.log").read_text(errors="replace")
    assert f"hpcjobs: error: stalled: {abort['message']}\n" in log


@pytest.mark.parametrize("where", ["job.log", "train.log", "steps-r000.csv"])
def test_a_command_that_writes_anywhere_goes_on(tmp_path: Path, where: str) -> None:
    writes = f"bash -c 'for i in 1 2 3 4 5 6 7 8 9; do echo $i >>\"$HPCJOBS_ATTEMPT_DIR/{where}\"; sleep 0.9; done'"
    assert run(tmp_path, WATCH.format(command=writes, limit=4))[0] == 0
    assert not (tmp_path / "attempt" / "abort-r000.json").exists()


def test_a_suspended_job_has_not_stalled(tmp_path: Path) -> None:
    command = "bash -c 'sleep 2; echo 1; sleep 6; echo 2'"
    job = start(tmp_path, WATCH.format(command=command, limit=12), start_new_session=True)
    time.sleep(1)
    os.killpg(job.pid, signal.SIGSTOP)
    time.sleep(14)
    os.killpg(job.pid, signal.SIGCONT)
    assert job.wait(PATIENCE_S) == 0
    assert not (tmp_path / "attempt" / "abort-r000.json").exists()


def test_the_watch_ends_with_the_command_and_leaves_no_process(tmp_path: Path) -> None:
    job = start(tmp_path, WATCH.format(command="sleep 1", limit=4000), start_new_session=True)
    assert job.wait(PATIENCE_S) == 0
    left = subprocess.run(["ps", "-o", "args=", "--sid", str(job.pid)], capture_output=True, text=True)
    assert left.stdout == ""


def test_a_child_that_ends_while_signals_come_keeps_its_code(tmp_path: Path) -> None:
    # bash's own `wait` loses about one code in ten here.
    flood = '(trap - USR1 CONT; while kill -0 "$child"; do kill -USR1 $$; kill -CONT $$; done) 2>/dev/null & flood=$!'
    once = f'bash -c "sleep 0.02; exit 75" & child=$!; {flood}; await "$child"; echo "$?"; await "$flood"'
    job = start(tmp_path, f"trap 'signalled=1' USR1 CONT; for number in {{1..40}}; do {once}; done")
    assert job.communicate(timeout=PATIENCE_S)[0] == "75\n" * 40


def test_a_trap_runs_while_a_child_is_awaited(tmp_path: Path) -> None:
    lines = "trap 'signalled=1; kill -TERM $child' USR1; exec -a endless sleep 4000 & child=$!"
    job = start(tmp_path, f'{lines}; (sleep 3; kill -USR1 $$) & await "$child"; echo "$?"')
    assert job.communicate(timeout=PATIENCE_S)[0] == "143\n"
