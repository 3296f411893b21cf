"""How a rank gives up: named errors, and the watchdog's two ways to end it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tensorflow as tf

from hpcjobs.base.contract import ErrorCode
from hpcjobs.chexnet.train import failure, job, setup
from hpcjobs.chexnet.train.failure import TrainError


def test_a_rank_tells_its_reason_in_one_line_and_one_file(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "3")
    failure.report(tmp_path, ErrorCode.NAN_LOSS, "the loss is nan\n    at step 7")
    assert capsys.readouterr().err == "hpcjobs: error: nan_loss: the loss is nan at step 7\n"
    abort = json.loads((tmp_path / "abort-r003.json").read_text())
    assert (abort["code"], abort["message"], abort["rank"]) == ("nan_loss", "the loss is nan at step 7", 3)


@pytest.mark.parametrize(("device", "code"), [("gpu", ErrorCode.DEVICE_MEMORY), ("cpu", ErrorCode.HOST_MEMORY)])
def test_a_tensor_too_large_is_named_by_where_it_was_to_lie(device: str, code: str):
    said = "OOM when allocating tensor with shape[64,512,28,28] and type float\nHint: If you want to see a list of"
    with (
        pytest.raises(TrainError, match=r"OOM .* type float: use a smaller batch$") as caught,
        job.memory_named(device),
    ):
        raise tf.errors.ResourceExhaustedError(None, None, said)
    assert caught.value.code == code


def test_the_line_of_an_error_inside_the_compiled_step_that_says_it():
    said = (
        "Graph execution error:\n\nDetected at node 'a' defined at ...\n\nOOM when allocating tensor with shape[64,256]"
    )
    with (
        pytest.raises(TrainError, match="out of memory: OOM when allocating tensor") as caught,
        job.memory_named("gpu"),
    ):
        raise tf.errors.ResourceExhaustedError(None, None, said)
    assert caught.value.code == ErrorCode.DEVICE_MEMORY


@pytest.mark.parametrize("device", ["gpu", "cpu"])
def test_a_host_without_memory_is_named_whatever_the_device(device: str):
    with pytest.raises(TrainError, match="out of memory on the host") as caught, job.memory_named(device):
        bytearray(2**62)
    assert caught.value.code == ErrorCode.HOST_MEMORY


def test_ranks_on_gpus_want_a_horovod_with_nccl():
    with pytest.raises(TrainError, match="HOROVOD_GPU_OPERATIONS=NCCL") as caught:
        setup.check_horovod("gpu", 2, has_nccl=False)
    assert caught.value.code == ErrorCode.HOROVOD_BUILD
    setup.check_horovod("gpu", 2, has_nccl=True)
    setup.check_horovod("gpu", 1, has_nccl=False)  # Alone, it sends nothing.
    setup.check_horovod("cpu", 2, has_nccl=False)


STUCK = """
import pathlib, signal, sys, time
from hpcjobs.chexnet.train.watchdog import Watchdog
signal.signal(signal.SIGTERM, lambda number, frame: None)
watchdog = Watchdog(pathlib.Path(sys.argv[1]), 2)
watchdog.start()
watchdog.beat("step 7")
print("stuck", flush=True)
while True:
    time.sleep(60)
"""


@pytest.mark.parametrize("sent", [None, signal.SIGTERM], ids=["alone", "terminated"])
def test_a_rank_that_stalls_gives_the_reason_unless_the_launcher_has_terminated_it(
    sent: signal.Signals | None, tmp_path: Path
):
    """A launcher sends SIGTERM to the ranks that are left when one has died: whoever stalls then is not the cause."""
    rank = subprocess.Popen(
        [sys.executable, "-c", STUCK, str(tmp_path)], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert rank.stdout is not None
        assert rank.stdout.readline() == "stuck\n"
        if sent:
            rank.send_signal(sent)
        _, said = rank.communicate(timeout=550)
    finally:
        rank.kill()
    assert rank.returncode == 1
    (line,) = said.splitlines()
    start = r"hpcjobs: SIGTERM, and " if sent else r"hpcjobs: error: stalled: "
    assert re.match(start + r"no progress for \d+ s at step 7", line)
    left = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}
    assert left == ({"stacks-r000.txt"} if sent else {"abort-r000.json", "stacks-r000.txt"})


STOPPED = """
import os, pathlib, signal, sys, time
from hpcjobs.chexnet.train.watchdog import Watchdog

def stop_once():
    watchdog._pulse = pulse
    os.kill(os.getpid(), signal.SIGSTOP)

watchdog = Watchdog(pathlib.Path(sys.argv[1]), 4)
pulse, watchdog._pulse = watchdog._pulse, stop_once
watchdog.start()
watchdog.beat("step 7")
while watchdog._pulse is stop_once:
    time.sleep(0.05)
time.sleep(1)
watchdog.stop()
"""


def test_a_rank_that_is_stopped_while_its_watchdog_looks_around_does_not_give_up_when_it_continues(tmp_path: Path):
    rank = subprocess.Popen([sys.executable, "-c", STOPPED, str(tmp_path)], text=True, stderr=subprocess.PIPE)
    try:
        os.waitid(os.P_PID, rank.pid, os.WSTOPPED)
        time.sleep(6)  # Longer than its patience.
        rank.send_signal(signal.SIGCONT)
        _, said = rank.communicate(timeout=550)
    finally:
        rank.kill()
    assert (rank.returncode, said) == (0, "")
