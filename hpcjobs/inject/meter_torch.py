"""Tells the meter what PyTorch does, in a training that nobody edited.

sitecustomize.py hands over each of PATCHES' modules once it is loaded. Lightning, accelerate and Hugging Face's Trainer
stand on the same four things:

- a DataLoader's iterator hands out a batch: a step's input begins and ends;
- an optimizer's step is done, told by PyTorch's own hook: the step ends with the next batch;
- a DistributedDataParallel or FSDP module is made: its all-reduce can be left out in control blocks;
- a checkpoint is written: that is no part of a step.

Nothing of PyTorch is replaced by something that computes otherwise. A surprise turns the meter off with one line, and
the training goes on. A rank that ends by an uncaught exception leaves an abort-rNNN.json (hpcjobs' base/contract.py).
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import socket
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

_HERE = os.path.dirname(os.path.abspath(__file__))
_WAY = "auto"
# These say that another process failed, which left its own record: torchrun's and torch.multiprocessing's.
_OF_OTHERS = ("ChildFailedError", "ProcessRaisedException", "ProcessExitedException", "SignalException")
# The longest message that abort-rNNN.json holds, in characters.
_MESSAGE_LENGTH = 2000


def _meter() -> Any:
    """The one METER of this process, which a user's `import meter` shares by its private name."""
    name = "_hpcjobs_meter"
    if name not in sys.modules:
        from importlib.util import module_from_spec, spec_from_file_location

        path = os.path.join(os.path.dirname(_HERE), "meter.py")
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
    return sys.modules[name].METER


METER: Any = _meter()


class _Driver:
    """What the patched places call."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.watching = False  # whether the excepthook is in place
        self.child = False  # of a fork: a worker of a DataLoader, or something of the user's
        self.grad: Callable[[], bool] | None = None
        self.known: dict[int, Any] = {}  # the live optimizers, as METER has them
        self.sharded: dict[int, Any] = {}  # the live FSDP modules, likewise
        self.leader = 0  # id of the optimizer whose steps are counted where no DataLoader hands out batches
        self.unfed = 0  # its steps since the last batch of the training
        os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        self.child = True

    def here(self) -> bool:
        """Whether this is the training's own process and thread, and the meter is on."""
        return bool(METER.on) and not self.child and threading.get_ident() == self.thread

    def drives(self) -> bool:
        """Whether what this file sees is what METER is told now. Claims it, if nobody has a better claim."""
        return self.here() and bool(METER.drives(_WAY))

    def pause(self) -> None:
        """What happens until the next batch is no part of a step."""
        if METER.way == _WAY and self.here():
            METER.pause()

    def trains(self) -> bool:
        """Whether gradients are wanted: an evaluation takes its batches without."""
        if self.grad is None:
            self.grad = sys.modules["torch"].is_grad_enabled
        return self.grad()

    def surprise(self, where: str, error: BaseException) -> None:
        """Turn the meter off, in one line."""
        METER.off(f"{where}: {type(error).__name__}: {' '.join(str(error).split())}")


DRIVER = _Driver()


# --- batches -----------------------------------------------------------------------------------------------------


def _patch_loader(module: Any) -> None:
    """Each batch that a DataLoader's iterator hands out in the main process."""
    kind = module._BaseDataLoaderIter
    original = kind.__next__

    @functools.wraps(original)
    def following(self: Any) -> Any:
        try:
            told = _batch_of(self) if DRIVER.drives() else None
        except Exception as error:
            DRIVER.surprise("a batch", error)
            told = None
        if told is None:
            return original(self)
        try:
            return METER.fetch(lambda: original(self), *told)
        except StopIteration:
            self._hpcjobs_began = False
            METER.loop_ended()
            raise

    kind.__next__ = following
    if getattr(kind, "next", None) is original:  # PyTorch before 1.8 gives it a second name
        kind.next = following

    begin = module.DataLoader.__iter__

    @functools.wraps(begin)
    def beginning(self: Any) -> Any:
        # Workers start here.
        try:
            DRIVER.pause()
        except Exception as error:
            DRIVER.surprise("a loader's begin", error)
        return begin(self)

    module.DataLoader.__iter__ = beginning


def _batch_of(iterator: Any) -> tuple[int, int] | None:
    """Of a batch of the training that is to come: its source, and how many batches are prepared ahead. Else None."""
    if not DRIVER.trains():
        METER.pause()
        return None
    # Loaders that are made anew for each epoch share their data.
    source = id(iterator._dataset)
    workers = iterator._num_workers
    ahead = workers * (getattr(iterator, "_prefetch_factor", None) or 2) if workers else 0
    if not getattr(iterator, "_hpcjobs_began", False):
        iterator._hpcjobs_began = True
        METER.loop_began()
    DRIVER.unfed = 0
    return source, ahead


# --- steps -------------------------------------------------------------------------------------------------------


def _patch_optimizer(module: Any) -> None:
    """Each optimizer's step, by PyTorch's own hook (PyTorch 2.1 on)."""

    def stepped(*told: Any) -> None:
        try:
            if DRIVER.drives():
                _after_step(told[0])
        except Exception as error:
            DRIVER.surprise("an optimizer's step", error)

    module.register_optimizer_step_post_hook(stepped)


# So many steps of an optimizer without a batch of a DataLoader say that the batches come from elsewhere.
_UNFED = 3


def _after_step(optimizer: Any) -> None:
    key = id(optimizer)
    if key not in DRIVER.known:
        DRIVER.known[key] = _remember(METER.optimizers, optimizer, lambda: DRIVER.known.pop(key, None))
        # Of several optimizers the first is the one that counts, as long as it lives.
        if DRIVER.leader not in DRIVER.known:
            DRIVER.leader = key
    METER.step_ended()
    if key == DRIVER.leader:
        DRIVER.unfed += 1
        if DRIVER.unfed >= _UNFED:
            local = os.environ.get("HPCJOBS_LOCAL_BATCH", "")
            METER.beat(float(local) if local.isdigit() else 0.0)


def _remember(items: list[Any], one: Any, gone: Callable[[], object] = bool) -> Any:
    """Put an object into a list of METER's without keeping it alive. Returns what stands there for it."""

    def forget(proxy: Any) -> None:
        gone()
        items[:] = [item for item in items if item is not proxy]

    proxy = weakref.proxy(one, forget)
    items.append(proxy)
    return proxy


# --- models ------------------------------------------------------------------------------------------------------


def _patch_init(kind: Any, made: Callable[[Any], None]) -> None:
    """Call `made` with each object of a class, after its __init__."""
    original = kind.__init__

    @functools.wraps(original)
    def init(self: Any, *args: Any, **keywords: Any) -> None:
        original(self, *args, **keywords)
        try:
            if DRIVER.here():
                made(self)
        except Exception as error:
            DRIVER.surprise(f"a {kind.__name__}", error)

    kind.__init__ = init


def _patch_ddp(module: Any) -> None:
    """Each DistributedDataParallel."""
    _patch_init(module.DistributedDataParallel, lambda model: _remember(METER.models, model))


def _sharded(model: Any) -> None:
    """An FSDP module. Of those that lie in each other the outermost counts: its `no_sync` holds for all."""
    inner = {id(module) for module in model.modules()}
    for proxy in [proxy for key, proxy in DRIVER.sharded.items() if key in inner]:
        METER.models[:] = [item for item in METER.models if item is not proxy]
    key = id(model)
    DRIVER.sharded[key] = _remember(METER.models, model, lambda: DRIVER.sharded.pop(key, None))


def _patch_fsdp(module: Any) -> None:
    """Each FullyShardedDataParallel."""
    _patch_init(module.FullyShardedDataParallel, _sharded)


def _patch_fully_shard(module: Any) -> None:
    """Each module that fully_shard (FSDP2) was called with."""
    original = module.fully_shard

    @functools.wraps(original)
    def fully_shard(target: Any, *args: Any, **keywords: Any) -> Any:
        result = original(target, *args, **keywords)
        try:
            if DRIVER.here():
                for model in target if isinstance(target, (list, tuple)) else (target,):
                    _sharded(model)
        except Exception as error:
            DRIVER.surprise("fully_shard", error)
        return result

    module.fully_shard = fully_shard


# --- checkpoints -------------------------------------------------------------------------------------------------


def _patch_save(module: Any) -> None:
    """Each checkpoint that is written between steps, by torch.save."""
    original = module.save

    @functools.wraps(original)
    def save(*args: Any, **keywords: Any) -> Any:
        try:
            DRIVER.pause()
        except Exception as error:
            DRIVER.surprise("torch.save", error)
        return original(*args, **keywords)

    module.save = save


def _patch_eval(module: Any) -> None:
    """Each model whose eval() is called between steps: an evaluation, whatever its batches come from."""
    original = module.Module.eval

    @functools.wraps(original)
    def evaluating(self: Any) -> Any:
        try:
            if METER.way == _WAY and DRIVER.here() and _is_trained(self):
                METER.pause()
        except Exception as error:
            DRIVER.surprise("Module.eval", error)
        return original(self)

    module.Module.eval = evaluating


def _is_trained(model: Any) -> bool:
    """Whether a module holds the first and the last parameter of an optimizer: it is no part and no teacher."""
    if not DRIVER.known:
        return False
    own = {id(parameter) for parameter in model.parameters()}
    for optimizer in DRIVER.known.values():
        groups = [group["params"] for group in optimizer.param_groups if group["params"]]
        if groups and id(groups[0][0]) in own and id(groups[-1][-1]) in own:
            return True
    return False


# --- Lightning ---------------------------------------------------------------------------------------------------


def _patch_lightning(module: Any) -> None:
    """Lightning (2.6) broadcasts in each step whether rank 0 has heard SIGTERM. In (c) the ranks must not wait for it.

    All ranks are in the same phase there, so none waits for a broadcast that another leaves out. SIGTERM is heard some
    steps later. Without this the skew of a late rank looks like computing.
    """
    kind = module._TrainingEpochLoop
    original = getattr(kind, "_broadcast_sigterm_tensor", None)
    if original is None:
        return

    @functools.wraps(original)
    def broadcast(self: Any) -> Any:
        if METER.phase == "c" and DRIVER.here() and METER.way == _WAY:
            return None
        return original(self)

    kind._broadcast_sigterm_tensor = broadcast


# --- the end of a rank -------------------------------------------------------------------------------------------


def _rank() -> int | None:
    """This process's rank, or None where it is no rank, as torchrun itself."""
    told = os.environ.get("RANK", "")
    if told.isdigit():
        return int(told)
    distributed = getattr(sys.modules.get("torch"), "distributed", None)
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_rank())
    return None


def _watch_exceptions() -> None:
    """Chain an excepthook that writes why a rank ends."""
    pid, previous = os.getpid(), sys.excepthook
    again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if again.isdigit() and int(again) > 0:
        # torchrun starts its ranks again: then only the last start counts.
        with contextlib.suppress(OSError, TypeError):
            os.unlink(_abort_path(_rank()))

    def excepthook(kind: Any, error: Any, trace: Any) -> None:
        if os.getpid() == pid and issubclass(kind, Exception) and kind.__name__ not in _OF_OTHERS:
            with contextlib.suppress(Exception):
                _write_abort(kind, error)
        previous(kind, error, trace)

    sys.excepthook = excepthook


def _abort_path(rank: int | None) -> str:
    """Raises TypeError if the process is no rank."""
    if rank is None:
        raise TypeError("no rank")
    return os.path.join(os.environ["HPCJOBS_METRICS"], f"abort-r{rank:03d}.json")


def _write_abort(kind: Any, error: Any) -> None:
    """abort-rNNN.json with the exception's last line, as hpcjobs' base/contract.py says."""
    rank = _rank()
    path = _abort_path(rank)
    module = "" if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}."
    text = " ".join(f"{module}{kind.__qualname__}: {error}".split())[:_MESSAGE_LENGTH]
    value = {
        **{"code": "unexpected", "message": text, "nodes": []},
        **{"rank": rank, "host": socket.gethostname(), "time": time.time()},
    }
    with open(f"{path}.{os.getpid()}", "w", encoding="utf-8") as file:
        json.dump(value, file)
    os.replace(f"{path}.{os.getpid()}", path)


PATCHES: dict[str, Callable[[Any], None]] = {
    "torch.utils.data.dataloader": _patch_loader,
    "torch.optim.optimizer": _patch_optimizer,
    "torch.nn.parallel.distributed": _patch_ddp,
    "torch.distributed.fsdp.fully_sharded_data_parallel": _patch_fsdp,
    "torch.distributed.fsdp._fully_shard._fully_shard": _patch_fully_shard,
    "torch.distributed._composable.fsdp.fully_shard": _patch_fully_shard,
    "torch.nn.modules.module": _patch_eval,
    "torch.serialization": _patch_save,
    "lightning.pytorch.loops.training_epoch_loop": _patch_lightning,
    "pytorch_lightning.loops.training_epoch_loop": _patch_lightning,
}


def patch(name: str, module: Any) -> None:
    """Patch one of PATCHES' modules, which has just been loaded. Raises what is surprising in it."""
    if not METER.on:
        return
    try:
        if not DRIVER.watching:
            DRIVER.watching = True
            _watch_exceptions()
        PATCHES[name](module)
    except Exception as error:
        # The same line as for a surprise later on, and the same silence afterwards.
        DRIVER.surprise(name, error)
