"""Rendered scripts: golden files, directives before commands, values that bash reads back."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hpcjobs.base.errors import InputError
from hpcjobs.config import Cluster, Experiment, profiles
from hpcjobs.config.cluster import Collect, Container
from hpcjobs.jobs.quoting import quote
from hpcjobs.jobs.render import allocation, collector, script, support_file
from hpcjobs.plan.planning import Plan, Terms, make_plan, parameter_grid
from hpcjobs.trainers.command_line import document_of

GOLDEN = Path(__file__).parent / "golden"
SIZES = (1, 2, 4, 8, 16)


ID = "261123120000abcd"


def fixed(cluster: Cluster, **changes: object) -> Cluster:
    return msgspec.structs.replace(cluster, **{"python": "/opt/hpcjobs/bin/python", **changes})


def planned(cluster: Cluster, gpus: Sequence[int], one_allocation: bool = False) -> Plan:
    variants = parameter_grid(profiles.read(Experiment, "chexnet"), [])
    return make_plan(gpus, variants, cluster, 3, Terms(one_allocation=one_allocation))


def rendered(cluster: Cluster, gpus: int, folder: str = "/scratch/study", **changes: object) -> str:
    cluster = fixed(cluster, **changes)
    return script(planned(cluster, [gpus]).groups[0], cluster, ID, Path(folder))


def collecting(**changes: object) -> str:
    """The script of the last job, for the profile `c4140` with these changes."""
    return collector(fixed(profiles.cluster("c4140"), **changes), ID, Path("/scratch/study"))


@pytest.fixture(autouse=True)
def _the_same_python_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/opt/hpcjobs/bin/python")


CASES = [("c4140", "srun"), ("c4140", "mpirun"), ("virtual", "srun"), ("local", "mpirun")]
CLUSTERS = ("c4140", "local")
# Changes of the profile `c4140`, rendered for 8 GPUs on two nodes. We have run none of these scripts. Under pyxis the
# image's variables win without --container-env; horovodrun needs the list of nodes.
_IMAGE = {"mounts": ("/scratch/hpcjobs", "/etc/libibverbs.d:/etc/libibverbs.d"), "options": ()}
NOT_RUN: dict[str, dict[str, object]] = {
    "horovodrun": {"launcher": "horovodrun", "bind": "none", "launcher_options": ("--network-interfaces", "ib0")},
    "numa-srun": {"bind": "numa"},
    "numa-mpirun": {"bind": "numa", "launcher": "mpirun"},
    "apptainer-srun": {"container": Container(kind="apptainer", image="/images/train.sif", **_IMAGE)},
    "apptainer-mpirun": {"container": Container(kind="apptainer", image="a b.sif"), "launcher": "mpirun"},
    "apptainer-horovodrun": {"container": Container(kind="apptainer", image="a.sif"), "launcher": "horovodrun", "bind": "none"},
    "pyxis": {
        "container": Container(kind="pyxis", image="nvcr.io#nvidia/tensorflow:23.12-tf2-py3", **_IMAGE),
        "env": {"NCCL_IB_HCA": "mlx5_0", "UCX_NET_DEVICES": "mlx5_0:1"},
    },
}  # fmt: skip


# Of a command, on two nodes of the profile `c4140`: keys of the experiment, and changes of the profile.
_STOP = ("stop.signal=USR1", "stop.exit_code=75")
_APPTAINER = {"container": Container(kind="apptainer", image="/images/train.sif", **_IMAGE)}
COMMANDS: dict[str, tuple[tuple[str, ...], dict[str, object]]] = {
    "srun-rank": (("start=rank", *_STOP), {}),
    "srun-node": (("start=node", *_STOP), {}),
    "srun-once": (("start=once",), {}),
    "srun-once-stop": (("start=once", *_STOP), {}),
    "srun-node-unwarned": (("start=node", "stall_s=0", "batch.local=8"), {}),
    "mpirun-rank": (("start=rank", *_STOP), {"launcher": "mpirun"}),
    "mpirun-node": (("start=node", *_STOP), {"launcher": "mpirun"}),
    "apptainer-srun-rank": (("start=rank", *_STOP), _APPTAINER),
    "apptainer-srun-once": (("start=once",), _APPTAINER),
    "apptainer-mpirun-node": (("start=node",), {"launcher": "mpirun", **_APPTAINER}),
    "pyxis-rank": (("start=rank",), NOT_RUN["pyxis"]),
    "pyxis-node": (("start=node", *_STOP), NOT_RUN["pyxis"]),
}
# The same on this machine, without Slurm and without MPI.
FORKED: dict[str, tuple[str, ...]] = {
    "fork-rank": ("start=rank", *_STOP),
    "fork-node": ("start=node",),
    "fork-once": ("start=once", "stall_s=0"),
}


def of_a_command(cluster: Cluster, gpus: int, settings: Sequence[str]) -> str:
    """The script of two variants of a command, two runs of each."""
    words = [
        "python",
        "train.py",
        "--lr={params.lr}",
        "--gpus",
        "{gpus}",
        "--at={head}:{port}",
        "--out",
        "{run_dir}/my model",
    ]
    given = [*settings, "params.lr=1e-4,3e-4", "workdir=/home/me/gpt 2", "work=1e6"]
    variants = parameter_grid(document_of(words), given)
    return script(make_plan([gpus], variants, cluster, 2).groups[0], cluster, ID, Path("/scratch/study"))


def compare(text: str, name: str, request: pytest.FixtureRequest) -> None:
    """`pytest tests/control/test_render.py --update-golden` rewrites the golden files; read their difference."""
    path = GOLDEN / (name if "." in name else f"{name}.sbatch")
    if request.config.getoption("--update-golden"):
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("gpus", SIZES)
@pytest.mark.parametrize(("cluster", "launcher"), CASES)
def test_golden(cluster: str, launcher: str, gpus: int, request: pytest.FixtureRequest) -> None:
    text = rendered(profiles.cluster(cluster), gpus, launcher=launcher)
    compare(text, f"{cluster}-{launcher}-g{gpus:04d}", request)


@pytest.mark.parametrize("name", NOT_RUN)
def test_golden_of_launchers_and_containers_that_we_have_not_run(name: str, request: pytest.FixtureRequest) -> None:
    compare(rendered(profiles.cluster("c4140"), 8, **NOT_RUN[name]), f"c4140-{name}", request)


@pytest.mark.parametrize("name", COMMANDS)
def test_golden_of_a_command(name: str, request: pytest.FixtureRequest) -> None:
    settings, changes = COMMANDS[name]
    text = of_a_command(fixed(profiles.cluster("c4140"), python=None, **changes), 8, settings)
    compare(text, f"command-{name}", request)


@pytest.mark.parametrize("name", FORKED)
def test_golden_of_a_command_on_this_machine(name: str, request: pytest.FixtureRequest) -> None:
    cluster = msgspec.structs.replace(profiles.cluster("local"), launcher="fork", launcher_options=())
    compare(of_a_command(cluster, 2, FORKED[name]), f"command-{name}", request)


def test_golden_of_the_script_around_each_process(request: pytest.FixtureRequest) -> None:
    compare(support_file("rank.sh"), "rank.sh", request)


@pytest.mark.parametrize("name", CLUSTERS)
def test_golden_of_the_one_job_for_all_sizes(name: str, request: pytest.FixtureRequest) -> None:
    cluster = fixed(profiles.cluster(name))
    group = planned(cluster, SIZES, one_allocation=True).allocation
    assert group is not None
    compare(allocation(group, cluster, ID, Path("/scratch/study")), f"{name}-all", request)


@pytest.mark.parametrize("name", CLUSTERS)
def test_golden_of_the_last_job(name: str, request: pytest.FixtureRequest) -> None:
    cluster = fixed(profiles.cluster(name), collect=Collect(retries=True))
    compare(collector(cluster, ID, Path("/scratch/study")), f"{name}-collect", request)


def test_golden_scripts_pass_bash_and_shellcheck() -> None:
    scripts = sorted(map(str, GOLDEN.glob("*.sbatch")))
    of_chexnet = len(CASES) * len(SIZES) + len(NOT_RUN) + 2 * len(CLUSTERS)
    assert len(scripts) == of_chexnet + len(COMMANDS) + len(FORKED)
    scripts.append(str(GOLDEN / "rank.sh"))
    for path in scripts:
        subprocess.run(["bash", "-n", path], check=True)
    done = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.sbatch")), ids=lambda path: path.name)
def test_every_directive_stands_before_the_first_command(path: Path) -> None:
    """sbatch stops reading directives at the first command: the study of 2019 lost all of its directives that way."""
    lines = path.read_text().splitlines()
    assert lines[0] == "#!/bin/bash"
    first_command = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in lines[first_command:])
    assert sum(line.startswith("#SBATCH") for line in lines[:first_command]) >= 9


def test_cpus_and_memory_of_a_rank_are_the_same_at_every_size() -> None:
    for gpus in SIZES:
        text = rendered(profiles.cluster("c4140"), gpus)
        per_node = min(gpus, 4)
        assert "#SBATCH --cpus-per-task=10\n" in text
        assert f"#SBATCH --mem={46080 * per_node}M\n" in text
        assert f"#SBATCH --gres=gpu:v100:{per_node}\n" in text
        assert "#SBATCH --exclusive\n" in text


def test_shared_nodes_are_the_profiles_explicit_choice() -> None:
    assert "--exclusive" not in rendered(profiles.cluster("c4140"), 1, sharing="shared")


def test_modules_environment_and_gpus_per_node_of_a_site() -> None:
    text = rendered(
        profiles.cluster("c4140"),
        8,
        launcher="mpirun",
        gpu_request="gpus-per-node",
        partition="gpu long",
        modules=("cuda/12", "openmpi/4.1"),
        env={"NCCL_IB_HCA": "mlx5_0"},
        sbatch={"mail-type": "FAIL", "contiguous": True, "no-kill": False},
        prologue="ulimit -l unlimited",
    )
    for line in (
        "#SBATCH --gpus-per-node=v100:4",
        "#SBATCH --partition='gpu long'",
        "#SBATCH --mail-type=FAIL",
        "#SBATCH --contiguous",
        "module load cuda/12\nmodule load openmpi/4.1\nulimit -l unlimited",
        "export NCCL_IB_HCA=mlx5_0",
        "-x NCCL_IB_HCA",
    ):
        assert line in text
    assert "no-kill" not in text
    # srun gets the options too, because its step may be a part of a larger job.
    step = rendered(profiles.cluster("c4140"), 8, gpu_request="gpus-per-node")
    for words in (
        "--nodes=2 ",
        "--ntasks=8 ",
        "--ntasks-per-node=4 ",
        "--gpus-per-node=v100:4 ",
        "--cpus-per-task=10 ",
    ):
        assert words in step[step.index("\nsrun ") :]


def test_a_job_is_requeued_as_often_as_the_profile_says() -> None:
    text = rendered(profiles.cluster("c4140"), 1, signal_s=300, requeues=7)
    assert "#SBATCH --signal=B:USR1@300\n" in text
    assert "#SBATCH --requeue\n" in text
    assert '"$restart" -ge 7' in text
    for changes in ({"requeues": 0}, {"signal_s": 0}, {"time": "2"}):
        assert "scontrol requeue" not in rendered(profiles.cluster("c4140"), 1, **changes)
    assert "#SBATCH --no-requeue\n" in rendered(profiles.cluster("c4140"), 1, requeues=0)
    assert "--signal" not in rendered(profiles.cluster("c4140"), 1, time="2")
    # scontrol must never receive a job id of the local scheduler.
    assert "scontrol" not in rendered(profiles.cluster("local"), 1)


def test_the_last_job_is_small_and_has_its_own_partition() -> None:
    site = {
        "partition": "gpu",
        "account": "physics",
        "qos": "long",
        "constraint": "v100",
        "reservation": "gone-by-then",
    }
    text = collecting(**site)
    lines = {line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH")}
    expected = {"array=0", "nodes=1", "ntasks=1", "partition=gpu", "account=physics", "qos=long", "constraint=v100"}
    assert expected < lines
    assert {line.partition("=")[0] for line in lines}.isdisjoint(("gres", "exclusive", "mem", "reservation", "signal"))
    assert text.endswith("/opt/hpcjobs/bin/python -m hpcjobs report /scratch/study\n")
    assert "resume" not in text
    # The nodes of another partition may not have this qos and constraint.
    own = Collect(partition="cpu", time="5", retries=True, sbatch={"account": "chemistry", "mem": "2G"})
    text = collecting(**site, collect=own, prologue="ulimit -c 0")
    for line in ("partition=cpu", "time=5", "account=chemistry", "mem=2G"):
        assert f"#SBATCH --{line}\n" in text
    assert "physics" not in text
    assert "qos" not in text
    assert "\nulimit -c 0\n" in text
    assert "hpcjobs resume /scratch/study --retryable\n/opt/hpcjobs/bin/python -m hpcjobs report" in text


def test_a_users_template_extends_a_launchers_template(tmp_path: Path) -> None:
    own = tmp_path / "mine.sbatch.j2"
    own.write_text('{% extends "srun.sbatch.j2" %}{% block modules %}\nsource /etc/site.sh{% endblock %}')
    assert "\nsource /etc/site.sh\n" in rendered(profiles.cluster("c4140"), 1, template=str(own))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{% extends %}", r"mine\.sbatch\.j2:1: "),
        (b"ok\n{{ no_such_name }}", r"mine\.sbatch\.j2:2: 'no_such_name' is undefined"),
        (b"ok\n{{ 1 / 0 }}", r"mine\.sbatch\.j2:2: ZeroDivisionError: division by zero"),
        (b"{{ size.gpus + '1' }}", r"mine\.sbatch\.j2:1: TypeError: unsupported operand"),
        (b"{{ group | no_such_filter }}", r"mine\.sbatch\.j2:1: No filter named 'no_such_filter'"),
        (b"${#array[@]}", r"mine\.sbatch\.j2:1: Missing end of comment tag"),
        (b"{% include 'mine.sbatch.j2' %}", "RecursionError"),
        (b"{% extends 'nothing.j2' %}", r"template 'nothing\.j2' not found"),
        (b"{% extends 'base.sbatch.j2' %}", "Required block 'launcher' not found"),
        (b"caf\xe9", r"mine\.sbatch\.j2: UnicodeDecodeError"),
        (b"{{ 'a\nb' | q }}", "control character"),
    ],
)
def test_a_template_that_does_not_render_is_an_error_of_one_line(tmp_path: Path, text: bytes, message: str) -> None:
    own = tmp_path / "mine.sbatch.j2"
    own.write_bytes(text)
    with pytest.raises(InputError, match=message) as caught:
        rendered(profiles.cluster("c4140"), 1, template=str(own))
    assert "\n" not in str(caught.value)


@given(st.text())
@example("$(touch /tmp/x) `id` \"'\\ ; & | é ü 漢")
@example("-n")
def test_bash_reads_back_a_quoted_text_or_quote_refuses_it(text: str) -> None:
    try:
        word = quote(text)
        data = f"printf %s {word}".encode()
    except (InputError, UnicodeEncodeError):
        assert any(ord(c) < 32 or ord(c) == 127 or 0xD800 <= ord(c) < 0xE000 for c in text)
        return
    done = subprocess.run(["bash", "-c", data], capture_output=True, check=True)
    assert done.stdout == text.encode()
