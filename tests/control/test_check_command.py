"""`hpcjobs check -- COMMAND`: what a node must have for any command, on this machine and with a fake Slurm."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from hpcjobs.base.contract import CHECK_NODE, CHECK_REQUEST, FAILURE, OK, WARNING
from hpcjobs.config import Cluster, profiles, to_builtins
from hpcjobs.plan.planning import Plan, make_plan, parameter_grid
from hpcjobs.site import check_job, fitness, preflight
from hpcjobs.site.check_job import CheckJob
from hpcjobs.trainers.command_line import document_of
from tests.running import hpcjobs

LOCAL = ("check", "--cluster", "local", "--gpus", "1,2")


def findings(*words: str, folder: Path, code: int = 0) -> dict[str, dict[str, str]]:
    """What `hpcjobs check --json` says, by check."""
    done = hpcjobs(*words[: words.index("--")], "--json", *words[words.index("--") :], cwd=folder, code=code)
    return {each["check"]: each for each in json.loads(done.stdout)["findings"]}


@pytest.mark.parametrize("start", ["rank", "node", "once"])
def test_a_command_that_can_run_passes_every_check_and_leaves_no_files(tmp_path: Path, start: str) -> None:
    (tmp_path / "train.py").touch()
    found = findings(*LOCAL, "--start", start, "--", sys.executable, "train.py", folder=tmp_path)
    assert [(name, each["state"]) for name, each in found.items()] == [
        (name, OK) for name in ("template", "disk", "folder", "workdir", "command", "port")
    ]
    assert found["command"]["said"] == f"{sys.executable} on {socket.gethostname()}"
    assert [path.name for path in tmp_path.iterdir()] == ["train.py"]


@pytest.mark.parametrize(
    ("word", "said", "cure"),
    [
        ("no-such-program", "no-such-program is not found on PATH", "modules or prologue"),
        ("train.sh", "train.sh is not found on PATH", "begin the command with ./train.sh"),
        ("./train.sh", "./train.sh is not executable", "'bash ./train.sh'"),
        ("./trian.sh", "./trian.sh: no such file", "relative to workdir ("),
        ("/tmp", "/tmp is not executable", "its interpreter"),
    ],
)
def test_a_first_word_that_no_shell_would_run_is_a_failure(tmp_path: Path, word: str, said: str, cure: str) -> None:
    (tmp_path / "train.sh").write_text("#!/bin/sh\n")
    found = findings(*LOCAL, "--", word, folder=tmp_path, code=1)["command"]
    assert (found["state"], said in found["said"], cure in found["cure"]) == (FAILURE, True, True), found


def test_a_script_that_the_node_does_not_see_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "sgd.py").touch()
    (tmp_path / "run.sh").touch()
    for good in (
        ["sgd.py"],
        ["-u", "sgd.py", "new.py"],
        ["--nodes={nodes}", "sgd.py"],
        ["--out", "new.py"],
        ["{gpus}.py"],
    ):
        assert findings(*LOCAL, "--", sys.executable, *good, folder=tmp_path)["command"]["state"] == OK, good
    for wrong in (["sdg.py"], ["--nodes={nodes}", "sdg.py"]):
        found = findings(*LOCAL, "--", sys.executable, *wrong, folder=tmp_path, code=1)["command"]
        assert (found["state"], found["said"].startswith("sdg.py: no such file")) == (FAILURE, True), found
        assert f"relative to workdir ({tmp_path})" in found["cure"]


def test_a_relative_first_word_is_looked_for_in_workdir(tmp_path: Path) -> None:
    script = tmp_path / "place" / "bin" / "train.sh"
    script.parent.mkdir(parents=True)
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    words = ("--set", "workdir=place", "--", "bin/train.sh")
    assert findings(*LOCAL, *words, folder=tmp_path)["command"]["state"] == OK


def test_a_missing_workdir_and_missing_inputs_are_failures(tmp_path: Path) -> None:
    about = {"name": "mine", "trainer": "command", "command": ["true"]}
    (tmp_path / "there").touch()
    places = {"workdir": str(tmp_path / "gone"), "inputs": [str(tmp_path / "there"), "/nowhere/owt"]}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**about, **places}))
    done = hpcjobs(*LOCAL, "--experiment", "./mine.yaml", cwd=tmp_path, code=1)
    lines = [line for line in done.stdout.splitlines() if line.split()[1] in ("workdir", "inputs")]
    assert [line.split()[:3] for line in lines] == [
        ["failure", "workdir", str(tmp_path / "gone")],
        ["ok", "inputs", str(tmp_path / "there")],
        ["failure", "inputs", "/nowhere/owt:"],
    ]


@pytest.mark.parametrize(("port", "said"), [("", "in use"), ("here", "not a number: MASTER_PORT='here'")])
def test_a_port_of_the_profile_must_be_free(tmp_path: Path, port: str, said: str) -> None:
    with socket.create_server(("", 0)) as server:
        env = {"MASTER_PORT": port or str(server.getsockname()[1])}
        about = {**to_builtins(profiles.cluster("local")), "env": env}
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(about))
        words = ("check", "--cluster", "mine.yaml", "--gpus", "1", "--start", "once", "--", "true")
        found = findings(*words, folder=tmp_path, code=1)["port"]
    assert (found["state"], said in found["said"]) == (FAILURE, True), found


def test_a_machine_without_mpi_checks_a_command_itself(tmp_path: Path) -> None:
    keys = {"name": "bare", "scheduler": "local", "launcher": "fork", "bind": "none", "gpu_request": "none"}
    (tmp_path / "bare.yaml").write_text(yaml.safe_dump({**keys, "device": "cpu"}))
    words = ("check", "--cluster", "bare.yaml", "--gpus", "1,2", "--probe", "--", "true")
    found = findings(*words, folder=tmp_path)
    assert found["command"]["state"] == OK
    assert "needs MPI, which launcher fork does not use" in found["fabric"]["said"]


def test_a_preflight_that_fails_here_leaves_no_sweep(tmp_path: Path) -> None:
    words = ("sweep", "--preflight", "--gpus", "1", "--cluster", "local", "--out", "o", "--", sys.executable, "gone.py")
    done = hpcjobs(*words, cwd=tmp_path, code=1)
    assert "command: gone.py: no such file, or it cannot be read on " in done.stderr
    assert not (tmp_path / "o").exists()


def plan_of(cluster: Cluster, *settings: str, gpus: int = 8) -> Plan:
    """A plan of one size for the command `true`."""
    return make_plan([gpus], parameter_grid(document_of(["true"]), settings), cluster, 1)


# Nodes n1 and n2 in a partition; this script runs on n1. NAMES holds an address and a name of each node that resolves.
FAKES = {
    "sinfo": '[[ "$*" == *--partition=gpu* ]] && printf "n1\\nn2\\n"',
    "uname": "echo n1",
    "getent": '[ "$1" = ahosts ] && grep -m 1 " $2$" <<<"$NAMES" | sed "s/ .*/ STREAM/"',
}


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A folder for a check of eight GPUs on two nodes, and fakes of Slurm and getent in `bin`."""
    for name, text in FAKES.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)
    preflight.write_script(plan_of(profiles.cluster("c4140"), f"workdir={tmp_path}"), tmp_path)
    return tmp_path


def names(folder: Path, known: str, **env: str) -> list[str]:
    """The finding about names, if these resolve."""
    slurm = {"SLURM_JOB_PARTITION": "gpu", "SLURMD_NODENAME": "n1", "SLURM_JOB_ID": "7"}
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    words = ("bash", str(folder / "command_check.sh"), str(folder), "true", "", str(folder))
    done = subprocess.run(words, env={**slurm, "PATH": path, "NAMES": known, **env}, cwd="/", check=False)
    about = json.loads((folder / CHECK_NODE).read_text())
    assert about["token"] == json.loads((folder / CHECK_REQUEST).read_text())["token"]
    assert (about["host"], done.returncode) == ("n1", 0)
    (found,) = [each for each in about["findings"] if each[0] == "names"]
    return list(found[1:])


def test_names_that_resolve_are_fine(node: Path) -> None:
    assert names(node, "10.0.0.1 n1\n10.0.0.2 n2") == [OK, "n1 is 10.0.0.1, n2 is 10.0.0.2", ""]


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ("10.0.0.1 n1", "n2 does not resolve"),
        ("", "n1 does not resolve, n2 does not resolve"),
        ("127.0.1.1 n1\n10.0.0.2 n2", "n1 resolves to 127.0.1.1"),
    ],
)
def test_names_by_which_ranks_do_not_meet_are_a_warning_with_the_remedy(node: Path, known: str, said: str) -> None:
    state, message, remedy = names(node, known)
    assert (state, said in message) == (WARNING, True), message
    assert "GLOO_SOCKET_IFNAME, for GPUs NCCL_SOCKET_IFNAME" in remedy


def test_a_profile_that_names_the_interface_needs_no_names(node: Path) -> None:
    state, message, _ = names(node, "", GLOO_SOCKET_IFNAME="eth0")
    assert (state, message.startswith("n1 does not resolve")) == (OK, True)


def test_runs_on_one_node_need_no_names(tmp_path: Path) -> None:
    preflight.write_script(plan_of(profiles.cluster("c4140"), f"workdir={tmp_path}", gpus=4), tmp_path)
    subprocess.run(["bash", tmp_path / "command_check.sh", tmp_path, "true", "", tmp_path], check=True)
    found = json.loads((tmp_path / CHECK_NODE).read_text())["findings"]
    assert [each[0] for each in found] == ["workdir", "command", "port"]


def test_words_with_quotes_and_backslashes_are_told_as_they_are(node: Path) -> None:
    odd = 'a "b" \\c'
    words = ("bash", str(node / "command_check.sh"), str(node), odd, "", str(node), f"/nowhere/{odd}")
    assert subprocess.run(words, check=False).returncode == 1
    said = [each[2] for each in json.loads((node / CHECK_NODE).read_text())["findings"]]
    assert f"{odd} is not found on PATH" in said
    assert f"/nowhere/{odd}: no such file or folder" in said


def test_a_folder_that_the_node_does_not_see_is_told(node: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    empty = tmp_path_factory.mktemp("empty")
    words = ("bash", str(node / "command_check.sh"), str(empty), "true", "", "/")
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, f"{empty}: this node sees no request.json there" in done.stderr) == (1, True)
    assert list(empty.iterdir()) == []


def test_the_script_passes_shellcheck(node: Path) -> None:
    done = subprocess.run(["shellcheck", node / "command_check.sh"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("start", "words"),
    [("rank", "--mpi=pmix --nodes=1"), ("node", "--mpi=none --nodes=1"), ("once", "")],
)
def test_a_check_is_started_as_the_run_would_be(tmp_path: Path, start: str, words: str) -> None:
    text = preflight.script_text(plan_of(profiles.cluster("c4140"), f"start={start}"), tmp_path)
    assert (f"srun --export=ALL {words}" in text) == (start != "once")
    assert ('\n"${command[@]}"\n' in text) == (start == "once")


@pytest.mark.parametrize("start", ["rank", "node", "once"])
def test_the_probe_has_a_rank_for_each_gpu_whatever_starts_the_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str
) -> None:
    cluster = msgspec.structs.replace(profiles.cluster("c4140"), python="/opt/python")
    scripts: list[str] = []

    def run(cluster: Cluster, folder: Path, script: Path, *words: Any) -> CheckJob:
        scripts.append(script.read_text())
        return CheckJob("1", None, 0.0, None)

    monkeypatch.setattr(check_job, "run", run)
    fitness._probe(plan_of(cluster, f"start={start}"), tmp_path, 1.0, print, 60)
    (text,) = scripts
    assert '--mpi=pmix --nodes=2 --nodelist="${node_list:-$SLURM_JOB_NODELIST}" --ntasks=8 --ntasks-per-node=4' in text
    assert f"command=(/opt/python -m hpcjobs.nodes.probe --out {tmp_path}/fabric.json" in "".join(
        text.split("\\\n    ")
    )
    assert "--horovod" not in text


def test_a_first_word_that_only_a_run_knows_is_not_looked_for(tmp_path: Path) -> None:
    plan = make_plan([1], parameter_grid(document_of(["{run_dir}/start"]), []), profiles.cluster("local"), 1)
    preflight.write_script(plan, tmp_path)
    assert f"command_check.sh {tmp_path} '' '' " in preflight.script_path(tmp_path).read_text()
