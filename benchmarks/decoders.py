"""Compares libraries that decode and resize X-rays, on one pinned core: the choice for preparation.

    .venv/bin/python benchmarks/decoders.py [--nih DIR] [--rounds N]

Every library that can be imported runs over the same files, in turns. hpcjobs itself needs OpenCV and
TensorFlow only, so run this in a virtual environment that also has pillow, pyvips[binary] and imagecodecs.
All resize with antialiasing, with different filters: `differs` is the mean absolute difference of a pixel
(0 to 255) from that of the first library (Pillow). `rejects` is the number of files, cut short at a random
place or with one random byte flipped, for which the library reports an error.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

ROOT = Path(__file__).parent.parent
SIZE = 256
Decode = Callable[[bytes], Any]


def pillow(image: Any) -> tuple[Decode, Decode]:
    def decode(data: bytes) -> Any:
        with image.open(io.BytesIO(data)) as opened:
            return opened.convert("L")

    return decode, lambda data: np.asarray(decode(data).resize((SIZE, SIZE), image.Resampling.BILINEAR))


def opencv(cv2: Any) -> tuple[Decode, Decode]:
    cv2.setNumThreads(1)

    def decode(data: bytes) -> Any:
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)

    return decode, lambda data: cv2.resize(decode(data), (SIZE, SIZE), interpolation=cv2.INTER_AREA)


def tensorflow(tf: Any) -> tuple[Decode, Decode]:
    def decode(data: bytes) -> Any:
        return tf.io.decode_png(data, channels=1)

    def resized(data: bytes) -> Any:
        image = tf.image.resize(decode(data), (SIZE, SIZE), antialias=True)
        return tf.cast(tf.round(image), tf.uint8).numpy()[..., 0]

    return decode, resized


def pyvips(vips: Any) -> tuple[Decode, Decode]:
    def decode(data: bytes) -> Any:
        image = vips.Image.new_from_buffer(data, "", access="sequential")
        return image[0] if image.bands > 1 else image

    def resized(data: bytes) -> Any:
        image = decode(data)
        return image.resize(SIZE / image.width, vscale=SIZE / image.height, kernel="linear").numpy()

    return lambda data: decode(data).write_to_memory(), resized


def imagecodecs(codecs: Any) -> tuple[Decode, Decode]:
    """imagecodecs has no resize: Pillow's is used."""
    from PIL import Image

    def decode(data: bytes) -> Any:
        image = codecs.png_decode(data)
        return image if image.ndim == 2 else np.ascontiguousarray(image[..., 0])

    bilinear = Image.Resampling.BILINEAR
    return decode, lambda data: np.asarray(Image.fromarray(decode(data)).resize((SIZE, SIZE), bilinear))


LIBRARIES = {
    "PIL.Image": pillow,
    "cv2": opencv,
    "tensorflow": tensorflow,
    "pyvips": pyvips,
    "imagecodecs": imagecodecs,
}


def speed(decode: Decode, files: list[bytes]) -> float:
    """Images a second."""
    began = time.perf_counter()
    for data in files:
        decode(data)
    return len(files) / (time.perf_counter() - began)


def rejects(resized: Decode, damaged: list[bytes]) -> int:
    """How many of the files give an error instead of an image."""
    errors = 0
    for data in damaged:
        try:
            errors += resized(data) is None
        except Exception:  # each library has its own kinds of errors
            errors += 1
    return errors


def damaged(files: list[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Each file cut short, and each with one byte flipped."""
    random = np.random.default_rng(1)
    cut = [data[: random.integers(len(data))] for data in files]
    flipped = []
    for data in files:
        place = random.integers(len(data))
        flipped.append(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
    return cut, flipped


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sample = ROOT.parent / "shared" / "data" / "nih"
    parser.add_argument("--nih", type=Path, default=sample if sample.is_dir() else ROOT / "tests" / "data" / "nih")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    os.environ["VIPS_CONCURRENCY"] = "1"
    files = [path.read_bytes() for path in sorted((options.nih / "images").glob("*.png"))]
    installed = {}
    for name, make in LIBRARIES.items():
        try:
            module = importlib.import_module(name)
        except ImportError:
            print(f"{name}: not installed")
            continue
        version = module.__version__ if name != "PIL.Image" else importlib.import_module("PIL").__version__
        installed[f"{name.partition('.')[0]} {version}"] = make(module)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in installed}
    for _ in range(options.rounds):
        for name, (decode, resized) in installed.items():
            found[name].append((speed(decode, files), speed(resized, files)))
    print(f"one pinned core, {len(files)} X-rays to {SIZE} x {SIZE}, median of {options.rounds} rounds in turns")
    print(f"{'library':24}{'decode images/s':>17}{'and resize':>12}{'differs':>9}{'rejects cut':>13}{'flipped':>9}")
    reference = np.stack([installed[next(iter(installed))][1](data) for data in files]).astype(int)
    for name, (_, resized) in installed.items():
        differs = np.abs(np.stack([resized(data) for data in files]).astype(int) - reference).mean()
        decoding, both = (statistics.median(column) for column in zip(*found[name], strict=True))
        errors = [rejects(resized, bad) for bad in damaged(files)]
        print(f"{name:24}{decoding:17.1f}{both:12.1f}{differs:9.2f}{errors[0]:13}{errors[1]:9}")


if __name__ == "__main__":
    main()
