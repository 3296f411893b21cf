"""`hpcjobs init`: an experiment with every key explained, and a profile where Slurm answers; all files or none."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest

from hpcjobs.base.errors import InputError
from hpcjobs.base.new_files import write_all
from hpcjobs.config import Experiment, load, profiles
from hpcjobs.config.keys import leaves
from hpcjobs.jobs.group import Variant
from hpcjobs.plan import planning
from hpcjobs.trainers.chexnet_keys import ChexnetExperiment
from hpcjobs.trainers.registry import trainer_of
from tests.control.test_cli import SLURM, on_a_login_node
from tests.running import hpcjobs

# Values that are easy to write wrongly: numbers without a dot, relative paths, a text of two lines with quotes.
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
    """The experiment that a sweep of this name trains."""
    return planning.parameter_grid(profiles.read(Experiment, name), [])[0].experiment


def checked(variants: Sequence[Variant], tell: Callable[[str], object]) -> None:
    """As `hpcjobs sweep` checks the experiments of its variants."""
    experiments = [variant.experiment for variant in variants]
    trainer_of(experiments[0]).check(experiments, profiles.cluster("local"), tell)


@pytest.mark.parametrize("base", ["chexnet", "demo", "elsewhere/odd.yaml"])
def test_what_is_written_means_what_the_base_means(base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "odd.yaml").write_text(ODD)
    done = hpcjobs("init", "own", "--base", base, cwd=tmp_path)
    assert done.stdout == "experiments/own.yaml\n"
    monkeypatch.chdir(tmp_path)
    assert meant("own") == msgspec.structs.replace(meant(base), name="own")
    if base.endswith(".yaml"):
        assert meant("own").data.dir == str(tmp_path / "shards")  # relative to the base, not to the new file


def test_every_key_is_there_below_its_description(tmp_path: Path) -> None:
    hpcjobs("init", "--base", "demo", cwd=tmp_path)
    lines = (tmp_path / "experiments" / "mine.yaml").read_text().splitlines()
    assert max(map(len, lines)) <= 110
    keys = list(leaves(ChexnetExperiment))
    assert {"name", "train.clip_norm", "batch.global", "data.synth.size", "lr.warmup_epochs"} <= {
        leaf.name for leaf in keys
    }
    at = 0
    for leaf in keys:
        key = leaf.name.rpartition(".")[2]
        at = next(i for i in range(at + 1, len(lines)) if re.match(rf" *#?{key}: ", lines[i]))
        above = at
        while lines[above - 1].strip().startswith("# "):
            above -= 1
        assert " ".join(line.strip().removeprefix("# ") for line in lines[above:at]) == leaf.description


def test_a_key_that_is_absent_is_valid_without_its_sign(tmp_path: Path) -> None:
    hpcjobs("init", cwd=tmp_path)
    path = tmp_path / "experiments" / "mine.yaml"
    text, before = path.read_text(), load(path, ChexnetExperiment)
    absent = re.findall(r"^ *#(\w+): null$", text, re.MULTILINE)
    assert absent == ["dir", "synth", "global", "steps", "target_auc", "clip_norm", "fusion_mib", "cycle_ms"]
    for key in absent:
        path.write_text(re.sub(rf"#{key}: null", f"{key}: null", text))
        assert load(path, ChexnetExperiment) == before
    path.write_text(text.replace("#clip_norm: null", "clip_norm: 2.5"))
    assert load(path, ChexnetExperiment).train.clip_norm == 2.5


def test_where_slurm_answers_a_profile_is_written_too(tmp_path: Path) -> None:
    env = on_a_login_node(tmp_path, SLURM)
    done = hpcjobs("init", "trial", "--base", "demo", cwd=tmp_path, env=env)
    assert done.stdout == "experiments/trial.yaml\nclusters/slurm.yaml\n"
    assert (tmp_path / "clusters" / "slurm.yaml").read_text() == hpcjobs(
        "cluster", "detect", cwd=tmp_path, env=env
    ).stdout
    assert done.stderr.splitlines() == [
        "check the lines that clusters/slurm.yaml marks UNKNOWN",
        "then:",
        "  hpcjobs check --gpus 1,4,8 --experiment trial --cluster slurm",
        "  hpcjobs sweep --gpus 1,4,8 --experiment trial --cluster slurm --dry-run",
        "  hpcjobs sweep --gpus 1,4,8 --experiment trial --cluster slurm",
    ]
    steps = done.stderr.splitlines()[3].split()[1:]
    data = ("--set", "data.dir=shards")
    assert "#SBATCH --gres=gpu:v100:4\n" in hpcjobs(*steps, *data, cwd=tmp_path, env=env).stdout


def test_the_profile_describes_the_partition_and_device_that_were_given(tmp_path: Path) -> None:
    env = on_a_login_node(tmp_path, SLURM)
    words = ("init", "--partition", "v100", "--device", "cpu")
    assert "clusters/slurm-v100.yaml" in hpcjobs(*words, cwd=tmp_path, env=env).stdout
    profile = profiles.cluster(str(tmp_path / "clusters" / "slurm-v100.yaml"))
    assert (profile.partition, profile.device) == ("v100", "cpu")


@pytest.mark.parametrize(
    ("commands", "says"),
    [
        ({}, "no profile written: Slurm does not answer here. Give --cluster NAME"),
        ({"scontrol": "[ $1 = ping ] && echo UP"}, "no profile written: Slurm did not describe its nodes"),
    ],
)
def test_without_slurm_only_an_experiment_is_written_and_a_message_says_why(
    commands: dict[str, str], says: str, tmp_path: Path
) -> None:
    done = hpcjobs("init", cwd=tmp_path, env=on_a_login_node(tmp_path, commands))
    assert done.stdout == "experiments/mine.yaml\n"
    assert says in done.stderr
    assert "or --cluster local to compute on this machine; on a login node `hpcjobs cluster detect`" in done.stderr
    assert "experiments/mine.yaml is not complete: experiment 'mine' names no data.dir: `hpcjobs data" in done.stderr
    assert not (tmp_path / "clusters").exists()


def test_a_flag_of_the_profile_that_changed_nothing_is_named(tmp_path: Path) -> None:
    done = hpcjobs("init", "--device", "cpu", cwd=tmp_path, env=on_a_login_node(tmp_path, {}))
    assert "no profile written, despite --device: Slurm does not answer here" in done.stderr


def test_a_name_that_means_another_file_from_now_on_is_reported(tmp_path: Path) -> None:
    message = hpcjobs("init", "demo", "--base", "demo", cwd=tmp_path).stderr
    assert re.search(
        r"in this folder 'demo' now means experiments/demo\.yaml, and no longer /\S+/experiments/demo\.yaml\n", message
    )
    assert "no more" not in hpcjobs("init", "mine", cwd=tmp_path).stderr


@pytest.mark.parametrize("there", ["experiments/mine.yaml", "clusters/slurm.yaml"])
def test_what_is_there_is_not_replaced_and_then_nothing_is_written(there: str, tmp_path: Path) -> None:
    env = on_a_login_node(tmp_path, SLURM)
    path = tmp_path / there
    path.parent.mkdir()
    path.write_text("name: precious\n")
    before = sorted(tmp_path.rglob("*"))
    done = hpcjobs("init", cwd=tmp_path, env=env, code=2)
    assert done.stderr == (
        f"hpcjobs: error: {there}: exists already; --force replaces it, and another folder leaves it as it is\n"
    )
    assert sorted(tmp_path.rglob("*")) == before
    assert path.read_text() == "name: precious\n"
    hpcjobs("init", "--force", cwd=tmp_path, env=env)
    assert "precious" not in path.read_text()
    assert not list(tmp_path.rglob(".*"))


def test_a_second_experiment_is_begun_beside_the_first(tmp_path: Path) -> None:
    env = on_a_login_node(tmp_path, SLURM)
    assert "clusters/slurm.yaml" in hpcjobs("init", cwd=tmp_path, env=env).stdout
    # The profile would be written with the same text.
    assert hpcjobs("init", "second", cwd=tmp_path, env=env).stdout == "experiments/second.yaml\n"
    with (tmp_path / "clusters" / "slurm.yaml").open("a") as file:
        file.write("account: abc\n")
    assert "clusters/slurm.yaml: exists already" in hpcjobs("init", "third", cwd=tmp_path, env=env, code=2).stderr
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


SWEEP_MINE = ("sweep", "--gpus", "1", "--experiment", "mine", "--cluster", "local", "--dry-run")


def test_an_experiment_with_synth_makes_up_its_data_whatever_its_name(tmp_path: Path) -> None:
    assert "is not complete" not in hpcjobs("init", "--base", "demo", cwd=tmp_path).stderr
    text = (tmp_path / "experiments" / "mine.yaml").read_text()
    assert re.search(r"^  synth:\n( *#.*\n)+    images: 512\n( *#.*\n)+    size: 64\n", text, re.MULTILINE)
    assert "g0001.sbatch" in hpcjobs(*SWEEP_MINE, cwd=tmp_path).stdout
    # data.dir takes the place of data.synth, here as in the demo itself.
    for words in (SWEEP_MINE, (*SWEEP_MINE, "--experiment", "demo")):
        assert "no dataset.json in" in hpcjobs(*words, "--set", "data.dir=shards", cwd=tmp_path).stderr
    without = (*SWEEP_MINE, "--set", "data.synth=null")
    assert "experiment 'mine' needs data" in hpcjobs(*without, cwd=tmp_path, code=2).stderr


def test_an_experiment_called_demo_makes_up_no_data_by_its_name(tmp_path: Path) -> None:
    assert (
        "experiments/demo.yaml is not complete: experiment 'demo' names no data.dir"
        in hpcjobs("init", "demo", cwd=tmp_path).stderr
    )
    words = ("sweep", "--gpus", "1", "--experiment", "demo", "--cluster", "local", "--dry-run")
    assert "experiment 'demo' needs data" in hpcjobs(*words, cwd=tmp_path, code=2).stderr
    hpcjobs("init", "demo", "--base", "./experiments/demo.yaml", "--force", cwd=tmp_path)
    synth = ("--set", "data.synth.images=64", "--set", "data.synth.size=32")
    assert "g0001.sbatch" in hpcjobs(*words, *synth, cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (("data.synth.images=64",), "key 'data.synth.size' is missing"),
        (
            ("data.synth.images=64,128", "data.synth.size=32"),
            "--set data.synth: takes one value of each key, because a sweep",
        ),
        (
            ("data.dir=x", "data.synth.size=32"),
            "--set: give one of data.dir and data.synth.size, not both",
        ),
    ],
)
def test_data_to_make_up_are_set_once_and_whole(settings: tuple[str, ...], says: str) -> None:
    with pytest.raises(InputError) as caught:
        checked(planning.parameter_grid(profiles.read(Experiment, "chexnet"), settings), print)
    assert says in str(caught.value)


def test_images_that_are_made_up_and_a_folder_may_be_compared() -> None:
    """Only one data set is made up then."""
    variants = planning.parameter_grid(profiles.read(Experiment, "demo"), ["data.dir=null,/shards"])
    lines: list[str] = []
    checked(variants, lines.append)
    assert lines == ["warning: this host sees no dataset.json in /shards; the nodes of the runs need it"]


@pytest.mark.parametrize(
    "name", [b"a\xffb.yaml", b"\x1b[2J.yaml", "a\u2028name: b.yaml".encode(), "größe.yaml".encode()]
)
def test_a_base_of_any_name_gives_a_file_that_loads(name: bytes, tmp_path: Path) -> None:
    base = os.fsdecode(name)
    (tmp_path / base).write_text(ODD.replace("../shards", "shards"))
    hpcjobs("init", "own", "--base", f"./{base}", cwd=tmp_path)
    path = tmp_path / "experiments" / "own.yaml"
    assert load(path, ChexnetExperiment).data.dir == f"{tmp_path}/shards"
    shown = f"./{base}" if base == "größe.yaml" else ascii(f"./{base}")
    assert f"with the values of {shown}." in path.read_text().replace("\n# ", " ")


def test_a_folder_that_is_not_utf8_is_written_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / os.fsdecode(b"a\xffb")
    folder.mkdir()
    (folder / "odd.yaml").write_text(ODD)
    hpcjobs("init", "own", "--base", "./odd.yaml", cwd=folder)
    monkeypatch.chdir(folder)
    assert meant("own").data.dir == str(tmp_path / "shards")


def test_a_text_that_is_not_utf8_is_a_mistake_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files = {Path("one/a.yaml"): "name: a\n", Path("two/b.yaml"): "a: b\n  dir: \udcff\n"}
    with pytest.raises(InputError, match=r"^two/b.yaml: cannot be written: 'dir: \\udcff' is not UTF-8"):
        write_all(files, force=True)
    assert not list(tmp_path.iterdir())


TWO = {Path("experiments/a.yaml"): "name: a\n", Path("clusters/b.yaml"): "name: b\n"}


@pytest.mark.parametrize("force", [False, True])
def test_what_was_interrupted_can_be_run_again(force: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    step = "replace" if force else "link"
    real, calls = getattr(os, step), []

    def interrupted(*paths: Path) -> None:
        calls.append(paths)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(*paths)

    with monkeypatch.context() as patch:
        patch.setattr(os, step, interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_all(TWO, force)
    # A file that --force replaced is lost; without --force nothing remains. Temporary files never remain.
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "experiments" / "a.yaml"] * force
    assert write_all(TWO, force=False).keys() == set(list(TWO)[force:])
    assert {path: path.read_text() for path in TWO} == TWO
    assert write_all(TWO, force=False) == {}


def test_half_of_what_it_wrote_is_made_whole(tmp_path: Path) -> None:
    env = on_a_login_node(tmp_path, SLURM)
    hpcjobs("init", cwd=tmp_path, env=env)
    (tmp_path / "clusters" / "slurm.yaml").unlink()
    done = hpcjobs("init", cwd=tmp_path, env=env)
    assert done.stdout == "clusters/slurm.yaml\n"
    assert "experiments/mine.yaml is unchanged: it holds the same text already\n" in done.stderr


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_another_process_writes_first_is_not_replaced(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    real = os.link

    def written_first(temporary: Path, path: Path) -> None:
        if path.parent.name == "clusters":
            path.write_text("precious\n")
        if not links:
            raise PermissionError(1, "Operation not permitted")
        real(temporary, path)

    monkeypatch.setattr(os, "link", written_first)
    with pytest.raises(InputError, match=r"^clusters/b.yaml: exists already"):
        write_all(TWO, force=False)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "clusters" / "b.yaml"]
    assert Path("clusters/b.yaml").read_text() == "precious\n"


def unprivileged(*words: str, cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run `hpcjobs` as a user for whom file modes apply; root gives up the privilege to ignore them."""
    drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.getuid() == 0 else []
    command = [*drop, sys.executable, "-m", "hpcjobs", *words]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)


@pytest.mark.parametrize("mode", [0o000, 0o444, 0o555])
def test_a_folder_that_may_not_be_looked_into_is_a_mistake(mode: int, tmp_path: Path) -> None:
    env = on_a_login_node(tmp_path, SLURM)
    (tmp_path / "experiments").mkdir(mode)
    done = unprivileged("init", cwd=tmp_path, env=env)
    message = "hpcjobs: error: experiments/mine.yaml: cannot be written: Permission denied\n"
    assert (done.returncode, done.stderr) == (2, message)
    assert not (tmp_path / "clusters").exists()


def test_a_profile_that_cannot_be_read_is_another(tmp_path: Path) -> None:
    env = on_a_login_node(tmp_path, SLURM)
    hpcjobs("init", cwd=tmp_path, env=env)
    path = tmp_path / "clusters" / "slurm.yaml"
    path.chmod(0)
    done = unprivileged("init", "second", cwd=tmp_path, env=env)
    assert (done.returncode, done.stdout) == (2, "")
    assert "clusters/slurm.yaml: exists already; --force replaces it" in done.stderr
    done = unprivileged("init", "second", "--force", cwd=tmp_path, env=env)
    assert (done.returncode, done.stdout) == (0, "experiments/second.yaml\nclusters/slurm.yaml\n")
    assert path.stat().st_mode & 0o400


def test_a_working_folder_that_is_gone_is_a_mistake(tmp_path: Path) -> None:
    gone = f"mkdir gone; cd gone; rmdir ../gone; exec {sys.executable} -m hpcjobs init"
    done = subprocess.run(["bash", "-c", gone], cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr == (
        "hpcjobs: error: the working folder cannot be used: No such file or directory; change to a folder that exists\n"
    )
    assert done.returncode == 2


def test_a_section_that_init_leaves_empty_can_be_set(tmp_path: Path) -> None:
    """Of a command neither batch is given: the file has the heading alone."""
    hpcjobs("init", "mine", "--", "python3", "train.py", "--batch={batch.local}", cwd=tmp_path)
    assert "\nbatch:\n" in (tmp_path / "experiments" / "mine.yaml").read_text()
    words = ("sweep", "--gpus", "1", "--experiment", "mine", "--cluster", "local", "--dry-run")
    assert "train.py --batch=32)" in hpcjobs(*words, "--set", "batch.local=32", cwd=tmp_path).stdout
