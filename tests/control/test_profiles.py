"""Profiles: keys that change daily are flags too, and combinations that cannot work are refused."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from hpcjobs.base.errors import InputError
from hpcjobs.config import Cluster, Experiment, profiles, to_builtins
from hpcjobs.config.cluster import Container
from hpcjobs.config.keys import Key, keys_of
from hpcjobs.config.words import Section
from hpcjobs.jobs.render import directives, script
from hpcjobs.plan.planning import make_plan, parameter_grid
from hpcjobs.site.choose import overridden
from hpcjobs.trainers.chexnet_keys import ChexnetExperiment
from hpcjobs.trainers.command_keys import CommandExperiment
from hpcjobs.trainers.registry import trainer_of
from tests.control.combinations import combinations, group_of, impossible, text_of
from tests.running import PATIENCE_S, hpcjobs, until


def asked(cluster: Cluster, gpus: int) -> dict[str, object]:
    """The #SBATCH lines of a size."""
    plan = make_plan([gpus], parameter_grid(profiles.read(Experiment, "chexnet"), []), cluster, 1)
    return dict(directives(plan.groups[0], cluster, "id", Path("/scratch/study")))


def test_a_flag_takes_the_place_of_the_profiles_key_and_options_are_added() -> None:
    site = profiles.override(profiles.cluster("c4140"), {"partition": "long", "exclude": "n9"}, ["mail-type=FAIL"])
    daily = {"partition": "gpu", "account": "physics", "qos": "high", "time": "2-0", "reservation": "maintenance"}
    changed = profiles.override(site, daily, ["wckey=010", "contiguous", "mail-type=false"])
    lines = asked(changed, 8)
    assert {key: lines[key] for key in daily} == daily
    assert lines["exclude"] == "n9"
    assert (lines["wckey"], lines["contiguous"]) == ("010", None)
    assert "mail-type" not in lines


@pytest.mark.parametrize(("gpus", "nodes"), [(1, "n2"), (4, "n2"), (8, "n2,n3"), (16, "n2,n3,n7")])
def test_a_small_size_has_the_first_of_the_named_nodes(gpus: int, nodes: str) -> None:
    """sbatch refuses a list of more nodes than the job has; to a shorter list it adds others."""
    lines = asked(profiles.override(profiles.cluster("c4140"), {"nodelist": "n[2-3,7]"}), gpus)
    assert lines["nodelist"] == nodes


@pytest.mark.parametrize(
    ("keys", "sbatch", "says"),
    [
        ({}, ["array=0-9"], "--sbatch array=0-9: sbatch.array is set by hpcjobs itself; leave it out"),
        (
            {},
            ["nodelist=n1"],
            "nodelist=n1: sbatch.nodelist is set by hpcjobs itself; use the profile's own key nodelist",
        ),
        # sbatch accepts the first letters of an option.
        ({}, ["part=x"], "sbatch.part is set by hpcjobs itself (it is short for partition); use the profile's own key"),
        ({}, ["Nice=1"], "--sbatch Nice=1: key 'sbatch.Nice': expected an option of sbatch, in small letters"),
        ({"time": "soon"}, [], "--time: key 'time': expected a time of Slurm"),
        ({"nodelist": "/home/me/nodes"}, [], "--nodelist: key 'nodelist': expected names of hosts"),
        ({"qos": "a\nb"}, [], "--qos: key 'qos': expected text without line breaks"),
    ],
)
def test_a_flag_is_refused_as_the_profiles_key_would_be(keys: dict[str, str], sbatch: list[str], says: str) -> None:
    with pytest.raises(InputError) as caught:
        profiles.override(profiles.cluster("c4140"), keys, sbatch)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_flag_of_slurm_is_refused_where_the_profile_has_another_scheduler() -> None:
    with pytest.raises(InputError, match="--partition needs Slurm, but cluster 'local' uses scheduler local"):
        overridden(profiles.cluster("local"), {"partition": "gpu"})


def test_flags_reach_the_script_and_a_repeated_sweep_takes_none(tmp_path: Path) -> None:
    words = ("sweep", "--gpus", "1", "--cluster", "c4140", "--set", "data.dir=/d", "--dry-run", "--time", "7", "--json")
    found = hpcjobs(*words, "--sbatch", "mail-type=FAIL", cwd=tmp_path).stdout
    assert "#SBATCH --time=7\\n" in found
    assert "#SBATCH --mail-type=FAIL\\n" in found
    source = tmp_path / "sweep.yaml"
    source.write_text(yaml.safe_dump({}))
    done = hpcjobs("sweep", "--from", str(source), "--time", "8", cwd=tmp_path, code=2)
    assert "--from repeats a sweep unchanged: leave out --time" in done.stderr


# Environment that a profile gives the ranks: variables of NCCL, UCX and Open MPI, with characters that a shell may expand.
VARIABLES = {"NCCL_IB_HCA": "=mlx5_0:1", "UCX_NET_DEVICES": "mlx5_0:1,mlx5_1:1", "OMPI_MCA_btl_tcp_if_include": "lo", "ODD": "a 'b' \"$c\" `d`"}  # fmt: skip


def ready_to_run(folder: Path, launcher: str, trainer: str) -> str:
    """The script of two ranks on this machine that run the Bash code `trainer` instead of training."""
    python = folder / "python"
    python.write_text(
        f'#!/bin/bash\nif [ "$2" != hpcjobs.chexnet.train ]; then exec {sys.executable} "$@"; fi\n{trainer}\n'
    )
    python.chmod(0o755)
    changes: dict[str, Any] = {"launcher": launcher, "env": VARIABLES, "python": str(python)}
    if launcher == "horovodrun":
        changes["launcher_options"] = ()  # the profile's are for mpirun
    cluster = msgspec.structs.replace(profiles.cluster("local"), **changes)
    (group,) = make_plan([2], parameter_grid(profiles.read(Experiment, "demo"), []), cluster, 1).groups
    (folder / "o" / "runs" / "g0002-r01").mkdir(parents=True)
    (folder / "o" / "scripts").mkdir()
    (folder / "o" / "scripts" / "g0002.runs").write_text("g0002-r01\n")
    return script(group, cluster, "id", folder / "o")


RANK = '"${OMPI_COMM_WORLD_RANK:-$HOROVOD_RANK}"'
TASK = {"SLURM_ARRAY_TASK_ID": "0"}


@pytest.mark.parametrize("launcher", ["mpirun", "horovodrun"])
def test_the_profiles_environment_reaches_every_rank(launcher: str, tmp_path: Path) -> None:
    """With the real launchers, on this machine. tests/slurm does the same with srun."""
    text = ready_to_run(tmp_path, launcher, f"env >{tmp_path}/env-{RANK}")
    assert (
        subprocess.run(["bash"], input=text, env={**os.environ, **TASK}, text=True, timeout=PATIENCE_S).returncode == 0
    )
    for number in (0, 1):
        seen = (tmp_path / f"env-{number}").read_text().splitlines()
        assert {f"{name}={value}" for name, value in VARIABLES.items()} <= set(seen)


def test_horovodrun_ends_its_ranks_when_the_job_is_ended(tmp_path: Path) -> None:
    """horovodrun passes no signal on: if the script did not end the ranks, they would run for ever."""
    text = ready_to_run(tmp_path, "horovodrun", f"touch {tmp_path}/began-{RANK}\nexec sleep 1000.{os.getpid()}")
    (tmp_path / "script").write_text(text)
    process = subprocess.Popen(["bash", tmp_path / "script"], env={**os.environ, **TASK})
    until(lambda: len(list(tmp_path.glob("began-*"))) == 2)
    process.terminate()
    assert process.wait(PATIENCE_S) != 0
    record = json.loads((tmp_path / "o" / "runs" / "g0002-r01" / "a001" / "exit.json").read_text())
    assert record["rc"] == process.returncode
    left = subprocess.run(["pgrep", "-f", f"sleep 1000.{os.getpid()}"], capture_output=True, text=True)
    assert left.stdout == ""


def test_a_run_whose_ranks_were_ended_has_not_ended_well_though_horovodrun_says_0(tmp_path: Path) -> None:
    """With a fake horovodrun: the real one ends with 0 now and then, if it is told to end its ranks."""
    text = ready_to_run(tmp_path, "horovodrun", "")
    python = tmp_path / "python"
    python.write_text(f"#!/bin/bash\ntrap 'exit 0' TERM\ntouch {tmp_path}/began\nwhile true; do sleep 0.1; done\n")
    (tmp_path / "script").write_text(text)
    process = subprocess.Popen(["bash", tmp_path / "script"], env={**os.environ, **TASK})
    until((tmp_path / "began").exists)
    process.terminate()
    assert process.wait(PATIENCE_S) == 143
    record = json.loads((tmp_path / "o" / "runs" / "g0002-r01" / "a001" / "exit.json").read_text())
    assert (record["rc"], record["signal"]) == (143, 15)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("launcher: mpirun\npython: p\ncontainer: {kind: pyxis, image: i}", "container.kind pyxis needs launcher srun"),
        ("container: {kind: apptainer}", "container.kind apptainer needs container.image"),
        ("container: {image: i.sif}", "container.image needs container.kind apptainer or pyxis"),
        ("launcher: horovodrun", "launcher horovodrun cannot bind ranks, but bind is cores: set bind: none"),
        ("launcher: horovodrun\nbind: numa", "launcher horovodrun cannot bind ranks, but bind is numa"),
        (
            "launcher: horovodrun\nbind: none\nenv: {NCCL_SOCKET_IFNAME: ib0}",
            "env.NCCL_SOCKET_IFNAME would not reach the ranks under launcher horovodrun; name the interface in",
        ),
    ],
)
def test_keys_that_exclude_each_other_are_both_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"name: mine\ngpus_per_node: 4\n{text}\n")
    with pytest.raises(InputError) as caught:
        profiles.cluster(str(path))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_chexnet_needs_the_python_inside_the_image_of_a_container() -> None:
    image = Container(kind="apptainer", image="i.sif")
    cluster = msgspec.structs.replace(profiles.cluster("c4140"), container=image, python=None)
    (variant,) = parameter_grid(profiles.read(Experiment, "demo"), [])
    with pytest.raises(InputError, match=r"container\.kind apptainer needs python: the one inside the image"):
        trainer_of(variant.experiment).check([variant.experiment], cluster, print)


def test_a_container_sees_the_data_and_the_weights_by_their_own_names(tmp_path: Path) -> None:
    image = Container(kind="apptainer", image="i.sif", mounts=("/opt/more:/more",))
    cluster = msgspec.structs.replace(profiles.cluster("c4140"), container=image, python="python3")
    settings = ["data.dir=/scratch/x ray,/other", "model.weights=/w/dense.h5"]
    (group,) = make_plan([1], parameter_grid(profiles.read(Experiment, "chexnet"), settings), cluster, 1).groups
    text = script(group, cluster, "id", Path("/scratch/study"))
    (line,) = [line for line in text.splitlines() if line.startswith("command=(")]
    words = shlex.split(line.removeprefix("command=(").removesuffix("\\"))
    expected = ["/scratch/study", "/scratch/x ray", "/w/dense.h5", "/other", "/opt/more:/more"]
    assert words == ["apptainer", "exec", "--nv", *(word for path in expected for word in ("--bind", path)), "i.sif"]
    with pytest.raises(InputError, match="/a:b: a comma or a colon in a name cannot be mounted"):
        script(group, cluster, "id", Path("/a:b"))


def covering(texts: Iterable[str]) -> list[str]:
    """A subset of the texts that holds every line of all of them."""
    seen: set[str] = set()
    chosen = []
    for text in texts:
        if not seen.issuperset(lines := text.splitlines()):
            seen.update(lines)
            chosen.append(text)
    return chosen


def test_every_combination_of_keys_renders_a_sound_script_or_is_refused_by_the_names_of_two(
    tmp_path: Path, soak: bool
) -> None:
    """Without #SBATCH lines, which are comments here, many scripts are equal. bash checks each distinct one; shellcheck
    checks a subset that holds every line, and with `--soak` all of them."""
    bodies: set[str] = set()
    refused = accepted = 0
    group = group_of(profiles.cluster("c4140"))
    for keys in combinations():
        if why := impossible(keys):
            refused += 1
            with pytest.raises(ValueError) as caught:  # noqa: PT011 (the assertion below reads the message)
                Cluster(**keys)
            assert any(one in str(caught.value) and other in str(caught.value) for one, other in why)
            continue
        cluster = Cluster(**keys)
        text = text_of(cluster, group)
        accepted += 1
        bodies.add("\n".join(line for line in text.splitlines() if not line.startswith("#SBATCH")))
    assert refused > 1000
    assert accepted > 1000
    for found in profiles.available(Cluster):
        cluster = profiles.cluster(found.name)
        bodies.add(text_of(cluster, group_of(cluster)))
    ordered = sorted(bodies)
    for body in ordered:
        subprocess.run(["bash", "-n"], input=body, text=True, check=True)
    paths = []
    for number, body in enumerate(ordered if soak else covering(ordered)):
        paths.append(tmp_path / f"{number:03d}.sbatch")
        paths[-1].write_text(body)
    # One process checks all scripts. They source no file.
    done = subprocess.run(["shellcheck", "--format=gcc", *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[:2000]


def test_profiles_that_we_did_not_run_say_so() -> None:
    ran = {"virtual", "local"}
    shipped = [found for found in profiles.available(Cluster) if found.origin in ("hpcjobs", "working folder")]
    assert {found.name for found in shipped} == {"c4140", "dgx1", "jean-zay", "kebnekaise", "local", "virtual"}
    for found in shipped:
        assert ("(not run by us)" in profiles.cluster(found.name).description) == (found.name not in ran)


def test_a_schema_names_and_describes_every_key(tmp_path: Path) -> None:
    schema = json.loads(hpcjobs("cluster", "schema", cwd=tmp_path).stdout)
    about = schema["$defs"]["Cluster"]
    assert set(about["properties"]) == set(to_builtins(profiles.cluster("c4140")))
    assert (about["required"], about["additionalProperties"]) == (["name"], False)
    assert all(each["description"] for each in about["properties"].values())
    cpus = about["properties"]["cpus_per_gpu"]
    assert (cpus["minimum"], cpus["description"]) == (1, "Physical CPUs that each rank gets, the same at every size.")
    assert "Slurm may be a minute early" in about["properties"]["signal_s"]["description"]
    assert about["properties"]["collect"]["description"].startswith("The collector, a small job that")
    assert set(schema["$defs"]["Container"]["properties"]) == {"kind", "image", "mounts", "options"}
    schema = json.loads(hpcjobs("cluster", "schema", "experiment", cwd=tmp_path).stdout)
    assert [rule["then"]["$ref"] for rule in schema["allOf"]] == [
        "#/$defs/ChexnetExperiment",
        "#/$defs/CommandExperiment",
    ]
    assert schema["$defs"]["Batch"]["properties"]["global"]["description"] == "Images per step over all GPUs."
    assert schema["$defs"]["Synth"]["required"] == ["images", "size"]
    assert "in place of data.dir" in schema["$defs"]["Data"]["properties"]["synth"]["description"]


@pytest.mark.parametrize(
    ("kind", "sections"),
    [
        (ChexnetExperiment, {"model", "data", "synth", "augment", "batch", "train", "lr", "horovod", "measure"}),
        (CommandExperiment, {"batch", "measure", "stop"}),
        (Cluster, {"collect", "container"}),
    ],
)
def test_every_key_has_a_description_that_is_a_sentence(kind: type[Section], sections: set[str]) -> None:
    def below(section: type[Section]) -> Iterator[Key]:
        for key in keys_of(section):
            yield key
            if key.section is not None:
                yield from below(key.section)

    found = list(below(kind))
    assert len(found) > 20
    assert [key.name for key in found if not key.description.endswith(".")] == []
    assert {key.name for key in found if key.section is not None} == sections


def test_a_loop_of_links_is_no_profile_and_hides_none(tmp_path: Path) -> None:
    (tmp_path / "clusters").mkdir()
    (tmp_path / "clusters" / "loop.yaml").symlink_to("loop.yaml")
    assert "c4140" in hpcjobs("cluster", "list", cwd=tmp_path).stdout
    assert "loop.yaml: cannot be read" in hpcjobs("cluster", "show", "loop", cwd=tmp_path, code=2).stderr


def test_the_list_says_where_each_profile_is_from_and_what_it_shadows(tmp_path: Path) -> None:
    (tmp_path / "clusters").mkdir()
    (tmp_path / "clusters" / "c4140.yaml").write_text("name: c4140\ngpu_request: none\n")
    user = tmp_path / "config" / "hpcjobs" / "clusters"
    user.mkdir(parents=True)
    for name in ("c4140", "mine"):
        (user / f"{name}.yaml").write_text(f"name: {name}\ngpu_request: none\n")
    env = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path / "config")}
    found = json.loads(hpcjobs("cluster", "list", "--json", cwd=tmp_path, env=env).stdout)
    by_name = {each["name"]: each for each in found}
    assert (by_name["c4140"]["origin"], by_name["mine"]["origin"], by_name["dgx1"]["origin"]) == (
        "working folder",
        "user",
        "hpcjobs",
    )
    first, last = by_name["c4140"]["shadows"]
    assert first == str(user / "c4140.yaml")
    assert last.endswith("clusters/c4140.yaml")
    (line,) = [
        line for line in hpcjobs("cluster", "list", cwd=tmp_path, env=env).stdout.splitlines() if "c4140 " in line
    ]
    assert f"(shadows {first}, {last})" in line
