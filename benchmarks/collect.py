"""Compares reading logs with a bare loop that searches the same bytes for one pattern: at most 2 times its time.

    .venv/bin/python benchmarks/collect.py [--logs N] [--gigabytes G] [--rounds N]

The logs are many train.log files of 207 lines, nearly all of them timed windows, and one of a single long run. The
bare loop's pattern finds what is read of such a line: the time of a step, the number of steps, and whether the window
is warm-up. It keeps nothing; read_log detects the format and computes the run's figures. Two more ratios are printed
but not judged: to a loop with the cheapest pattern, a fixed text and one figure, and those for tf_cnn_benchmarks (the
real log of eight GPUs with 210 lines, twelve of which count; in many files, and repeated in one). Below them stands
each room of a framework's logs, on one long log made up by tests/control/logs_formats/made.py, beside a bare loop with
a pattern of what the room reads of a line; it is printed, and not judged. The loops take turns, and the smallest CPU
time of each counts. The logs are written to a temporary folder. The exit code is 1 if a ratio is above 2, or if memory
grows with the length of the long run's log.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import json
import math
import re
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from hpcjobs.collect.measurements import LogResult
from hpcjobs.collect.reading import read_log

TARGET, GROWTH_MIB = 2.0, 64
SAMPLE = Path(__file__).parent.parent / "tests/control/logs_formats/samples/tf_cnn_fp16_8gpus.log.gz"
FIGURES = re.compile(rb'"step_ms": ([0-9.]+).*"steps": ([0-9]+).*"warmup": (true|false)')
# Of each room: what it reads of a line.
ROOMS = {
    "megatron": rb"iteration +(\d+)/.*elapsed time per iteration \(ms\): ([0-9.]+).*global batch size: +(\d+)",
    "nemo": rb"global_batch_size: (\d+) \| global_step: (\d+).*train_step_timing in s: ([0-9.]+)",
    "deepspeed": rb"global_step=(\d+), RunningAvgSamplesPerSec=([0-9.]+)",
    "imagenet": rb"Epoch: \[(\d+)\]\[ *(\d+)/.*Time +([0-9.]+) +\( *([0-9.]+)\)\s+Speed ([0-9.]+)",
    "timm": rb"Train: (\d+) \[ *(\d+)/.*Time: ([0-9.]+)s, +([0-9.]+)/s +\(([0-9.]+)s, +([0-9.]+)/s\)",
    "torchvision": rb"Epoch: \[(\d+)\] +\[ *(\d+)/.*img/s: ([0-9.]+).*time: ([0-9.]+) +data: ([0-9.]+)",
    "swin": rb"Train: \[(\d+)/\d+\]\[(\d+)/.*time ([0-9.]+) \(([0-9.]+)\)",
    "mmengine": rb"Epoch\(train\) +\[(\d+)\]\[ *(\d+)/.*time: ([0-9.]+) ",
    "paddle": rb"Iter: (\d+)/.*batch_cost: ([0-9.]+)s.*ips: ([0-9.]+)",
    "maxtext": rb"completed step: (\d+), seconds: ([0-9.]+).*Tokens/s/device: ([0-9.]+)",
    "torchtitan": rb"step: +(\d+) .*tps: ([0-9,]+)",
    "composer": rb"throughput/(\w+): ([0-9.]+)",
    "step_avg": rb"step:(\d+)/\d+ train_time:(\d+)ms step_avg:([0-9.]+)ms",
    "epochs": rb"Time taken for epoch (\d+) is ([0-9.]+) sec, avg ([0-9.]+) samples/sec",
    "progress": rb"Epoch (\d+): .*\| (\d+)/\d+ \[(\d+):(\d+)<",
}
FIXED = {"train.log": re.compile(rb'"step_ms": ([0-9.]+)'), "tf_cnn": re.compile(rb"images/sec: ([0-9.]+)")}


def line(key: str, value: object, at_ms: int, **metadata: object) -> str:
    entry = {"namespace": "", "time_ms": at_ms, "event_type": "POINT_IN_TIME", "key": key, "value": value}
    about = {"file": "hpcjobs/chexnet/train/windows.py", "lineno": 34, **metadata}
    return f":::MLLOG {json.dumps({**entry, 'metadata': about})}\n"


def train_log(number: int, windows: int) -> Iterator[str]:
    """The lines that the trainer writes: 12, then one for each window, then run_stop."""
    at, gpus = 1_795_611_333_764 + number, 2 ** (number % 5)
    about = {"run": f"g{gpus:04d}", "gpus": gpus, "nodes": 1, "hosts": ["n1"], "local_batch": 64, "device": "gpu"}
    more = {"global_batch": 64 * gpus, "steps": 10 * windows, "epochs": 1, "train_images": 78468, "cut_short": True}
    for key, value in (
        ("submission_benchmark", "hpcjobs"),
        ("init_start", None),
        ("hpcjobs_run", {**about, **more, "precision": "float16", "model": "densenet121", "image_size": [256, 256]}),
        *(("seed", 1), ("global_batch_size", 64 * gpus), ("train_samples", 78468), ("eval_samples", 8643)),
        *(("opt_name", "adam"), ("opt_base_learning_rate", 0.001), ("init_stop", None), ("run_start", None)),
        ("hpcjobs_first_step", None),
    ):
        yield line(key, value, at)
    for window in range(1, windows + 1):
        ms = 340.0 + (window * 7919 + number) % 1000 / 97
        stats = {"throughput": 64000 * gpus / ms, "step_ms": ms, "loss": 0.2 + 1 / (window + 1)}
        yield line(
            "tracked_stats", stats, at + 3400 * window, step=10 * window, steps=10, epoch_num=1, warmup=window <= 5
        )
    yield line("run_stop", None, at + 3400 * windows + 1, status="success")


def small(kind: str, folder: Path, count: int) -> list[Path]:
    """`count` logs of 207 lines (train.log) or 210 lines (tf_cnn)."""
    paths = [folder / f"{kind}-{number:04d}" for number in range(count)]
    sample = gzip.decompress(SAMPLE.read_bytes())
    for number, path in enumerate(paths):
        text = "".join(train_log(number, 194)).encode() if kind == "train.log" else sample
        path.write_bytes(text)
    return paths


def large(kind: str, folder: Path, size: int) -> list[Path]:
    """One log of `size` bytes: one run (train.log), or many runs one after another (tf_cnn)."""
    path = folder / f"{kind}-large"
    if kind == "train.log":
        *lines, last = train_log(0, 20_000)
        body = "".join(lines[12:]).encode()
        with path.open("wb") as file:
            file.write("".join(lines[:12]).encode())
            while file.tell() < size:
                file.write(body)
            file.write(last.encode())
    else:
        runs = gzip.decompress(SAMPLE.read_bytes()) * 100
        with path.open("wb") as file:
            while file.tell() < size:
                file.write(runs)
    return [path]


def bare(paths: list[Path], pattern: re.Pattern[bytes]) -> None:
    search = pattern.search
    for path in paths:
        with path.open("rb") as file:
            for text in file:
                search(text)


def ours(paths: list[Path]) -> LogResult:
    for path in paths:
        result = read_log(path)
        assert result.measurements, result.problems
    return result


def timed(work: Callable[..., object], *arguments: object) -> float:
    """CPU time in s, so that other processes of the machine do not count."""
    began = time.process_time()
    work(*arguments)
    return time.process_time() - began


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def rooms(size: int, rounds: int) -> None:
    """Print each room's time beside its floor, on a log of about `size` bytes."""
    sys.path.insert(0, str(Path(__file__).parent.parent))
    made = importlib.import_module("tests.control.logs_formats.made")
    print("room                    MiB   figures s   ours s   / figures")
    for name, figures in ROOMS.items():
        shortest = len(made.MAKERS[name](made.Truth()))
        text = made.MAKERS[name](made.Truth(length=max(1, size // shortest)))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_text(text, encoding="utf-8")
            pattern = re.compile(figures)
            turns = [(timed(bare, [path], pattern), timed(ours, [path])) for _ in range(rounds)]
        floor, read = (min(times) for times in zip(*turns, strict=True))
        print(f"{name:<18} {len(text) / 2**20:8.0f} {floor:11.3f} {read:8.3f} {read / floor:11.2f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", type=int, default=1000)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    good = True
    print("logs                    MiB  fixed text s  figures s   ours s   / fixed text  / figures  peak MiB")
    for make, count, rounds in (
        (small, options.logs, 4 * options.rounds),
        (large, round(options.gigabytes * 1e9), options.rounds),
    ):
        for kind, fixed in FIXED.items():
            judged = kind == "train.log"
            with tempfile.TemporaryDirectory() as folder:
                paths = make(kind, Path(folder), count)
                size = sum(path.stat().st_size for path in paths) / 2**20
                before, turns = peak_mib(), []
                for _ in range(rounds):
                    figures = timed(bare, paths, FIGURES) if judged else math.nan
                    turns.append((timed(bare, paths, fixed), figures, timed(ours, paths)))
            least, floor, read = (min(times) for times in zip(*turns, strict=True))
            ratio, grown = read / floor, peak_mib() - before
            print(
                f"{len(paths):4d} x {kind:<11} {size:8.0f} {least:13.3f} {floor:10.3f} {read:8.3f} "
                f"{read / least:14.2f} {ratio:10.2f} {peak_mib():9.0f}"
            )
            good = good and not (judged and (ratio > TARGET or (make is large and grown > GROWTH_MIB)))
    rooms(10_000_000, options.rounds)
    print(f"wanted: at most {TARGET:g} times the bare loop of the figures, and one long log within {GROWTH_MIB} MiB")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
