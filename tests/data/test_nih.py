"""NIH's tables and lists, and the errors for wrong ones."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import pytest

from hpcjobs.base.errors import InputError
from hpcjobs.chexnet.classes import CLASSES
from hpcjobs.chexnet.data import nih as reader
from hpcjobs.chexnet.data.split import cut, in_order, val_patients

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)


def table(folder: Path, *rows: str, ending: str = "\n") -> Path:
    path = folder / "Data_Entry.csv"
    path.write_bytes(ending.join((HEADER, *rows, "")).encode())
    return path


def row(image: str, findings: str = "No Finding", patient: str | None = None, age: str = "57") -> str:
    return f"{image},{findings},0,{patient or int(image[:8])},{age},M,PA,2682,2749,0.143,0.143"


@pytest.mark.parametrize(
    ("file", "release"), [("Data_Entry_2017.csv.gz", "2017"), ("Data_Entry_2017_v2020.csv.gz", "2020")]
)
def test_both_releases_are_read_and_told_apart(nih: Path, file: str, release: str) -> None:
    metadata = reader.read_metadata(nih / file)
    assert metadata.release == release
    # 00017625 is in the sample of either kind: `00017625` in 2017, `17625` in 2020, one patient.
    assert metadata.entries["00017625_000.png"] == reader.Entry("17625", bytes(name == "Edema" for name in CLASSES))


def test_the_classes_are_in_the_order_of_the_papers_table() -> None:
    """Rajpurkar et al. 2017, arXiv:1711.05225, table 2. Shards and checkpoints that are made rely on it."""
    assert CLASSES == (
        "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
        "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia",
    )  # fmt: skip


def test_the_labels_are_those_of_the_manifest(nih: Path) -> None:
    entries = reader.read_metadata(nih / "Data_Entry_2017_v2020.csv.gz").entries
    with (nih / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 6
    for line in rows:
        names = [name for name, label in zip(CLASSES, entries[line["image_index"]].labels, strict=True) if label]
        assert sorted(names) == sorted(set(line["finding_labels_v2020"].split("|")) - {"No Finding"})


def test_a_label_that_the_releases_disagree_on_stays_as_each_has_it(nih: Path) -> None:
    def findings(file: str) -> set[str]:
        labels = reader.read_metadata(nih / file).entries["00022084_000.png"].labels
        return {name for name, label in zip(CLASSES, labels, strict=True) if label}

    assert findings("Data_Entry_2017.csv.gz") == {"Edema"}
    assert findings("Data_Entry_2017_v2020.csv.gz") == {"Edema", "Pneumonia"}


def test_plain_and_gzipped_files_are_one_and_the_same(nih: Path, tmp_path: Path) -> None:
    plain = tmp_path / "test_list.txt"
    plain.write_bytes(gzip.decompress((nih / "test_list.txt.gz").read_bytes()))
    assert not plain.read_bytes().endswith(b"\n")
    there, here = reader.read_list(nih / "test_list.txt.gz"), reader.read_list(plain)
    assert list(here.names) == list(there.names)
    assert here.source.sha256_unpacked == there.source.sha256_unpacked


def test_the_whole_table_splits_by_patient(nih: Path) -> None:
    metadata = reader.read_metadata(nih / "Data_Entry_2017_v2020.csv.gz")
    train_val, test = reader.read_list(nih / "train_val_list.txt.gz"), reader.read_list(nih / "test_list.txt.gz")
    if len(metadata.entries) < 112_120:
        pytest.skip("only the excerpt of the table is here")
    reader.check_lists(metadata, train_val, test)
    listed = {metadata.entries[name].patient_id for name in train_val.names}
    val = val_patients(listed, listed, seed=1, fraction=0.1)
    assert len(val) == 2801  # a tenth of 28,008
    tested = {metadata.entries[name].patient_id for name in test.names}
    assert len(tested) == 2797
    assert not val & tested
    assert val < listed


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            [row("00000001_000.png", "Cardiomegalie")],
            ":2: unknown finding 'Cardiomegalie': did you mean 'Cardiomegaly'?",
        ),
        ([row("00000001_000.png"), row("00000002_000.png", "No Finding|Mass")], ":3: 'No Finding' together with other"),
        ([row("00000001_000.png", patient="7")], ":2: patient id '7' is not that of 00000001_000.png"),
        ([row("00000001_000.png"), row("00000001_000.png")], ":3: 00000001_000.png is in the table twice"),
        ([row("00000001_000.jpg")], ":2: image index '00000001_000.jpg' is not of the form 00000013_005.png"),
        (["00000001_000.png,Mass"], ":2: 2 columns, too few"),
        ([], ": it lists no image"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, lines: list[str], message: str) -> None:
    path = table(tmp_path, *lines)
    with pytest.raises(InputError) as caught:
        reader.read_metadata(path)
    assert str(caught.value).startswith(f"{path}{message}")


def test_carriage_returns_odd_ages_and_unsorted_rows_are_fine(tmp_path: Path) -> None:
    rows = [row("00000009_001.png", "Mass|Nodule", "00000009", "411Y"), row("00000003_000.png", age="018M")]
    metadata = reader.read_metadata(table(tmp_path, *(line + "," for line in rows), ending="\r\n"))
    assert list(metadata.entries) == ["00000009_001.png", "00000003_000.png"]
    assert metadata.release == "2017"
    assert sum(metadata.entries["00000009_001.png"].labels) == 2


def test_files_that_are_no_tables_or_lists_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=r"other.csv:1: not NIH's metadata: no column 'Image Index'"):
        reader.read_metadata(other)
    with pytest.raises(InputError, match=r"other.csv:1: 'a,b' is not of the form"):
        reader.read_list(other)
    with pytest.raises(InputError, match=r"none.csv: no such file"):
        reader.read_metadata(tmp_path / "none.csv")
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(HEADER.encode())[:-12])
    with pytest.raises(InputError, match=r"cut.csv.gz: cannot be read"):
        reader.read_metadata(tmp_path / "cut.csv.gz")


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (["00000001_000.png"], ["00000001_000.png", "00000002_000.png"], "00000001_000.png is in train.txt too"),
        (["00000001_000.png"], ["00000003_000.png"], "00000002_000.png is not in train.txt or test.txt"),
        (["00000001_000.png", "00000002_000.png"], ["00000003_000.png"], "00000003_000.png is not in Data_Entry.csv"),
        (
            ["00000001_000.png", "00000001_001.png"],
            ["00000002_000.png", "00000001_002.png"],
            "patient 1 is in train.txt",
        ),
    ],
)
def test_lists_that_disagree_are_refused(tmp_path: Path, train: list[str], test: list[str], message: str) -> None:
    whole = {*train, *test, "00000002_000.png"} - {"00000003_000.png"}
    metadata = reader.read_metadata(table(tmp_path, *map(row, sorted(whole))))
    for name, lines in (("train.txt", train), ("test.txt", test)):
        (tmp_path / name).write_text("\n".join(lines))
    with pytest.raises(InputError, match=message):
        reader.check_lists(metadata, reader.read_list(tmp_path / "train.txt"), reader.read_list(tmp_path / "test.txt"))


def test_val_does_not_depend_on_what_is_downloaded() -> None:
    listed = [str(number) for number in range(1000)]
    everyone = val_patients(listed, listed, seed=1, fraction=0.1)
    assert len(everyone) == 100
    some = listed[:500]
    assert val_patients(listed, some, seed=1, fraction=0.1) == everyone
    assert val_patients(listed, listed, seed=2, fraction=0.1) != everyone


@pytest.mark.parametrize("seed", range(20))
def test_two_patients_are_one_to_train_and_one_to_val(seed: int) -> None:
    listed = [str(number) for number in range(100)]
    assert len(val_patients(listed, ["7", "8"], seed, fraction=0.5) & {"7", "8"}) == 1


def test_order_and_cut() -> None:
    names = [str(number) for number in range(50)]
    assert in_order(names, 1) == in_order(reversed(names), 1) != in_order(names, 2)
    assert sorted(in_order(names, 1)) == sorted(names)
    assert [len(part) for part in cut(names, 0.1, 0.2)] == [5, 10, 35]
    assert [len(part) for part in cut(names[:3], 0.1, 0.2)] == [1, 1, 1]
