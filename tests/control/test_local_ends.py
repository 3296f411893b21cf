"""How tasks of the local scheduler end: at the time limit, by a cancel, with a killed runner, on a full disk."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcjobs.base.errors import SchedulerUnreachable, SubmitRefused
from hpcjobs.base.records import Order, RunState
from hpcjobs.schedulers.local import local_scheduler
from hpcjobs.schedulers.local.localqueue import Queue
from tests.control.localsite import HOLD, Site, alive, until


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr(local_scheduler, "KILL_WAIT_S", 0.5)
    return Site(tmp_path)


@pytest.fixture
def again(tmp_path: Path) -> Site:
    """A site whose tasks may start again twice."""
    return Site(tmp_path, requeues=2)


# Signalled one second after its start. The limit is far off: a slow machine has time to obey.
LIMIT = "#!/bin/bash\n#SBATCH --time=0:30 --signal=B:USR1@29 --requeue\n"
# Like the real script, it waits for a launcher in the background, and its trap interrupts the wait.
POLITE = LIMIT + ("echo begin ${SLURM_RESTART_COUNT:-0}\ndate +%s.%N >>starts\ntrap 'exit 75' USR1\nsleep 30 &\nwait\n")


def test_a_task_that_was_warned_of_its_limit_starts_again_as_often_as_it_may(again: Site) -> None:
    task = f"{again.submit(POLITE, [4])}_4"
    seen = set()
    until(lambda: seen.add(again.task(task).word) or again.task(task).state is RunState.FAILED)
    assert again.output(task) == "begin 0\nbegin 1\nbegin 2\n"
    state = again.task(task)
    assert (state.word, state.exit_code) == ("FAILED", 75)
    assert seen <= {"PENDING", "RUNNING", "COMPLETING", "REQUEUED", "FAILED"}
    assert state.start is not None
    assert state.end is not None
    starts = [float(line) for line in again.lines("state/starts")]
    assert starts[1] < state.start <= starts[2]  # the start and the end are those of the last round
    assert state.end - state.start > 0.5


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("--requeue", "--no-requeue"), "the script says so"),
        (("trap 'exit 75' USR1\n", "exit 75\n"), "it was not warned"),
        (("exit 75", "exit 1"), "it wrote no checkpoint"),
    ],
)
def test_otherwise_it_does_not(again: Site, change: tuple[str, str], why: str) -> None:
    task = again.start(POLITE.replace(*change))
    assert again.wait(task).state is RunState.FAILED, why
    assert again.output(task) == "begin 0\n"


def test_a_task_that_waits_to_start_again_does_so_under_a_new_runner_unless_cancelled(again: Site) -> None:
    job = again.submit(
        "echo ${SLURM_RESTART_COUNT:-0}; echo $$ >pid.$SLURM_ARRAY_TASK_ID; exec sleep 60", [0, 1], throttle=2
    )
    pids = [again.pid(f"state/pid.{index}") for index in (0, 1)]
    again.kill_runner()
    for index, pid in enumerate(pids):
        path = again.folder / "state" / "tasks" / f"{job}_{index}.json"
        record = json.loads(path.read_text())
        os.kill(pid, 9)
        path.write_text(json.dumps({**record, "word": "REQUEUED", "restarts": 1, "pid": None, "started": None}))
    assert again.task(f"{job}_0").state is RunState.LOST
    again.scheduler.cancel([f"{job}_0"])
    again.submit("true", [0], "second")
    again.wait(f"{job}_1", RunState.RUNNING)
    until(lambda: again.output(f"{job}_1") == "0\n1\n")
    assert again.task(f"{job}_0").state is RunState.CANCELLED
    assert again.output(f"{job}_0") == "0\n"
    again.scheduler.cancel([job])


def test_a_task_that_version_0_1_warned_is_read_and_starts_again(again: Site) -> None:
    """A queue of that version has the key `told` for `warned`."""
    task = again.start("echo ${SLURM_RESTART_COUNT:-0}; exit 75")
    again.wait(task, RunState.FAILED)
    again.gone()
    path = again.folder / "state" / "tasks" / f"{task}.json"
    record = json.loads(path.read_text())
    del record["warned"]
    for told in (False, True):
        path.write_text(json.dumps({**record, "told": told}))
        found = again.scheduler.queue.record(task)
        assert found is not None
        assert (found.warned, found.word, found.rc) == (told, "FAILED", 75)
    again_ = {"word": "REQUEUED", "restarts": 1, "pid": None, "started": None, "rc": None, "end": None, "told": False}
    path.write_text(json.dumps({**record, **again_}))
    again.submit("true", [0], "second")
    until(lambda: again.output(task) == "0\n1\n")
    assert again.wait(task, RunState.FAILED).exit_code == 75
    assert "told" not in json.loads(path.read_text())


def test_the_signal_goes_to_the_batch_script_alone(site: Site) -> None:
    code = "import signal, time; signal.signal(10, lambda *a: open('told', 'w')); open('ready', 'w'); time.sleep(60)"
    # The signal comes after one second, but not before the script has its trap.
    trap = "until [ -e ready ]; do sleep 0.05; done; trap 'echo told; exit 0' USR1"
    task = site.start(f'{LIMIT}{sys.executable} -c "{code}" &\n{trap}; wait')
    site.wait(task, RunState.DONE)
    assert site.output(task) == "told\n"
    assert not (site.folder / "state" / "told").exists()


def test_a_task_over_its_limit_is_ended_and_shows_as_a_timeout(site: Site) -> None:
    task = site.start("#SBATCH --time=0:01\ntrap : TERM\nwhile true; do sleep 0.2; done")  # it ignores SIGTERM
    state = site.wait(task, RunState.FAILED)
    assert state.word == "TIMEOUT"
    assert state.signal == 9
    assert state.start is not None
    assert state.end is not None
    assert 1.4 < state.end - state.start < 8


def test_what_a_script_left_behind_is_ended_before_the_next_one_starts(site: Site) -> None:
    script = "if [ $SLURM_ARRAY_TASK_ID = 1 ]; then date +%s.%N; else setsid sleep 60 & echo $! >left; fi"
    job = site.submit(script, [0, 1])
    site.wait(f"{job}_1", RunState.DONE)
    assert site.wait(f"{job}_0").state is RunState.DONE
    assert not alive(site.pid("state/left"))


# Ways to leave the process group of a task. Each process ignores SIGTERM.
ESCAPES = {
    "group": "os.setpgid(0, 0)",
    "session": "os.fork() and os._exit(0); os.setsid()",
    "daemon": "os.fork() and os._exit(0); os.setsid(); os.fork() and os._exit(0)",
    "empty environment": "os.environ.get('HOME') and os.execve(sys.executable, sys.orig_argv, {})",
}


@pytest.mark.parametrize("way", ESCAPES)
def test_cancel_ends_every_process(site: Site, way: str) -> None:
    code = (
        f"import os, signal, sys, time\n{ESCAPES[way]}\nsignal.signal(15, signal.SIG_IGN)\n"
        f"open('{site.folder}/new', 'w').write(str(os.getpid()))\nos.rename('{site.folder}/new', '{site.folder}/pid')\n"
        "time.sleep(60)"
    )
    (site.folder / "rank.py").write_text(code)
    job = site.submit(f"{sys.executable} {site.folder}/rank.py; sleep 60", [0, 1])
    pid = site.pid("pid")
    assert site.task(f"{job}_1").state is RunState.PENDING
    site.scheduler.cancel([job])
    assert not alive(pid)
    assert site.wait(f"{job}_0", RunState.CANCELLED).word == "CANCELLED"
    assert site.wait(f"{job}_1", RunState.CANCELLED).start is None


@pytest.mark.parametrize("runner", ["lives", "was killed", "is stopped"])
def test_cancel_ends_every_rank_of_mpirun(site: Site, runner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_scheduler, "_RUNNER_WAIT_S", 0.5)
    rank = "echo $$ >rank.$OMPI_COMM_WORLD_RANK; trap : TERM USR1; while true; do sleep 0.2; done"
    (site.folder / "rank.sh").write_text(rank)
    job = site.submit(f"mpirun --oversubscribe -n 3 bash {site.folder}/rank.sh & trap : TERM; wait; wait")
    ranks = [site.pid(f"state/rank.{number}") for number in range(3)]
    assert all(map(alive, ranks))
    if runner == "was killed":
        site.kill_runner()
    elif runner == "is stopped":
        subprocess.run(["kill", "-STOP", str(site.runner())], check=True)
    assert site.task(f"{job}_0").state is RunState.RUNNING
    site.scheduler.cancel([f"{job}_0"])
    assert not any(map(alive, ranks))
    if runner == "is stopped":
        assert site.task(f"{job}_0").word == "COMPLETING"
        subprocess.run(["kill", "-CONT", str(site.runner())], check=True)
    assert site.wait(f"{job}_0").state is RunState.CANCELLED


def test_tasks_of_a_killed_runner_show_as_lost_not_as_running_for_ever(site: Site) -> None:
    job = site.submit("echo $$ >pid; exec sleep 60", [0, 1])
    assert site.wait(f"{job}_0", RunState.RUNNING).nodes
    script = site.pid("state/pid")
    site.kill_runner()
    assert site.task(f"{job}_0").state is RunState.RUNNING
    assert site.task(f"{job}_1").state is RunState.LOST
    os.kill(script, 9)
    until(lambda: not alive(script))
    assert site.task(f"{job}_0").state is RunState.LOST
    assert site.task(f"{job}_0").word == "NO_RUNNER"


def test_a_new_runner_watches_what_the_killed_one_started(site: Site) -> None:
    """It starts nothing beside that task, does not start it again, and still ends it at its limit."""
    script = "#SBATCH --time=0:06\necho $$ >pid.$SLURM_ARRAY_TASK_ID; echo $SLURM_ARRAY_TASK_ID >>log; "
    job = site.submit(
        script + "[ $SLURM_ARRAY_TASK_ID = 1 ] || sleep 60; ! grep '^State:.[RSDT]' /proc/$(cat pid.0)/status", [0, 1]
    )
    site.pid("state/pid.0")
    site.kill_runner()
    time.sleep(0.5)
    second = site.submit("true", [0], "second")
    until(lambda: site.task(f"{job}_1").state is RunState.PENDING)  # it has a runner again
    assert site.task(f"{job}_0").state is RunState.RUNNING
    assert site.wait(f"{job}_0").word == "TIMEOUT"
    assert site.wait(f"{job}_1").state is RunState.DONE
    assert site.wait(f"{second}_0").state is RunState.DONE
    assert site.lines("state/log") == ["0", "1"]


def test_a_task_whose_runner_was_killed_as_it_started_it_runs_to_its_end(site: Site) -> None:
    """It was killed between the start and the record of the start. The task is found by its mark."""
    task = site.start(f"echo $$ >pid; {HOLD}; echo whole")
    site.pid("state/pid")
    killed = site.runner()
    site.kill_runner()
    path = site.folder / "state" / "tasks" / f"{task}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "word": "STARTING", "pid": None, "started": None}))
    assert site.task(task).word == "RUNNING"
    site.submit("true", [0], "second")
    until(lambda: site.runner() != killed)
    time.sleep(0.5)
    assert site.task(task).word == "RUNNING"
    site.release()
    assert site.wait(task).word == "NO_RUNNER"
    assert site.output(task) == "whole\n"


def test_how_a_task_ended_after_its_runner_was_killed_is_not_known(site: Site) -> None:
    job = site.submit(f"echo $$ >pid; {HOLD}; echo $SLURM_ARRAY_TASK_ID >>log", [0])
    site.pid("state/pid")
    site.kill_runner()
    site.release()
    second = site.submit("cat log", [0], "second")
    assert site.wait(f"{second}_0", RunState.DONE)
    assert site.output(f"{second}_0") == "0\n"
    state = site.task(f"{job}_0")
    assert (state.state, state.word, state.exit_code) == (RunState.LOST, "NO_RUNNER", None)


def test_a_task_that_a_killed_runner_was_about_to_start_is_not_started_again(site: Site) -> None:
    job = site.submit("echo $SLURM_ARRAY_TASK_ID >>log", [0, 1])
    site.wait(f"{job}_1", RunState.DONE)
    site.gone()
    path = site.folder / "state" / "tasks" / f"{job}_0.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "word": "STARTING", "pid": None, "started": None, "rc": None, "end": None}))
    assert site.task(f"{job}_0").state is RunState.LOST
    site.wait(site.start("true"), RunState.DONE)
    site.gone()
    assert site.task(f"{job}_0").state is RunState.LOST
    assert site.lines("state/log") == ["0", "1"]


def test_a_lost_task_that_was_cancelled_is_never_started(site: Site) -> None:
    """`resume` relies on this: it cancels the old tasks before it submits their runs again."""
    job = site.submit("echo $$ >pid; echo $SLURM_ARRAY_TASK_ID >>log; exec sleep 60", [0, 1, 2])
    pid = site.pid("state/pid")
    site.kill_runner()
    os.kill(pid, 9)
    site.scheduler.cancel([f"{job}_1"])
    assert site.task(f"{job}_1").state is RunState.CANCELLED
    site.submit("true", [0], "second")
    site.wait(f"{job}_2", RunState.RUNNING)
    assert site.task(f"{job}_1").state is RunState.CANCELLED
    site.scheduler.cancel([job])
    assert site.lines("state/log") == ["0", "2"]


def test_a_step_of_the_clock_leaves_no_task_pending_for_ever(site: Site) -> None:
    job = site.submit("echo $$ >pid; exec sleep 60", [0, 1])
    pid = site.pid("state/pid")
    site.kill_runner()
    os.kill(pid, 9)
    path = site.folder / "state" / "jobs" / f"{job}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "submitted": time.time() + 3600}))
    assert site.task(f"{job}_1").state is RunState.LOST


def test_a_task_on_another_host_shows_as_running_until_it_is_cancelled(site: Site) -> None:
    job = site.submit("true", [0])
    site.wait(f"{job}_0", RunState.DONE)
    site.gone()
    path = site.folder / "state" / "tasks" / f"{job}_0.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "host": "elsewhere", "word": "RUNNING", "end": None}))
    assert site.task(f"{job}_0").state is RunState.RUNNING
    assert "elsewhere" in site.task(f"{job}_0").reason
    site.wait(site.start("true"), RunState.DONE)  # a runner of this host changes nothing
    site.gone()
    assert site.task(f"{job}_0").state is RunState.RUNNING
    site.scheduler.cancel([job])
    assert site.task(f"{job}_0").state is RunState.CANCELLED
    site.wait(site.start("true"), RunState.DONE)
    assert site.task(f"{job}_0").state is RunState.CANCELLED


def test_a_runner_whose_lock_another_host_took_over_starts_no_more(site: Site) -> None:
    """This happens after this host was suspended. The runner still watches the task that it started."""
    job = site.submit(f"touch begun; {HOLD}; exit 3", [0, 1])
    until((site.folder / "state" / "begun").exists)
    runner = site.runner()
    (site.folder / "state" / "runner.lock").write_text('{"host": "elsewhere", "pid": 1, "started": 1}')
    until(lambda: "another runner has the lock" in site.log())
    site.release()
    until(lambda: not alive(runner))
    assert site.task(f"{job}_0").exit_code == 3
    assert site.task(f"{job}_1").state is RunState.PENDING  # the other runner would start it


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path) -> None:
    with contextlib.suppress(OSError), (folder / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)


def test_a_full_disk_loses_no_task(small: Path) -> None:
    """Once there is room again, the end of the first task is recorded and the second task starts."""
    site = Site(small)
    go = small.with_name("go")  # on another disk
    job = site.submit(f"echo $$ >$SLURM_ARRAY_TASK_ID; until [ -e {go} ]; do sleep 0.05; done", [0, 1])
    site.wait(f"{job}_0", RunState.RUNNING)
    pid = site.pid("state/0")
    fill(small)
    go.touch()
    until(lambda: not alive(pid))
    time.sleep(1)
    assert site.task(f"{job}_0").state is RunState.RUNNING
    assert site.task(f"{job}_1").state is RunState.PENDING
    (small / "filler").unlink()
    assert site.wait(f"{job}_0", RunState.DONE).exit_code == 0
    assert site.wait(f"{job}_1", RunState.DONE).exit_code == 0


def test_a_full_disk_refuses_a_submission_whole_and_hinders_no_cancel(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_scheduler, "_RUNNER_WAIT_S", 300.0)
    site = Site(small)
    task = site.start("echo $$ >pid; sleep 60")
    pid = site.pid("state/pid")
    (small / "more.sh").write_text("true")
    fill(small)
    with pytest.raises(SubmitRefused, match="No space left"):
        site.scheduler.submit(small / "more.sh", [0], "more", Order())
    began = time.monotonic()
    site.scheduler.cancel([task])
    assert not alive(pid)
    assert time.monotonic() - began < 30  # it does not wait for the record, which the runner cannot write
    (small / "filler").unlink()
    assert site.wait(task).state is RunState.CANCELLED
    assert site.scheduler.find(["more"]) == {}
    until(lambda: "not every record could be written" in site.log())


def test_a_cancel_that_cannot_be_written_down_ends_what_runs(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    job = site.submit("echo $$ >pid; sleep 60", [0, 1])
    pid = site.pid("state/pid")

    def full(self: Queue, task: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Queue, "request_cancel", full)
    with pytest.raises(SchedulerUnreachable, match=r"No space left on device.*may still start"):
        site.scheduler.cancel([f"{job}_0"])
    assert not alive(pid)
    # With all of its tasks the runner ends, too: then the waiting ones do not start when there is room again.
    site.scheduler.cancel([job])
    assert not site.scheduler.queue.runner_lives()
    assert site.task(f"{job}_1").state is not RunState.DONE
    assert site.task(f"{job}_1").state is not RunState.RUNNING


def test_a_full_disk_starts_none_of_the_tasks_that_were_cancelled_on_it(small: Path) -> None:
    site = Site(small)
    job = site.submit("echo $$ >$SLURM_ARRAY_TASK_ID; sleep 60", [0, 1, 2])
    pid = site.pid("state/0")
    fill(small)
    site.scheduler.cancel([job])
    assert not alive(pid)
    (small / "filler").unlink()
    site.submit("true", name="next")  # starts a runner, which finds the requests or tasks that it must not start
    site.scheduler.cancel([job])
    assert not (small / "state/1").exists()
    assert not (small / "state/2").exists()
