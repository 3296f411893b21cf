"""Rendered scripts: golden files, directives first, what bash reads back."""

from __future__ import annotations

import subprocess
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hpcjobs import profiles
from hpcjobs.errors import InputError
from hpcjobs.plan import expand, make_plan
from hpcjobs.render import quote, script
from hpcjobs.spec import Cluster, Experiment

GOLDEN = Path(__file__).parent / "golden"
SIZES = (1, 2, 4, 8, 16)


def rendered(cluster: Cluster, gpus: int, folder: str = "/scratch/study", **changes: object) -> str:
    fixed = {"python": "/opt/hpcjobs/bin/python", **changes}
    cluster = msgspec.structs.replace(cluster, **fixed)
    plan = make_plan([gpus], expand(profiles.read(Experiment, "chexnet"), []), cluster, 3)
    return script(plan.groups[0], cluster, "261123120000abcd", Path(folder))


CASES = [("c4140", "srun"), ("c4140", "mpirun"), ("virtual", "srun"), ("local", "mpirun")]


@pytest.mark.parametrize("gpus", SIZES)
@pytest.mark.parametrize(("cluster", "launcher"), CASES)
def test_golden(cluster: str, launcher: str, gpus: int, request: pytest.FixtureRequest) -> None:
    """`pytest tests/control/test_render.py --update-golden` writes them anew; read the difference."""
    text = rendered(profiles.cluster(cluster), gpus, launcher=launcher)
    path = GOLDEN / f"{cluster}-{launcher}-g{gpus:04d}.sbatch"
    if request.config.getoption("--update-golden"):
        path.write_text(text)
    assert text == path.read_text()


def test_golden_scripts_pass_bash_and_shellcheck() -> None:
    scripts = sorted(map(str, GOLDEN.glob("*.sbatch")))
    assert len(scripts) == len(CASES) * len(SIZES)
    for path in scripts:
        subprocess.run(["bash", "-n", path], check=True)
    done = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.sbatch")), ids=lambda path: path.name)
def test_every_directive_stands_before_the_first_command(path: Path) -> None:
    """sbatch stops reading directives at the first command: the 2019 study lost all of its own so."""
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


def test_the_other_styles_of_a_site() -> None:
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


def test_a_template_of_the_users_own_extends_the_base(tmp_path: Path) -> None:
    own = tmp_path / "mine.sbatch.j2"
    own.write_text('{% extends "srun.sbatch.j2" %}{% block modules %}\nsource /etc/site.sh{% endblock %}')
    assert "\nsource /etc/site.sh\n" in rendered(profiles.cluster("c4140"), 1, template=str(own))
    own.write_text("{% extends %}")
    with pytest.raises(InputError, match=r"mine\.sbatch\.j2:1: "):
        rendered(profiles.cluster("c4140"), 1, template=str(own))
    own.write_text("{{ no_such_name }}")
    with pytest.raises(InputError, match="no_such_name"):
        rendered(profiles.cluster("c4140"), 1, template=str(own))


@given(st.text())
@example("$(touch /tmp/x) `id` \"'\\ ; & | é ü 漢")
@example("-n")
def test_bash_reads_back_what_was_quoted_or_it_is_refused(text: str) -> None:
    try:
        word = quote(text)
        data = f"printf %s {word}".encode()
    except (InputError, UnicodeEncodeError):
        assert any(ord(c) < 32 or ord(c) == 127 or 0xD800 <= ord(c) < 0xE000 for c in text)
        return
    done = subprocess.run(["bash", "-c", data], capture_output=True, check=True)
    assert done.stdout == text.encode()
