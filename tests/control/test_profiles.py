"""Profiles: what changes daily is a flag, and combinations that cannot work are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from hpcjobs import profiles
from hpcjobs.errors import InputError
from hpcjobs.plan import expand, make_plan
from hpcjobs.render import directives
from hpcjobs.spec import Cluster, Experiment
from tests.running import hpcjobs


def asked(cluster: Cluster, gpus: int) -> dict[str, object]:
    """The #SBATCH lines of a size."""
    plan = make_plan([gpus], expand(profiles.read(Experiment, "chexnet"), []), cluster, 1)
    return dict(directives(plan.groups[0], cluster, "id", Path("/scratch/study")))


def test_a_flag_takes_the_place_of_the_profiles_key_and_options_are_added() -> None:
    site = profiles.override(profiles.cluster("c4140"), {"partition": "long", "exclude": "n9"}, ["mail-type=FAIL"])
    daily = {"partition": "gpu", "account": "physics", "qos": "high", "time": "2-0", "reservation": "maintenance"}
    changed = profiles.override(site, daily, ["nice=100", "contiguous", "mail-type=false"])
    lines = asked(changed, 8)
    assert {key: lines[key] for key in daily} == daily
    assert lines["exclude"] == "n9"
    assert (lines["nice"], lines["contiguous"]) == (100, None)
    assert "mail-type" not in lines


@pytest.mark.parametrize(("gpus", "nodes"), [(1, "n2"), (4, "n2"), (8, "n2,n3"), (16, "n2,n3,n7")])
def test_a_small_size_has_the_first_of_the_named_nodes(gpus: int, nodes: str) -> None:
    """sbatch refuses more names than nodes; fewer it fills up."""
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
        # sbatch takes it for the whole word.
        ({}, ["part=x"], "sbatch.part is set by hpcjobs itself (it is short for partition); use the profile's own key"),
        ({}, ["Nice=1"], "--sbatch Nice=1: expected text matching"),
        ({"time": "soon"}, [], "--time: key 'time': expected text matching"),
        ({"nodelist": "/home/me/nodes"}, [], "--nodelist: key 'nodelist': expected text matching"),
        ({"qos": "a\nb"}, [], "--qos: key 'qos': expected text matching"),
    ],
)
def test_a_flag_is_refused_as_the_profiles_key_would_be(keys: dict[str, str], sbatch: list[str], says: str) -> None:
    with pytest.raises(InputError) as caught:
        profiles.override(profiles.cluster("c4140"), keys, sbatch)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_slurm_there_is_nothing_that_heeds_such_a_flag() -> None:
    with pytest.raises(InputError, match="--partition: is Slurm's to heed, and cluster 'local' is without"):
        profiles.override(profiles.cluster("local"), {"partition": "gpu"})


def test_flags_reach_the_script_and_a_repeated_sweep_takes_none(tmp_path: Path) -> None:
    words = ("sweep", "--gpus", "1", "--cluster", "c4140", "--set", "data.dir=/d", "--dry-run", "--time", "7", "--json")
    found = hpcjobs(*words, "--sbatch", "mail-type=FAIL", cwd=tmp_path).stdout
    assert "#SBATCH --time=7\\n" in found
    assert "#SBATCH --mail-type=FAIL\\n" in found
    source = tmp_path / "sweep.yaml"
    source.write_text(yaml.safe_dump({}))
    done = hpcjobs("sweep", "--from", str(source), "--time", "8", cwd=tmp_path, code=2)
    assert "--from repeats a sweep as it was: leave out --time" in done.stderr
