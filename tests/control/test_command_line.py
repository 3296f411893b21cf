"""`hpcjobs ... -- COMMAND`: all words after -- are the command, whatever they look like."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

import hpcjobs as face
from hpcjobs.base.errors import InputError
from hpcjobs.config import read_yaml
from hpcjobs.trainers.command_keys import CommandExperiment, CommandMeasure
from hpcjobs.trainers.command_line import document_of, name_of
from hpcjobs.trainers.registry import experiment_in
from tests.running import hpcjobs

SWEEP = ("sweep", "--gpus", "1,2", "--cluster", "local", "--dry-run")


@pytest.fixture(autouse=True)
def programs(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """`train` and `prog` are programs on PATH."""
    folder = tmp_path_factory.mktemp("bin")
    for name in ("train", "prog"):
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def planned(*words: str, cwd: Path) -> list[dict[str, str]]:
    """The runs of a dry run."""
    found: list[dict[str, str]] = json.loads(hpcjobs(*SWEEP, "--json", *words, cwd=cwd).stdout)["runs"]
    return found


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["python", "train.py", "--lr", "1"], "train"),
        (["torchrun", "--nnodes={nodes}", "code/pre train.v2.py", "-x"], "pre-train-v2"),
        (["python", "-m", "megatron.pretrain"], "python"),
        (["./train"], "train"),
        (["bash", "run.sh", "other.py"], "run"),
        (["/opt/größe"], "gr-e"),
        (["--"], "command"),
        (["x" * 60], "x" * 40),
    ],
)
def test_the_experiment_has_the_name_of_its_script(command: list[str], name: str) -> None:
    assert name_of(command) == name
    assert experiment_in(document_of(command)).name == name


def test_every_word_after_the_dashes_is_the_commands(tmp_path: Path) -> None:
    """Also those that are options of hpcjobs, and a second --."""
    runs = planned("--repeats", "1", "--", "prog", "--gpus", "9", "--json", "--help", "--", "-x", "", cwd=tmp_path)
    assert [run["command"] for run in runs] == ["prog --gpus 9 --json --help -- -x ''"] * 2
    assert list(tmp_path.iterdir()) == []


def test_a_folder_whose_path_would_split_pythonpath_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    words = [word for word in SWEEP if word != "--dry-run"]
    done = hpcjobs(*words, "--out", "run:1/a", "--", "prog", cwd=tmp_path, code=2)
    assert done.stderr.startswith(
        "hpcjobs: error: --out run:1/a: its path has a colon, at which PYTHONPATH would split it"
    )
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_flags_before_the_dashes_are_keys_of_the_experiment(tmp_path: Path) -> None:
    pattern = r"tokens/s: (?P<throughput>[\d.]+), loss"
    flags = ("--start", "node", "--pattern", pattern, "--of", "rank", "--unit", "tokens")
    hpcjobs("init", "gpt2", *flags, "--", "torchrun", "train.py", cwd=tmp_path)
    experiment = experiment_in(read_yaml(tmp_path / "experiments" / "gpt2.yaml"))
    assert isinstance(experiment, CommandExperiment)
    assert experiment.start == "node"
    assert experiment.measure == CommandMeasure(pattern=pattern, of="rank", unit="tokens")


def test_a_command_becomes_a_file_with_comments_that_means_the_same(tmp_path: Path) -> None:
    words = ["python", "train.py", "--lr", "3e-4", "yes", "010", "a 'b' \"c\"", "two\nlines", "é 漢", "", "# x", "{{}}"]
    done = hpcjobs("init", "gpt2", "--", *words, cwd=tmp_path)
    assert done.stdout == "experiments/gpt2.yaml\n"
    assert "hpcjobs sweep --gpus 1,2 --experiment gpt2 --cluster local" in done.stderr
    assert "is not complete" not in done.stderr
    path = tmp_path / "experiments" / "gpt2.yaml"
    experiment = experiment_in(read_yaml(path))
    assert experiment == CommandExperiment(name="gpt2", command=tuple(words), workdir=str(tmp_path))
    text = path.read_text()
    assert "\n# Who starts the processes. rank: " in text
    for key in re.findall(r"^ *#(\w+): null$", text, re.MULTILINE):
        path.write_text(re.sub(rf"#{key}: null", f"{key}: null", text))
        assert experiment_in(read_yaml(path)) == experiment


def test_a_key_of_a_section_of_comments_may_be_set(tmp_path: Path) -> None:
    done = hpcjobs("init", "gpt2", "--", "train", "{batch.local}", cwd=tmp_path)
    said = "experiments/gpt2.yaml is not complete: command: '{batch.local}': {batch.local} needs a batch"
    assert done.stderr.count(said) == 1
    runs = planned("--experiment", "gpt2", "--set", "batch.local=4", cwd=tmp_path)
    assert {run["command"] for run in runs} == {"train 4"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--experiment", "demo", "--", "train"), "--experiment and a command after -- exclude each other"),
        (("--",), "no command after --: give one, such as `-- python train.py --batch {batch.local}`"),
        (("--", ""), "no command after --"),
        (("train",), "'train' looks like a command: write -- before it"),
        (("python3", "sgd.py", "--iters", "9"), "'python3 sgd.py ...' looks like a command: write -- before it"),
        (("lr=1",), "unexpected extra argument (lr=1)"),
        (("--itrs", "9"), "no such option"),
        (("--", "train", "--dry-run"), "--dry-run stands after --, where it is an argument of the command"),
        (("--", "prog x.py --iters 9"), "'prog x.py --iters 9' is one word, and no file: leave out the quotes"),
        (("--", "no-such-program"), "command: no-such-program is not found on PATH"),
        (("--", "./gone.sh"), "command: ./gone.sh: no such file in "),
        (("--set", "batch=64", "--", "train"), "batch is a section with the keys local, global: did you mean batch.l"),
        (("--set", "stop=USR2", "--", "train"), "did you mean stop.signal=USR2?"),
        (("--set", "optimizer.lr=1", "--", "train"), "; a value of the command's own is params.NAME"),
        (("--set", "params.wd=1,2", "--", "train", "{{params.wd}}"), "the command does not use {params.wd}"),
        (
            ("--pattern", "(?P<step_ms>.*)m", "--unit", "tokens", "--set", "batch.local=4", "--", "train"),
            "step_ms is no rate of tokens, because a batch counts samples: name a group throughput or samples",
        ),
        (("--pattern", "(?P<step_s>.*)s", "--", "train"), "--pattern: measure.pattern: step_s is a rate only with the"),
        (("--", "train", "{gpu}"), "no placeholder {gpu}: did you mean 'gpus'?"),
        (("--set", "lr=1", "--", "train"), "--set: unknown key 'lr': "),
        (("--set", "params.lr=", "--", "train"), "--set params.lr=: an empty or a repeated value"),
        (("--start", "node"), "--start is for a training command"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(words: tuple[str, ...], says: str, tmp_path: Path) -> None:
    done = hpcjobs(*SWEEP, *words, cwd=tmp_path, code=2)
    assert says.lower() in done.stderr.lower()
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_flag_that_slipped_behind_the_dashes_is_told(tmp_path: Path) -> None:
    done = hpcjobs(*SWEEP, "--json", "--", "prog", "--wait", "--lr", cwd=tmp_path)
    assert done.stderr.count("warning: ") == 1
    assert "warning: --wait stands after --: it is an argument of the command" in done.stderr
    said = "'train.py --lr ...' looks like a command: write -- before it"
    assert said in hpcjobs("init", "gpt2", "--unit", "tokens", "train.py", "--lr", "1", cwd=tmp_path, code=2).stderr
    assert list(tmp_path.iterdir()) == []


def test_an_option_of_the_commands_own_stands_in_a_file(tmp_path: Path) -> None:
    hpcjobs("init", "gpt2", "--", "train", "--dry-run", cwd=tmp_path)
    runs = planned("--experiment", "gpt2", cwd=tmp_path)
    assert {run["command"] for run in runs} == {"train --dry-run"}


def test_values_that_no_word_of_the_command_uses_are_told(tmp_path: Path) -> None:
    words = (*SWEEP, "--set", "params.wd=1", "--set", "params.lr=1,2", "--set", "batch.local=4,8")
    told = hpcjobs(*words, "--", "train", "{params.lr}", cwd=tmp_path).stderr
    assert "warning: params.wd is given, but the command does not use {params.wd}" in told
    assert "warning: --set batch.local: the command has no {batch.local}, so only a script that reads HPCJOBS_L" in told
    told = hpcjobs(*words, "--", "train", "{params.lr}", "{batch.global}", "{params.wd}", cwd=tmp_path).stderr
    assert "warning: " not in told


def test_a_step_time_is_a_rate_with_a_batch_or_of_steps(tmp_path: Path) -> None:
    pattern = ("--pattern", r"(?P<step_ms>[\d.]+) ms")
    for words in (("--set", "batch.global=4"), ("--unit", "steps")):
        assert planned(*pattern, *words, "--", "train", cwd=tmp_path)
    hpcjobs("init", "gpt2", *pattern, "--", "train", "{batch.local}", cwd=tmp_path)


def test_a_plan_of_this_machine_speaks_of_no_nodes_and_no_bash(tmp_path: Path) -> None:
    lines = hpcjobs(*SWEEP, "--", "train", cwd=tmp_path).stdout.splitlines()
    assert lines[0] == "sweep of train on local: 6 runs in 2 jobs"
    assert lines[2].endswith("g0001.sbatch  at once, in turn")


def test_a_sweep_is_repeated_without_another_command(tmp_path: Path) -> None:
    for words, says in (
        (("--", "train"), "--from repeats a sweep unchanged: leave out the command after --"),
        (("--start", "node"), "--from repeats a sweep unchanged: leave out --start"),
    ):
        assert says in hpcjobs("sweep", "--from", "x", *words, cwd=tmp_path, code=2).stderr


def test_a_plan_shows_each_variants_command_above_the_scripts(tmp_path: Path) -> None:
    words = ("--set", "params.lr=1e-4,3e-4", "--", "train", "--lr={params.lr}", "--at={head}", "a b", "[red]")
    before, _, scripts = hpcjobs(*SWEEP, *words, cwd=tmp_path).stdout.partition("\n==> ")
    assert [line for line in before.splitlines() if "train --lr" in line] == [
        """params.lr=1e-4: train --lr=1e-4 "--at=$MASTER_ADDR" 'a b' '[red]'""",
        """params.lr=3e-4: train --lr=3e-4 "--at=$MASTER_ADDR" 'a b' '[red]'""",
    ]
    for command in ("--lr=1e-4", "--lr=3e-4"):
        assert f"""train {command} "--at=$MASTER_ADDR" 'a b' '[red]')\n""" in scripts
    runs = planned("--repeats", "1", *words, cwd=tmp_path)
    assert [(run["gpus"], run["params"]) for run in runs] == [
        (gpus, f"params.lr={lr}") for gpus in (1, 2) for lr in ("1e-4", "3e-4")
    ]
    assert runs[0]["command"] == """train --lr=1e-4 "--at=$MASTER_ADDR" 'a b' '[red]'"""


def test_a_command_that_is_another_at_each_size_is_shown_for_each(tmp_path: Path) -> None:
    lines = hpcjobs(*SWEEP, "--", "train", "{gpus}", "{batch.global}", "--set=x", cwd=tmp_path, code=2).stderr
    assert "{batch.global} needs a batch" in lines
    shown = hpcjobs(*SWEEP, "--set", "batch.local=8", "--", "train", "{gpus}", "{batch.global}", cwd=tmp_path).stdout
    assert "\ngpus 1: train 1 8\ngpus 2: train 2 16\n" in shown
    assert "\ncommand: train 8\n" in hpcjobs(*SWEEP, "--", "train", "8", cwd=tmp_path).stdout


def test_the_built_in_trainer_has_no_command_to_show(tmp_path: Path) -> None:
    assert (
        "hpcjobs.chexnet.train" not in hpcjobs(*SWEEP, "--experiment", "demo", cwd=tmp_path).stdout.partition("==>")[0]
    )


def test_a_check_takes_a_command(tmp_path: Path) -> None:
    done = hpcjobs(
        "check", "--gpus", "1", "--cluster", "local", "--json", "--", "no-such-program", cwd=tmp_path, code=1
    )
    said = [line["said"] for line in json.loads(done.stdout)["findings"] if line["state"] == "failure"]
    assert len(said) == 1
    assert said[0].startswith("no-such-program is not found on PATH on ")


def test_python_takes_a_command_or_an_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="experiment and command exclude each other"):
        face.sweep(gpus=1, experiment="demo", command=["train"], cluster="local")
    with pytest.raises(InputError, match="no placeholder"):
        face.sweep(gpus=1, command=["train", "{lr}"], cluster="local")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"command": ["train", True]}, "command[1]: expected a text, a number or a path, got True"),
        ({"command": ["train", ["--lr"]]}, "command[1]: expected a text, a number or a path, got ['--lr']"),
        ({"command": "train"}, "command: expected a list of words, got 'train'"),
        ({"command": ["train"], "start": "nod"}, "key 'start': expected one of rank, node, once, got 'nod'"),
        (
            {"command": ["train"], "unit": "a", "settings": {"measure": {"unit": "b"}}},
            "unit and settings: measure.unit",
        ),
        ({"experiment": "demo", "pattern": "x"}, "pattern is for a training command"),
    ],
)
def test_python_names_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, object], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=re.escape(says)):
        face.sweep(gpus=1, cluster="local", **given)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_python_gives_numbers_paths_and_flags_as_the_command_line_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    study = face.sweep(
        gpus=1,
        command=["train", Path("x.py"), 400, 0.5, "{params.lr}", "{batch.local}"],
        cluster="local",
        start="once",
        pattern=r"at (?P<throughput>\d+), of",
        of="rank",
        unit="tokens",
        repeats=1,
        settings={"batch": {"local": 32}, "params": {"lr": ["1e-4"]}, "measure": {"warmup": 2}},
        out="o",
    )
    study.wait()
    (variant,) = study.sweep.plan.variants
    ours = variant.experiment
    assert isinstance(ours, CommandExperiment)
    assert ours.command == ("train", "x.py", "400", "0.5", "{params.lr}", "{batch.local}")
    assert (ours.start, ours.batch.local, ours.params) == ("once", 32, {"lr": "1e-4"})
    assert ours.measure == CommandMeasure(pattern=r"at (?P<throughput>\d+), of", of="rank", unit="tokens", warmup=2)
    typed = json.loads((tmp_path / "o" / "provenance.json").read_text())["command"]
    assert typed[typed.index("--") :] == ["--", *ours.command]
