"""What the allocator gives back to the system, it must ask for again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hpcjobs.chexnet.train.__main__ import _prepare_environment
from hpcjobs.chexnet.train.failure import TrainError

# Three buffers of 16 MiB, filled and freed twenty times, as batches are.
PROGRAM = """
import ctypes, resource, sys
from hpcjobs.chexnet.train.heap import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
for turn in range(21):
    if turn == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    buffers = [ctypes.c_void_p(libc.malloc(16 << 20)) for _ in range(3)]
    for buffer in buffers:
        ctypes.memset(buffer, 1, 16 << 20)
    for buffer in buffers:
        libc.free(buffer)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    return int(subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True).stdout)


def test_every_rank_keeps_freed_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    called: list[str] = []
    monkeypatch.setattr("hpcjobs.chexnet.train.heap.keep_freed_memory", lambda: called.append("kept"))
    for name in ("TF_CPP_MIN_LOG_LEVEL", "CUDA_DEVICE_ORDER"):
        monkeypatch.setenv(name, "")
    _prepare_environment(TrainError("run_yaml", "no matter"), tmp_path)
    assert called == ["kept"]


def test_freed_batches_are_used_again_without_page_faults():
    assert faults("kept") < 500
    assert faults("given back") > 20 * 3 * 4096 / 4
