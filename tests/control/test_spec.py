"""Typed YAML: each mistake gives one line with file, line, key and what would be right."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hpcjobs.base.errors import InputError
from hpcjobs.config import Cluster, Experiment, dump, load, parse_scalar, profiles, read_yaml, to_builtins
from hpcjobs.config.cluster import seconds
from hpcjobs.engine import sweep
from hpcjobs.plan import planning
from hpcjobs.trainers.chexnet_keys import Batch, ChexnetExperiment, Synth
from hpcjobs.trainers.registry import experiment_in

GOOD = "name: mine\nbatch:\n  local: 8\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "e.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        (GOOD + "lr:\n  bace: 1\n", 5, "unknown key 'lr.bace': did you mean 'base'?"),
        ("nmae: x\n" + GOOD, 1, "unknown key 'nmae': did you mean 'name'?"),
        ("name: mine\nbatch:\n  local: many\n", 3, "key 'batch.local': expected a whole number, got 'many'"),
        ("name: mine\nbatch:\n  local: 0\n", 3, "key 'batch.local': expected a whole number >= 1, got 0"),
        ("name: mine\nbatch:\n  local: 8\n  global: 8\n", 2, "exactly one of batch.local (weak scaling)"),
        ("name: mine\nbatch:\n  local: 8\n  local: 9\n", 4, "key 'batch.local' is given twice (first in line 3)"),
        (
            GOOD + "model:\n  name: resnet\n",
            5,
            "key 'model.name': expected one of densenet121, densenet_tiny, got 'resnet'",
        ),
        (GOOD + "train:\n  steps: 0\n", 5, "key 'train.steps': expected a whole number >= 1, got 0"),
        (GOOD + "train:\n  steps: 1\n", None, "train.steps 1 cannot be timed"),
        ("name: [a\n", 2, "not valid YAML"),
        (
            GOOD + "data:\n  dir: x\n  synth: {images: 512, size: 64}\n",
            4,
            "give one of data.dir (existing images) and data.synth",
        ),
        (GOOD + "data:\n  synth: {images: 512}\n", 5, "key 'data.synth.size' is missing"),
        (
            GOOD + "data:\n  synth: {images: 2, size: 64}\n",
            5,
            "key 'data.synth.images': expected a whole number >= 3, got 2",
        ),
        (GOOD + "data:\n  synth: {sizes: 64}\n", 5, "unknown key 'data.synth.sizes': did you mean 'size'?"),
        (GOOD + "data:\n  synth: 512\n", 5, "key 'data.synth': expected a section, got 512"),
        (GOOD + "on: 1\n", 4, "key 'on' is read as something other than text"),
        ("name: mine\nbatch: 4\n", 2, "key 'batch': expected a section, got 4"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_place(tmp_path: Path, text: str, line: int | None, says: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InputError) as caught:
        load(path, ChexnetExperiment)
    message = str(caught.value)
    assert says in message
    assert message.startswith(f"{path}:{line}: " if line else f"{path}: ")
    assert "\n" not in message


def test_a_missing_key_and_a_missing_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="key 'batch' is missing"):
        load(write(tmp_path, "name: mine\n"), ChexnetExperiment)
    with pytest.raises(InputError, match=r"nowhere\.yaml: no such file"):
        load(tmp_path / "nowhere.yaml", ChexnetExperiment)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sbatch: {array: 0-9}", "sbatch.array is set by hpcjobs itself; leave it out"),
        ("sbatch: {dependency: 'afterok:1'}", "sbatch.dependency is set by hpcjobs itself; leave it out"),
        ("sbatch: {signal: 'B:USR1@60'}", "sbatch.signal is set by hpcjobs itself; use the profile's own key signal_s"),
        ("sbatch: {requeue: true}", "sbatch.requeue is set by hpcjobs itself; use the profile's own key requeues"),
        (
            "sbatch: {no-requeue: true}",
            "sbatch.no-requeue is set by hpcjobs itself; use the profile's own key requeues",
        ),
        (
            "collect: {sbatch: {time: 5}}",
            "collect.sbatch.time is set by hpcjobs itself; use the profile's own key collect",
        ),
        ("collect: {time: soon}", "key 'collect.time': expected a time of Slurm"),
        ("signal_s: 70000", "key 'signal_s': expected a whole number <= 65535, got 70000"),
        ("retry: {out_of_memory: 1}", "retry.out_of_memory: the run would need the same memory again; these may be"),
        (
            "retry: {data_missing: 1}",
            "retry.data_missing: such a run would fail again; these may be retried: node_failure, ",
        ),
        ("retry: {node_failiure: 1}", "retry.node_failiure: did you mean 'node_failure'?"),
        ("retry: {lost: -1}", "key 'retry.lost': expected a whole number >= 0"),
    ],
)
def test_a_profile_may_not_set_what_is_not_its_own(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        load(write(tmp_path, f"name: mine\ngpus_per_node: 4\n{text}\n"), Cluster)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "limit"),
    [("5", 300), ("1:30", 90), ("01:02:03", 3723), ("1-2", 93600), ("1-2:3", 93780), ("1-00:00:05", 86405)],
)
def test_a_time_limit_is_read_as_slurm_reads_it(text: str, limit: int) -> None:
    assert seconds(text) == limit


def test_a_job_is_warned_of_its_time_limit_if_it_runs_long_enough(tmp_path: Path) -> None:
    def warned(text: str) -> int:
        return load(write(tmp_path, f"name: mine\ngpus_per_node: 4\n{text}\n"), Cluster).warned_s

    assert [warned(text) for text in ("", 'time: "10"', "signal_s: 0")] == [120, 120, 0]
    # Slurm may be a minute early, and would interrupt the job as soon as it has started.
    assert warned('time: "3"') == 0
    assert warned('time: "3"\nsignal_s: 90') == 90
    # signal_s is ignored: launcher horovodrun cannot pass a signal on.
    assert warned("launcher: horovodrun\nbind: none") == 0


@pytest.mark.parametrize("found", profiles.available(Experiment), ids=lambda found: found.name)
def test_every_shipped_experiment_loads_and_survives_a_round_trip(found: profiles.Found, tmp_path: Path) -> None:
    experiment = experiment_in(read_yaml(found.path))
    again = experiment_in(read_yaml(write(tmp_path, dump(to_builtins(experiment)))))
    assert again == experiment
    assert experiment.name == found.name


@pytest.mark.parametrize(
    ("settings", "synth"),
    [((), Synth(images=512, size=64)), (("data.dir=/d",), None), (("name=mine", "data.dir=/d"), None)],
)
def test_a_sweep_of_version_0_1_makes_up_the_images_of_its_demo(
    settings: tuple[str, ...], synth: Synth | None, tmp_path: Path
) -> None:
    """Version 0.1 had no data.synth: an experiment called demo made up its images if it had no data.dir."""
    variants = planning.parameter_grid(profiles.read(Experiment, "demo"), settings)
    plan = planning.make_plan([1], variants, profiles.cluster("local"), 1)
    about = sweep.to_yaml("id", plan)
    about["version"] = 1
    del about["variants"][0]["experiment"]["trainer"], about["variants"][0]["experiment"]["data"]["synth"]
    path = write(tmp_path, dump(about))
    assert sweep.plan_of(path)[1].variants[0].experiment.data.synth == synth


def test_a_sweep_of_an_experiment_called_demo_without_data_stays_so(tmp_path: Path) -> None:
    variants = planning.parameter_grid(profiles.read(Experiment, "demo"), ["data.synth=null"])
    plan = planning.make_plan([1], variants, profiles.cluster("local"), 1)
    path = write(tmp_path, dump(sweep.to_yaml("id", plan)))
    assert sweep.plan_of(path)[1] == plan


def test_a_batch_is_split_over_ranks_or_refused() -> None:
    assert Batch(local=8).split(4) == (8, 32)
    assert Batch(global_=32, passes=2).split(4) == (8, 32)
    with pytest.raises(ValueError, match=r"batch\.global 32 does not divide over 3 GPUs"):
        Batch(global_=32).split(3)
    with pytest.raises(ValueError, match=r"a local batch of 8 does not divide into batch\.passes 3"):
        Batch(local=8, passes=3).split(2)


@pytest.mark.parametrize("text", ["1e5", "2E3", "-1e-5", "1.5", "0x1F", "on", "null", "2026-11-25", "a: b", "", "é#"])
def test_a_text_that_looks_like_something_else_is_written_so_that_it_is_read_as_itself(
    text: str, tmp_path: Path
) -> None:
    profile = Cluster(name="x", gpu_request="none", account=text, description=text)
    assert load(write(tmp_path, dump(to_builtins(profile))), Cluster) == profile


@pytest.mark.parametrize("key", ["name", "account", "time", "nodelist"])
def test_no_line_ends_in_a_value_that_becomes_one_word(key: str, tmp_path: Path) -> None:
    good = {"name": "x", "gpu_request": "none", "time": "10"}
    with pytest.raises(InputError, match=f"key '{key}'"):
        load(write(tmp_path, dump({**good, key: good.get(key, "a") + "\n"})), Cluster)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "e.yaml")
    with pytest.raises(InputError, match="not a file"):
        load(tmp_path / "e.yaml", ChexnetExperiment)


@pytest.mark.parametrize("found", profiles.available(Cluster), ids=lambda found: found.name)
def test_every_shipped_profile_loads_under_its_own_name(found: profiles.Found) -> None:
    assert load(found.path, Cluster).name == found.name


def test_chexnet_is_the_articles_recipe() -> None:
    path = next(found.path for found in profiles.available(Experiment) if found.name == "chexnet")
    chexnet = load(path, ChexnetExperiment)
    assert (chexnet.model.name, chexnet.model.weights) == ("densenet121", "imagenet")
    assert (chexnet.batch.local, chexnet.train.epochs) == (64, 10)
    assert (chexnet.lr.base, chexnet.lr.plateau_factor, chexnet.lr.plateau_patience) == (0.001, 0.1, 1)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("0.5", 0.5),
        ("true", True),
        ("null", None),
        ("none", "none"),
        ("a b", "a b"),
        ("/x", "/x"),
        ("[1", "[1"),
    ],
)
def test_a_set_value_is_read_as_yaml_reads_it(text: str, value: object) -> None:
    assert parse_scalar(text) == value


def test_the_working_folder_shadows_what_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "clusters"
    own.mkdir()
    (own / "local.yaml").write_text("name: local\nscheduler: local\ngpu_request: none\n")
    monkeypatch.chdir(tmp_path)
    local = next(found for found in profiles.available(Cluster) if found.name == "local")
    assert local.origin == "working folder"
    assert [path.name for path in local.shadows] == ["local.yaml"]


def test_an_unknown_name_gets_the_nearest_one() -> None:
    with pytest.raises(InputError, match="no cluster 'c4410': did you mean 'c4140'"):
        profiles.cluster("c4410")


def test_the_users_default_profile_is_read_from_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert profiles.default_cluster() is None
    config = tmp_path / "hpcjobs" / "config.yaml"
    config.parent.mkdir()
    config.write_text("cluster: c4140\n")
    assert profiles.default_cluster() == "c4140"
    config.write_text("clutser: c4140\n")
    with pytest.raises(InputError, match=r"config\.yaml:1: unknown key 'clutser'"):
        profiles.default_cluster()
