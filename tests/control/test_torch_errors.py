"""torchrun's error files become what a rank that gave up says of itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpcjobs.base.records import ExitRecord
from hpcjobs.collect.failures import classify
from hpcjobs.collect.torch_errors import read_error, read_errors


def error(path: Path, message: str, at: int) -> Path:
    """An error.json as PyTorch 2.13 writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stack = f'Traceback (most recent call last):\n  File "/tmp/t.py", line 11, in main\n{message}\n'
    told = {"message": message, "extraInfo": {"py_callstack": stack, "timestamp": str(at)}}
    path.write_text(json.dumps({"message": told, "errorCode": 1}))
    return path


def test_the_first_rank_that_failed_by_itself_is_the_cause(tmp_path: Path) -> None:
    closed = "RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1420"
    error(tmp_path / "torch-error-n1.json", closed, 1795993845)
    error(
        tmp_path / "torch-error-n2.json", "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", 1795993846
    )
    errors = read_errors(tmp_path)
    assert [each["time"] for each in errors] == [1795993845.0, 1795993846.0]
    ended = ExitRecord("g0002-r01", "a001", "7_0", 1, 0, "n1", 1.0, 2.0)
    failure = classify(None, ended, errors, "last words")
    assert failure.kind == "device_memory"
    assert failure.evidence == "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"


def test_a_torchrun_that_was_ended_after_another_nodes_failure_is_no_cause(tmp_path: Path) -> None:
    """As PyTorch 2.13 left it on the first node, after a rank of the second was killed."""
    error(tmp_path / "torch-error-n1.json", "SignalException: Process 15723 got signal: 15", 1795993846)
    assert read_errors(tmp_path) == []
    killed = ExitRecord("g0004-r01", "a001", "7_0", 137, 9, "n[1-2]", 1.0, 2.0)
    assert classify(None, killed, read_errors(tmp_path), "last words").kind == "signal"


@pytest.mark.parametrize(
    "text", ["", "[]", '{"message": {"extraInfo": {}}}', '{"message": 3}', '{"message": {"message": 3}}']
)
def test_a_file_that_is_no_error_file_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "error.json").write_text(text)
    assert read_error(tmp_path / "error.json") is None


def test_an_error_file_of_an_older_pytorch_is_read(tmp_path: Path) -> None:
    (tmp_path / "error.json").write_text('{"message": "ValueError: a\\nb", "timestamp": 12}')
    assert read_error(tmp_path / "error.json") == {"code": "unexpected", "message": "ValueError: a b", "time": 12.0}
    (tmp_path / "error.json").write_text('{"message": "ValueError: a", "timestamp": "soon"}')
    assert read_error(tmp_path / "error.json")["time"] == 0.0
