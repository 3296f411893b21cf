"""`hpcjobs check`: findings, failures and remedies, on this machine without Slurm."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from hpcjobs.base.contract import CHECK_NODE, FAILURE, OK, WARNING, Finding
from hpcjobs.base.errors import SubmitRefused
from hpcjobs.base.records import JobState, Limits, RunState
from hpcjobs.chexnet import node_check
from hpcjobs.chexnet.classes import IMAGENET_FILE
from hpcjobs.chexnet.data.dataset import Dataset
from hpcjobs.config import Cluster, Experiment, profiles, to_builtins
from hpcjobs.jobs import render
from hpcjobs.plan import cost, planning
from hpcjobs.site import check, check_job
from hpcjobs.site.check_job import CheckJob
from hpcjobs.site.fabric import fabric_finding
from tests.control.combinations import combinations, group_of, impossible
from tests.control.localsite import alive
from tests.running import hpcjobs, until

LOCAL = ("check", "--cluster", "local", "--experiment", "demo")
ENDED = JobState(RunState.DONE, "COMPLETED")


def by_check(text: str) -> dict[str, dict[str, str]]:
    return {each["check"]: each for each in json.loads(text)["findings"]}


def test_on_this_machine_every_check_passes_and_leaves_no_files(tmp_path: Path) -> None:
    done = hpcjobs(*LOCAL, "--gpus", "1,2", cwd=tmp_path)
    lines = [line.split()[:2] for line in done.stdout.splitlines()]
    names = ("template", "disk", "folder", "python", "tensorflow", "horovod")
    assert lines == [["ok", name] for name in names]
    assert list(tmp_path.iterdir()) == []


def test_damaged_data_and_missing_weights_are_failures_with_a_remedy(tmp_path: Path, nih_shards: Dataset) -> None:
    data = tmp_path / "data"
    shutil.copytree(nih_shards.folder, data)
    cut = next(data.glob("train-*"))
    cut.write_bytes(cut.read_bytes()[:-1])
    settings = ("--set", "data.dir=data", "--set", "model.weights=none,none.h5", "--set", "model.name=densenet121")
    done = hpcjobs(*LOCAL, *settings, "--gpus", "1", "--json", cwd=tmp_path, code=1)
    found = by_check(done.stdout)
    assert found["data"]["state"] == FAILURE
    assert f"{cut.name}: {cut.stat().st_size} bytes, dataset.json says" in found["data"]["said"]
    assert "hpcjobs data verify" in found["data"]["cure"]
    assert (found["weights"]["state"], found["python"]["state"]) == (FAILURE, OK)
    assert f"{tmp_path}/none.h5: no such file" in found["weights"]["said"]
    # The check's files stay after a failure.
    assert len(list((tmp_path / "sweeps").glob("check-*/node.json"))) == 1


def test_a_missing_python_is_a_failure(tmp_path: Path) -> None:
    about = {**to_builtins(profiles.cluster("local")), "python": "/nowhere/python"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(about))
    words = ("check", "--cluster", "mine.yaml", "--experiment", "demo")
    done = hpcjobs(*words, cwd=tmp_path, code=1)
    assert "failure node" in done.stdout
    assert "-> see " in done.stdout


def test_a_preflight_that_fails_here_leaves_no_sweep(tmp_path: Path) -> None:
    about = {**to_builtins(profiles.cluster("local")), "python": "/nowhere/python"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(about))
    words = ("sweep", "--preflight", "--gpus", "1", "--cluster", "mine.yaml", "--experiment", "demo", "--out", "o")
    done = hpcjobs(*words, "--set", "data.dir=data", cwd=tmp_path, code=1)
    assert "node: job here ended" in done.stderr
    assert not (tmp_path / "o").exists()


def test_without_slurm_the_exit_code_is_3(tmp_path: Path) -> None:
    env = {**os.environ, "SLURM_CONF": str(tmp_path / "slurm.conf"), "PATH": str(tmp_path)}
    done = hpcjobs("check", "--cluster", "virtual", "--experiment", "demo", "--json", cwd=tmp_path, env=env, code=3)
    assert by_check(done.stdout)["slurm"]["state"] == FAILURE
    assert by_check(done.stdout)["template"]["state"] == OK


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--gpus", "two"), "'two' is not a GPU count"),
        (("--experiment", "dmeo"), "did you mean 'demo'?"),
        (("--out", "/proc/x"), "--out /proc/x: cannot be written to"),
    ],
)
def test_wrong_input_is_exit_code_2(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    assert message in hpcjobs(*LOCAL, *words, cwd=tmp_path, code=2).stderr


@pytest.mark.parametrize(
    ("built", "needs", "state"),
    [
        ("mpi nccl", {"device": "gpu", "gpus": 4}, OK),
        ("mpi gloo", {"device": "gpu", "gpus": 4}, FAILURE),
        ("mpi", {"device": "gpu", "gpus": 1}, OK),  # one rank needs no operations between ranks
        ("mpi", {"device": "cpu", "gpus": 4}, OK),
        ("gloo", {"device": "cpu", "gpus": 4}, FAILURE),
        ("gloo", {"device": "cpu", "gpus": 4, "launcher": "horovodrun"}, OK),
    ],
)
def test_horovod_must_be_built_with_the_operations_that_runs_need(
    built: str, needs: dict[str, Any], state: str
) -> None:
    has = {name: name in built.split() for name in ("mpi", "gloo", "nccl")}
    found = node_check.operations("0.28.1", has, {"launcher": "srun", **needs})
    assert found.state == state
    assert bool(found.remedy) == (state == FAILURE)


def test_missing_imagenet_weights_name_the_command(tmp_path: Path) -> None:
    assert "DenseNet121(include_top=False)" in node_check.weights(tmp_path / IMAGENET_FILE).remedy
    (tmp_path / IMAGENET_FILE).touch()
    assert node_check.weights(tmp_path / IMAGENET_FILE).state == OK


def test_limits_and_refusals_are_failures_and_a_partition_that_is_down_a_warning() -> None:
    demo = planning.parameter_grid(profiles.read(Experiment, "demo"), [])
    four = planning.make_plan([4, 16], demo, profiles.cluster("c4140"), 1)
    limits = Limits(partition="p", max_nodes=2, max_time_s=3600, up=False)

    def refused() -> str:
        raise SubmitRefused("sbatch --test-only: Invalid account")

    tests = {"g0004": lambda: "now", "g0016": refused}
    found = list(check.fits(cost.objections(four, limits, 4 * 3600), tests))
    states = [(each.check, each.state) for each in found]
    assert states == [("limits", FAILURE)] * 2 + [("limits", WARNING), ("sbatch", OK), ("sbatch", FAILURE)]
    assert found[0].message == "4 nodes for one job, but partition p allows at most 2"
    assert "Invalid account" in found[-1].message


@pytest.mark.parametrize(
    ("clock", "state", "message"),
    [
        (100.5, OK, "within 1.0 s"),
        (102.5, OK, "ahead of this host's by at least 1.0 s"),
        (111.5, WARNING, "ahead of this host's by at least 10.0 s"),
        (30.0, FAILURE, "behind this host's by at least 70.0 s"),
    ],
)
def test_clocks(tmp_path: Path, clock: float, state: str, message: str) -> None:
    """By this host's clock the job's script began between 100.0 and 101.5."""
    (tmp_path / "clock").write_text(f"{clock} n1\n")
    found = check.clocks(tmp_path, CheckJob("1", ENDED, 100.0, 101.5))
    assert found is not None
    assert (found.state, message in found.message) == (state, True), found


def answers(folder: Path, job: CheckJob) -> list[Finding]:
    return list(check.answers(job, folder, "hpcjobs-check", "token", "login"))


def test_a_folder_that_nodes_do_not_share_is_named(tmp_path: Path) -> None:
    (found,) = answers(tmp_path, CheckJob("7", ENDED, 1.0, None))
    assert (found.check, found.state) == ("folder", FAILURE)
    assert "share" in found.remedy


def test_the_answer_to_another_check_does_not_count(tmp_path: Path) -> None:
    (tmp_path / CHECK_NODE).write_text(json.dumps({"token": "old", "host": "n1", "findings": []}))
    (tmp_path / "hpcjobs-check.out").write_text("bash: python: not found\n-----\n")
    (found,) = answers(tmp_path, CheckJob("7", dataclasses.replace(ENDED, word="FAILED"), 1.0, 2.0))
    assert found.state == FAILURE
    assert "(FAILED) before it described its node: bash: python: not found" in found.message


ROOT = f"""\
{"-" * 74}
mpirun has detected an attempt to run as root.

Running as root is *strongly* discouraged as any mistake (e.g., in defining TMPDIR) can damage your system.
You can override this protection by adding the --allow-run-as-root option to the cmd line or by setting variables.
We reiterate our advice against doing so - please proceed at your own risk.
{"-" * 74}
"""


@pytest.mark.parametrize(
    ("output", "said", "cure"),
    [
        (ROOT, "mpirun has detected an attempt to run as root.", "OMPI_ALLOW_RUN_AS_ROOT=1"),
        ("ModuleNotFoundError: No module named 'x'\nsrun: error: n1: task 0: Exited with exit code 1\n",
         "ModuleNotFoundError: No module named 'x'", "a library is missing on the nodes"),
        ("no licence\nsrun: error: n1: task 0: Exited with exit code 1\n", "no licence", "check python, modules and prologue"),
        ("", "its output is empty", "check python, modules and prologue"),
    ],
)  # fmt: skip
def test_a_check_that_ends_early_says_why_as_a_run_does(tmp_path: Path, output: str, said: str, cure: str) -> None:
    (tmp_path / "hpcjobs-check.out").write_text(output)
    (found,) = answers(tmp_path, CheckJob("7", dataclasses.replace(ENDED, word="FAILED"), 1.0, 2.0))
    assert found.message.endswith(f"before it described its node: {said}")
    assert cure in found.remedy


def test_a_job_that_does_not_start_is_a_warning(tmp_path: Path) -> None:
    (found,) = answers(tmp_path, CheckJob("7", None, 1.0, None, "Priority"))
    assert (found.state, "(Priority)" in found.message) == (WARNING, True)


def test_a_script_that_hangs_on_this_machine_is_killed_with_its_processes(tmp_path: Path) -> None:
    script = tmp_path / "hangs.sbatch"
    script.write_text(f"sleep 600 & echo $! >{tmp_path}/pid; wait\n")
    job = check_job.run_here(tmp_path, script, "x", 1.0)
    assert (job.ended, job.reason) == (None, "it took more than 1 s")
    until(lambda: not alive(int((tmp_path / "pid").read_text())))


def test_a_file_system_that_is_too_small_is_a_failure(tmp_path: Path) -> None:
    assert check.disk(tmp_path, 10**18).state == FAILURE
    assert check.disk(tmp_path, 1).state == OK


def test_the_figures_of_the_probe_are_one_line() -> None:
    figures = {"across_latency_s": 2e-6, "across_bytes_per_s": 12e9}
    reduced = {"operations": "nccl", "busbw_bytes_per_s": 11e9}
    fine = fabric_finding({**figures, "together": {"horovod": reduced}, "slow": []}, Path("/x/fabric.json"))
    assert fine.state == OK
    assert fine.message == "between nodes 2 us, 12 GB/s; all ranks by nccl 11 GB/s (bus bandwidth) (/x/fabric.json)"
    slow = [
        {"node": "n3", "way": "out", "bytes_per_s": 1.2e8},
        {"link": ["n1", "n2"], "bytes_per_s": 5e9},
    ]
    slow_ones = fabric_finding({**figures, "slow": slow}, Path("/x/fabric.json"))
    assert slow_ones.state == WARNING
    assert slow_ones.message.startswith("slow: node n3 (out): 0.12 GB/s, link n1 to n2: 5 GB/s; between nodes 2 us")


def test_the_script_of_a_check_starts_its_command_like_a_run() -> None:
    demo = planning.parameter_grid(profiles.read(Experiment, "demo"), [])
    group = planning.make_plan([8], demo, profiles.cluster("c4140"), 3).groups[0]
    text = render.probe_job(group, profiles.cluster("c4140"), "n", Path("/s/50%"), ["python", "-m", "m", "/s/50%"], 7)
    assert "#SBATCH --time=7:00\n" in text
    assert "#SBATCH --output=/s/50%%/n.out\n" in text
    assert not {"--array", "--requeue", "--signal"} & {
        line.split()[1].split("=")[0] for line in text.splitlines() if line.startswith("#SBATCH")
    }
    assert '--mpi=pmix --nodes=2 --nodelist="${node_list:-$SLURM_JOB_NODELIST}" --ntasks=8 --ntasks-per-node=4' in text
    assert "python -m m /s/50%)\n" in text


def probe_job_by(own: Path, text: str, **changes: object) -> str:
    """The check's script if the profile has its own template."""
    own.write_text(text)
    cluster = msgspec.structs.replace(profiles.cluster("c4140"), template=str(own), **changes)
    return render.probe_job(group_of(cluster), cluster, "n", Path("/s"), ["python", "-m", "m"], 7)


def test_a_users_template_prepares_the_node_for_a_check_as_for_a_run(tmp_path: Path) -> None:
    text = probe_job_by(
        tmp_path / "own.sbatch.j2",
        """{% extends "srun.sbatch.j2" %}
{% block environment %}{{ super() }}
source /etc/{{ group }}.sh
{%- endblock %}
{% block launcher %}nice {{ super() }}{% endblock %}
{% block container %}command=(rm "$sweep"){% endblock %}""",
        env={"NCCL_IB_HCA": "mlx5_0"},
    )
    assert "\nexport NCCL_IB_HCA=mlx5_0\nsource /etc/g0004.sh\nset -u\n" in text
    assert "\nnice srun --export=ALL --mpi=pmix --nodes=1 " in text
    # The block `container` holds the command of a run.
    assert 'rm "$sweep"' not in text
    assert "(python -m m)\n" in text


@pytest.mark.parametrize("name", ["own.sbatch.j2", "srun.sbatch.j2", "base.sbatch.j2"])
def test_a_template_that_is_a_whole_script_is_not_used_for_a_check(name: str, tmp_path: Path) -> None:
    text = probe_job_by(tmp_path / name, "#!/bin/bash\nexec /site/start\n{% block launcher %}{% endblock %}")
    assert "/site/start" not in text
    assert "srun --export=ALL" in text


def test_the_base_may_be_named_by_another_path(tmp_path: Path) -> None:
    text = probe_job_by(
        tmp_path / "own.sbatch.j2",
        '{% extends "./base.sbatch.j2" %}{% block modules %}\nmodule load mine{% endblock %}'
        "{% block launcher %}theirs{% endblock %}",
    )
    assert "\nmodule load mine\n" in text
    assert '\ntheirs "${command[@]}"\n' in text


def test_the_probe_may_use_transports_that_horovod_must_not() -> None:
    """Under mpirun Horovod's control messages use TCP. With these options the probe would measure the wrong network."""
    cluster = msgspec.structs.replace(profiles.cluster("c4140"), launcher="mpirun")
    group = group_of(cluster)
    assert "-mca btl ^openib" in render.script(group, cluster, "s", Path("/s"))
    assert "-mca" not in render.probe_job(group, cluster, "n", Path("/s"), ["python", "-m", "hpcjobs.nodes.probe"], 7)


def test_the_scripts_of_all_launchers_and_containers_pass_shellcheck(tmp_path: Path) -> None:
    group = group_of(profiles.cluster("c4140"))
    texts = set()
    for keys in combinations():
        if keys["bind"] == "none" and not impossible(keys):
            text = render.probe_job(
                group, Cluster(**keys), "n", Path("/scratch/a study"), ["python", "-m", "m", "/x y"], 7
            )
            texts.add("\n".join(line for line in text.splitlines() if not line.startswith("#SBATCH")))
    assert len(texts) > 10
    paths = []
    for number, text in enumerate(sorted(texts)):
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)
        paths.append(tmp_path / f"{number:03d}.sbatch")
        paths[-1].write_text(text)
    done = subprocess.run(["shellcheck", "--format=gcc", *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[:2000]
    assert any("apptainer exec --nv --bind '/scratch/a study' --bind '/scratch/x rays'" in text for text in texts)
    assert any('--container-workdir="$attempt_dir"' in text for text in texts)
