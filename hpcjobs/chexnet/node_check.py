"""`python -m hpcjobs.chexnet.node_check FOLDER`: what a compute node has of what the runs will need.

It reads FOLDER/request.json, which the login node wrote, and writes FOLDER/node.json. The trainer checks the same
again, at the start of every run.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hpcjobs.base import contract
from hpcjobs.base.contract import Finding
from hpcjobs.base.files import read_json, write_json
from hpcjobs.chexnet.classes import IMAGENET_FILE
from hpcjobs.chexnet.data.dataset import DatasetDamaged, DatasetMismatch, DatasetMissing, load_dataset

# The trainer's, beside TensorFlow and Horovod.
_MODULES = ("mlperf_logging", "mpi4py", "sklearn")
_INSTALL = f"{contract.INSTALL_COMPUTE}; or name a Python that has it by the profile's `python`"


def main(folder: Path) -> int:
    """1 where the runs would fail."""
    request = read_json(folder / contract.CHECK_REQUEST)
    if request is None:
        print(f"hpcjobs: error: {folder}: no {contract.CHECK_REQUEST} as seen from here", file=sys.stderr)
        return 1
    found = list(findings(request))
    about = {
        "token": request["token"],
        "host": socket.gethostname(),
        "findings": [[one.check, one.state, one.said, one.cure] for one in found],
    }
    write_json(folder / contract.CHECK_NODE, about)
    return int(any(one.state == contract.FAILURE for one in found))


def findings(request: dict[str, Any]) -> Iterator[Finding]:
    """What is there and what is not."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    yield _python()
    yield from _tensorflow(request["device"])
    yield _horovod(request)
    for folder in request["data"]:
        yield data(Path(folder))
    for path in request["weights"]:
        yield weights(Path(path))


def _python() -> Finding:
    missing = [name for name in _MODULES if importlib.util.find_spec(name) is None]
    said = f"{platform.python_version()} ({sys.executable})"
    if missing:
        return Finding("python", contract.FAILURE, f"{said} lacks {', '.join(missing)}", _INSTALL)
    return Finding("python", contract.OK, said)


def _tensorflow(device: str) -> Iterator[Finding]:
    try:
        tensorflow = importlib.import_module("tensorflow")
    except Exception as error:  # a broken build raises anything
        yield Finding("tensorflow", contract.FAILURE, f"cannot be imported: {_line(error)}", _INSTALL)
        return
    yield Finding("tensorflow", contract.OK, str(tensorflow.__version__))
    if device == "gpu":
        # Not run by us: needs a GPU.
        gpus = tensorflow.config.list_physical_devices("GPU")
        if gpus:
            yield Finding("gpus", contract.OK, f"TensorFlow sees {len(gpus)}")
        else:
            cure = "check gpu_request in the profile, the driver (nvidia-smi), and that TensorFlow was built with CUDA"
            yield Finding("gpus", contract.FAILURE, "device is gpu, and TensorFlow sees none", cure)


def _horovod(request: dict[str, Any]) -> Finding:
    try:
        horovod = importlib.import_module("horovod")
        hvd = importlib.import_module("horovod.tensorflow")
    except Exception as error:  # as above
        return Finding("horovod", contract.FAILURE, f"cannot be imported: {_line(error)}", _INSTALL)
    built = {name: bool(getattr(hvd, f"{name}_built")()) for name in ("mpi", "gloo", "nccl")}
    return operations(str(horovod.__version__), built, request)


def operations(version: str, built: dict[str, bool], request: dict[str, Any]) -> Finding:
    """Whether a Horovod with these operations can do what is asked for."""
    has = ", ".join(name for name, there in built.items() if there) or "nothing"
    said = f"{version} with {has}"
    controller = "gloo" if request["launcher"] == "horovodrun" else "mpi"
    if not built[controller]:
        cure = f"build it with HOROVOD_WITH_{controller.upper()}=1, which launcher {request['launcher']} needs"
        return Finding("horovod", contract.FAILURE, said, cure)
    if request["device"] == "gpu" and request["gpus"] > 1 and not built["nccl"]:
        cure = "build it with HOROVOD_GPU_OPERATIONS=NCCL: gradients would travel through the hosts"
        return Finding("horovod", contract.FAILURE, f"{said}, without NCCL", cure)
    return Finding("horovod", contract.OK, said)


def data(folder: Path) -> Finding:
    """Whether a data set is there, with the classes in our order and every shard in its full length."""
    try:
        dataset = load_dataset(folder)
    except (DatasetMissing, DatasetMismatch, DatasetDamaged) as error:
        return Finding("data", contract.FAILURE, str(error), "`hpcjobs data verify` says what to make anew")
    images = ", ".join(f"{split.images} {name}" for name, split in dataset.splits.items())
    shards = sum(len(split.shards) for split in dataset.splits.values())
    return Finding("data", contract.OK, f"{folder}: {images} images in {shards} shards of full length")


def weights(path: Path) -> Finding:
    """Whether a file of weights is there."""
    path = path.expanduser()
    if path.is_file():
        return Finding("weights", contract.OK, str(path))
    cure = "give model.weights a file that compute nodes see"
    if path.name == IMAGENET_FILE:
        cure = (
            "nodes do not download; on a login node run: python -c "
            "'import tensorflow as tf; tf.keras.applications.DenseNet121(include_top=False)'"
        )
    return Finding("weights", contract.FAILURE, f"{path}: no such file", cure)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
