"""The clock of a rank's GPU, through the C library of NVML (a fake one here: this machine has no GPU)."""

from __future__ import annotations

import ctypes
import math
import sys
from types import SimpleNamespace

import pytest

from hpcjobs import meter

UUID = "GPU-1b6fa2d0-0000-1111-2222-333344445555"


class FakeNvml:
    """libnvidia-ml.so.1 of a node with one GPU, in the calls that the meter makes. 0 is success, as in NVML."""

    def __init__(self, mhz: list[int]) -> None:
        self.mhz = mhz

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes, handle) -> int:
        return 0 if uuid.decode() == UUID else 6  # NVML_ERROR_NOT_FOUND

    def nvmlDeviceGetClockInfo(self, handle, kind: int, mhz) -> int:
        if kind != 1 or not self.mhz:
            return 3  # NVML_ERROR_NOT_SUPPORTED
        mhz._obj.value = self.mhz.pop(0)
        return 0


@pytest.fixture
def nvml(monkeypatch):
    fake = FakeNvml([1380, 1200])
    monkeypatch.setattr(ctypes, "CDLL", lambda name: {"libnvidia-ml.so.1": fake}[name])
    return fake


def test_a_block_is_given_the_clock_at_its_end(nvml):
    clock = meter.gpu_clock(UUID)
    before = meter.load_now(clock)
    assert meter.load_between(before, meter.load_now(clock))["sm_mhz"] == 1200
    assert meter.load_between(before, meter.load_now(clock))["sm_mhz"] is None  # NVML does not tell it any more.


def test_another_gpu_a_missing_library_and_an_old_one_have_no_clock(nvml, monkeypatch):
    assert math.isnan(meter.gpu_clock("GPU-of-another-node")())

    def missing(name):
        raise OSError(f"{name}: cannot open shared object file")

    for library in (missing, lambda name: SimpleNamespace()):
        monkeypatch.setattr(ctypes, "CDLL", library)
        assert math.isnan(meter.gpu_clock(UUID)())


@pytest.mark.parametrize("uuid", [UUID, UUID.removeprefix("GPU-")])
def test_pytorchs_gpu_is_found_by_its_uuid_however_pytorch_writes_it(nvml, monkeypatch, uuid):
    cuda = SimpleNamespace(
        is_initialized=lambda: True,
        current_device=lambda: 3,
        get_device_properties=lambda index: {3: SimpleNamespace(uuid=uuid)}[index],
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert meter._own_gpu_clock()() == 1380


@pytest.mark.parametrize("cuda", [None, SimpleNamespace(is_initialized=lambda: False)])
def test_a_training_without_a_gpu_has_no_clock(monkeypatch, cuda):
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert meter._own_gpu_clock() is None
