"""Wrong keys of a command's experiment: one line each, with file, line, key, and what would be right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hpcjobs.base.errors import InputError
from hpcjobs.cli.command_flags import CommandFlags
from hpcjobs.config import Document, profiles, read_yaml
from hpcjobs.config.keys import schema_by
from hpcjobs.plan.planning import Plan, Terms, parameter_grid
from hpcjobs.plan.settings import settings_of, texts, written
from hpcjobs.study import make_plan
from hpcjobs.trainers.command_keys import CommandExperiment
from hpcjobs.trainers.command_line import document_of
from hpcjobs.trainers.registry import DEFAULT, TRAINERS

HEAD = "name: mine\ntrainer: command\n"
GOOD = HEAD + "command: [python, train.py]\n"


def plan(document: Document, *settings: str, cluster: str = "local") -> Plan:
    """What `hpcjobs sweep`, `check` and Python do first with an experiment, at two GPUs."""
    return make_plan([2], document, profiles.cluster(cluster), None, settings, Terms(), lambda text: None)


def refusal(tmp_path: Path, text: str, *settings: str) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        plan(read_yaml(path), *settings)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(path), "FILE")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (HEAD + "command: python train.py\n", "FILE:3: key 'command': expected a list, got 'python train.py': write ["),
        (HEAD + "command: ['']\n", "FILE:3: key 'command': the first word is empty"),
        (HEAD + "command: [--gpus, 1]\n", "FILE:3: command: the first word '--gpus' is an option"),
        (HEAD + "command: [train, '{gpu}']\n", "FILE:3: command: '{gpu}': no placeholder {gpu}: did you mean 'gpus'?"),
        (GOOD + "start: null\n", "FILE:4: key 'start': expected text, got nothing (null)"),
        (GOOD + "params: {lr: [1, 2]}\n", "FILE:4: key 'params.lr': expected text, got [1, 2]"),
        (GOOD + "measure:\n  format: pattrn\n", "FILE:5: key 'measure.format': no format 'pattrn': did you mean"),
        (GOOD + "measure: {pattern: '('}\n", "FILE:4: key 'measure.pattern': pattern '(': not a regular expression"),
        (
            GOOD + "measure: {unit: tokens per s}\n",
            "FILE:4: key 'measure.unit': unit 'tokens per s': expected one word",
        ),
        (GOOD + "measure: {unit: ''}\n", "FILE:4: key 'measure.unit': unit '': expected one word"),
        (GOOD + "batch: {global: 3}\n", "FILE:4: batch.global 3 does not divide over 2 GPUs"),
        (GOOD + "work: .inf\n", "FILE:4: key 'work': expected a finite number, got inf"),
        (GOOD + "workdir: ''\n", "FILE:4: key 'workdir': expected a folder"),
        (
            "name: x\ncommand: [train]\n",
            "FILE:2: key 'command' is one of trainer command: give `trainer: command`, too",
        ),
        (GOOD + "params: &it {x: *it}\n", "FILE: an alias (*NAME) stands inside what it repeats"),
    ],
)
def test_a_mistake_names_its_line_and_what_is_right(text: str, says: str, tmp_path: Path) -> None:
    assert refusal(tmp_path, text).startswith(says)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("measure.pattern=(", "--set: key 'measure.pattern': pattern '('"),
        ("batch.global=3", "--set: batch.global 3 does not divide over 2 GPUs"),
        ("params.a b=1", "--set: key 'params.a b': expected a name of up to 40 letters"),
        ("command=train", "--set command=train: give the command after --, or in the experiment's file"),
        ("trainer=chexnet", "--set trainer=chexnet: the trainer decides which other keys there are"),
        ("repeats=1,2", "--set repeats=1,2: takes one value"),
        ("inputs=a,,b", "--set inputs=a,,b: an empty or a repeated value"),
    ],
)
def test_a_wrong_setting_is_named_as_one(setting: str, says: str, tmp_path: Path) -> None:
    assert refusal(tmp_path, GOOD, setting).startswith(says)


def test_the_start_and_the_launcher_are_compared_before_anything_runs(tmp_path: Path) -> None:
    cluster = profiles.override(profiles.cluster("virtual"), {"launcher": "horovodrun", "bind": "none"})
    with pytest.raises(InputError, match="start: rank needs launcher srun or mpirun"):
        make_plan([2], document_of(["train"]), cluster, None, (), Terms(), lambda text: None)


def test_a_list_is_set_with_commas() -> None:
    variants = parameter_grid(document_of(["train"]), ["inputs=/data/a, b"])
    assert [variant.params for variant in variants] == [""]
    assert isinstance(variants[0].experiment, CommandExperiment)
    assert variants[0].experiment.inputs == ("/data/a", "b")


def test_one_key_of_an_absent_section_brings_the_others_defaults() -> None:
    (variant,) = parameter_grid(document_of(["train"]), ["stop.signal=USR2"])
    assert isinstance(variant.experiment, CommandExperiment)
    assert variant.experiment.stop is not None
    assert (variant.experiment.stop.signal, variant.experiment.stop.exit_code) == ("USR2", 75)


def test_python_takes_a_pattern_with_commas_as_it_is() -> None:
    pattern = r"in \d{1,3} s, (?P<throughput>[\d.]+)"
    assert list(written({"measure.pattern": pattern}, ["measure.pattern"])) == [f"measure.pattern={pattern}"]
    assert list(written({"inputs": ["a", "b"]})) == ["inputs=a,b"]
    with pytest.raises(InputError, match=r"settings: measure\.pattern: expected one text, got"):
        list(written({"measure.pattern": [pattern]}, ["measure.pattern"]))


def test_a_flag_without_a_command_says_what_it_is_for() -> None:
    with pytest.raises(InputError, match="--start is for a training command: give one after --"):
        CommandFlags(None, ["start=node"]).document(None, DEFAULT)
    with pytest.raises(InputError, match="--start and --set start are the same"):
        CommandFlags(["train"], ["start=node"]).document(None, DEFAULT, ["start=once"])


def test_a_wrong_flag_is_named_as_it_was_typed() -> None:
    document = CommandFlags(["train"], ["measure.pattern=("]).document(None, DEFAULT)
    with pytest.raises(InputError, match=r"^--pattern: key 'measure.pattern': pattern '\('"):
        plan(document, "measure.pattern=(")


def test_the_schema_takes_what_a_file_may_hold() -> None:
    about = schema_by("trainer", {name: each.keys for name, each in TRAINERS.items()}, DEFAULT)
    keys = about["$defs"]["CommandExperiment"]["properties"]
    assert about["properties"]["trainer"]["enum"] == ["chexnet", "command"]
    assert "number" in keys["params"]["additionalProperties"]["type"]
    assert "number" in keys["command"]["items"]["type"]
    assert {"type": "null"} in keys["batch"]["anyOf"]
    json.dumps(about, allow_nan=False)


def test_python_may_give_numbers_and_paths_as_words_and_a_section_as_a_mapping() -> None:
    assert texts(["python", Path("train.py"), "--lr", 0.1]) == ["python", "train.py", "--lr", "0.1"]
    given = settings_of({"params": {"lr": [1, 2]}, "stop": {"signal": "TERM"}}, {}, CommandExperiment)
    assert given == ["params.lr=1,2", "stop.signal=TERM"]


@pytest.mark.parametrize("words", ["python train.py", {"train": 1}, 3, b"train", ["train", None], ["train", ["a"]], []])
def test_what_is_no_list_of_words_is_refused(words: Any) -> None:
    with pytest.raises(InputError, match="command"):
        document_of(texts(words))
