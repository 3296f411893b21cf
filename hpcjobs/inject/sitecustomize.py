"""Python runs this at its start, because the job script puts this folder first on PYTHONPATH.

It watches the imports of a few of PyTorch's modules and hands each, once loaded, to meter_torch.py, which stands beside
it. A Python that imports no PyTorch pays for one `in` per import. Then the sitecustomize that this file hides is run,
exactly as Python would have run it. Whatever goes wrong in here is told in one line, and the program goes on.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # as typing's, whose import would cost more than all of this file
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

_HERE = os.path.dirname(os.path.abspath(__file__))
# The modules that meter_torch.PATCHES knows.
_WATCHED = frozenset(
    (
        "torch.utils.data.dataloader",
        "torch.nn.parallel.distributed",
        "torch.optim.optimizer",
        "torch.distributed.fsdp.fully_sharded_data_parallel",
        "torch.distributed.fsdp._fully_shard._fully_shard",  # FSDP2, PyTorch 2.6 on
        "torch.distributed._composable.fsdp.fully_shard",  # the same before
        "torch.nn.modules.module",
        "torch.amp.grad_scaler",
        "torch.cuda.amp.grad_scaler",
        "torch.serialization",
        "lightning.pytorch.loops.training_epoch_loop",
        "pytorch_lightning.loops.training_epoch_loop",
        "transformers.trainer",
    )
)


def _warn(error: BaseException) -> None:
    """One line on stderr: the meter is off."""
    try:
        why = " ".join(str(error).split())
        sys.stderr.write(f"hpcjobs: warning: the meter is off: {type(error).__name__}: {why}\n")
        sys.stderr.flush()
    except Exception:  # no stderr is no reason to end a training
        pass


class _Watcher:
    """A finder that finds what the others find, and looks at the watched modules after they are loaded."""

    def __init__(self) -> None:
        self.patch: Any = None  # of meter_torch, once it is loaded
        self.off = False

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in _WATCHED or self.off:
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                self._follow(spec)
                return spec
        return None

    def _follow(self, spec: ModuleSpec) -> None:
        """Patch the module after it is loaded. Its loader stays the loader that it has."""
        try:
            loader: Any = spec.loader
            execute = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                # A module may be loaded again: by the loader itself, without this.
                del loader.exec_module
                execute(module)
                self._patch(spec.name, module)

            loader.exec_module = exec_module
        except Exception as error:
            self._stop(error)

    def _patch(self, name: str, module: ModuleType) -> None:
        if self.off:
            return
        try:
            if self.patch is None:
                # The one METER of this process: a user's `import meter` shares it by this private name.
                if not _load("_hpcjobs_meter", os.path.join(os.path.dirname(_HERE), "meter.py")).METER.on:
                    self.off = True
                    return
                _load("_hpcjobs_rank_end", os.path.join(_HERE, "rank_end.py")).watch()
                _load("_hpcjobs_meter_driver", os.path.join(_HERE, "meter_driver.py"))
                self.patch = _load("_hpcjobs_meter_torch", os.path.join(_HERE, "meter_torch.py")).patch
            self.patch(name, module)
        except Exception as error:
            self._stop(error)

    def _stop(self, error: Exception) -> None:
        self.off = True
        _warn(error)


def _load(name: str, path: str) -> Any:
    """The module in that file, under a private name."""
    from importlib.util import module_from_spec, spec_from_file_location

    if name in sys.modules:
        return sys.modules[name]
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be loaded")
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _run_hidden() -> None:
    """Import the sitecustomize that this one hides, as if this folder were not on sys.path; from here on it is not.

    What that one raises is Python's to report. So is the ImportError where there is none: Python takes it for that.
    """
    sys.path[:] = [folder for folder in sys.path if os.path.abspath(folder or os.curdir) != _HERE]
    sys.path_importer_cache.pop(_HERE, None)
    del sys.modules["sitecustomize"]
    from importlib import import_module

    import_module("sitecustomize")


def _begin() -> None:
    try:
        if os.environ.get("HPCJOBS_METRICS") and not any(type(one).__name__ == "_Watcher" for one in sys.meta_path):
            sys.meta_path.insert(0, _Watcher())
    except Exception as error:
        _warn(error)
    _run_hidden()


if __name__ == "sitecustomize":
    _begin()
