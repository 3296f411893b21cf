"""The local scheduler: a detached runner, one task at a time, cancel ends every process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hpcjobs.errors import SubmitRefused
from hpcjobs.records import JobState, Order, RunState
from hpcjobs.schedulers import local
from hpcjobs.schedulers.local import LocalScheduler


def until(ready: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)


class Site:
    """A scheduler in a folder, and the state of its tasks."""

    def __init__(self, folder: Path, epilogue: tuple[str, ...] = ()):
        self.folder = folder
        (folder / "out").mkdir()
        self.scheduler = LocalScheduler(folder / "state", folder / "out", epilogue)

    def submit(self, script: str, indices: list[int], name: str = "job", order: Order | None = None) -> str:
        path = self.folder / f"{name}.sh"
        path.write_text(script)
        return self.scheduler.submit(path, indices, name, order or Order())

    def task(self, task: str) -> JobState:
        return self.scheduler.poll([task]).get(task, JobState(None, ""))

    def wait(self, task: str, state: RunState) -> JobState:
        until(lambda: self.task(task).state is state)
        return self.task(task)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_tasks_run_in_order_and_one_at_a_time(site: Site) -> None:
    log = site.folder / "log"
    script = f"echo begin $SLURM_ARRAY_TASK_ID >>{log}; sleep 0.2; echo end $SLURM_ARRAY_TASK_ID >>{log}"
    job = site.submit(script, [2, 0, 5])
    done = site.wait(f"{job}_5", RunState.DONE)
    assert (site.folder / "log").read_text().split() == [
        "begin",
        "2",
        "end",
        "2",
        "begin",
        "0",
        "end",
        "0",
        "begin",
        "5",
        "end",
        "5",
    ]
    assert done.exit_code == 0
    assert done.start is not None
    assert done.end is not None
    assert done.end - done.start >= 0.2


def test_a_task_sees_an_array_but_no_slurm_job(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    # Open MPI would take a full set of these for a Slurm allocation, and abort.
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-4]")
    job = site.submit("env | grep ^SLURM_ | sort; echo to stderr >&2", [3])
    site.wait(f"{job}_3", RunState.DONE)
    text = (site.folder / "out" / f"{job}_3.out").read_text()
    assert text == f"SLURM_ARRAY_JOB_ID={job}\nSLURM_ARRAY_TASK_ID=3\nto stderr\n"


def test_failures_and_signals_show_as_what_they_are(site: Site) -> None:
    job = site.submit("if [ $SLURM_ARRAY_TASK_ID = 0 ]; then exit 3; fi; kill -9 $$", [0, 1])
    assert site.wait(f"{job}_0", RunState.FAILED).exit_code == 3
    assert site.wait(f"{job}_1", RunState.FAILED).signal == 9


def test_cancel_ends_every_process_and_leaves_the_rest_unstarted(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "KILL_WAIT_S", 1.0)
    # A grandchild in a process group of its own, deaf to SIGTERM: as a hung rank under mpirun is.
    rank = (
        "import os, signal, time; os.setpgid(0, 0); signal.signal(15, signal.SIG_IGN); "
        f"open('{site.folder}/pid', 'w').write(str(os.getpid())); time.sleep(60)"
    )
    script = f'{sys.executable} -c "{rank}"; true'
    job = site.submit(script, [0, 1])
    until(lambda: (site.folder / "pid").exists() and (site.folder / "pid").read_text())
    pid = int((site.folder / "pid").read_text())
    assert site.task(f"{job}_1").state is RunState.PENDING
    site.scheduler.cancel([job])
    assert not alive(pid)
    assert site.wait(f"{job}_0", RunState.CANCELLED).word == "CANCELLED"
    assert site.wait(f"{job}_1", RunState.CANCELLED).start is None


def test_the_runner_outlives_the_session_that_submitted(site: Site) -> None:
    state, out, script = (str(site.folder / name) for name in ("state", "out", "s.sh"))
    code = (
        "import sys; from pathlib import Path; from hpcjobs.schedulers.local import LocalScheduler;"
        "from hpcjobs.records import Order;"
        f"LocalScheduler(Path({state!r}), Path({out!r})).submit(Path({script!r}), [0], 'x', Order()); sys.stdin.read()"
    )
    (site.folder / "s.sh").write_text(f"sleep 1; echo done >{site.folder}/marker")
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, start_new_session=True)
    site.wait("1_0", RunState.RUNNING)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    until(lambda: (site.folder / "marker").exists())
    assert site.wait("1_0", RunState.DONE).exit_code == 0


def test_a_killed_runner_shows_as_lost_not_as_running_for_ever(site: Site) -> None:
    job = site.submit("echo $$ >pid; exec sleep 60", [0, 1])
    running = site.wait(f"{job}_0", RunState.RUNNING)
    assert running.nodes
    runner = int(json.loads((site.folder / "state" / "runner.lock").read_text())["pid"])
    script = int((site.folder / "state" / "pid").read_text())
    os.kill(runner, signal.SIGKILL)
    os.kill(script, signal.SIGKILL)
    until(lambda: not alive(runner) and not alive(script))
    path = site.folder / "state" / "jobs" / f"{job}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "submitted": 0}))  # long ago
    assert site.task(f"{job}_0").state is RunState.LOST
    assert site.task(f"{job}_1").state is RunState.LOST


def test_a_later_submission_finds_or_starts_a_runner(site: Site) -> None:
    first = site.submit("sleep 0.3", [0], "a")
    second = site.submit("true", [0], "b-sweep7")
    site.wait(f"{second}_0", RunState.DONE)
    third = site.submit("true", [0], "c-sweep7")
    site.wait(f"{third}_0", RunState.DONE)
    assert site.scheduler.find(["b-sweep7", "c-sweep7", "d-sweep7"]) == {"b-sweep7": [second], "c-sweep7": [third]}
    assert len({first, second, third}) == 3


def test_the_epilogue_runs_once_when_no_task_is_left(tmp_path: Path) -> None:
    site = Site(tmp_path, epilogue=("bash", "-c", f"echo collected >>{tmp_path}/epilogue"))
    site.submit("true", [0, 1])
    until(lambda: (tmp_path / "epilogue").exists())
    time.sleep(0.3)
    assert (tmp_path / "epilogue").read_text() == "collected\n"


def test_a_script_that_bash_cannot_parse_is_refused(site: Site) -> None:
    with pytest.raises(SubmitRefused, match="syntax error"):
        site.scheduler.test("if true; then\n")
    assert "can parse" in site.scheduler.test("if true; then echo; fi\n")


def test_the_orders_arguments_reach_the_script(site: Site) -> None:
    words = ("2", "two words", "$(true) 'q' \n ä")
    job = site.submit('printf "%s|" "$@"', [0], order=Order(arguments=words))
    site.wait(f"{job}_0", RunState.DONE)
    assert (site.folder / "out" / f"{job}_0.out").read_text() == "".join(f"{word}|" for word in words)
