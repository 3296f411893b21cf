"""The files of NIH ChestX-ray14: both releases of the metadata table, and the official split lists.

The columns `Image Index`, `Finding Labels`, `Patient ID` and `Patient Age` are read. The key is the image index,
because some ages (411 years) are wrong and some follow-up numbers disagree with the file names.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

from hpcjobs.base.errors import InputError, nearest
from hpcjobs.chexnet.classes import CLASSES, NO_FINDING

# The two releases of Data_Entry_2017: that of 2017 writes ages as 058Y, that of 2020 as 57.
RELEASES = ("2017", "2020")
_NAME = re.compile(r"(\d{8})_\d{3,}\.png")
_AGE_2017 = re.compile(r"\d+[YMWD]")


@dataclass(frozen=True)
class Source:
    """A file that was read: its name, and the SHA-256 of its content, unpacked if it is gzipped."""

    file: str
    sha256_unpacked: str


@dataclass(frozen=True)
class Entry:
    """One image: its patient (as `13`, without leading zeros) and 14 bytes of 0 or 1 in the order of CLASSES."""

    patient_id: str
    labels: bytes


@dataclass(frozen=True)
class Metadata:
    """The metadata table: `release` is one of RELEASES, `entries` by image index."""

    source: Source
    release: str
    entries: dict[str, Entry]


@dataclass(frozen=True)
class SplitList:
    """A list of image indices, in the file's order, without repetition."""

    source: Source
    names: dict[str, None]


def read_metadata(path: Path) -> Metadata:
    """Read Data_Entry_2017.csv or Data_Entry_2017_v2020.csv, plain or gzipped.

    Raises InputError (file, line, reason) for a missing column, an image index that is not of NIH's
    form or occurs twice, an unknown finding, or a patient id that does not match the image index.
    """
    source, text = _read(path)
    rows = csv.reader(io.StringIO(text, newline=""), quoting=csv.QUOTE_NONE)  # NIH's files quote no field
    header = next(rows, [])
    try:
        index_at, findings_at, patient_at, age_at = (
            header.index(name) for name in ("Image Index", "Finding Labels", "Patient ID", "Patient Age")
        )
    except ValueError as error:
        column = str(error).removesuffix(" is not in list")
        raise InputError(f"{path}:1: not NIH's metadata: no column {column}") from None
    known: dict[str, bytes] = {}
    entries: dict[str, Entry] = {}
    release = RELEASES[1]
    for row in rows:
        if not row:  # an empty line
            continue
        where = f"{path}:{rows.line_num}"
        if len(row) <= max(index_at, findings_at, patient_at, age_at):
            raise InputError(f"{where}: {len(row)} columns, too few")
        index, findings, patient = row[index_at], row[findings_at], row[patient_at]
        match = _NAME.fullmatch(index)
        if not match:
            raise InputError(f"{where}: image index '{index}' is not of the form 00000013_005.png")
        if not patient.isdecimal() or int(patient) != int(match[1]):
            raise InputError(f"{where}: patient id '{patient}' is not that of {index}")
        if index in entries:
            raise InputError(f"{where}: {index} is in the table twice")
        if findings not in known:
            known[findings] = parse_findings(findings, where)
        if not entries and _AGE_2017.fullmatch(row[age_at]):
            release = RELEASES[0]
        entries[index] = Entry(str(int(patient)), known[findings])
    if not entries:
        raise InputError(f"{path}: it lists no image")
    return Metadata(source, release, entries)


def parse_findings(text: str, where: str) -> bytes:
    """`Mass|Nodule` as 14 bytes of 0 or 1. Raises InputError, which begins with `where`, for an unknown finding."""
    names = text.split("|")
    if names == [NO_FINDING]:
        return bytes(len(CLASSES))
    for name in names:
        if name == NO_FINDING:
            raise InputError(f"{where}: '{NO_FINDING}' together with other findings: '{text}'")
        if name not in CLASSES:
            raise InputError(f"{where}: unknown finding '{name}': {nearest(name, (*CLASSES, NO_FINDING))}")
    return bytes(name in names for name in CLASSES)


def read_list(path: Path) -> SplitList:
    """Read train_val_list.txt or test_list.txt, plain or gzipped: one image index a line.

    Raises InputError (file, line) for a line that is not an image index or occurs twice.
    """
    source, text = _read(path)
    names: dict[str, None] = {}
    for number, line in enumerate(text.splitlines(), 1):
        name = line.strip()
        if not name:
            continue
        if not _NAME.fullmatch(name):
            raise InputError(f"{path}:{number}: '{name[:60]}' is not of the form 00000013_005.png")
        if name in names:
            raise InputError(f"{path}:{number}: {name} is in the list twice")
        names[name] = None
    if not names:
        raise InputError(f"{path}: it lists no image")
    return SplitList(source, names)


def check_lists(metadata: Metadata, train_val: SplitList, test: SplitList) -> None:
    """Check that the lists name the images of the table, each in exactly one list, and that no patient is in both.

    Raises InputError, which names an image or a patient for which this fails.
    """
    both = train_val.names.keys() & test.names.keys()
    if both:
        raise InputError(f"{test.source.file}: {min(both)} is in {train_val.source.file} too ({len(both)} such images)")
    listed = train_val.names.keys() | test.names.keys()
    files = f"{train_val.source.file} or {test.source.file}"
    if neither := metadata.entries.keys() - listed:
        raise InputError(f"{metadata.source.file}: {min(neither)} is not in {files} ({len(neither)} such images)")
    if unknown := listed - metadata.entries.keys():
        raise InputError(f"{files}: {min(unknown)} is not in {metadata.source.file} ({len(unknown)} such images)")
    shared = {metadata.entries[name].patient_id for name in train_val.names} & {
        metadata.entries[name].patient_id for name in test.names
    }
    if shared:
        raise InputError(f"{test.source.file}: patient {min(shared, key=int)} is in {train_val.source.file} too")


def _read(path: Path) -> tuple[Source, str]:
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        text = data.decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    return Source(path.name, hashlib.sha256(data).hexdigest()), text
