"""`data.cache: memory`: once a node, and nothing else changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpcjobs.contract import ErrorCode
from hpcjobs.data.dataset import load_dataset
from hpcjobs.train import cache
from hpcjobs.train.failure import TrainError
from hpcjobs.train.input import train_batches
from tests.train.launch import make_run, read_log, train


def losses(attempt: Path) -> list[float]:
    return [event["value"]["loss"] for event in read_log(attempt) if event["key"] == "tracked_stats"]


def test_two_ranks_hold_one_copy_and_learn_the_same(data: Path, tmp_path: Path):
    program = [Path(__file__).parent / "shards_in_memory.py"]
    kept = train(make_run(tmp_path / "kept", data, gpus=2, data={"cache": "memory"}, train={"steps": 26}), 2, program)
    assert kept.rc == 0, kept.stderr
    first, second = json.loads(kept.stdout)
    splits = load_dataset(data).splits
    shards = {shard.file: shard.bytes for split in ("train", "val") for shard in splits[split].shards}
    assert first["held"] == second["held"] == shards
    assert first["mine"] + second["mine"] == sum(shards.values())
    assert min(first["mine"], second["mine"]) > 0

    plain = train(make_run(tmp_path / "plain", data, gpus=2, train={"steps": 26}), 2, program)
    assert json.loads(plain.stdout) == [{"held": {}, "mine": 0}] * 2
    assert losses(kept.attempt) == pytest.approx(losses(plain.attempt), rel=1e-4)


def test_the_order_is_that_of_the_files(data: Path):
    dataset = load_dataset(data)

    def told(held: dict[str, str]) -> list[bytes]:
        batches = train_batches(
            dataset, rank=1, size=2, batch=4, steps_per_epoch=26, epochs=1, shuffle=64, seed=3, cpus=1, held=held
        )
        return [pixels.numpy().tobytes() for (pixels, _), _ in batches]

    held = cache.hold(dataset, ["train"], 0, 1)
    assert all(path.startswith("/proc/") for path in held.values())
    assert told(held) == told({})


def test_too_little_memory_is_told_before_anything_is_copied(data: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "1")
    needed = sum(shard.bytes for shard in load_dataset(data).splits["train"].shards)
    cache.check_memory(1 << 20, 4)
    cache.check_memory(needed, 4)
    with pytest.raises(TrainError, match=r"1\.0 GiB a node for 4 shards, and 0\.0 GiB are granted by Slurm") as told:
        cache.check_memory(1 << 30, 4)
    assert told.value.code == ErrorCode.HOST_MEMORY
    monkeypatch.delenv("SLURM_MEM_PER_NODE")
    with pytest.raises(TrainError, match=r"are free on the node: ask for more memory, or set data\.cache=none"):
        cache.check_memory(1 << 50, 4)
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "0")  # Slurm's word for all of the node.
    cache.check_memory(1 << 20, 4)


def test_a_shard_cut_short_meanwhile_is_named(data: Path, tmp_path: Path):
    dataset = load_dataset(data)
    for shard in dataset.splits["val"].shards:
        (tmp_path / shard.file).write_bytes((data / shard.file).read_bytes()[:-1])
    moved = load_dataset(data).__class__(**{**vars(dataset), "folder": tmp_path})
    with pytest.raises(TrainError, match=r"val-00000-of-00003.tfrecord: \d+ bytes were read") as told:
        cache.hold(moved, ["val"], 0, 1)
    assert told.value.code == ErrorCode.DATA_DAMAGED
