"""Compares reading logs with a bare loop that reads the same figures of the same bytes: at most 2 times its time.

    .venv/bin/python benchmarks/collect.py [--logs N] [--gigabytes G] [--rounds N]

The bare loop is the floor of any reader in Python: for each line it searches one pattern that finds what is read of
such a line, and turns the figures that it finds into numbers. It keeps nothing and checks nothing; read_log detects the
formats of the log, looks for what it says of GPUs, checks its figures and computes those of the run.

The logs are many train.log files of 207 lines, nearly all of them timed windows, and one of a single long run; the real
log of tf_cnn_benchmarks on eight GPUs with 210 lines, twelve of which count, in many files, and repeated in one; and
for each other room of a framework one long log made up by tests/control/logs_formats/made.py. Of bars, whose states
stand one after another on a line, the loop searches each state. The loops take turns, and the smallest CPU time of each
counts. The logs are written to a temporary folder. The exit code is 1 if a ratio is above 2, or if memory grows with
the length of the long run's log.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import json
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
# What is read of a line.
FIGURES = {
    "train.log": rb'"step_ms": ([0-9.]+).*"steps": ([0-9]+).*"warmup": (?:true|false)',
    "tf_cnn": rb"images/sec: ([0-9.]+)|Batch size: +([0-9]+)",
}
ROOMS = {
    "megatron": rb"iteration +(\d+)/.*consumed samples: +(\d+).*elapsed time per iteration \(ms\): ([0-9.]+)"
    rb".*global batch size: +(\d+)",
    "nemo": rb"global_batch_size: (\d+) \| global_step: (\d+).*train_step_timing in s: ([0-9.]+)"
    rb".*consumed_samples: (\d+)",
    "huggingface": rb"\| (\d+)/(\d+) \[(\d+):(\d+)(?::(\d+))?<[^,]*, *(?:([0-9.]+)(?:it/s|s/it)|\?it/s)"
    rb"|'train_runtime': ([0-9.]+), 'train_samples_per_second': ([0-9.]+), 'train_steps_per_second': ([0-9.]+)",
    "deepspeed": rb"global_step=(\d+), RunningAvgSamplesPerSec=([0-9.]+)",
    "imagenet": rb"Epoch: \[(\d+)\]\[ *(\d+)/(\d+).*Time +[0-9.]+ +\( *([0-9.]+)\)\s+Speed [0-9.]+ +\( *([0-9.]+)\)",
    "timm": rb"Train: (\d+) \[ *(\d+)/(\d+).*Time: ([0-9.]+)s, +([0-9.]+)/s +\(([0-9.]+)s, +([0-9.]+)/s\)",
    "torchvision": rb"Epoch: \[(\d+)\] +\[ *(\d+)/(\d+).*img/s: ([0-9.]+).*time: ([0-9.]+) +data: ([0-9.]+)",
    "swin": rb"Train: \[(\d+)/\d+\]\[(\d+)/(\d+).*time ([0-9.]+) \(([0-9.]+)\)",
    "mmengine": rb"Epoch\(train\) +\[(\d+)\]\[ *(\d+)/(\d+).*time: ([0-9.]+) ",
    "mmcv": rb"Epoch \[(\d+)\]\[ *(\d+)/(\d+).* time: ([0-9.]+),",
    "paddle": rb"Epoch (\d+)/.*Iter: (\d+)/.*batch_cost: ([0-9.]+)s.*ips: ([0-9.]+)",
    "maxtext": rb"completed step: (\d+), seconds: ([0-9.]+).*Tokens/s/device: ([0-9.]+)",
    "torchtitan": rb"step: +(\d+) .*tps: ([0-9]+),?([0-9]*)",
    "composer": rb"\[batch=(\d+)|throughput/(?:device/)?(?:batches|samples|tokens)_per_sec: ([0-9.]+)",
    "step_avg": rb"step:(\d+)/\d+ train_time:(\d+)ms step_avg:([0-9.]+)ms",
    "epochs": rb"Time taken for epoch (\d+) is ([0-9.]+) sec, avg ([0-9.]+) samples/sec",
    "progress": rb"Epoch (\d+): .*\| (\d+)/(\d+) \[(\d+):(\d+)<[^,]*, *(?:([0-9.]+)(?:it/s|s/it)|\?it/s)",
}
STATES = {"progress": b"\r", "huggingface": b"\r"}  # what is between the states of a line


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


def bare(paths: list[Path], pattern: re.Pattern[bytes], states: bytes = b"") -> None:
    search = pattern.search
    for path in paths:
        with path.open("rb") as file:
            for text in (state for line in file for state in line.split(states)) if states else file:
                if match := search(text):
                    for figure in match.groups():
                        if figure:
                            float(figure)


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


def compared(name: str, paths: list[Path], figures: bytes, rounds: int) -> float:
    """Print the time of both loops, and return their ratio."""
    pattern, states = re.compile(figures), STATES.get(name, b"")
    turns = [(timed(bare, paths, pattern, states), timed(ours, paths)) for _ in range(rounds)]
    floor, read = min(one for one, _ in turns), min(other for _, other in turns)
    size = sum(path.stat().st_size for path in paths) / 2**20
    print(f"{len(paths):4d} x {name:<11} {size:8.0f} {floor:11.3f} {read:8.3f} {read / floor:7.2f} {peak_mib():9.0f}")
    return read / floor


def made_up(name: str, folder: Path, size: int) -> list[Path]:
    """One log of about `size` bytes, of a framework."""
    sys.path.insert(0, str(Path(__file__).parent.parent))
    maker = importlib.import_module("tests.control.logs_formats.made")
    truth = importlib.import_module("tests.control.logs_formats.truth")
    shortest, longer = (len(maker.MADE[name].make(truth.Truth(length=length))) for length in (1, 2))
    path = folder / name
    path.write_text(maker.MADE[name].make(truth.Truth(length=1 + (size - shortest) // (longer - shortest))), "utf-8")
    return [path]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", type=int, default=1000)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    good, size = True, round(options.gigabytes * 1e9)
    print("logs                  MiB     floor s   ours s   ratio  peak MiB")
    for make, count, rounds in ((small, options.logs, 4 * options.rounds), (large, size, options.rounds)):
        for kind, figures in FIGURES.items():
            with tempfile.TemporaryDirectory() as folder:
                paths, before = make(kind, Path(folder), count), peak_mib()
                ratio = compared(kind, paths, figures, rounds)
                good = good and ratio <= TARGET
                good = good and (make is small or peak_mib() - before <= GROWTH_MIB)
    for kind, figures in ROOMS.items():
        with tempfile.TemporaryDirectory() as folder:
            paths = made_up(kind, Path(folder), size // 50)
            good = compared(kind, paths, figures, 2 * options.rounds) <= TARGET and good
    print(f"wanted: at most {TARGET:g} times the bare loop, and one long log within {GROWTH_MIB} MiB")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
