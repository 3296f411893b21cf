"""Image files as they should be, and as disks and downloads leave them."""

from __future__ import annotations

import errno
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from hpcjobs.chexnet.data.decode import decode

XRAY = "00007705_000.png"


def saved(folder: Path, pixels: np.ndarray, mode: str | None = None) -> Path:
    path = folder / "image.png"
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)
    return path


def test_one_flipped_byte_of_the_pixels_is_seen_and_nothing_else_is_said(
    nih_excerpt: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of NIH's files a flipped byte in 100 goes unseen by libraries that do not check the parts' checksums."""
    data = (nih_excerpt / "images" / XRAY).read_bytes()
    random = np.random.default_rng(1)
    reasons = set()
    for place in random.integers(len(data), size=60):
        damaged = tmp_path / "damaged.png"
        damaged.write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        with pytest.raises(ValueError, match=r"\w") as error:
            decode(damaged, 64)
        reasons.add(str(error.value))
    assert "IDAT: CRC error" in reasons
    assert capfd.readouterr() == ("", "")


def test_a_lack_of_memory_is_not_the_images_fault(nih_excerpt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*arguments: object) -> None:
        error = cv2.error("OpenCV(4.11.0) ... error: (-4:Insufficient memory) Failed to allocate 64000000 bytes")
        error.code = cv2.Error.StsNoMem
        raise error

    monkeypatch.setattr("hpcjobs.chexnet.data.decode.cv2.imdecode", out_of_memory)
    with pytest.raises(OSError, match="Cannot allocate memory") as caught:
        decode(nih_excerpt / "images" / XRAY, 64)
    assert caught.value.errno == errno.ENOMEM


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a PNG file"),
        (b"\xff\xd8\xff\xe0 a JPEG", "not a PNG file"),
        (b"\x89PNG\r\n\x1a\n", "PNG input buffer is incomplete|cannot be decoded"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "."),
    ],
)
def test_what_is_no_image_is_refused(data: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(data)
    with pytest.raises(ValueError, match=reason):
        decode(tmp_path / "image.png", 64)


def test_more_than_eight_bits_are_refused_not_cut(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pixels of 16 bits, not 8"):
        decode(saved(tmp_path, np.full((64, 64), 40_000, np.uint16)), 64)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P"])
def test_grey_is_grey_in_every_mode(mode: str, tmp_path: Path) -> None:
    grey = np.arange(256, dtype=np.uint8).repeat(16).reshape(64, 64)
    assert decode(saved(tmp_path, grey, mode), 64) == grey.tobytes()


def test_any_shape_becomes_a_square(tmp_path: Path) -> None:
    path = saved(tmp_path, np.full((300, 50), 77, np.uint8))
    assert decode(path, 64) == bytes([77]) * 64 * 64


def test_stripes_finer_than_a_pixel_turn_grey(tmp_path: Path) -> None:
    """Without antialiasing they would be all black or all white."""
    stripes = np.zeros((256, 256), np.uint8)
    stripes[:, ::2] = 255
    assert set(decode(saved(tmp_path, stripes), 64)) == {128}
