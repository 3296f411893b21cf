"""Real X-rays to shards and back."""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from hpcjobs.base.errors import HpcjobsError, InputError
from hpcjobs.chexnet.classes import CLASSES, SPLITS
from hpcjobs.chexnet.data import dataset as store
from hpcjobs.chexnet.data import nih as reader
from hpcjobs.chexnet.data.bad_images import read_bad_images
from hpcjobs.chexnet.data.build import make
from hpcjobs.chexnet.data.dataset import Dataset, load_dataset
from tests.fixtures_data import contents, prepare_from, recipe_from

if TYPE_CHECKING:
    from hpcjobs.chexnet.data.tfrecord import Record

Prepare = Callable[..., Dataset]
FEW = ["00004934_000.png", "00007705_000.png", "00012975_000.png", "00017625_000.png"]  # the first is RGBA


@pytest.fixture
def few(nih_excerpt: Path, tmp_path: Path) -> Path:
    """A folder with copies of four images, two levels down, as NIH's archives unpack."""
    folder = tmp_path / "images_001" / "images"
    folder.mkdir(parents=True)
    for name in FEW:
        shutil.copyfile(nih_excerpt / "images" / name, folder / name)
    return folder


@pytest.fixture
def prepare(nih_excerpt: Path) -> Prepare:
    """`prepare` with the excerpt's tables filled in: `prepare(out, seed=2)`."""
    return functools.partial(prepare_from, nih_excerpt)


def records(dataset: Dataset, split: str) -> list[Record]:
    from hpcjobs.chexnet.data.tfrecord import read_examples

    return [record for file in dataset.files(split) for record in read_examples(Path(file))]


def test_every_image_is_in_one_split_with_its_labels(nih: Path, nih_shards: Dataset) -> None:
    metadata = reader.read_metadata(nih / "Data_Entry_2017_v2020.csv.gz")
    tested = reader.read_list(nih / "test_list.txt.gz").names
    seen: dict[str, str] = {}
    for split in SPLITS:
        read = records(nih_shards, split)
        assert len(read) == nih_shards.splits[split].images > 0
        assert np.sum([list(record.labels) for record in read], 0).tolist() == nih_shards.splits[split].positives
        for record in read:
            assert record.image_index not in seen
            seen[record.image_index] = split
            assert (split == "test") == (record.image_index in tested)
            assert (record.patient_id, record.labels) == (
                metadata.entries[record.image_index].patient_id,
                metadata.entries[record.image_index].labels,
            )
    assert sorted(seen) == sorted(path.name for path in (nih / "images").iterdir())
    assert nih_shards.missing == len(metadata.entries) - len(seen)
    assert nih_shards.patients_in_two_splits == nih_shards.corrupt == nih_shards.surplus == 0


def test_a_record_is_the_image_reduced_rgba_too(nih: Path, nih_shards: Dataset) -> None:
    read = {record.image_index: record.image for split in SPLITS for record in records(nih_shards, split)}
    modes = set()
    for name in FEW:
        with Image.open(nih / "images" / name) as image:
            modes.add(image.mode)
            pixels = np.asarray(image)
        grey = pixels[..., 0] if pixels.ndim == 3 else pixels
        # Reduced 16 to 1, every pixel is the mean of its 16 x 16 block.
        blocks = grey.reshape(64, 16, 64, 16).mean((1, 3))
        assert read[name] == np.rint(blocks).astype(np.uint8).tobytes()
    assert modes == {"L", "RGBA"}


def test_labels_are_bytes_in_the_order_of_the_classes(nih_shards: Dataset) -> None:
    labels = {record.image_index: record.labels for split in SPLITS for record in records(nih_shards, split)}
    assert labels["00017625_000.png"] == b"\0\0\0\0\0\0\0\0\0\1\0\0\0\0"  # Edema
    assert labels["00022084_000.png"] == b"\0\0\0\0\0\0\1\0\0\1\0\0\0\0"  # Pneumonia, Edema


def test_the_graph_parses_what_was_written(nih_shards: Dataset) -> None:
    import tensorflow as tf

    from hpcjobs.chexnet.data.tfrecord import parse_batch

    serialized = next(iter(tf.data.TFRecordDataset(nih_shards.files("train")).batch(2)))
    images, labels, _ = tf.function(lambda batch: parse_batch(batch, (64, 64)))(serialized)
    assert (images.dtype, images.shape) == (tf.uint8, (2, 64, 64, 1))
    assert (labels.dtype, labels.shape) == (tf.uint8, (2, 14))
    first = records(nih_shards, "train")[:2]
    assert images.numpy().tobytes() == b"".join(record.image for record in first)
    assert labels.numpy().tobytes() == b"".join(record.labels for record in first)


def test_dataset_json_says_what_is_there(nih_shards: Dataset) -> None:
    assert load_dataset(nih_shards.folder) == nih_shards
    assert nih_shards.image_size == (64, 64)
    pixels = np.frombuffer(b"".join(record.image for record in records(nih_shards, "train")), np.uint8)
    assert nih_shards.pixel_mean == pytest.approx(pixels.mean())
    assert nih_shards.pixel_std == pytest.approx(pixels.std())
    for split in nih_shards.splits.values():
        for shard in split.shards:
            data = (nih_shards.folder / shard.file).read_bytes()
            assert (len(data), hashlib.sha256(data).hexdigest()) == (shard.bytes, shard.sha256)
    assert str(nih_shards.folder) not in (nih_shards.folder / "dataset.json").read_text()


def test_the_seed_decides_and_nothing_else(few: Path, prepare: Prepare, tmp_path: Path) -> None:
    one = prepare(tmp_path / "one", images=[few])
    again = prepare(tmp_path / "again", images=[few.parent])
    assert contents(one.folder) == contents(again.folder)
    orders = {
        tuple(record.image_index for split in ("train", "val") for record in records(dataset, split))
        for dataset in (prepare(tmp_path / f"seed{seed}", images=[few], seed=seed) for seed in range(1, 6))
    }
    assert len(orders) > 1


def test_both_releases_give_the_same_but_for_the_labels_they_disagree_on(
    nih_excerpt: Path, few: Path, prepare: Prepare, tmp_path: Path
) -> None:
    older = prepare(tmp_path / "2017", images=[few], metadata=nih_excerpt / "Data_Entry_2017.csv.gz")
    newer = prepare(tmp_path / "2020", images=[few])
    assert (older.sources["metadata"]["release"], newer.sources["metadata"]["release"]) == ("2017", "2020")
    assert older.splits == newer.splits  # checksums of the shards included: the four agree


def test_the_last_shard_is_smaller_and_kept(nih_excerpt: Path, tmp_path: Path) -> None:
    dataset = make(replace(recipe_from(nih_excerpt), images_per_shard=2), tmp_path / "out")
    assert [shard.images for shard in dataset.splits["test"].shards] == [2, 1]
    assert [Path(file).name for file in dataset.files("test")] == [f"test-0000{i}-of-00002.tfrecord" for i in (0, 1)]
    assert [record.patient_id for record in records(dataset, "test")] == ["8866", "12975", "22084"]


def test_a_damaged_image_is_left_out_and_told(few: Path, prepare: Prepare, tmp_path: Path) -> None:
    damaged = few / "00012975_000.png"
    damaged.write_bytes(damaged.read_bytes()[:100_000])
    dataset = prepare(tmp_path / "out", images=[few])
    assert (dataset.corrupt, dataset.splits["test"].images) == (1, 0)
    ((name, problem, reason), *rest) = read_bad_images(dataset.folder)
    assert (name, problem) == ("00012975_000.png", "corrupt")
    assert reason == "PNG input buffer is incomplete"
    assert {problem for _, problem, _ in rest} == {"missing"}
    assert len(rest) == dataset.missing


def test_a_surplus_image_is_told(few: Path, prepare: Prepare, tmp_path: Path) -> None:
    (few / "99999999_000.png").write_bytes(b"whatever")
    dataset = prepare(tmp_path / "out", images=[few])
    assert (dataset.corrupt, dataset.surplus) == (0, 1)
    assert ("99999999_000.png", "surplus", "in a folder, but in no list") in read_bad_images(dataset.folder)


def test_surplus_files_of_one_name_are_told_each_and_refuse_nothing(
    few: Path, prepare: Prepare, tmp_path: Path
) -> None:
    for folder in (few, few.parent):
        (folder / "logo.png").write_bytes(b"whatever")
    dataset = prepare(tmp_path / "out", images=[few, few.parent])
    assert dataset.surplus == 2
    assert [name for name, problem, _ in read_bad_images(dataset.folder) if problem == "surplus"] == ["logo.png"] * 2


def test_a_name_in_capitals_is_surplus_with_a_hint(few: Path, prepare: Prepare, tmp_path: Path) -> None:
    (few / FEW[1]).rename(few / FEW[1].replace(".png", ".PNG"))
    bad = read_bad_images(prepare(tmp_path / "out", images=[few]).folder)
    assert ("00007705_000.PNG", "surplus", "is 00007705_000.png meant? Then rename it") in bad
    assert ("00007705_000.png", "missing", "listed, but in none of the folders") in bad


class Server:
    """Gives bytes of files, but for some reads of one of them."""

    def __init__(self, name: str, monkeypatch: pytest.MonkeyPatch):
        self.name = name
        self.failures = 0
        self.pauses: list[float] = []
        self._read = Path.read_bytes
        monkeypatch.setattr(Path, "read_bytes", lambda path: self.read(path))
        monkeypatch.setattr("hpcjobs.chexnet.data.prepare.time.sleep", self.pauses.append)

    def read(self, path: Path) -> bytes:
        if path.name == self.name and self.failures:
            self.failures -= 1
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        return self._read(path)


def test_a_server_that_stumbles_is_asked_again(
    few: Path, prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server("00012975_000.png", monkeypatch)
    server.failures = 2
    made = prepare(tmp_path / "out", images=[few])
    assert (made.corrupt, server.failures, server.pauses) == (0, 0, [0.5, 2.0])
    assert contents(made.folder) == contents(prepare(tmp_path / "clean", images=[few]).folder)


def test_a_server_that_stays_away_makes_no_image_corrupt(
    few: Path, prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server("00012975_000.png", monkeypatch)
    server.failures = 4
    with pytest.raises(HpcjobsError, match="The same command makes the rest") as caught:
        prepare(tmp_path / "out", images=[few])
    assert f"{few / '00012975_000.png'}: cannot be read after 4 tries: Stale file handle" in str(caught.value)
    assert not (tmp_path / "out" / "dataset.json").exists()
    made = prepare(tmp_path / "out", images=[few])
    assert made.corrupt == 0
    assert contents(made.folder) == contents(prepare(tmp_path / "clean", images=[few]).folder)


def test_an_image_that_goes_meanwhile_is_bad(few: Path, prepare: Prepare, tmp_path: Path) -> None:
    (few / FEW[2]).unlink()
    (few / FEW[2]).symlink_to(few / "nowhere.png")
    bad = read_bad_images(prepare(tmp_path / "out", images=[few]).folder)
    assert bad[0] == (FEW[2], "corrupt", "the file is gone, or a link to nowhere")


def test_a_mended_image_wants_a_new_folder(few: Path, prepare: Prepare, tmp_path: Path) -> None:
    whole = (few / FEW[2]).read_bytes()
    (few / FEW[2]).write_bytes(whole[:1000])
    prepare(tmp_path / "out", images=[few])
    (few / FEW[2]).write_bytes(whole)
    with pytest.raises(InputError, match="to include images that were added or repaired, give --out a new folder"):
        prepare(tmp_path / "out", images=[few])


def test_made_once_it_is_left_alone(few: Path, prepare: Prepare, tmp_path: Path) -> None:
    def never(done: int, total: int) -> None:
        raise AssertionError("made anew")

    first = prepare(tmp_path / "out", images=[few])
    before = contents(first.folder)
    assert prepare(tmp_path / "out", images=[few], progress=never) == first
    with pytest.raises(InputError, match="holds data made with size 64, this asks for 32: give --out a new folder"):
        prepare(tmp_path / "out", images=[few], size=32)
    (few / FEW[1]).unlink()
    with pytest.raises(InputError, match="holds data made with images count 4, this asks for 3"):
        prepare(tmp_path / "out", images=[few])
    assert contents(first.folder) == before


def test_an_interrupted_run_is_made_good_by_the_next(few: Path, prepare: Prepare, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == total:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        prepare(out, images=[few], progress=interrupt)
    assert "dataset.json" not in {path.name for path in out.iterdir()}
    with pytest.raises(store.DatasetMissing, match=r"no dataset.json in it: make it with `hpcjobs data prepare"):
        load_dataset(out)
    assert contents(prepare(out, images=[few]).folder) == contents(prepare(tmp_path / "clean", images=[few]).folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 8}, "--size 8: give a number of pixels from 32 to 1024"),
        ({"val_fraction": 1.0}, "--val-fraction 1: give a fraction between 0 and 1"),
        ({"images": [Path("nowhere")]}, "--images nowhere: no such folder"),
        ({"images": []}, "no image that .* lists"),
        ({"train_list": Path("nowhere.txt")}, "nowhere.txt: no such file"),
    ],
)
def test_wrong_input_writes_nothing(changes: dict[str, Any], message: str, prepare: Prepare, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        prepare(tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_the_same_image_in_two_folders_is_named(nih_excerpt: Path, few: Path, prepare: Prepare, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"_000.png exists twice: .*images_001.* and "):
        prepare(tmp_path / "out", images=[few, nih_excerpt / "images"])
    assert prepare(tmp_path / "out", images=[few, few.parent]).splits["test"].images == 1


def test_a_folder_of_other_things_is_not_written_to(few: Path, prepare: Prepare, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"not empty \(it holds 'images_001'\): give --out a new folder"):
        prepare(tmp_path, images=[few])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images_001", "notes.txt"]


def test_data_that_the_trainer_must_not_use_is_refused(nih_shards: Dataset, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(nih_shards.folder, folder)
    whole = json.loads((folder / "dataset.json").read_text())

    def refused(kind: type[InputError], message: str, **changes: object) -> None:
        (folder / "dataset.json").write_text(json.dumps({**whole, **changes}))
        with pytest.raises(kind, match=message):
            load_dataset(folder)

    swapped = [*CLASSES[:6], CLASSES[7], CLASSES[6], *CLASSES[8:]]  # Pneumonia and Pneumothorax
    refused(store.DatasetMismatch, "not these in this order: Atelectasis, ", classes=swapped)
    refused(store.DatasetMismatch, "version 99, this hpcjobs reads 2", version=99)
    refused(store.DatasetMismatch, "not written by `hpcjobs data`", format="other")
    refused(store.DatasetMismatch, "not a complete dataset.json: KeyError", splits={})
    (folder / "dataset.json").write_text("{")
    with pytest.raises(store.DatasetMismatch, match="cannot be read"):
        load_dataset(folder)
    store.write_dataset(replace(nih_shards, folder=folder))
    shard = Path(load_dataset(folder).files("val")[0])
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(store.DatasetDamaged, match=r"val-00000-of-00001.tfrecord: \d+ bytes, dataset.json says"):
        load_dataset(folder)
    shard.unlink()
    with pytest.raises(store.DatasetDamaged, match=r"missing, though dataset.json lists it"):
        load_dataset(folder)


def test_a_flipped_bit_is_seen_on_reading(nih_shards: Dataset, tmp_path: Path) -> None:
    from hpcjobs.chexnet.data.tfrecord import read_examples

    data = bytearray(Path(nih_shards.files("val")[0]).read_bytes())
    data[500] ^= 1
    (tmp_path / "val.tfrecord").write_bytes(data)
    with pytest.raises(store.DatasetDamaged, match=r"val.tfrecord: cannot be read: corrupted record"):
        list(read_examples(tmp_path / "val.tfrecord"))
