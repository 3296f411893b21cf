"""An experiment of a command: its keys, its placeholders, its sizes, and what cannot be combined."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from hpcjobs.base.errors import InputError
from hpcjobs.base.sizes import Size
from hpcjobs.base.tabular import with_params
from hpcjobs.config import Cluster, profiles, read_yaml
from hpcjobs.config.cluster import Container
from hpcjobs.jobs.arms import shown_command
from hpcjobs.jobs.group import Group, Variant
from hpcjobs.plan.planning import make_plan, parameter_grid, size_of
from hpcjobs.trainers.command_keys import CommandExperiment
from hpcjobs.trainers.command_line import document_of
from hpcjobs.trainers.registry import experiment_in, trainer_of
from tests.control.combinations import command_combinations, command_group, impossible, text_of

_PYXIS = Container(kind="pyxis", image="registry#image:1")
GOOD = "name: mine\ntrainer: command\ncommand: [python, train.py]\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "e.yaml"
    path.write_text(text)
    return path


def site(**changes: object) -> Cluster:
    return msgspec.structs.replace(profiles.cluster("c4140"), **changes)


def variants_of(words: Sequence[str], *settings: str) -> list[Variant]:
    return parameter_grid(document_of(words), settings)


def commands(words: Sequence[str], *settings: str, gpus: int = 8) -> list[str]:
    """The command of each variant at a size, as the script has it."""
    plan = make_plan([gpus], variants_of(words, *settings), site(), 1)
    return [shown_command(run, plan.cluster) for run in plan.runs]


def check(*settings: str, **changes: object) -> list[str]:
    """The warnings about a command with these settings on the profile c4140 with these changes."""
    experiments = [variant.experiment for variant in variants_of(["train"], *settings)]
    lines: list[str] = []
    trainer_of(experiments[0]).check(experiments, site(**changes), lines.append)
    return lines


# --- keys ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        (GOOD + "mesure: {unit: tokens}\n", 4, "unknown key 'mesure': did you mean 'measure'?"),
        (GOOD + "measure:\n  patern: x\n", 5, "unknown key 'measure.patern': did you mean 'pattern'?"),
        (GOOD + "stop:\n  signal: KILL\n", 5, "key 'stop.signal': expected one of USR1, USR2, TERM, got 'KILL'"),
        (GOOD + "start: ranks\n", 4, "key 'start': expected one of rank, node, once, got 'ranks'"),
        (GOOD + "batch: {local: 1, global: 2}\n", 4, "give one of batch.local (weak scaling) and batch.global"),
        (GOOD + "model: {name: densenet121}\n", 4, "unknown key 'model'"),
        ("name: x\ntrainer: command\ncommand: []\n", 3, "key 'command': expected a list of one or more"),
        ("name: x\ntrainer: command\ncommand: python train.py\n", 3, "key 'command': expected a list"),
        ("name: x\ntrainer: command\n", None, "key 'command' is missing"),
        ("name: x\ntrainer: comand\ncommand: [a]\n", 2, "key 'trainer': no trainer 'comand': did you mean 'command'?"),
        ("name: x\ntrainer: 3\ncommand: [a]\n", 2, "key 'trainer': no trainer 3: known: chexnet, command"),
        (GOOD + "params: {a b: 1}\n", 4, "key 'params.a b': expected a name of up to 40 letters"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_place(tmp_path: Path, text: str, line: int | None, says: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InputError) as caught:
        experiment_in(read_yaml(path))
    message = str(caught.value)
    assert says in message
    assert message.startswith(f"{path}:{line}: " if line else f"{path}: ")
    assert "\n" not in message


def test_words_and_parameters_are_the_texts_that_were_written(tmp_path: Path) -> None:
    """YAML reads 3e-4 as a number, yes as true, 010 as eight, and an empty value as nothing."""
    path = written(
        tmp_path,
        "name: mine\ntrainer: command\ncommand: [3e-4, yes, 010, null, 1_000, 2026-11-29, '', ~, 0x1F]\n"
        "params: {lr: 3e-4, fine: yes, mode: 010, big: 1_000}\n",
    )
    experiment = experiment_in(read_yaml(path))
    assert isinstance(experiment, CommandExperiment)
    assert experiment.command == ("3e-4", "yes", "010", "null", "1_000", "2026-11-29", "", "~", "0x1F")
    assert experiment.params == {"lr": "3e-4", "fine": "yes", "mode": "010", "big": "1_000"}


def test_values_of_set_are_the_texts_that_were_typed() -> None:
    words = ["train", "--lr={params.lr}", "--mode", "{params.mode}"]
    assert commands(words, "params.lr=1e-4,3E-4", "params.mode=010") == [
        "train --lr=1e-4 --mode 010",
        "train --lr=3E-4 --mode 010",
    ]
    assert commands(["train", "{params.on}"], "params.on=yes") == ["train yes"]


def test_a_global_batch_that_is_set_takes_the_place_of_a_local_one(tmp_path: Path) -> None:
    document = read_yaml(written(tmp_path, GOOD + "batch: {local: 8}\n"))
    (variant,) = parameter_grid(document, ["batch.global=64"])
    assert variant.experiment.batch.split(4) == (16, 64)
    for nothing in (["batch.local=null", "batch.global=64"], ["batch.global=64", "batch.local=null"]):
        (variant,) = parameter_grid(document, nothing)
        assert variant.experiment.batch.split(4) == (16, 64)
    with pytest.raises(InputError, match=r"--set: give one of batch\.global and batch\.local, not both"):
        parameter_grid(document, ["batch.global=64", "batch.local=8"])


def test_the_working_folder_is_where_the_sweep_was_typed_or_lies_beside_the_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "study").mkdir()
    monkeypatch.chdir(tmp_path)

    def workdir(text: str, *settings: str) -> str | None:
        (variant,) = parameter_grid(read_yaml(written(tmp_path / "study", GOOD + text)), settings)
        assert isinstance(variant.experiment, CommandExperiment)
        return variant.experiment.workdir

    assert workdir("") == str(tmp_path)
    assert workdir("workdir: code\n") == str(tmp_path / "study" / "code")
    assert workdir("workdir: code\n", "workdir=code") == str(tmp_path / "code")
    assert workdir("workdir: ~/gpt2\n") == str(Path.home() / "gpt2")
    assert (variants_of(["train"])[0].experiment).workdir == str(tmp_path)  # type: ignore[attr-defined]


def test_inputs_are_relative_to_the_working_folder() -> None:
    document = document_of(["train"])
    document.data["inputs"] = ["/scratch/owt", "tokens"]
    (variant,) = parameter_grid(document, ["workdir=/home/me/gpt2"])
    assert list(trainer_of(variant.experiment).inputs(variant.experiment)) == [
        "/home/me/gpt2",
        "/scratch/owt",
        "/home/me/gpt2/tokens",
    ]


# --- placeholders --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("--n={gpus}x{nodes}", "--n=8x2"),
        ("{gpus_per_node}/{processes_per_node}", "4/4"),
        ("{batch.local},{batch.global}", "16,128"),
        ('{{"a": {gpus}}}', """'{"a": 8}'"""),
        ("{head}:{port}", '"$MASTER_ADDR:$MASTER_PORT"'),
        ("{run_dir}/best", '"$HPCJOBS_RUN_DIR/best"'),
        ("{seed}th", '"${HPCJOBS_SEED}th"'),
        ("it's {repeat}", """'it'"'"'s '"$HPCJOBS_REPEAT\""""),
        ("$(id) {attempt_dir}", """'$(id) '"$HPCJOBS_ATTEMPT_DIR\""""),
        ("{params.a}{params.b-c}", "'{gpus}$x'"),
        ("", "''"),
    ],
)
def test_a_placeholder_is_filled_in(word: str, says: str) -> None:
    """Once: what stands in a parameter is no placeholder."""
    assert commands(["train", word], "batch.local=16", "params.a={gpus}", "params.b-c=$x") == [f"train {says}"]


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("{gpu}", "command: '{gpu}': no placeholder {gpu}: did you mean 'gpus'?"),
        ("{}", "no placeholder {}: "),
        ("{ gpus }", "no placeholder { gpus }: write {gpus}"),
        ("{what}", "attempt_dir, batch.global, batch.local, gpus, gpus_per_node, head, nodes, params.lr, port,"),
        ("{batch.local}", "{batch.local} needs a batch: give batch.local or batch.global"),
        ("{params.momentum}", "no parameter 'momentum': give it under params, or --set params.momentum=VALUE"),
        ('{"a": 1}', "write {{ and }} for braces"),
        ("{", "'{' has a single {: write {{ for a brace"),
        ("a}b", "'a}b' has a single }: write }} for a brace"),
    ],
)
def test_a_placeholder_that_cannot_be_filled_in_is_refused(word: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        commands(["train", word], "params.lr=1")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_swept_parameter_has_a_column_of_its_own_name() -> None:
    params = [variant.params for variant in variants_of(["train", "{params.lr}"], "params.lr=1e-4,3e-4", "seed=1,2")]
    assert params[0] == "params.lr=1e-4;seed=1"
    assert with_params(["flags", "cv"], params) == ["flags", "param.lr", "param.seed", "cv"]
    with pytest.raises(InputError, match=r"params\.seed and seed cannot both be swept, .* column param\.seed"):
        variants_of(["train"], "params.seed=1,2", "seed=1,2")


# --- sizes ---------------------------------------------------------------------------------------


def test_the_processes_of_a_size_depend_on_who_starts_them() -> None:
    """(gpus, nodes, GPUs per node, processes per node, processes)"""
    assert [size_of(8, site(), start) for start in ("rank", "node", "once")] == [
        Size(8, 2, 4, 4, 8),
        Size(8, 2, 4, 1, 2),
        Size(8, 2, 4, 4, 8),
    ]
    assert [size_of(2, site(), start) for start in ("rank", "node", "once")] == [
        Size(2, 1, 2, 2, 2),
        Size(2, 1, 2, 1, 1),
        Size(2, 1, 2, 2, 2),
    ]
    uneven = site(uneven_nodes=True)
    assert [size_of(7, uneven, start) for start in ("rank", "node")] == [Size(7, 2, 4, 4, 7), Size(7, 2, 4, 1, 2)]


def test_a_process_that_has_a_node_has_the_cpus_of_all_its_gpus() -> None:
    assert size_of(8, site(), "rank").per_process(10) == 10
    assert size_of(8, site(), "node").per_process(10) == 40
    assert size_of(2, site(), "node").per_process(10) == 20


def test_a_global_batch_must_divide_over_the_gpus() -> None:
    with pytest.raises(InputError, match=r"batch\.global 12 does not divide over 8 GPUs"):
        commands(["train"], "batch.global=12")


# --- what cannot be combined ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "changes", "says"),
    [
        (("start=rank,node",), {}, "--set start: takes one value, because the runs of a size share a job script"),
        (("stop.signal=USR1,USR2",), {}, "--set stop: takes one value"),
        (("stall_s=10,20",), {}, "--set stall_s: takes one value"),
        (("start=rank",), {"launcher": "horovodrun", "bind": "none"}, "start: rank needs launcher srun or mpirun"),
        (("start=node",), {"launcher": "horovodrun", "bind": "none"}, "start: node needs launcher srun or mpirun"),
        (("start=once",), {"container": _PYXIS}, "start: once runs without srun, which container.kind pyxis needs"),
        (("measure.format=mlprf",), {}, "no format 'mlprf': did you mean 'mlperf'?"),
        (("measure.format=pattern",), {}, "measure.format is pattern, but measure.pattern is missing"),
        (
            ("measure.format=none", "measure.pattern=(?P<step_ms>.)"),
            {},
            "measure.pattern is not used with measure.format none: give one of them",
        ),
        (("measure.pattern=(?P<speed>.)",), {}, "pattern "),
        (("measure.pattern=(",), {}, "pattern "),
    ],
)
def test_what_cannot_be_combined_is_refused(
    settings: tuple[str, ...], changes: dict[str, object], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        check(*settings, **changes)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pattern_may_hold_commas() -> None:
    (variant,) = variants_of(["train"], r"measure.pattern=loss [\d.]{1,9}, (?P<throughput>[\d.]+) tokens/s")
    assert isinstance(variant.experiment, CommandExperiment)
    assert variant.experiment.measure.pattern == r"loss [\d.]{1,9}, (?P<throughput>[\d.]+) tokens/s"


def test_a_working_folder_that_only_the_nodes_may_see_is_warned_of(tmp_path: Path) -> None:
    assert check(f"workdir={tmp_path}") == []
    (warning,) = check("workdir=/nowhere/code")
    assert warning == ("warning: this host sees no folder /nowhere/code (workdir); the nodes of the runs need it")


def refusal(cluster: Cluster, group: Group) -> str:
    """Why the group's experiments cannot run on the cluster; empty if they can."""
    experiments = [run.variant.experiment for run in group.runs]
    try:
        trainer_of(experiments[0]).check(experiments, cluster, lambda text: None)
    except InputError as error:
        return str(error)
    return ""


def test_every_combination_renders_a_sound_script_or_is_refused_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bodies: set[str] = set()
    refused = 0
    for keys, settings in command_combinations():
        if impossible(keys):
            with pytest.raises(ValueError):  # noqa: PT011 (test_profiles.py reads the messages)
                Cluster(**keys)
            continue
        cluster = Cluster(**keys)
        group = command_group(cluster, settings)
        if why := refusal(cluster, group):
            refused += 1
            assert why.startswith("start: ")
            continue
        text = text_of(cluster, group)
        bodies.add("\n".join(line for line in text.splitlines() if not line.startswith("#SBATCH")))
    assert refused > 50
    assert len(bodies) > 100
    seen: set[str] = set()
    paths = []
    for number, body in enumerate(sorted(bodies)):
        if not seen.issuperset(lines := body.splitlines()):
            seen.update(lines)
            paths.append(tmp_path / f"{number:03d}.sbatch")
            paths[-1].write_text(body)
            subprocess.run(["bash", "-n", paths[-1]], check=True)
    done = subprocess.run(["shellcheck", "--format=gcc", *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[:2000]
