"""`python -m hpcjobs.chexnet.node_check FOLDER`: whether a compute node has what the runs will need.

Reads FOLDER/request.json, which the login node wrote, and writes FOLDER/node.json. The trainer checks the same
again at the start of every run.
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

# Modules that the trainer needs besides TensorFlow and Horovod.
_MODULES = ("mlperf_logging", "mpi4py", "sklearn")
_INSTALL = f"{contract.INSTALL_COMPUTE}; or set the profile's `python` to a Python that has it"


def main(folder: Path) -> int:
    """Exit code: 1 if the runs would fail, else 0."""
    request = read_json(folder / contract.CHECK_REQUEST)
    if request is None:
        print(f"hpcjobs: error: {folder}: this node sees no {contract.CHECK_REQUEST} there", file=sys.stderr)
        return 1
    found = list(findings(request))
    about = {
        "token": request["token"],
        "host": socket.gethostname(),
        "findings": [[one.check, one.state, one.message, one.remedy] for one in found],
    }
    write_json(folder / contract.CHECK_NODE, about)
    return int(any(one.state == contract.FAILURE for one in found))


def findings(request: dict[str, Any]) -> Iterator[Finding]:
    """One finding for each thing that was asked for. Imports TensorFlow and Horovod."""
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
    version = f"{platform.python_version()} ({sys.executable})"
    if missing:
        return Finding("python", contract.FAILURE, f"{version} lacks {', '.join(missing)}", _INSTALL)
    return Finding("python", contract.OK, version)


def _tensorflow(device: str) -> Iterator[Finding]:
    try:
        tensorflow = importlib.import_module("tensorflow")
    except Exception as error:  # a broken build may raise anything
        yield Finding("tensorflow", contract.FAILURE, f"cannot be imported: {_line(error)}", _INSTALL)
        return
    yield Finding("tensorflow", contract.OK, str(tensorflow.__version__))
    if device == "gpu":
        # Not run by us: needs a GPU.
        gpus = tensorflow.config.list_physical_devices("GPU")
        if gpus:
            yield Finding("gpus", contract.OK, f"TensorFlow sees {len(gpus)}")
        else:
            remedy = (
                "check gpu_request in the profile, the driver (nvidia-smi), and that TensorFlow was built with CUDA"
            )
            yield Finding("gpus", contract.FAILURE, "the profile says device gpu, but TensorFlow sees no GPU", remedy)


def _horovod(request: dict[str, Any]) -> Finding:
    try:
        horovod = importlib.import_module("horovod")
        hvd = importlib.import_module("horovod.tensorflow")
    except Exception as error:  # a broken build may raise anything
        return Finding("horovod", contract.FAILURE, f"cannot be imported: {_line(error)}", _INSTALL)
    built = {name: bool(getattr(hvd, f"{name}_built")()) for name in ("mpi", "gloo", "nccl")}
    return operations(str(horovod.__version__), built, request)


def operations(version: str, built: dict[str, bool], request: dict[str, Any]) -> Finding:
    """Whether Horovod `version` is enough for the request. `built` says of mpi, gloo and nccl whether it has them."""
    has = ", ".join(name for name, there in built.items() if there) or "nothing"
    found = f"{version} with {has}"
    controller = "gloo" if request["launcher"] == "horovodrun" else "mpi"
    if not built[controller]:
        remedy = f"build it with HOROVOD_WITH_{controller.upper()}=1, which launcher {request['launcher']} needs"
        return Finding("horovod", contract.FAILURE, found, remedy)
    if request["device"] == "gpu" and request["gpus"] > 1 and not built["nccl"]:
        remedy = "build it with HOROVOD_GPU_OPERATIONS=NCCL: gradients would travel through the hosts"
        return Finding("horovod", contract.FAILURE, f"{found}, without NCCL", remedy)
    return Finding("horovod", contract.OK, found)


def data(folder: Path) -> Finding:
    """Whether the folder holds a data set with the classes in the order of CLASSES and every shard in full length."""
    try:
        dataset = load_dataset(folder)
    except (DatasetMissing, DatasetMismatch, DatasetDamaged) as error:
        return Finding("data", contract.FAILURE, str(error), "`hpcjobs data verify` says what to rebuild")
    images = ", ".join(f"{split.images} {name}" for name, split in dataset.splits.items())
    shards = sum(len(split.shards) for split in dataset.splits.values())
    return Finding("data", contract.OK, f"{folder}: {images} images in {shards} shards of full length")


def weights(path: Path) -> Finding:
    """Whether a file of weights exists."""
    path = path.expanduser()
    if path.is_file():
        return Finding("weights", contract.OK, str(path))
    remedy = "set model.weights to a file that compute nodes see"
    if path.name == IMAGENET_FILE:
        remedy = (
            "nodes do not download; on a login node run: python -c "
            "'import tensorflow as tf; tf.keras.applications.DenseNet121(include_top=False)'"
        )
    return Finding("weights", contract.FAILURE, f"{path}: no such file", remedy)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
