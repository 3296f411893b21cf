"""What `hpcjobs data verify` finds, and that the command it prints rebuilds it."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hpcjobs.chexnet.data.dataset import DatasetDamaged, DatasetMismatch, read_dataset
from hpcjobs.chexnet.data.verify import verify
from tests.fixtures_data import contents, prepare_from, synth


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synth(tmp_path_factory.mktemp("whole") / "data", images=400, size=32).folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "data")
    return tmp_path / "data"


def hpcjobs(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hpcjobs", *map(str, words)], capture_output=True, text=True, check=False
    )


def flip(shard: Path, at: int) -> None:
    data = bytearray(shard.read_bytes())
    data[at] ^= 1
    shard.write_bytes(data)


def test_a_whole_data_set_is_whole(whole: Path) -> None:
    seen: list[tuple[int, int]] = []
    assert verify(whole, lambda done, total: seen.append((done, total))) == []
    assert seen[-1] == (400, 400)
    done = hpcjobs("data", "verify", whole)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{whole}: 4 shards are undamaged\n", "")


def test_one_flipped_byte_is_found_and_the_printed_command_mends_it(copy: Path) -> None:
    before = contents(copy)
    victim = "train-00001-of-00002.tfrecord"
    record = len(before[victim]) / read_dataset(copy).splits["train"].shards[1].images
    flip(copy / victim, int(record * 4.5))
    done = hpcjobs("data", "verify", copy)
    assert done.returncode == 1
    damage, _, command = done.stdout.splitlines()
    assert damage.startswith(f"{copy / victim}: record 5: cannot be read: corrupted record")
    assert done.stderr == f"hpcjobs: error: {copy}: 1 of 4 shards are damaged\n"
    shown = json.loads(hpcjobs("data", "verify", copy, "--json").stdout)
    assert [(entry["split"], entry["shard"]) for entry in shown["damaged"]] == [("train", victim)]
    assert shown["rebuild"] == command.strip()

    words = shlex.split(command)
    assert words[0] == "hpcjobs"
    rebuilt = hpcjobs(*words[1:])
    assert rebuilt.returncode == 0, rebuilt.stderr
    assert contents(copy) == before
    assert hpcjobs("data", "verify", copy).returncode == 0


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (lambda shard: shard.unlink(), "missing, though dataset.json lists it"),
        (lambda shard: shard.write_bytes(shard.read_bytes()[:-1]), "record {last}: cannot be read: "),
        (lambda shard: shard.write_bytes(shard.read_bytes() + b"x"), "{longer} bytes, dataset.json says "),
        (lambda shard: shard.write_bytes(b""), "0 bytes, dataset.json says"),
    ],
)
def test_what_else_can_happen_to_a_shard(copy: Path, harm, problem: str) -> None:
    victim = copy / "val-00000-of-00001.tfrecord"
    last, longer = read_dataset(copy).splits["val"].images, victim.stat().st_size + 1
    harm(victim)
    (damage,) = verify(copy)
    assert damage.shard == victim.name
    assert damage.problem.startswith(problem.format(last=last, longer=longer))


def test_a_shard_of_other_records_is_found(copy: Path) -> None:
    shutil.copyfile(copy / "test-00000-of-00001.tfrecord", copy / "val-00000-of-00001.tfrecord")
    (damage,) = verify(copy)
    assert "dataset.json says" in damage.problem


def test_label_sums_that_disagree_are_found(copy: Path) -> None:
    description = json.loads((copy / "dataset.json").read_text())
    description["splits"]["test"]["positives"]["Hernia"] += 1
    (copy / "dataset.json").write_text(json.dumps(description))
    (damage,) = verify(copy)
    assert (damage.split, damage.shard) == ("test", None)
    assert damage.problem == "Hernia: 2 images in the shards, dataset.json says 3"
    assert hpcjobs("data", "verify", copy).returncode == 1


def test_a_damaged_dataset_json_says_what_to_do(copy: Path) -> None:
    (copy / "dataset.json").write_text("{")
    with pytest.raises(DatasetMismatch, match="make the data again, in a new folder, with `hpcjobs data prepare`"):
        verify(copy)
    assert hpcjobs("data", "verify", copy).returncode == 2


def test_a_rebuilt_xray_shard_is_the_old_one(nih_excerpt: Path, tmp_path: Path) -> None:
    from hpcjobs.chexnet.data.build import rebuild
    from tests.fixtures_data import recipe_from

    out = prepare_from(nih_excerpt, tmp_path / "out").folder
    before = contents(out)
    flip(out / "train-00000-of-00001.tfrecord", 1000)
    rebuild(recipe_from(nih_excerpt), out, ["train-00000-of-00001.tfrecord"])
    assert contents(out) == before
    done = hpcjobs("data", "verify", out, "--json")
    assert json.loads(done.stdout)["rebuild"] is None


def test_the_printed_command_mends_xrays_once_the_folders_are_filled_in(nih_excerpt: Path, tmp_path: Path) -> None:
    out = prepare_from(nih_excerpt, tmp_path / "out").folder
    before = contents(out)
    flip(out / "val-00000-of-00001.tfrecord", 1000)
    _, how, command = hpcjobs("data", "verify", out).stdout.splitlines()
    assert how == "rebuild only this shard with (each DIR: the folder of that file)"
    filled = command.replace("DIR...", str(nih_excerpt / "images")).replace("DIR/", f"{nih_excerpt}/")
    words = shlex.split(filled)
    assert words[:3] == ["hpcjobs", "data", "prepare"]
    rebuilt = hpcjobs(*words[1:])
    assert rebuilt.returncode == 0, rebuilt.stderr
    assert contents(out) == before


def test_a_shard_of_fewer_records_than_it_should_have_is_found(copy: Path) -> None:
    """Though size and checksum agree, as where dataset.json was made from it."""
    from hpcjobs.chexnet.data.tfrecord import read_examples, write_shard

    victim = copy / "test-00000-of-00001.tfrecord"
    *records, _ = read_examples(victim)
    written = write_shard(victim, records)
    description = json.loads((copy / "dataset.json").read_text())
    (shard,) = description["splits"]["test"]["shards"]
    shard.update(bytes=written.bytes, sha256=written.sha256)
    (copy / "dataset.json").write_text(json.dumps(description))
    (damage,) = verify(copy)
    assert (damage.shard, damage.problem) == (
        victim.name,
        f"{len(records)} records, dataset.json says {len(records) + 1}",
    )


def test_what_does_not_come_out_as_it_was_is_not_put_in_place(copy: Path) -> None:
    from hpcjobs.chexnet.data.build import rebuild
    from hpcjobs.chexnet.data.synth import synth_recipe

    description = json.loads((copy / "dataset.json").read_text())
    description["splits"]["val"]["shards"][0]["sha256"] = "0" * 64
    description["software"]["numpy"] = "0.1"
    (copy / "dataset.json").write_text(json.dumps(description))
    before = contents(copy)
    with pytest.raises(DatasetDamaged, match=r"does not have the checksum .*numpy 0.1 then, .* the old file is left"):
        rebuild(synth_recipe(400, 32), copy, ["val-00000-of-00001.tfrecord"])
    assert contents(copy) == before


def test_only_a_shard_that_is_there(copy: Path) -> None:
    done = hpcjobs("data", "synth", "--images", 400, "--size", 32, "--out", copy, "--only", "train-7")
    assert done.returncode == 2
    assert "--only train-7" in done.stderr
    assert "the first is train-00000-of-00002.tfrecord" in done.stderr
