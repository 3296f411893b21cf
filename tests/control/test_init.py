"""`hpcjobs init`: an experiment with every key explained, and a profile where Slurm answers; all files or none."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from hpcjobs import plan, profiles
from hpcjobs.spec import Experiment, load
from hpcjobs.spec.commented import leaves
from tests.control.test_cli import SLURM, on_a_login_node
from tests.running import hpcjobs

# What a value, a path, and a text can be in YAML that a line does not show at once.
ODD = """
name: odd
description: "two lines,\\nthe second: with # and 'quotes'"
model: {weights: weights/best.h5}
data: {dir: ../shards}
batch: {global: 256}
lr: {base: 1e-5}
train: {steps: 100, clip_norm: 1, target_auc: 0.8}
horovod: {fusion_mib: 64}
"""


def meant(name: str) -> Experiment:
    """What a sweep of this experiment trains."""
    return plan.expand(profiles.read(Experiment, name), [])[0].experiment


@pytest.mark.parametrize("base", ["chexnet", "demo", "elsewhere/odd.yaml"])
def test_what_is_written_means_what_the_base_means(base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "odd.yaml").write_text(ODD)
    done = hpcjobs("init", "own", "--base", base, cwd=tmp_path)
    assert done.stdout == "experiments/own.yaml\n"
    monkeypatch.chdir(tmp_path)
    assert meant("own") == msgspec.structs.replace(meant(base), name="own")
    if base.endswith(".yaml"):
        assert meant("own").data.dir == str(tmp_path / "shards")  # relative to the base's file, not to the new one


def test_every_key_stands_there_below_its_comment(tmp_path: Path) -> None:
    hpcjobs("init", "--base", "demo", cwd=tmp_path)
    lines = (tmp_path / "experiments" / "mine.yaml").read_text().splitlines()
    assert max(map(len, lines)) <= 110
    keys = list(leaves())
    assert {"name", "train.clip_norm", "batch.global", "lr.warmup_epochs"} <= {leaf.key for leaf in keys}
    at = 0
    for leaf in keys:
        key = leaf.key.rpartition(".")[2]
        at = next(i for i in range(at + 1, len(lines)) if re.match(rf" *#?{key}: ", lines[i]))
        above = at
        while lines[above - 1].strip().startswith("# "):
            above -= 1
        assert " ".join(line.strip().removeprefix("# ") for line in lines[above:at]) == leaf.comment


def test_a_key_that_is_absent_is_valid_without_its_sign(tmp_path: Path) -> None:
    hpcjobs("init", cwd=tmp_path)
    path = tmp_path / "experiments" / "mine.yaml"
    text, before = path.read_text(), load(path, Experiment)
    absent = re.findall(r"^ *#(\w+): null$", text, re.MULTILINE)
    assert absent == ["dir", "global", "steps", "target_auc", "clip_norm", "fusion_mib", "cycle_ms"]
    for key in absent:
        path.write_text(re.sub(rf"#{key}: null", f"{key}: null", text))
        assert load(path, Experiment) == before
    path.write_text(text.replace("#clip_norm: null", "clip_norm: 2.5"))
    assert load(path, Experiment).train.clip_norm == 2.5


def test_where_slurm_answers_a_profile_stands_beside_it(tmp_path: Path) -> None:
    env = on_a_login_node(tmp_path, SLURM)
    done = hpcjobs("init", "trial", "--base", "demo", cwd=tmp_path, env=env)
    assert done.stdout == "experiments/trial.yaml\nclusters/slurm.yaml\n"
    assert (tmp_path / "clusters" / "slurm.yaml").read_text() == hpcjobs(
        "cluster", "detect", cwd=tmp_path, env=env
    ).stdout
    assert done.stderr.splitlines() == [
        "look at what clusters/slurm.yaml marks UNKNOWN",
        "name the data in experiments/trial.yaml: data.dir, a folder that `hpcjobs data prepare` (or `data synth`) made",
        "then:",
        "  hpcjobs check --gpus 1,4,8 --experiment trial --cluster slurm",
        "  hpcjobs sweep --gpus 1,4,8 --experiment trial --cluster slurm --dry-run",
        "  hpcjobs sweep --gpus 1,4,8 --experiment trial --cluster slurm",
    ]
    steps = done.stderr.splitlines()[4].split()[1:]
    data = ("--set", "data.dir=shards")
    assert "#SBATCH --gres=gpu:v100:4\n" in hpcjobs(*steps, *data, cwd=tmp_path, env=env).stdout


def test_the_profile_is_of_the_partition_and_device_that_were_told(tmp_path: Path) -> None:
    env = on_a_login_node(tmp_path, SLURM)
    words = ("init", "--partition", "v100", "--device", "cpu")
    assert "clusters/slurm-v100.yaml" in hpcjobs(*words, cwd=tmp_path, env=env).stdout
    profile = profiles.cluster(str(tmp_path / "clusters" / "slurm-v100.yaml"))
    assert (profile.partition, profile.device) == ("v100", "cpu")


@pytest.mark.parametrize(
    ("commands", "says"),
    [
        ({}, "no profile written: Slurm does not answer here. Give --cluster NAME"),
        ({"scontrol": "[ $1 = ping ] && echo UP"}, "no profile written: Slurm did not say what its nodes are"),
    ],
)
def test_without_slurm_there_is_an_experiment_alone_and_it_is_said(
    commands: dict[str, str], says: str, tmp_path: Path
) -> None:
    done = hpcjobs("init", cwd=tmp_path, env=on_a_login_node(tmp_path, commands))
    assert done.stdout == "experiments/mine.yaml\n"
    assert says in done.stderr
    assert "or --cluster local to compute on this machine; on a login node `hpcjobs cluster detect`" in done.stderr
    assert "name the data in experiments/mine.yaml: data.dir" in done.stderr
    assert not (tmp_path / "clusters").exists()


def test_a_flag_of_the_profile_that_changed_nothing_is_named(tmp_path: Path) -> None:
    done = hpcjobs("init", "--device", "cpu", cwd=tmp_path, env=on_a_login_node(tmp_path, {}))
    assert "no profile written, for all --device: Slurm does not answer here" in done.stderr


@pytest.mark.parametrize("there", ["experiments/mine.yaml", "clusters/slurm.yaml"])
def test_what_is_there_is_not_replaced_and_then_nothing_is_written(there: str, tmp_path: Path) -> None:
    env = on_a_login_node(tmp_path, SLURM)
    path = tmp_path / there
    path.parent.mkdir()
    path.write_text("name: precious\n")
    before = sorted(tmp_path.rglob("*"))
    done = hpcjobs("init", cwd=tmp_path, env=env, code=2)
    assert done.stderr == (
        f"hpcjobs: error: {there}: is there already; --force replaces it, and another folder leaves it as it is\n"
    )
    assert sorted(tmp_path.rglob("*")) == before
    assert path.read_text() == "name: precious\n"
    hpcjobs("init", "--force", cwd=tmp_path, env=env)
    assert "precious" not in path.read_text()
    assert not list(tmp_path.rglob(".*"))


def test_a_second_experiment_is_begun_beside_the_first(tmp_path: Path) -> None:
    env = on_a_login_node(tmp_path, SLURM)
    assert "clusters/slurm.yaml" in hpcjobs("init", cwd=tmp_path, env=env).stdout
    # The profile says the same.
    assert hpcjobs("init", "second", cwd=tmp_path, env=env).stdout == "experiments/second.yaml\n"
    with (tmp_path / "clusters" / "slurm.yaml").open("a") as file:
        file.write("account: abc\n")
    assert "clusters/slurm.yaml: is there already" in hpcjobs("init", "third", cwd=tmp_path, env=env, code=2).stderr
    assert not (tmp_path / "experiments" / "third.yaml").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("a b",), "NAME a b: cannot name an experiment: give up to 40 letters (A to z), digits, - and _"),
        (("../up",), "NAME ../up: cannot name an experiment"),
        (("",), "cannot name an experiment"),
        (("--base", "chexent"), "no experiment 'chexent': did you mean 'chexnet'?"),
        (("--base", "none.yaml"), "none.yaml: no such file"),
        (("--base", "bad.yaml"), "bad.yaml:3: unknown key 'batch.lcoal': did you mean 'local'?"),
        (("--partition", "v10"), "no partition 'v10': did you mean 'v100'?"),
        (("clash",), "experiments/clash.yaml: is a folder"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(words: tuple[str, ...], says: str, tmp_path: Path) -> None:
    env = on_a_login_node(tmp_path, SLURM)
    (tmp_path / "bad.yaml").write_text("name: x\nbatch:\n  lcoal: 4\n")
    (tmp_path / "experiments" / "clash.yaml").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    done = hpcjobs("init", *words, cwd=tmp_path, env=env, code=2)
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_where_one_file_cannot_be_written_the_other_is_not_either(tmp_path: Path) -> None:
    env = on_a_login_node(tmp_path, SLURM)
    (tmp_path / "clusters").write_text("a file\n")
    before = sorted(tmp_path.rglob("*"))
    assert "clusters: cannot be written" in hpcjobs("init", cwd=tmp_path, env=env, code=2).stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_only_the_demo_itself_makes_up_its_data(tmp_path: Path) -> None:
    assert "name the data in experiments/mine.yaml" in hpcjobs("init", "--base", "demo", cwd=tmp_path).stderr
    words = ("sweep", "--gpus", "1", "--experiment", "mine", "--cluster", "local", "--dry-run")
    assert "experiment 'mine' needs data" in hpcjobs(*words, cwd=tmp_path, code=2).stderr
    assert "g0001.sbatch" in hpcjobs(*words, "--set", "data.dir=shards", cwd=tmp_path).stdout
    assert "name the data" not in hpcjobs("init", "demo", "--base", "demo", cwd=tmp_path).stderr
