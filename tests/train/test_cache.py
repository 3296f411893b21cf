"""`data.cache: memory`: once a node, and nothing else changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hpcjobs.base.contract import ErrorCode
from hpcjobs.chexnet.data.dataset import load_dataset
from hpcjobs.chexnet.train import cache, job
from hpcjobs.chexnet.train.failure import TrainError
from hpcjobs.chexnet.train.input import train_batches
from hpcjobs.nodes import cgroup
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
    with pytest.raises(TrainError, match=r"are free on the node: request more memory, or set data\.cache=none"):
        cache.check_memory(1 << 50, 4)
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "0")  # Slurm's word for all of the node.
    cache.check_memory(1 << 20, 4)


def test_slurm_may_grant_memory_by_the_cpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "10")
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "4")
    cache.check_memory(40 << 20, 4)
    with pytest.raises(TrainError, match="granted by Slurm"):
        cache.check_memory((40 << 20) + 1, 4)


CGROUPS = {
    "version 2": ("0::/slurm/job_7/step_0", "slurm/job_7", "memory.max", "memory.current", ""),
    "version 1": ("4:cpu,memory:/slurm/job_7\n0::/", "memory/slurm/job_7", "memory.limit_in_bytes",
                  "memory.usage_in_bytes", "total_"),
}  # fmt: skip


@pytest.mark.parametrize("version", CGROUPS)
def test_what_a_control_group_leaves_is_a_limit(version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The group's limit less what it uses, but for files that the kernel keeps as long as there is room."""
    groups, folder, limit, used, prefix = CGROUPS[version]
    (tmp_path / "cgroup").write_text(groups + "\n")
    group = tmp_path / folder
    group.mkdir(parents=True)
    (group / limit).write_text(f"{1 << 30}\n")
    (group / used).write_text(f"{300 << 20}\n")
    (group / "memory.stat").write_text(f"{prefix}inactive_file {40 << 20}\n{prefix}active_file {60 << 20}\nshmem 7\n")
    assert cgroup.free_memory(tmp_path / "cgroup", tmp_path) == (1024 - 300 + 100) << 20
    monkeypatch.setattr(cgroup, "free_memory", lambda: 824 << 20)
    cache.check_memory(824 << 20, 4)
    with pytest.raises(TrainError, match=r"0\.8 GiB are free in this process' control group: request more memory"):
        cache.check_memory((824 << 20) + 1, 4)


def test_no_limit_is_none(tmp_path: Path):
    assert cgroup.free_memory(tmp_path / "none", tmp_path) is None
    (tmp_path / "cgroup").write_text("0::/\n")
    assert cgroup.free_memory(tmp_path / "cgroup", tmp_path) is None
    for name, text in (("memory.max", "max"), ("memory.current", "5"), ("memory.stat", "")):
        (tmp_path / name).write_text(text)
    assert cgroup.free_memory(tmp_path / "cgroup", tmp_path) is None


def test_all_ranks_check_before_any_copies(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    steps: list[list[str]] = []

    def together(action: Callable[[], Any], attempt: Path) -> Any:
        steps.append([])
        return action()

    monkeypatch.setattr(job, "together", together)
    monkeypatch.setattr(job.hvd, "local_rank", lambda: 0)
    monkeypatch.setattr(job.hvd, "local_size", lambda: 1)
    monkeypatch.setattr(cache, "check_memory", lambda needed, shards: steps[-1].append(f"check {shards}"))
    monkeypatch.setattr(cache, "_copy", lambda folder, shard: steps[-1].append("copy"))
    monkeypatch.setattr(cache, "share_on_node", dict)
    experiment = {"mode": "train", "data": {"cache": "memory"}, "train": {"evaluate": True}}
    setup = SimpleNamespace(dataset=load_dataset(data), config=SimpleNamespace(experiment=experiment))
    job.hold_shards(setup, tmp_path)
    assert steps == [["check 7"], ["copy"] * 7]


def test_a_shard_cut_short_meanwhile_is_named(data: Path, tmp_path: Path):
    dataset = load_dataset(data)
    for shard in dataset.splits["val"].shards:
        (tmp_path / shard.file).write_bytes((data / shard.file).read_bytes()[:-1])
    moved = load_dataset(data).__class__(**{**vars(dataset), "folder": tmp_path})
    with pytest.raises(TrainError, match=r"val-00000-of-00003.tfrecord: \d+ bytes were read") as told:
        cache.hold(moved, ["val"], 0, 1)
    assert told.value.code == ErrorCode.DATA_DAMAGED
