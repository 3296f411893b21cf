"""Tells the meter what PyTorch does, in a training that nobody edited.

sitecustomize.py hands over each of PATCHES' modules once it is loaded. Lightning, accelerate and Hugging Face's Trainer
stand on the same four things:

- a DataLoader's iterator hands out a batch: a step's input begins and ends;
- an optimizer's step is done, told by PyTorch's own hook: the step ends with the next batch;
- a DistributedDataParallel or FSDP module is made: its all-reduce can be left out in control blocks;
- a checkpoint is written: that is no part of a step.

Nothing of PyTorch is replaced by something that computes otherwise. A surprise turns the meter off with one line, and
the training goes on.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import weakref
from collections.abc import Callable
from types import MethodType
from typing import Any

_driver: Any = sys.modules["_hpcjobs_meter_driver"]  # which sitecustomize.py loads before
WAY, METER, DRIVER, remember = _driver.WAY, _driver.METER, _driver.DRIVER, _driver.remember


def _patch_loader(module: Any) -> None:
    """Each batch that a DataLoader's iterator hands out in the main process."""
    kind = module._BaseDataLoaderIter
    original = kind.__next__
    driver, running = DRIVER, METER.running

    @functools.wraps(original)
    def following(self: Any) -> Any:
        if id(self) == running.of and driver.grad():
            # A steady training: this is done in each step, so it is little (meter.py, _Running).
            driver.unfed = 0
            driver.fetches += 1
            try:
                return running.fetch(original, self)
            except StopIteration:
                _ended(self, self._hpcjobs_told[0])
                raise
        told = _told(self)
        try:
            return original(self) if told is None else METER.fetch(MethodType(original, self), *told)
        except StopIteration:
            if told is None:
                driver.guard("a loader's end", driver.evaluates, False)
            else:
                _ended(self, told[0])
            raise

    kind.__next__ = following

    begin = module.DataLoader.__iter__

    @functools.wraps(begin)
    def beginning(self: Any) -> Any:
        # Workers start here.
        DRIVER.guard("a loader's begin", METER.pause)
        return begin(self)

    module.DataLoader.__iter__ = beginning


def _told(iterator: Any) -> tuple[int, int, int] | None:
    """What METER.fetch is told of a batch that is to come: source, how many are prepared ahead, and the mark `of`.

    None: the batch is none of the training.
    """
    try:
        if not DRIVER.drives():
            return None
        told = getattr(iterator, "_hpcjobs_told", None)
        if told is None or DRIVER.evaluating or not DRIVER.grad():
            told = _look(iterator)
        if told is None:
            return None
        DRIVER.unfed = 0
        DRIVER.fetches += 1
        if DRIVER.fetches > _ENDLESS and METER.phase in "bc":
            raise RuntimeError(f"{_ENDLESS} batches and no step of an optimizer")
        # What the next step of an optimizer has to clear up needs _after_step.
        plain = DRIVER.strange is None and not DRIVER.taken and not DRIVER.ended
        return (*told, id(iterator) if plain else 0)
    except Exception as error:
        DRIVER.surprise("a batch", error)
        return None


def _ended(iterator: Any, source: int) -> None:
    """The training's loader has come to its end."""
    iterator._hpcjobs_told = None
    DRIVER.ended.add(source)
    METER.loop_ended()


def _look(iterator: Any) -> tuple[int, int] | None:
    """Of a batch of the training that is to come: its source, and how many batches are prepared ahead. Else None."""
    # Loaders that are made anew for each epoch share their data.
    source = id(iterator._dataset)
    workers = iterator._num_workers
    ahead = workers * (getattr(iterator, "_prefetch_factor", None) or 2) if workers else 0
    # The first step shows what a training takes its batches from. Another source is an evaluation until a step
    # follows: in (b) and (c) an evaluation that gets the batch of a training would never end.
    strange = METER.step > 0 and source not in DRIVER.trained
    if strange and DRIVER.trains():
        DRIVER.strange, DRIVER.unfed = source, 0
    if strange or not DRIVER.trains():
        DRIVER.evaluates(True)
        return None
    DRIVER.evaluates(False)
    if getattr(iterator, "_hpcjobs_told", None) is None:
        iterator._hpcjobs_told = source, ahead
        METER.loop_began()
    if source not in DRIVER.trained and source not in DRIVER.taken:
        DRIVER.taken.add(source)
        _forget_with(iterator._dataset, source)
    return source, ahead


# So many batches without a step are no gradient accumulation.
_ENDLESS = 10_000


def _forget_with(dataset: Any, source: int) -> None:
    """Another dataset may get the id of one that is gone."""
    with contextlib.suppress(TypeError):  # a plain list: no weak reference to it can be had
        weakref.finalize(dataset, DRIVER.trained.discard, source).atexit = False


def _patch_optimizer(module: Any) -> None:
    """Each optimizer's step, by PyTorch's own hook (PyTorch 2.1 on)."""

    driver, running = DRIVER, METER.running

    def stepped(optimizer: Any = None, *_: Any) -> None:
        if running.of and not running.due and id(optimizer) == driver.leader:
            # A steady training: all that _after_step would do of the first step of the batch.
            running.due = True
            driver.unfed, driver.fetches = 1, 0
            driver.steps += 1
            return
        try:
            if driver.drives():
                _after_step(optimizer)
        except Exception as error:
            driver.surprise("an optimizer's step", error)

    module.register_optimizer_step_post_hook(stepped)


def _patch_scaler(module: Any) -> None:
    """Each step that a GradScaler skips because a gradient overflowed: it took its time like any other."""
    kind = module.GradScaler
    if "step" not in vars(kind):  # torch.cuda.amp's own derives from torch.amp's
        return
    original = kind.step

    @functools.wraps(original)
    def step(self: Any, optimizer: Any, *args: Any, **keywords: Any) -> Any:
        before = DRIVER.steps
        result = original(self, optimizer, *args, **keywords)
        if DRIVER.steps == before:
            DRIVER.guard("GradScaler.step", _after_step, optimizer)
        return result

    kind.step = step


# So many steps of an optimizer without a batch of a DataLoader say that the batches come from elsewhere.
_UNFED = 3


def _after_step(optimizer: Any) -> None:
    key = id(optimizer)
    if key not in DRIVER.known:
        _know(key, optimizer)
    if DRIVER.strange is not None or DRIVER.taken:
        if DRIVER.strange is not None and not DRIVER.fetches:
            DRIVER.trained.add(DRIVER.strange)
        # What ended before the first step was an evaluation, if there is something else.
        DRIVER.trained |= DRIVER.taken - DRIVER.ended or DRIVER.taken
        DRIVER.taken.clear()
        DRIVER.strange = None
    if DRIVER.ended:
        DRIVER.ended.clear()
    DRIVER.fetches = 0
    DRIVER.steps += 1
    METER.step_ended()
    if key == DRIVER.leader:
        DRIVER.unfed += 1
        if DRIVER.unfed >= _UNFED:
            _own_batch()


def _know(key: int, optimizer: Any) -> None:
    DRIVER.known[key] = remember(METER.optimizers, optimizer, lambda: DRIVER.known.pop(key, None))
    # Of several optimizers the first is the one that counts, as long as it lives.
    if DRIVER.leader not in DRIVER.known:
        DRIVER.leader = key


def _own_batch() -> None:
    """A step has ended for which no DataLoader handed out a batch."""
    told = os.environ.get("HPCJOBS_LOCAL_BATCH", "")
    local = float(told) if told.isdigit() else 0.0
    if not METER.step:
        # Those before count, as they do on ranks that have a loader (accelerate may give one to rank 0 alone): all
        # ranks must agree on the number of a step. Their begin was not seen, so that none of them is timed.
        METER.beat_began()
        for _ in range(_UNFED - 1):
            METER.beat(local)
            METER.pause()
    METER.beat(local)


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
    _patch_init(module.DistributedDataParallel, lambda model: remember(METER.models, model))


def _sharded(model: Any) -> None:
    """An FSDP module. Of those that lie in each other the outermost counts: its `no_sync` holds for all."""
    inner = {id(module) for module in model.modules()}
    for proxy in [proxy for key, proxy in DRIVER.sharded.items() if key in inner]:
        METER.models[:] = [item for item in METER.models if item is not proxy]
    key = id(model)
    DRIVER.sharded[key] = remember(METER.models, model, lambda: DRIVER.sharded.pop(key, None))


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


def _patch_save(module: Any) -> None:
    """Each checkpoint that is written between steps, by torch.save."""
    original = module.save

    @functools.wraps(original)
    def save(*args: Any, **keywords: Any) -> Any:
        DRIVER.guard("torch.save", METER.pause)
        return original(*args, **keywords)

    module.save = save


def _patch_eval(module: Any) -> None:
    """Each model whose eval() is called between steps: an evaluation, whatever its batches come from."""
    original = module.Module.eval

    @functools.wraps(original)
    def evaluating(self: Any) -> Any:
        DRIVER.guard("Module.eval", lambda: METER.pause() if _is_trained(self) else None)
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
        if METER.phase == "c" and DRIVER.here() and METER.way == WAY:
            return None
        return original(self)

    kind._broadcast_sigterm_tensor = broadcast


def _patch_trainer(module: Any) -> None:
    """Hugging Face's Trainer (transformers 5) gathers in each step how many labels the batches of all ranks have.

    It does so for models that take that number, as those of transformers do. In (c) the ranks must not wait for it:
    each takes its own number times the ranks.
    """
    original = getattr(module.Trainer, "_get_num_items_in_batch", None)
    if original is None:
        return

    @functools.wraps(original)
    def items(self: Any, *args: Any, **keywords: Any) -> Any:
        about = self.args
        silent = METER.phase == "c" and DRIVER.here() and METER.way == WAY
        if not silent or not getattr(about, "average_tokens_across_devices", False):
            return original(self, *args, **keywords)
        about.average_tokens_across_devices = False
        try:
            own = original(self, *args, **keywords)
        finally:
            about.average_tokens_across_devices = True
        return None if own is None else own * about.world_size

    module.Trainer._get_num_items_in_batch = items


PATCHES: dict[str, Callable[[Any], None]] = {
    "torch.utils.data.dataloader": _patch_loader,
    "torch.optim.optimizer": _patch_optimizer,
    "torch.amp.grad_scaler": _patch_scaler,
    "torch.cuda.amp.grad_scaler": _patch_scaler,  # PyTorch before 2.3
    "torch.nn.parallel.distributed": _patch_ddp,
    "torch.distributed.fsdp.fully_sharded_data_parallel": _patch_fsdp,
    "torch.distributed.fsdp._fully_shard._fully_shard": _patch_fully_shard,
    "torch.distributed._composable.fsdp.fully_shard": _patch_fully_shard,
    "torch.nn.modules.module": _patch_eval,
    "torch.serialization": _patch_save,
    "lightning.pytorch.loops.training_epoch_loop": _patch_lightning,
    "pytorch_lightning.loops.training_epoch_loop": _patch_lightning,
    "transformers.trainer": _patch_trainer,
}


def patch(name: str, module: Any) -> None:
    """Patch one of PATCHES' modules, which has just been loaded. Raises what is surprising in it."""
    try:
        PATCHES[name](module)
    except Exception as error:
        # The same line as for a surprise later on, and the same silence afterwards.
        DRIVER.surprise(name, error)
