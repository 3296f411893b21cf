"""The command line: exit codes, what goes to stdout and stderr, and that wrong input writes nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from tests.control import sweeps
from tests.control.logs import attempt, train_log
from tests.running import PATIENCE_S, hpcjobs, until

SWEEP = ("sweep", "--gpus", "1,2", "--experiment", "demo", "--cluster", "local", "--out", "o")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("sweep", "--gpus", "1,two", "--experiment", "demo"), "'two' is not a GPU count"),
        (("sweep", "--experiment", "demo"), "--gpus is missing"),
        (("sweep", "--gpus", "6", "--cluster", "c4140", "--experiment", "demo"), "6 GPUs do not fill nodes of 4 evenly"),
        (("sweep", "--gpus", "1", "--experiment", "dmeo"), "no experiment 'dmeo': did you mean 'demo'?"),
        (("sweep", "--gpus", "1", "--experiment", "none.yaml"), "none.yaml: no such file"),
        (("sweep", "--gpus", "1", "--experiment", "bad.yaml"), "bad.yaml:3: unknown key 'batch.lcoal': did you mean 'local'?"),
        (("sweep", "--gpus", "1", "--experiment", "demo", "--cluster", "wrong.yaml"), "wrong.yaml:2: key 'nodes': expected a whole number, got 'four'"),
        (("sweep", "--gpus", "1", "--experiment", "demo", "--set", "lr.bsae=1"), "--set: unknown key 'lr.bsae': did you mean 'base'?"),
        (("sweep", "--gpus", "1"), "experiment 'chexnet' needs data: make shards with `hpcjobs data prepare"),
        (("sweep", "--gpus", "1", "--experiment", "demo", "--repeats", "0"), "0 is not in the range x>=1"),
        (("sweep", "--gpus", "1", "--experiment", "demo", "--set", "train.steps=0"), "key 'train.steps': expected a whole number >= 1, got 0"),
        (("sweep", "--gpus", "1", "--experiment", "demo", "--out", "."), "--out"),
        (("sweep", "--gpus", "1", "--experiment", "demo", "--out", "/proc/o"), "--out /proc/o: cannot be used"),
        (("sweep", "--from", "bad.yaml"), "bad.yaml: not a sweep.yaml"),
        (("sweep", "--from", "bad.yaml", "--gpus", "1"), "leave out --gpus"),
        (("swep",), "no command 'swep': did you mean 'sweep'?"),
        (("status", "nowhere"), "nowhere: no sweep here"),
        (("report", "."), "no sweep here"),
        (("cluster", "show", "c4410"), "no cluster 'c4410': did you mean 'c4140'?"),
    ],
)  # fmt: skip
def test_wrong_input_gives_one_line_and_exit_code_2_and_writes_nothing(
    tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    (tmp_path / "bad.yaml").write_text("name: x\nbatch:\n  lcoal: 4\n")
    (tmp_path / "wrong.yaml").write_text("name: x\nnodes: four\n")
    before = sorted(tmp_path.rglob("*"))
    done = hpcjobs(*words, cwd=tmp_path, code=2)
    assert message in done.stderr
    assert done.stderr.strip().splitlines()[-1].lower().lstrip("hpcjobs: ").startswith("error: ")
    assert done.stdout == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_prints_plan_and_scripts_and_writes_nothing(tmp_path: Path) -> None:
    done = hpcjobs("sweep", "--gpus", "1,16", "--cluster", "c4140", "--set", "data.dir=/d", "--dry-run", cwd=tmp_path)
    assert "g0001.sbatch" in done.stdout
    assert "#SBATCH --nodes=4\n" in done.stdout
    assert list(tmp_path.iterdir()) == []
    found = json.loads(hpcjobs(*SWEEP, "--dry-run", "--json", cwd=tmp_path).stdout)
    assert [run["run"] for run in found["runs"]] == ["g0001-r01", "g0002-r01"]


def test_repeats_are_three_unless_given(tmp_path: Path) -> None:
    words = ("sweep", "--gpus", "1", "--cluster", "c4140", "--set", "data.dir=/d", "--dry-run")
    assert "#SBATCH --array=0-2\n" in hpcjobs(*words, cwd=tmp_path).stdout
    assert "#SBATCH --array=0-6\n" in hpcjobs(*words, "--repeats", "7", cwd=tmp_path).stdout
    assert "#SBATCH --array=0-0\n" in hpcjobs(*SWEEP, "--dry-run", cwd=tmp_path).stdout


# Fake commands of Slurm: a site whose nodes have four V100 each.
SLURM = {
    "scontrol": """case "$*" in
    ping) echo 'Slurmctld(primary) at head is UP' ;;
    *partition) echo 'PartitionName=v100 Default=YES MaxTime=1-00:00:00'; echo 'PartitionName=cpu Default=NO' ;;
esac""",
    "sinfo": "printf 'v100|4|idle|192000|2|20|1|gpu:v100:4\\ncpu|9|idle|64000|2|8|1|(null)\\n'",
    "srun": "echo pmix",
}


def on_a_login_node(folder: Path, commands: Mapping[str, str]) -> dict[str, str]:
    """An environment in which Slurm's commands are these fakes; those that are not given fail."""
    (folder / "bin").mkdir()
    for name in ("scontrol", "sinfo", "srun", "sacctmgr", "sbatch", "squeue"):
        (folder / "bin" / name).write_text(f"#!/bin/bash\n{commands.get(name, 'echo no >&2; exit 1')}\n")
        (folder / "bin" / name).chmod(0o755)
    return {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}


def test_a_dry_run_shows_the_check_that_the_runs_would_wait_for(tmp_path: Path) -> None:
    words = (
        "sweep",
        "--gpus",
        "1",
        "--cluster",
        "c4140",
        "--set",
        "data.dir=/d",
        "--out",
        "o",
        "--dry-run",
        "--preflight",
    )
    printed = hpcjobs(*words, cwd=tmp_path).stdout
    assert f"\n==> {tmp_path}/o/preflight/hpcjobs-check.sbatch <==\n#!/bin/bash\n" in printed
    assert f"-m hpcjobs.chexnet.node_check {tmp_path}/o/preflight)" in printed
    assert list(json.loads(hpcjobs(*words, "--json", cwd=tmp_path).stdout)["scripts"]) == [
        "preflight",
        "g0001",
        "collect",
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ((), "GPU-hours: unknown (dataset.json, which has the number of images, cannot be read from here)"),
        (("mode=benchmark",), "GPU-hours: at most "),
        (("mode=benchmark", "measure.images_per_sec_per_gpu=null"), "GPU-hours: unknown (no earlier sweep beside this one, and no measure.images_per_sec_per_gpu)"),
    ],
)  # fmt: skip
def test_a_plan_says_why_its_gpu_hours_are_unknown(settings: tuple[str, ...], line: str, tmp_path: Path) -> None:
    words = ["sweep", "--gpus", "1", "--cluster", "c4140", "--set", "data.dir=/nowhere", "--dry-run"]
    words += [word for setting in settings for word in ("--set", setting)]
    assert line in hpcjobs(*words, cwd=tmp_path).stdout


def test_stderr_explains_flags_and_runs_that_have_not_ended(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_text(
        "run,gpus,throughput,state,flags\na,1,100,done,throttled\nb,2,,running,\nc,2,,pending,\n"
    )
    lines = hpcjobs("report", "--runs", "runs.csv", "--out", "o", cwd=tmp_path).stderr
    assert "2 run(s) have not ended: the table counts them under failed\n" in lines
    assert "throttled (1): a GPU was slowed by heat or its power supply\n" in lines


DEMO = ("sweep", "--gpus", "8", "--experiment", "demo", "--dry-run", "--set", "data.dir=/d")


def test_without_a_profile_one_is_detected_if_slurm_answers(tmp_path: Path) -> None:
    env = on_a_login_node(tmp_path, SLURM)
    done = hpcjobs(*DEMO, cwd=tmp_path, env=env)
    assert "detected partition v100, 4 nodes, each 4 v100, 40 cores, 188 GiB, to compute on gpu" in done.stderr
    for line in ("--partition=v100", "--gres=gpu:v100:4", "--nodes=2", "--cpus-per-task=10"):
        assert f"#SBATCH {line}\n" in done.stdout
    # The nodes of the given partition are detected, not those of the default one.
    done = hpcjobs(*DEMO, "--partition", "cpu", cwd=tmp_path, env=env)
    assert "to compute on cpu" in done.stderr
    assert "#SBATCH --nodes=4\n" in done.stdout
    assert "--gres" not in done.stdout
    assert "no partition 'gpu'" in hpcjobs(*DEMO, "--partition", "gpu", cwd=tmp_path, env=env, code=2).stderr


@pytest.mark.parametrize(
    ("commands", "code", "message"),
    [
        # If Slurm answers but cannot be described, this is an error: the login node must not compute.
        (
            {"scontrol": "echo is UP", "sinfo": "true"},
            2,
            "none can be detected: scontrol names no partition; give --cluster",
        ),
        ({"scontrol": "echo is UP"}, 2, "none can be detected: no; give --cluster"),
        ({"scontrol": "echo 'Slurmctld(primary) at head is DOWN'"}, 0, "running on this machine (--cluster local)"),
        ({}, 0, "running on this machine (--cluster local)"),
    ],
)
def test_a_message_says_that_no_profile_could_be_detected(
    commands: dict[str, str], code: int, message: str, tmp_path: Path
) -> None:
    assert message in hpcjobs(*DEMO, cwd=tmp_path, env=on_a_login_node(tmp_path, commands), code=code).stderr


@pytest.fixture
def ended(tmp_path: Path) -> Path:
    """A sweep folder after its runs have ended: 1 and 2 GPUs are measured, 4 failed with a traceback."""
    log = "Traceback (most recent call last):\nRuntimeError: [red]boom[/red]\n"
    return sweeps.ended(tmp_path / "o", (1, 2, 4), failed=4, says=log)


def test_status_shows_the_line_of_the_failure_and_exits_1(ended: Path) -> None:
    before = sorted(ended.rglob("*"))
    done = hpcjobs("status", str(ended), cwd=ended, code=1)
    assert "RuntimeError: [red]boom[/red]" in done.stdout
    assert sorted(ended.rglob("*")) == before
    runs = {run["run"]: run for run in json.loads(hpcjobs("status", str(ended), "--json", cwd=ended, code=1).stdout)}
    assert [run["state"] for run in runs.values()] == ["done", "done", "failed"]
    assert runs["g0004-r01"]["failure"] == "traceback"
    assert runs["g0001-r01"]["step"] == 10
    assert [run["gpus"] for run in runs.values()] == [1, 2, 4]


def test_report_writes_the_table_and_keeps_the_failed_row(ended: Path) -> None:
    rows = json.loads(hpcjobs("report", str(ended), "--json", cwd=ended).stdout)
    assert [(row["gpus"], row["runs"], row["failed_runs"]) for row in rows] == [(1, 1, 0), (2, 1, 0), (4, 0, 1)]
    assert rows[1]["speedup"] == pytest.approx(2 / 2**0.5)
    assert rows[0]["startup_s"] == 1002 - 990
    assert sorted(path.name for path in (ended / "report").iterdir()) == [
        "auc.csv", "efficiency.png", "efficiency.svg", "report.html", "runs.csv", "scaling-report.csv",
        "scaling.png", "scaling.svg", "time-to-train.png", "time-to-train.svg",
    ]  # fmt: skip
    assert "4      1     0       1" in hpcjobs("report", str(ended), cwd=ended).stdout


def test_collect_gives_every_run_and_why_it_failed(ended: Path) -> None:
    runs = json.loads(hpcjobs("collect", str(ended), "--json", cwd=ended).stdout)
    assert [run["state"] for run in runs] == ["done", "done", "failed"]
    assert runs[2]["failure"] == "traceback: RuntimeError: [red]boom[/red]"
    assert runs[2]["throughput"] is None
    assert runs[0]["source"] == "runs/g0001-r01/a001/train.log"
    assert hpcjobs("collect", str(ended), cwd=ended).stdout == (ended / "report" / "runs.csv").read_text()


def test_the_newest_attempt_with_a_measurement_counts(ended: Path) -> None:
    folder = ended / "runs" / "g0002-r01"
    attempt(folder / "a002", job="8_0", log=train_log(gpus=2, step_ms=(20.0,)))
    attempt(folder / "a003", job="9_0", rc=1, log=train_log(gpus=2, step_ms=(10.0,), status="aborted"))
    runs = json.loads(hpcjobs("collect", str(ended), "--json", cwd=ended).stdout)
    assert (runs[1]["attempt"], runs[1]["throughput"]) == ("a002", pytest.approx(8 / 0.020))


def test_a_report_without_measurements_says_so_and_exits_1(ended: Path) -> None:
    for path in ended.glob("runs/*/a001/train.log"):
        path.unlink()
    done = hpcjobs("report", str(ended), cwd=ended, code=1)
    assert "no run has a measurement" in done.stderr
    assert not (ended / "report" / "scaling.png").exists()


def test_a_sweep_can_be_repeated_from_its_yaml(ended: Path, tmp_path: Path) -> None:
    words = ("sweep", "--from", str(ended / "sweep.yaml"), "--out", str(tmp_path / "new"), "--dry-run", "--json")
    again = json.loads(hpcjobs(*words, cwd=tmp_path).stdout)["scripts"]
    assert list(again) == ["g0001", "g0002", "g0004"]
    sweep_id = yaml.safe_load((ended / "sweep.yaml").read_text())["sweep"]
    for name, text in again.items():
        new_id = text.partition("--job-name=hpcjobs-")[2].partition("-")[0]
        old = (ended / "scripts" / f"{name}.sbatch").read_text()
        assert text.replace(str(tmp_path / "new"), str(ended)).replace(new_id, sweep_id) == old


def test_a_sweep_into_a_folder_that_has_one_is_refused(ended: Path) -> None:
    done = hpcjobs(*SWEEP[:-1], str(ended), "--set", "data.dir=/d", cwd=ended, code=2)
    assert "holds a sweep already" in done.stderr


def test_ctrl_c_while_jobs_are_submitted_says_how_to_continue(tmp_path: Path) -> None:
    """Slurm's commands are fakes here; `sbatch` does not return."""
    (tmp_path / "bin").mkdir()
    last = f"""case "$*" in *--test-only*) ;; *) touch {tmp_path}/called; exec sleep 1000 ;; esac"""
    for name, body in {"sbatch": last, "scontrol": "", "squeue": "", "sacctmgr": ""}.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    words = (
        "sweep",
        "--gpus",
        "1",
        "--experiment",
        "demo",
        "--cluster",
        "virtual",
        "--set",
        "data.dir=d",
        "--out",
        "o",
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "hpcjobs", *words],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until((tmp_path / "called").exists)
    os.killpg(process.pid, signal.SIGINT)
    assert "`hpcjobs resume o` continues, and submits nothing twice" in process.communicate(timeout=PATIENCE_S)[1]
    assert process.returncode == 130


def test_cluster_list_and_show(tmp_path: Path) -> None:
    names = {line.split()[0] for line in hpcjobs("cluster", "list", cwd=tmp_path).stdout.splitlines()}
    assert {"c4140", "local", "virtual"} <= names
    shown = yaml.safe_load(hpcjobs("cluster", "show", "c4140", cwd=tmp_path).stdout)
    assert (shown["gpus_per_node"], shown["sharing"]) == (4, "exclusive")


def test_a_closed_pipe_is_not_an_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m hpcjobs cluster show c4140 | true"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr == ""


def test_help_imports_nothing_heavy() -> None:
    """--help must be fast on a login node: it imports no TensorFlow, pandas, submitit or matplotlib."""
    code = (
        "import sys; sys.argv = ['hpcjobs', '--help']\n"
        "from hpcjobs.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    assert "click" in loaded
    heavy = {
        "tensorflow",
        "horovod",
        "pandas",
        "submitit",
        "matplotlib",
        "numpy",
        "scipy",
        "rich",
        "yaml",
        "jinja2",
        "msgspec",
    }
    assert not loaded & heavy


def test_status_and_plan_do_not_import_the_compute_half(ended: Path) -> None:
    code = (
        f"import sys; sys.argv = ['hpcjobs', 'status', {str(ended)!r}]\n"
        "from hpcjobs.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert not {"tensorflow", "horovod", "pandas", "submitit", "matplotlib"} & set(done.stderr.split())


def test_one_allocation_and_a_throttle_exclude_each_other(tmp_path: Path) -> None:
    words = (
        "sweep",
        "--gpus",
        "1",
        "--experiment",
        "demo",
        "--cluster",
        "local",
        "--throttle",
        "2",
        "--one-allocation",
    )
    assert "--throttle and --one-allocation" in hpcjobs(*words, cwd=tmp_path, code=2).stderr
