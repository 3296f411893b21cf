"""The local scheduler's queue: its detached runner, the order of tasks, throttles, states, refusals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hpcjobs.base.errors import SubmitRefused
from hpcjobs.base.records import Order, RunState
from hpcjobs.schedulers.local import localscript
from tests.control.localsite import HOLD, Site, alive, until


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_tasks_run_in_order_and_one_at_a_time(site: Site) -> None:
    log = site.folder / "log"
    script = f"echo begin $SLURM_ARRAY_TASK_ID >>{log}; sleep 0.2; echo end $SLURM_ARRAY_TASK_ID >>{log}"
    job = site.submit(script, [2, 0, 5])
    done = site.wait(f"{job}_5", RunState.DONE)
    assert site.lines("log") == ["begin 2", "end 2", "begin 0", "end 0", "begin 5", "end 5"]
    assert done.exit_code == 0
    assert done.start is not None
    assert done.end is not None
    assert done.end - done.start >= 0.2


def test_a_task_sees_an_array_but_no_slurm_job(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    # Open MPI takes a full set of these variables for a Slurm allocation, and aborts.
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-4]")
    job = site.submit("env | grep ^SLURM_ | sort; echo to stderr >&2", [3])
    site.wait(f"{job}_3", RunState.DONE)
    assert site.output(f"{job}_3") == f"SLURM_ARRAY_JOB_ID={job}\nSLURM_ARRAY_TASK_ID=3\nto stderr\n"


def test_exit_codes_and_signals_are_recorded(site: Site) -> None:
    job = site.submit("if [ $SLURM_ARRAY_TASK_ID = 0 ]; then exit 3; fi; kill -9 $$", [0, 1])
    assert site.wait(f"{job}_0", RunState.FAILED).exit_code == 3
    assert site.wait(f"{job}_1", RunState.FAILED).signal == 9


def test_the_runner_outlives_the_session_that_submitted(site: Site) -> None:
    state, out, script = (str(site.folder / name) for name in ("state", "out", "s.sh"))
    code = (
        "import sys; from pathlib import Path; from hpcjobs.schedulers.local.local_scheduler import LocalScheduler;"
        "from hpcjobs.base.records import Order;"
        f"LocalScheduler(Path({state!r}), Path({out!r})).submit(Path({script!r}), [0], 'x', Order()); sys.stdin.read()"
    )
    (site.folder / "s.sh").write_text(f"{HOLD}; echo done >{site.folder}/marker")
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, start_new_session=True)
    site.wait("1_0", RunState.RUNNING)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    site.release()
    until(lambda: (site.folder / "marker").exists())
    assert site.wait("1_0", RunState.DONE).exit_code == 0


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
    assert site.scheduler.test("if true; then echo; fi\n") == "at once, in turn"


def test_the_orders_arguments_reach_the_script(site: Site) -> None:
    words = ("2", "two words", "$(true) 'q' \n ä")
    job = site.submit('printf "%s|" "$@"', [0], order=Order(arguments=words))
    site.wait(f"{job}_0", RunState.DONE)
    assert site.output(f"{job}_0") == "".join(f"{word}|" for word in words)


# Writes how many tasks run at its start, itself included. It stays until $2 of them ran at a time, or for ten seconds,
# and then a little longer, so that a task too many shows.
COUNT = """
touch on.$1.$SLURM_ARRAY_TASK_ID
ls on.* | wc -l >>counts.$1
for try in $(seq 100); do grep -qx $2 counts.$1 && break; sleep 0.1; done
sleep 0.4
rm on.$1.$SLURM_ARRAY_TASK_ID
"""


def counts(site: Site, name: str) -> list[int]:
    return [int(line) for line in site.lines(f"state/counts.{name}")]


def test_a_throttle_is_how_many_run_at_a_time(site: Site) -> None:
    job = site.submit(COUNT, range(6), arguments=("a", "2"), throttle=2)
    until(lambda: len(counts(site, "a")) == 6)
    assert max(counts(site, "a")) == 2
    assert site.wait(f"{job}_5").state is RunState.DONE


def test_a_job_without_a_throttle_has_the_machine_for_itself(site: Site) -> None:
    """Even if jobs before and after it in the queue would share the machine. No task overtakes another."""
    site.submit(COUNT, range(3), "a", arguments=("a", "3"), throttle=3)
    site.submit(COUNT, range(2), "b", arguments=("b", "1"))
    site.submit(COUNT, range(3), "c", arguments=("c", "3"), throttle=3)
    until(lambda: len(counts(site, "c")) == 3)
    assert counts(site, "b") == [1, 1]
    assert (max(counts(site, "a")), max(counts(site, "c"))) == (3, 3)


def test_a_job_waits_for_the_end_of_others_however_they_end(site: Site) -> None:
    log = site.folder / "log"
    wide = Order(throttle=4)
    script = f"until grep -q beside {log}; do sleep 0.1; done; sleep 0.3; echo first >>{log}; exit 1"
    first = site.submit(script, [0], "a", wide)
    site.submit(f"echo beside >>{log}", [0], "b", wide)
    last = site.submit(f"echo last >>{log}", [0], "c", wide, after=(first,))
    site.wait(f"{last}_0", RunState.DONE)
    assert site.lines("log") == ["beside", "first", "last"]


def test_a_job_waits_for_the_end_of_single_tasks_of_others(site: Site) -> None:
    """`resume` submits such a job for a run whose task was cancelled and has not ended."""
    log = site.folder / "log"
    wide = Order(throttle=4)
    other = f"until grep -q last {log}; do sleep 0.1; done"  # ends after the job that does not wait for it
    script = f"if [ $SLURM_ARRAY_TASK_ID = 1 ]; then sleep 0.7; else {other}; fi; echo $SLURM_ARRAY_TASK_ID >>{log}"
    first = site.submit(script, [1, 10], "a", wide)
    last = site.submit(f"echo last >>{log}", [0], "b", wide, after=(f"{first}_1",))
    site.wait(f"{last}_0", RunState.DONE)
    site.wait(f"{first}_10", RunState.DONE)
    assert site.lines("log") == ["1", "last", "10"]


def test_a_job_cannot_wait_for_a_job_that_does_not_exist(site: Site) -> None:
    with pytest.raises(SubmitRefused, match="no job 7"):
        site.submit("true", after=("7",))
    with pytest.raises(SubmitRefused, match="no job 8"):
        site.submit("true", after=("8_0",))
    assert site.scheduler.find(["job"]) == {}


def test_many_submissions_at_once_run_each_task_once(site: Site) -> None:
    """Each starts a runner. One runner works, the others exit, and no task is forgotten."""
    (site.folder / "job.sh").write_text("echo $1 $SLURM_ARRAY_TASK_ID >>log")

    def submit(number: int) -> str:
        order = Order(arguments=(str(number),), throttle=4)
        return site.scheduler.submit(site.folder / "job.sh", range(10), f"job{number}", order)

    with ThreadPoolExecutor(4) as pool:
        jobs = list(pool.map(submit, range(8)))
    tasks = [f"{job}_{index}" for job in jobs for index in range(10)]
    until(lambda: {state.state for state in site.scheduler.poll(tasks).values()} == {RunState.DONE})
    assert sorted(site.lines("state/log")) == sorted(f"{number} {index}" for number in range(8) for index in range(10))


def test_submissions_just_before_the_runner_exits_are_not_forgotten(site: Site) -> None:
    for number in range(12):
        job = site.submit("true", [0], f"job{number}")
        site.wait(f"{job}_0", RunState.DONE)
        time.sleep(0.02 * number)
    site.gone()
    assert site.log() == ""  # no runner had an error


def test_the_epilogue_comes_after_a_cancel_and_after_each_round_of_work(tmp_path: Path) -> None:
    site = Site(tmp_path, epilogue=("bash", "-c", f"echo collected >>{tmp_path}/epilogue"))
    job = site.submit("exec sleep 60", [0, 1, 2])
    site.wait(f"{job}_0", RunState.RUNNING)
    site.scheduler.cancel([job])
    until(lambda: site.lines("epilogue"))
    second = site.submit("true")
    site.wait(f"{second}_0", RunState.DONE)
    until(lambda: len(site.lines("epilogue")) == 2)
    third = site.submit("true")
    site.scheduler.cancel([third])  # perhaps before its runner has started
    until(lambda: len(site.lines("epilogue")) == 3)
    time.sleep(0.5)
    assert len(site.lines("epilogue")) == 3


def test_an_epilogue_that_fails_is_logged_and_harms_nothing(tmp_path: Path) -> None:
    site = Site(tmp_path, epilogue=("bash", "-c", "exit 7"))
    job = site.submit("true")
    site.wait(f"{job}_0", RunState.DONE)
    until(lambda: "the epilogue ended with 7" in site.log())
    site.wait(site.start("true"), RunState.DONE)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400), ("2:30", 150), ("1:02:03", 3723), ("1-6", 108000), ("1-6:30", 109800), ("2-00:00:05", 172805),
        ("0", None), ("00:00:00", None), ("UNLIMITED", None), ("infinite", None),
    ],
)  # fmt: skip
def test_every_form_of_a_time_limit_is_read_as_slurm_does(text: str, seconds: int | None) -> None:
    assert localscript.time_limit(text) == seconds


@pytest.mark.parametrize("text", ["", "1h", "1:2:3:4", "-5", "1-", "1-2:3:4:5", "١"])
def test_another_form_is_refused(site: Site, text: str) -> None:
    with pytest.raises(SubmitRefused, match="--time"):
        site.submit(f"#!/bin/bash\n#SBATCH --time={text}\ntrue\n")
    assert site.scheduler.find(["job"]) == {}


def test_directives_are_read_as_sbatch_reads_them() -> None:
    text = """#!/bin/bash
#SBATCH --comment='a #b --time=7' --requeue
# SBATCH --time=9
##SBATCH --time=9
#SBATCH -t 5 --signal=B:SIGUSR1@90   # five minutes

#SBATCH --no-requeue
#SBATCH --exclusive
#SBATCH --time 1:00
true
#SBATCH --time=8
"""
    assert localscript.read(text) == localscript.Directives(60, int(signal.SIGUSR1), 90, False)
    assert localscript.read("#SBATCH --signal=USR1@90\n").signal is None  # it goes to the job steps only
    with pytest.raises(SubmitRefused, match="B:NONE@9"):
        localscript.read("#SBATCH --signal=B:NONE@9\n")


def test_no_planted_link_is_followed(site: Site) -> None:
    treasure = site.folder / "treasure"
    treasure.write_text("gold")
    (site.folder / "out" / "1_0.out").symlink_to(treasure)
    job = site.submit("echo lead", [0, 1])
    assert "1_0.out" in site.wait(f"{job}_0", RunState.FAILED).reason
    site.wait(f"{job}_1", RunState.DONE)
    (site.folder / "state" / "cancelled" / "2_0").symlink_to(site.folder / "dangling")
    assert site.wait(site.start("true")).state is RunState.CANCELLED
    (site.folder / "state" / "runner.log").unlink()
    (site.folder / "state" / "runner.log").symlink_to(treasure)
    with pytest.raises(SubmitRefused, match=r"runner\.log"):
        site.submit("true")
    assert treasure.read_text() == "gold"
    assert not (site.folder / "dangling").exists()


def test_the_runner_imports_nothing_from_the_sweeps_folder(site: Site) -> None:
    (site.folder / "state" / "hpcjobs").mkdir(parents=True)
    (site.folder / "state" / "hpcjobs" / "__init__.py").write_text("raise SystemExit('planted')")
    site.wait(site.start("true"), RunState.DONE)


def test_a_runner_whose_sweep_was_removed_exits_and_writes_nothing_into_the_next(site: Site) -> None:
    job = site.submit("touch begun; sleep 1; exit 3", [0, 1])
    until((site.folder / "state" / "begun").exists)
    old = site.runner()
    (site.folder / "state").rename(site.folder / "removed")
    assert site.submit(f"touch begun; {HOLD}") == job  # another sweep in the same folder
    until((site.folder / "state" / "begun").exists)
    assert site.runner() != old
    until(lambda: not alive(old))
    assert site.task(f"{job}_0").state is RunState.RUNNING
    site.release()
    assert site.wait(f"{job}_0").exit_code == 0
    assert not (site.folder / "state" / "tasks" / f"{job}_1.json").exists()
