"""`python -m hpcjobs.chexnet.train RUN_YAML --attempt DIR`: one rank of a run. See `job` for what it does."""

from __future__ import annotations

import argparse
import os
import traceback
from pathlib import Path

from hpcjobs.base import contract
from hpcjobs.base.contract import ErrorCode, RunConfig
from hpcjobs.chexnet.train import failure, heap, threads
from hpcjobs.chexnet.train.failure import TrainError
from hpcjobs.chexnet.train.lean import without_pandas
from hpcjobs.nodes import transport


def main(arguments: list[str] | None = None) -> int:
    """Train as one rank; returns the exit code. Does not return if this rank alone fails (see failure.leave)."""
    parser = argparse.ArgumentParser(prog="python -m hpcjobs.chexnet.train", description="One rank of a training run.")
    parser.add_argument("run_yaml", type=Path, metavar="RUN_YAML", help="the run.yaml that hpcjobs wrote")
    parser.add_argument("--attempt", type=Path, required=True, metavar="DIR", help="existing folder of this attempt")
    options = parser.parse_args(arguments)
    if not options.attempt.is_dir():
        parser.error(f"--attempt {options.attempt}: no such folder")
    try:
        config = read_config(options.run_yaml)
        _prepare_environment(config, options.attempt)
        # Imported here: the libraries read the environment when they are loaded.
        with without_pandas():
            from hpcjobs.chexnet.train import job, ranks

        try:
            job.run(config, options.run_yaml.resolve().parent, options.attempt)
        except ranks.GivenUp:
            return 1
        except ranks.Interrupted:
            failure.leave_interrupted(job.end())
    except TrainError as error:
        failure.report(options.attempt, error.code, error.message)
        failure.leave()
    except Exception as error:
        traceback.print_exc()
        failure.report(options.attempt, ErrorCode.UNEXPECTED, f"{type(error).__name__}: {error}")
        failure.leave()
    return 0


def read_config(path: Path) -> RunConfig | TrainError:
    """run.yaml, or the error in it. Every rank finds the same error; they report it once, after Horovod has started."""
    try:
        return contract.load_run(path)
    except OSError as error:
        return TrainError(ErrorCode.RUN_YAML, f"{path}: cannot be read: {error.strerror}")
    except ValueError as error:
        return TrainError(ErrorCode.RUN_YAML, str(error))


def _prepare_environment(config: RunConfig | TrainError, attempt: Path) -> None:
    # TensorFlow logs harmless notices even as errors (level 2). Real errors come as exceptions.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # The order of nvidia-smi.
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    heap.keep_freed_memory()
    if isinstance(config, RunConfig):
        threads.limit_environment(config.cpus_per_task)
        if config.device == "cpu":
            os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
        else:
            transport.ask_nccl(attempt)
        horovod = config.experiment["horovod"]
        if horovod["fusion_mib"] is not None:
            os.environ["HOROVOD_FUSION_THRESHOLD"] = str(int(horovod["fusion_mib"] * 2**20))
        if horovod["cycle_ms"] is not None:
            os.environ["HOROVOD_CYCLE_TIME"] = str(horovod["cycle_ms"])


if __name__ == "__main__":
    raise SystemExit(main())
