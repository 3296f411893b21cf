"""Files are written whole or not at all, on a full disk, with any umask, and in a folder that others write to."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hpcjobs.base.files import claim_link, make_folder, open_plain, read_json, shown, write_atomic, write_json


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    if os.geteuid():
        pytest.skip("mounting needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_a_full_disk_leaves_the_old_file_and_nothing_beside_it(small_disk: Path) -> None:
    path = small_disk / "journal"
    write_atomic(path, "old")
    with pytest.raises(OSError, match="No space left") as caught:
        write_atomic(path, "x" * 100_000)
    assert caught.value.errno == errno.ENOSPC
    assert (path.read_text(), names(small_disk)) == ("old", ["journal"])
    write_atomic(path, "new")  # the failed write left nothing in the way
    assert path.read_text() == "new"


def test_a_disk_without_room_for_a_name_leaves_the_old_file(small_disk: Path) -> None:
    path = small_disk / "run.yaml"
    write_atomic(path, "old")
    (small_disk / "filler").write_bytes(b"x" * (os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize))
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, "new")
    assert (path.read_text(), names(small_disk)) == ("old", ["filler", "run.yaml"])


@pytest.mark.parametrize(("mask", "expected"), [(0o077, 0o600), (0o022, 0o644), (0o002, 0o664), (0o027, 0o640)])
def test_the_umask_is_honoured(mask: int, expected: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        write_atomic(tmp_path / "file", "x")
        write_json(tmp_path / "json", {})
    finally:
        os.umask(before)
    assert [mode(tmp_path / name) for name in ("file", "json")] == [expected, expected]


def test_a_link_is_replaced_and_what_it_points_to_stays(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    link, dangling = tmp_path / "link", tmp_path / "dangling"
    link.symlink_to(victim)
    dangling.symlink_to(tmp_path / "nowhere")
    for path in (link, dangling):
        write_atomic(path, "new")
        assert (path.is_symlink(), path.read_text()) == (False, "new")
    assert victim.read_text() == "precious"
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_in_the_way_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "name").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomic(tmp_path / "name", "x")
    assert names(tmp_path) == ["name"]


def test_the_file_and_then_its_folder_reach_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a loss of power the new name must exist, and its file must not be empty."""
    steps: list[str] = []
    sync, replace, link = os.fsync, os.replace, os.link

    def fsync(descriptor: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        sync(descriptor)

    def rename(old: Path, new: Path) -> None:
        steps.append("rename")
        replace(old, new)

    def name(old: Path, new: Path) -> None:
        steps.append("link")
        link(old, new)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", rename)
    monkeypatch.setattr(os, "link", name)
    write_atomic(tmp_path / "file", "x")
    assert steps == ["file", "rename", "folder"]
    steps.clear()
    write_atomic(tmp_path / "file", "x", durable=False)
    assert steps == ["file", "rename"]
    steps.clear()
    assert claim_link(tmp_path / "claim", "x")
    assert steps == ["file", "link", "folder"]


def test_a_file_system_that_cannot_sync_a_folder_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomic(tmp_path / "file", "x")
    assert (tmp_path / "file").read_text() == "x"


def test_readers_see_one_whole_file_or_the_other(tmp_path: Path) -> None:
    path = tmp_path / "file"
    texts = {"a" * 100_000, "b" * 50_000}
    write_atomic(path, "a" * 100_000)
    ended = threading.Event()

    def write() -> None:
        while not ended.is_set():
            for text in texts:
                write_atomic(path, text, durable=False)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert {path.read_text() for _ in range(200)} <= texts
    finally:
        ended.set()
        writer.join()


def test_a_claim_is_made_once_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    assert claim_link(tmp_path / "claim", "first")
    assert not claim_link(tmp_path / "claim", b"second")
    assert ((tmp_path / "claim").read_text(), names(tmp_path)) == ("first", ["claim"])


def test_a_link_that_lies_where_a_claim_would_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "claim").symlink_to(tmp_path / "nowhere")
    assert not claim_link(tmp_path / "claim", "x")
    assert names(tmp_path) == ["claim"]


def test_of_many_that_claim_at_once_one_gets_it(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(lambda number: claim_link(tmp_path / "claim", str(number)), range(64)))
    assert sum(made) == 1
    assert (tmp_path / "claim").read_text() == str(made.index(True))
    assert names(tmp_path) == ["claim"]


def test_a_claim_whose_answer_nfs_lost_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def repeated(old: Path, new: Path) -> None:
        link(old, new)
        link(old, new)  # raises FileExistsError, as NFS does where it asks a second time

    monkeypatch.setattr(os, "link", repeated)
    assert claim_link(tmp_path / "claim", "x")
    assert not claim_link(tmp_path / "claim", "y")
    assert ((tmp_path / "claim").read_text(), names(tmp_path)) == ("x", ["claim"])


def test_a_claim_on_a_full_disk_is_an_error_and_leaves_nothing(small_disk: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        claim_link(small_disk / "claim", "x" * 100_000)
    assert names(small_disk) == []


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[1]", b"7", b"\xff\xfe", b'{"a": ' * 100_000, b"[" * 1_000_000, b"null"],
    ids=lambda content: repr(content[:8]),
)
def test_a_file_that_holds_no_json_object_is_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(content)
    assert read_json(tmp_path / "x.json") is None


def test_json_of_any_text_reads_back(tmp_path: Path) -> None:
    """Python represents bytes of a command line that are not UTF-8 as lone surrogates."""
    value = {"command": ["--out", "/home/jos\udce9", "é 漢 \\udce9"], 'q"': "\n\x00"}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value


def test_a_read_does_not_wait_for_pipes_devices_or_folders(tmp_path: Path) -> None:
    pipe, device = tmp_path / "pipe", tmp_path / "device"
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    for path in (pipe, device, tmp_path, tmp_path / "nowhere"):
        assert read_json(path) is None
        with pytest.raises(OSError, match=r"."):
            open_plain(path, follow=True)


def test_a_symbolic_link_is_followed_only_on_request(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert read_json(tmp_path / "link") == {}
    with pytest.raises(OSError, match="symbolic links"):
        open_plain(tmp_path / "link")


def test_a_folder_is_made_once_and_a_link_to_one_is_refused(tmp_path: Path) -> None:
    make_folder(tmp_path / "report")
    make_folder(tmp_path / "report")
    (tmp_path / "elsewhere").symlink_to(tmp_path / "report")
    (tmp_path / "file").write_text("")
    for name in ("elsewhere", "file"):
        with pytest.raises(FileExistsError, match="is not a folder, or is a symbolic link"):
            make_folder(tmp_path / name)


def test_a_path_is_shown_relative_to_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shown(tmp_path / "o") == "o"
    monkeypatch.chdir("/")  # the working folder of the collector job, whose output is read elsewhere
    assert shown(tmp_path / "o") == str(tmp_path / "o")
