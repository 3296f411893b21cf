"""Times a training loop from inside it, and takes its steps apart. One file, standard library only, Python 3.8 on.

    import meter
    for batch in meter.steps(loader, samples=64, model=ddp): ...

Outside of a run of hpcjobs (no HPCJOBS_METRICS) it is off: `steps` returns the loader itself.

A step lasts from the first fetch of a batch to the next first fetch; windows hold consecutive steps. In `mode: train`
windows follow each other until the script ends. In `mode: benchmark` a warm-up, timed steps until their mean is known
well enough, and control blocks follow: (a) the loop as it is, (b) on a batch that lies on the device, (c) that without
the all-reduce; then the script ends by SystemExit(0).

The core is METER, one `Meter` per process. `steps`, the callbacks and the way with nothing edited
(inject/meter_torch.py) are thin drivers of it. What a driver tells METER:

    METER.drives(way)               may this driver ("loop", "auto", "callback") report now? Ask before each call below.
    METER.fetch(take, source, buffered)   hands out a batch: that of `take()`, or in (b) and (c) the one on the device.
        `source` tells loaders apart (any hashable); `buffered` is how many batches the loader prepares ahead
        (num_workers x prefetch_factor). What `take` raises is raised, StopIteration after a `pause()`.
    METER.running.fetch(take, iterator)   the same of `take(iterator)`, for less: for a driver that gave `fetch` a mark
        `of` of its iterator, as long as METER.running.of is that mark. Look before each batch.
    METER.step_ended(optimizer)     an optimizer step is done. A step ends at the first fetch after it, so several
        optimizers, and fetches without an optimizer step between them (accumulation), count once.
    METER.loop_began()              an epoch's loop begins.
    METER.pause()                   what happens from now until the next fetch is no part of a step: a loader's end, an
        evaluation (a fetch that is surely not one of the training: pause(), then fetch past the meter). A source
        from which batches were taken without an optimizer step before another source goes on is an evaluation, too.
    METER.models, METER.optimizers  lists: each DistributedDataParallel or FSDP module, each optimizer, as it is made.
    METER.switches                  list of callables taking a bool: more ways to switch an all-reduce off and on.
    METER.off(why)                  a surprise: one line, and the training goes on without the meter.
    METER.surprise(error, why)      the same of an exception. If a signal handler of the script raised it, so does this.
    METER.phase                     of the step that runs or comes next: "warm", "time", "a", "b", "c".

`fetch` raises SystemExit(0) where a benchmark is done. Nothing else of the meter's own reaches the training.
"""

from __future__ import annotations

import atexit
import collections
import contextlib
import dataclasses
import functools
import hmac
import importlib
import itertools
import json
import math
import os
import secrets
import selectors
import signal
import socket
import statistics
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

_RANKS = ("RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "HOROVOD_RANK", "SLURM_PROCID")
# Not SLURM_NTASKS: a job script has it, too, whose command may be one process.
_SIZES = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "HOROVOD_SIZE", "SLURM_STEP_NUM_TASKS")
# Who may drive the meter: the first of these that reports before the first step has ended.
_WAYS = ("loop", "auto", "callback")
# The warm-up: steps per window; how closely three of them must agree; at most this many times the minimum.
_WINDOW, _AGREE, _PATIENCE = 3, 0.02, 10
# Untimed steps of a block. After (b) and (c) two steps fill the pipeline's buffers as they are in (a).
_UNTIMED = {"a": 2, "b": 1, "c": 1}
# Bodies of a loop without an optimizer step of PyTorch, after which each body counts as a step.
_BODIES = 64
# Different local batches that are counted apart; tokens of a step may take any number.
_SIZES_KEPT = 1000
# Seconds: until all ranks are connected; of a meeting; between two writings of meter-rNNN.json.
_JOIN_S, _MEET_S, _NOTE_S = 120.0, 300.0, 30.0
# A window that lasts less (s) waits for others, and they are written together this often (s).
_SHORT_S, _WRITE_S = 0.01, 0.5
_EXCHANGE = "meter-exchange.json"
_LONGEST, _HELLO = 1 << 26, 1 << 12  # bytes of a message, and of the first

_now = time.perf_counter

# The line of a window as json.dumps writes it: that would take a third of all that the meter costs a short step.
_WINDOW_LINE = (
    ':::MLLOG {"namespace": "", "time_ms": %d, "event_type": "POINT_IN_TIME", "key": "tracked_stats", "value": '
    '{"throughput": %s, "step_ms": %s, "loss": %s, "input_wait_ms": %s}, "metadata": '
    '{"file": "meter.py", "lineno": 0, "step": %d, "steps": %d, "epoch_num": %d, "warmup": %s}}\n'
)


@dataclasses.dataclass(frozen=True)
class Measure:
    """HPCJOBS_MEASURE: what the experiment asks for. Keys that are missing there take these values."""

    mode: str = "train"
    meter: str = "auto"
    unit: str | None = None
    warmup: int = 10
    window_steps: int = 5
    precision: float = 0.01
    max_steps: int = 300
    control_repeats: int = 1
    control_passes: int = 16
    control_steps: int = 3
    parts_precision: float = 0.02
    run: str = ""
    params: str = ""
    sweep: str = ""
    device: str = "cpu"
    flops_per_unit: float | None = None
    flops_precision: str | None = None

    @classmethod
    def read(cls, text: str) -> Measure:
        """From JSON. Raises ValueError if it is not an object. Keys of a newer hpcjobs are passed over."""
        given = json.loads(text or "{}")
        if not isinstance(given, dict):
            raise ValueError("HPCJOBS_MEASURE is not a JSON object")
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in given.items() if key in known and value is not None})


class Slot(NamedTuple):
    """What the next step is: its phase, whether it is timed, whether it is the first of a block."""

    phase: str
    timed: bool = False
    opens: bool = False


class Told(NamedTuple):
    """What a driver says of a batch: how many units it has (a number, or a callable of the batch), and which."""

    count: Any = None
    unit: str | None = None


class _Window:
    """Consecutive steps since `opened` (s, perf_counter); `ended` is when the last of them, number `step`, ended."""

    __slots__ = ("ended", "loader_s", "opened", "step", "steps", "units")

    def __init__(self, opened: float) -> None:
        self.opened = self.ended = opened
        self.step, self.steps, self.units, self.loader_s = 0, 0, 0.0, 0.0


class _Running:
    """The step that runs. `fetch` hands out the batches of a steady training.

    Between two steps a training drives the meter out of the processor's caches, so that what it costs is not how much
    it reckons but how many places in memory it touches. Therefore all that such a step touches lies in one object with
    slots, in one method, and whatever is not a plain step is left to Meter. It is steady in `mode: train` after the
    warm-up, from a loop's second step on, as long as batches come from one source and nothing pauses.
    """

    __slots__ = (
        *("again", "alike", "began", "due", "each", "fetches", "full", "kind", "last", "length", "like_fetches"),
        *("like_units", "loader_s", "meter", "of", "optimizer_steps", "source", "step", "units", "wait", "window"),
        *("wrote",),
    )

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.of = 0  # the driver's mark of the iterator that `fetch` may take from; 0: no steady training
        self.source: Hashable = None  # of a steady training
        self.step = 0  # steps that have ended
        self.due = False  # whether an optimizer's step has ended this step
        self.began: float | None = None  # s, perf_counter
        self.fetches = 0  # batches of this step, in a steady training
        self.units = self.loader_s = 0.0  # of this step
        self.optimizer_steps = 0  # of PyTorch's optimizers, since the loop's last body
        self.window: _Window | None = None  # the open one
        self.full: list[_Window] = []  # those before it that are not told yet, in a steady training
        self.wrote = 0.0  # s, perf_counter: when lines were last written
        self.last = 0  # steps of a window before its last
        self.wait: Callable[[], Any] | None = None  # for the device, at the end of a steady training's windows
        # The last step, and how many steps like it are not counted yet.
        self.like_units: float = 0.0
        self.like_fetches: int | None = None
        self.alike = 0
        # The newest batch that was counted: what its first tensor is (None: another one is to be counted, too), its
        # length, and the units of the batch; and how many like it came since.
        self.kind: Any = None
        self.length: Any = None
        self.each = 0.0
        self.again = 0

    def fetch(self, take: Callable[[Any], Any], iterator: Any) -> Any:
        """The batch `take(iterator)`. Ends the step before, if it is due. Raises what `take` raises."""
        began = 0.0
        try:
            began = _now()
            if self.due:
                window: Any = self.window
                full = window.steps >= self.last
                if full and self.wait:
                    self.wait()
                    began = _now()
                self.step += 1
                window.steps += 1
                window.units += self.units
                window.loader_s += self.loader_s
                window.ended = self.began = began
                if self.units == self.like_units and self.fetches == self.like_fetches:
                    self.alike += 1
                else:
                    self.meter._count_step_of(self.units, self.fetches)
                self.units = self.loader_s = 0.0
                self.fetches = 0
                self.due = False
                if full:
                    window.step = self.step
                    self.full.append(window)
                    self.window = _Window(began)
                    # A kill -9 loses the short windows of the last half second.
                    if began - window.opened > _SHORT_S or began - self.wrote > _WRITE_S:
                        began = self.meter._between_windows(began)
        except Exception as error:
            self.meter.surprise(error)
        try:
            batch = take(iterator)
        except StopIteration:
            self.meter.pause()
            raise
        try:
            self.loader_s += _now() - began
            self.fetches += 1
            if self.is_like(batch):
                self.again += 1
                self.units += self.each
            elif self.of:
                self.units += self.meter._count(batch)
        except Exception as error:
            self.meter.surprise(error)
        return batch

    def is_like(self, batch: Any) -> bool:
        """Whether a batch is like the newest that was counted, as nearly all are: a list, its first tensor as long."""
        try:
            return type(batch) is list and type(batch[0]) is self.kind and batch[0].shape[0] == self.length
        except (IndexError, TypeError):  # an empty list, an array without dimensions
            return False


class Meter:
    """Times the steps of this process. One per process: it goes on where the last epoch's loop ended."""

    def __init__(self) -> None:
        self.folder = os.environ.get("HPCJOBS_METRICS") or ""
        self.on = bool(self.folder)
        self.pid = os.getpid()
        self.measure = Measure()
        self.way: str | None = None
        self.rank, self.size, self.host = 0, 1, socket.gethostname() if self.on else ""
        self.models: list[Any] = []
        self.optimizers: list[Any] = []
        self.switches: list[Callable[[bool], Any]] = []
        self.waiting: Callable[[], Any] | None = None
        self.told = Told()
        self.drain: int | None = None
        self.loss: float | None = None
        self.flops: float | None = None
        self.flops_precision: str | None = None
        self.running = _Running(self)
        self.epoch = 0
        self._talked = -2  # collectives that had begun at the end of the first step
        self.why_off: str | None = None
        self.over = False  # a benchmark has measured all
        self._fd: int | None = None
        self._begun = self._failed = self._closed = self._in_epoch = False
        self._started_ms = self._loop_at = 0  # ms since the epoch
        self._noted = 0.0
        self._lines: list[Any] = []  # what is not written yet: lines, and the arguments of _window_line
        self._facts: dict[str, Any] = {}
        self._exchange: _Exchange | None = None
        self._said: dict[str, Any] = {}  # to the other ranks, where they have no exchange
        self._decision = os.path.join(self.folder, "meter-decision.json")
        self._hosts: list[str] = []
        self._depth = 0
        # The step that runs: what was taken from which source. Of a steady training `running` counts it.
        self._taken: dict[Hashable, int] = {}
        self._trained: set[Hashable] = set()
        self._usual: Hashable = None  # what the last step took from
        self._steady = False  # a training past its warm-up: in the midst of a loop each step is as the one before
        self._first = True  # of a loop: its fetch starts the loader, it is no part of a window
        self._spoilt = False
        self._fed = False  # whether batches are seen
        self._windows_of_loop = 0
        self._buffered = 0
        self._tokens = False  # tokens are what was measured
        self._lengths: dict[int, int] = {}
        self._length = 0  # the usual one
        self._step_units: dict[float, int] = {}
        self._step_fetches: dict[int, int] = {}
        self._timed_windows = _Window(0.0)  # the sum of all
        # PyTorch's optimizers, in a loop that says its steps itself.
        self._hooked = self._expects = False
        self._bodies = 0
        # The benchmark.
        self._recent: list[float] = []
        self._means: list[float] = []
        self._times: list[float] = []
        self._timed_steps = 0
        self._asked = False
        self._control: _Control | None = None
        self._resident: dict[Hashable, Any] = {}
        self._others: list[dict[str, Any]] = []
        self._parts_told = False
        self._to_drain = False
        self._plan = self._schedule()
        self._slot: Slot | None = Slot("warm")
        if self.on:
            try:
                self.measure = Measure.read(os.environ.get("HPCJOBS_MEASURE", ""))
                self.flops, self.flops_precision = self.measure.flops_per_unit, self.measure.flops_precision
                self._slot = next(self._plan)
            except Exception as error:
                self.off(_words(error))
            else:
                os.register_at_fork(after_in_child=self._forked)

    # --- what drivers call -------------------------------------------------------------------------------------

    def drives(self, way: str) -> bool:
        """Whether the driver `way` may report now. A better way takes over until the first step has ended."""
        if not self.on or self.pid != os.getpid():
            return False
        if self.way is None or (self.step == 0 and _WAYS.index(way) < _WAYS.index(self.way)):
            if self.way is not None:
                self._forget()
            self.way = way
        return self.way == way

    @property
    def phase(self) -> str:
        """Of the step that runs or comes next: warm, time, a, b, c; "over" after a benchmark."""
        return self._slot.phase if self._slot else "over"

    @property
    def step(self) -> int:
        """How many steps have ended."""
        return self.running.step

    def fetch(self, take: Callable[[], Any], source: Hashable = None, buffered: int = 0, of: int = 0) -> Any:
        """A batch: that of `take()`, or in (b) and (c) a copy of the one on the device.

        Ends the step before, if an optimizer has. From here on `running.fetch` may take from the iterator that the
        driver marks by `of`, where the training is steady. Raises SystemExit(0) if a benchmark is done, and what
        `take` raises.
        """
        self._guard(self._before, source, buffered)
        if self.over and threading.current_thread() is threading.main_thread():
            raise SystemExit(0)
        try:
            if self._control:
                self._drained(take)
                # A source that is not one of the training's is an evaluation, which must come to its end.
                if self.on and self.phase in "bc" and source in self._resident and source in self._trained:
                    given = self._guard(self._fresh, source)
                    if given is not None:
                        return given[0]
            began = _now()
            batch = take()
        except StopIteration:
            self.pause()
            raise
        self.running.loader_s += _now() - began
        self._fed = True
        self._guard(self._taken_from, source, batch, of)
        return batch

    def _taken_from(self, source: Hashable, batch: Any, of: int) -> None:
        """A batch was taken."""
        run = self.running
        self._taken[source] = self._taken.get(source, 0) + 1
        run.units += self._units_of(batch)
        if self._control and self.phase in "bc":
            self._resident[source] = _map(batch, self._to_device)
        alone = len(self._taken) == 1 and source == self._usual
        if self._steady and run.window and alone and not (self._first or self._spoilt or self._loop_at or run.due):
            run.of, run.source, run.fetches = of, source, self._taken[source]
            run.last, run.wait = self.measure.window_steps - 1, self.waiting or _devices()

    def _unsteady(self) -> None:
        """What comes is no plain step: all that the meter knows lies here again."""
        run = self.running
        if run.of:
            run.of = 0
            self._tell_full()
            self._taken = {run.source: run.fetches} if run.fetches else {}

    def _drained(self, take: Callable[[], Any]) -> None:
        """Before a block (a): what the pipeline has ready is no part of it."""
        if self.on and self._to_drain:
            self._to_drain = False
            # A loop that begins has nothing ready, and must not be emptied.
            for _ in range(0 if self._loop_at else self._buffered if self.drain is None else self.drain):
                take()
            self._guard(self._opened)

    def step_ended(self, optimizer: Any = None) -> None:
        """An optimizer step is done: the next fetch ends the step. Without a fetch since the last one it is none."""
        if self.on and self._taken:
            self.running.due = True
            if optimizer is not None and not any(optimizer is known for known in self.optimizers):
                self.optimizers.append(optimizer)

    def loop_began(self) -> None:
        """An epoch's loop begins. It is one once a step of it has ended: an evaluation's loop has none."""
        self._guard(self._loop_began)

    def pause(self) -> None:
        """What happens until the next fetch is no part of a step."""
        self._guard(self._pause)

    def beat_began(self) -> None:
        """A step begins, says a driver that does not see batches."""
        if self.on and self.running.began is None:
            self._started_ms = self._started_ms or _ms()
            self.running.began = _now()

    def beat(self, units: float | None = None) -> None:
        """A step of `units` on this rank has just ended, says a driver that does not see batches."""
        self._guard(self._beat, units)

    def off(self, why: str) -> None:
        """Turn the meter off for good, with one line. The all-reduce is switched on again."""
        if not self.on:
            return
        self.on, self.why_off = False, why
        _warn(f"is off: {why}")
        self._resident.clear()
        control, exchange = self._control, self._exchange
        left = control and control.leave, exchange and exchange.close
        for last in (self._unsteady, *left, self._write_lines, self._write_note):
            with contextlib.suppress(Exception):
                if last:
                    last()

    def surprise(self, error: Exception, why: str = "") -> None:
        """Turn the meter off for good. What a signal handler of the script raised is the script's: raise it again."""
        self.off(why or _words(error))
        if _of_a_signal(error):
            raise error

    def _guard(self, action: Callable[..., Any], *arguments: Any) -> Any:
        """Run a part of the meter; whatever it raises turns the meter off."""
        if not self.on:
            return None
        try:
            self._unsteady()
            return action(*arguments)
        except Exception as error:
            self.surprise(error)
            return None

    def _forked(self) -> None:
        """In a child: a meter that has begun belongs to the parent; another may begin here (processes that train)."""
        if self._begun or self._taken:
            if self._fd is not None:
                os.close(self._fd)  # with it goes the lock, once the parent ends
            self.on, self.running.of, self._fd, self._exchange, self._lines = False, 0, None, None, []
        self.pid = os.getpid()

    def _forget(self) -> None:
        """Drop what was seen of a step that never ended."""
        run = self.running
        self._taken.clear()
        run.units = run.loader_s = 0.0
        run.due, self._spoilt, run.began = False, False, None
        self._first = True

    # --- the steps ---------------------------------------------------------------------------------------------

    def _before(self, source: Hashable, buffered: int) -> None:
        """Before a fetch: end the step that is due, or open the next."""
        self._buffered = max(self._buffered, buffered)
        if self.running.due:
            self._commit()
        elif self._taken:
            # Batches of another source led to no optimizer step: an evaluation.
            if source in self._trained and any(other not in self._trained for other in self._taken):
                self._forget()
                self._pause()
            else:
                return
        if self.running.began is None:
            self._started_ms = self._started_ms or _ms()
            if self._async():
                self._wait()
            self.running.began = _now()

    def _between_windows(self, now: float) -> float:
        """Tell the full windows of a steady training. Returns when the next one begins."""
        self._tell_full()
        self._write_lines()
        self.running.wrote = now  # on ranks without a log, too
        return self._note_between() if now - self._noted > _NOTE_S else now

    def _tell_full(self) -> None:
        """The full windows of a steady training, which are told together."""
        full, self.running.full = self.running.full, []
        for window in full:
            self._tell_window(window, False)

    def _count_step_of(self, units: float, fetches: int | None, steps: int = 1) -> None:
        """So many steps had so many units and fetches each. None: how many fetches was not seen."""
        self._count_alike()
        self.running.like_units, self.running.like_fetches = units, fetches
        times = self._step_units.get(units, 0)
        if times or len(self._step_units) < _SIZES_KEPT:
            self._step_units[units] = times + steps
        if fetches is not None:
            self._step_fetches[fetches] = self._step_fetches.get(fetches, 0) + steps

    def _count_alike(self) -> None:
        """Those of a steady training that are like the one before them, which is most."""
        run = self.running
        alike, run.alike = run.alike, 0
        if alike:
            self._count_step_of(run.like_units, run.like_fetches, alike)

    def _to_device(self, value: Any) -> Any:
        """A tensor of PyTorch where the model is."""
        torch = sys.modules.get("torch")
        if torch is not None and torch.is_tensor(value):
            for parameter in (p for model in self.models for p in model.parameters()):
                return value.to(parameter.device)
            for parameter in (p for o in self.optimizers for group in o.param_groups for p in group["params"]):
                return value.to(parameter.device)
        return value

    def _fresh(self, source: Hashable) -> tuple[Any]:
        """The batch that lies on the device, as new: a loop may change it in place."""
        first = not self._taken
        batch = _map(self._resident[source], _copy)
        self._taken[source] = self._taken.get(source, 0) + 1
        self.running.units += self._count(batch)
        if first:
            self._wait()
            self.running.began = _now()
        return (batch,)

    def _commit(self) -> None:
        """A step has ended now."""
        run = self.running
        slot, began = self._slot, run.began
        if slot is None or began is None:
            self._forget()
            return
        benchmark = self.measure.mode == "benchmark"
        # Here is this step the last of its window?
        steps = self.running.window.steps + 1 if self.running.window else 0
        full = steps >= self.measure.window_steps or self.step + 1 == self.measure.warmup
        if benchmark or full or self._first or self._spoilt:
            self._wait()
        if not self._begun:
            self._begin()
        if self._loop_at or not self.epoch:
            self._tell_epoch(False, self._loop_at)
            self.epoch += 1
            self._tell_epoch(True, self._loop_at or self._started_ms)
            self._loop_at = 0
        end = _now()
        if self._spoilt:
            if self.running.window and self._async():
                self.running.window.steps = 0  # nobody waited for the device at their end
            self._shut()
            self.running.window = _Window(end)
            self._alone = _Window(end)  # the step before a pause is not this loop's only one
        run.step += 1
        if run.step == 1:
            self._talked = _sequence()
        if slot.timed and self._control:
            # The first of an epoch also starts the loader: it does not count.
            self._control.timed(slot.phase, None if self._first or self._spoilt else 1000 * (end - began))
        elif slot.phase in ("warm", "time") and not self._spoilt:
            self._count_step(slot, began, end, full)
        self._trained.update(self._taken)
        self._usual = next(iter(self._taken), None)
        if self.step > 1 and not self._spoilt:  # some loaders take a batch more before the first step
            # Of one loader: a step may have two that each give a batch. Of a beat it was not seen.
            self._count_step_of(run.units, None if None in self._taken else max(self._taken.values()))
        self._forget()
        self._first = False
        self._asked = False
        if self._exchange:
            self._exchange.approach()
        try:
            self._slot = next(self._plan)
        except StopIteration:
            self._slot = None
            self._finish()
            return
        self._turn(slot, self._slot)
        # After a meeting or a change of blocks the clock starts anew; else steps follow each other without a gap.
        run.began = _now() if self._asked or self._slot.opens else end
        if self._asked and self.running.window:
            self.running.window = _Window(run.began)
        if run.window and not run.window.steps and not benchmark and end - self._noted > _NOTE_S:
            self._note_between()

    def _note_between(self) -> float:
        """The note, between two windows: its time is that of no step. Returns when the next step begins."""
        self._write_note()
        began = self.running.began = _now()
        self.running.window = _Window(began)
        return began

    def _count_step(self, slot: Slot, began: float, end: float, full: bool) -> None:
        """A step of the unchanged training."""
        warm = slot.phase == "warm"
        if self.step == 1:
            self.tell("hpcjobs_first_step", step=1)
        if self.running.window is None:
            # The first step of a loop starts the loader: it opens the window. It counts if the loop has no other.
            self.running.window = _Window(end)
            self._alone = _Window(began)
            self._add(self._alone, end)
        else:
            self._add(self.running.window, end)
            if self.measure.mode == "benchmark":
                (self._recent if warm else self._times).append(1000 * (end - began))
        if self.running.window.steps and full:
            self._shut(warm)

    def _add(self, window: _Window, end: float) -> None:
        window.steps += 1
        window.units += self.running.units
        window.loader_s += self.running.loader_s
        window.ended = end

    def _shut(self, warm: bool | None = None) -> None:
        """Write the open window; the next one begins where it ended."""
        window = self.running.window
        if window and window.steps:
            window.step = self.step
            self._tell_window(window, self.phase == "warm" if warm is None else warm)
            if window.ended - window.opened > _SHORT_S or window.ended - self.running.wrote > _WRITE_S:
                self._write_lines()
        self.running.window = _Window(window.ended) if window else None

    def _tell_window(self, window: _Window, warm: bool) -> None:
        """The line of a window. It becomes text when it is written; short ones are written together."""
        if self._fd is not None:
            self._lines.append((window, self.epoch, self.loss, warm))
        if not warm:
            self._timed_windows.steps += window.steps
            self._timed_windows.loader_s += window.loader_s
        self._windows_of_loop += 1

    def _pause(self) -> None:
        if self.running.due:
            self._commit()
        if self._taken:
            # In the middle of a step: the step counts, as on ranks without the pause, and is not timed.
            self._spoilt = True
        else:
            self._forget()
        window = self.running.window
        if window is not None and self.step:
            alone = not window.steps and not self._windows_of_loop
            if alone and self.measure.mode != "benchmark" and self.step > 1:
                self.running.window = window = self._alone
            if window.steps and self._async():
                # Nobody waited for the device at the last step's end.
                if self._windows_of_loop:
                    window.steps = 0
                else:
                    self._wait()
                    window.ended = _now()
            self._shut()
        self.running.window, self._windows_of_loop = None, 0
        self._write_lines()  # who knows how long it lasts

    def _loop_began(self) -> None:
        self._pause()
        self._loop_at = _ms()

    def loop_ended(self) -> None:
        """The epoch's loop is over."""
        self.pause()
        self._guard(self._tell_epoch, False)

    def _tell_epoch(self, begins: bool, at: int | None = None) -> None:
        if begins != self._in_epoch:
            self._in_epoch = begins
            key, kind = ("epoch_start", "INTERVAL_START") if begins else ("epoch_stop", "INTERVAL_END")
            self.tell(key, kind=kind, at=at, epoch_num=self.epoch)

    def _beat(self, units: float | None) -> None:
        run = self.running
        if run.began is None:
            self.beat_began()
            if not self.step:
                return
            # Its begin was not seen, for a pause lay there. It counts, as on ranks without the pause, but is not timed.
            self._spoilt = True
        self._taken[None] = self._taken.get(None, 0) + 1
        run.units += self._count(None) if units is None else units
        run.due = True
        self._commit()
        if self.over:
            raise SystemExit(0)

    def body_ended(self) -> None:
        """The body of a loop is through. Where PyTorch's optimizers are watched, one of them must have made a step."""
        run = self.running
        if self._hooked and self._expects and not run.optimizer_steps:
            self._bodies += 1
            if self.optimizers or self._bodies < _BODIES:
                return
            self._expects = False
        run.optimizer_steps = 0
        if self.on and self._taken:
            run.due = True

    def broken_off(self) -> None:
        """A loop's body was left by `break`: a step only if an optimizer made one."""
        if self._hooked and self.running.optimizer_steps:
            self.body_ended()
        else:
            self._guard(self._forget)

    def _spoil(self) -> None:
        """The step that runs is none of the steady state."""
        self._spoilt = True

    def watch_optimizers(self) -> None:
        """Have PyTorch say when an optimizer makes a step: a body without one is accumulation or evaluation."""
        module = sys.modules.get("torch.optim.optimizer")
        register = getattr(module, "register_optimizer_step_post_hook", None)
        if self._hooked or register is None:
            return
        self._hooked = True

        seen: set[int] = set()
        run = self.running

        def stepped(optimizer: Any, *_: Any) -> None:
            if run.of and id(optimizer) in seen:
                run.optimizer_steps += 1
            elif self.on and self.way == "loop":
                self._expects = True
                run.optimizer_steps += 1
                if id(optimizer) in seen:
                    return
                seen.add(id(optimizer))
                if not any(optimizer is known for known in self.optimizers):
                    self.optimizers.append(optimizer)

        register(stepped)

    def _tell_count(self, told: Told) -> None:
        """Batches count otherwise from now on."""
        if told != self.told:
            self._settle_alike()
            self.told, self.running.kind = told, None

    def _settle_alike(self) -> None:
        """Count the lengths of the batches that were like the newest one that was counted."""
        run = self.running
        if run.again:
            self._lengths[run.length] = self._lengths.get(run.length, 0) + run.again
        run.again = 0

    def _units_of(self, batch: Any) -> float:
        """Units of a batch on this rank, which is counted. Most are like the one before them."""
        run = self.running
        if run.is_like(batch):
            run.again += 1
            return run.each
        return self._count(batch)

    def _count(self, batch: Any) -> float:
        """Units of a batch on this rank: told, or measured, or the planned local batch. 0: not known."""
        self._settle_alike()
        told = self.told.count
        units = self._count_anew(batch)
        shape = getattr(batch[0], "shape", None) if type(batch) is list and batch else None
        plain = shape and not callable(told) and (told is not None or self.measure.unit != "tokens")
        run = self.running
        run.kind = None
        if plain and units:
            run.kind, run.length, run.each = type(batch[0]), _samples(batch), units
        return units

    def _count_anew(self, batch: Any) -> float:
        told = self.told.count
        if told is None:
            found = _tokens(batch) if self.measure.unit == "tokens" else None
            self._tokens = found is not None
            return float(found or _samples(batch) or os.environ.get("HPCJOBS_LOCAL_BATCH") or 0)
        if callable(told):
            return float(told(batch))
        length = _samples(batch)
        if not length:
            return float(told)
        # A last batch that is smaller than the others counts as what it is.
        lengths = self._lengths
        lengths[length] = lengths.get(length, 0) + 1
        if length != self._length:
            usual: int = _usual(lengths)
            self._length = usual
            # Most batches must have that length: else it is another thing, such as the nodes of 64 graphs.
            if length < usual and 2 * lengths[usual] > sum(lengths.values()):
                return float(told) * length / usual
        return float(told)

    def _async(self) -> bool:
        return self.waiting is not None or _devices() is not None

    def _wait(self) -> None:
        """Wait until the device has done what it was given."""
        wait = self.waiting or _devices()
        if wait:
            wait()

    # --- the plan of a benchmark -------------------------------------------------------------------------------

    def _schedule(self) -> Iterator[Slot]:
        """What each step is, from the first. It depends on the number of steps and on rank 0's decisions alone."""
        yield Slot("warm")  # It compiles: it is not part of a window.
        m, done = self.measure, 1
        if m.mode != "benchmark":
            while done < m.warmup:
                yield Slot("warm")
                done += 1
            self._describe()
            steady = Slot("time", True)
            self._steady = True
            while True:
                yield steady
        settled: bool | None = False
        while settled is False:
            for _ in range(_WINDOW):
                yield Slot("warm")
                done += 1
            if self._recent:
                self._means.append(sum(self._recent) / len(self._recent))
                self._recent = []
            if done >= m.warmup:
                self._shut(True)
                settled = self._ask("settled")
        self._describe()
        self.tell("hpcjobs_warmup", {"steps": done, "settled": bool(settled) and self._decided()})
        reached = False
        while not reached and self._timed_steps < m.max_steps:
            goal = max(min(next_check(self._timed_steps), m.max_steps), self._timed_steps + 1)
            while self._timed_steps < goal:
                yield Slot("time", True)
                self._timed_steps += 1
            self._shut(False)
            reached = bool(self._ask("precise"))
        self._tell_precision(reached)
        if not self._has_blocks():
            return
        self.running.window = None
        self._control = _Control(self)
        phases = self._ask("control")
        if not phases:
            if self.rank == 0:
                _warn("sees no batches on some rank: the parts of a step are not told")
            return
        self._control.keep()
        look = next_look(0)
        for number in range(m.control_passes):
            self._control.begin_pass()
            for phase in phases if number % 2 == 0 else phases[::-1]:
                for untimed in range(_UNTIMED[phase]):
                    yield Slot(phase, False, untimed == 0)
                for _ in range(m.control_steps):
                    yield Slot(phase, True)
            # The block's end, before a meeting disturbs it.
            self._control.close_block()
            if number + 1 == look and look < m.control_passes:
                look = next_look(look)
                if self._ask("known"):
                    break

    def _ask(self, question: str) -> Any:
        """Rank 0's answer to a question, on all ranks, between two steps. Without an exchange a fixed one."""
        self._asked = True
        if self.size == 1:
            return self._answer(question, [self._mine(question)])
        if self._exchange:
            try:
                return self._exchange.meet(question, self._mine(question), self._answer)
            except Alone as alone:
                self._exchange.close()
                self._exchange = None
                if self.rank == 0:
                    _warn(f"goes on without meetings: {alone}: the ranks take fixed numbers of steps")
        # A rank whose meter is off would be left alone in its all-reduce by the others in (c), and at their end.
        return self._by_files(question) if question in ("settled", "control", "end") else False

    def _decided(self) -> bool:
        """Whether windows were compared at the end of the warm-up."""
        return self.size == 1 or self._exchange is not None

    def _mine(self, question: str) -> dict[str, Any]:
        mine: dict[str, Any] = {"rank": self.rank, "host": self.host, "buffered": self._buffered}
        if question == "control" and self._control:
            mine["phases"] = self._control.phases()
        if question in ("known", "end") and self._control:
            mine.update(self._control.new())
        return mine

    def _answer(self, question: str, everyone: list[dict[str, Any]]) -> Any:
        """Rank 0's, from what each rank says."""
        if question == "settled":
            if not self._hosts:
                self._hosts = list(dict.fromkeys(str(one["host"]) for one in everyone))
            # A pipeline's buffers are full at first: they must have been emptied twice. Not all ranks need have one.
            least = max(self.measure.warmup, 2 * max(one["buffered"] for one in everyone), 1)
            if self.step >= least and agree(self._means, _AGREE):
                return True
            return None if self.step >= _PATIENCE * least else False
        if question == "precise":
            found = estimate(self._times)
            return found is not None and found.relative <= self.measure.precision
        if question == "control":
            return min((str(one.get("phases") or "") for one in everyone), key=len)
        if not self._others:
            self._others = [
                {"rank": one["rank"], "host": one["host"], "passes": [], "collectives": []} for one in everyone
            ]
        _align([one["passes"] for one in everyone])
        for known, new in zip(self._others, everyone):
            known["passes"] += new["passes"]
            known["collectives"] += new["collectives"]
        if question == "known":
            blocks = with_foreign(self._others)
            return parts_known(blocks if _has_c(blocks) else _without_c(blocks), self.measure.parts_precision)
        try:
            self._tell_control(self._others)
        except Exception as error:  # all is measured: the script ends, with or without its parts
            _warn(f"does not tell the parts of a step: {_words(error)}")
        return True

    def _tell_precision(self, reached: bool) -> None:
        if self.rank:
            return
        found = estimate(self._times)
        value: dict[str, Any] = {"reached": reached, "steps": self._timed_steps, "asked": self.measure.precision}
        if found:
            value.update(half_width=found.relative, batches=found.batches, batch_steps=found.batch_length)
            if found.relative <= self.measure.precision:
                value["reached"] = True  # fixed counts may reach it, too
        self.tell("hpcjobs_precision", value)

    def _tell_control(self, everyone: list[dict[str, Any]]) -> None:
        if not everyone or not everyone[0]["passes"]:
            return
        value = _attributed(with_foreign(everyone))
        value["restored"] = bool(self._control and self._control.restored)
        self.tell("hpcjobs_control", value)
        self._parts_told = True

    def _turn(self, last: Slot, upcoming: Slot) -> None:
        """Between two steps: from one block to the next."""
        if not self._control:
            return
        if upcoming.opens:
            self._control.close_block()
            self._control.enter(upcoming.phase)
            self._to_drain = upcoming.phase == "a"
            if upcoming.phase != "a":
                self._opened()
        elif upcoming.timed and not last.timed:
            self._control.first_timed()

    def _opened(self) -> None:
        """The block's steps begin now."""
        if self._control:
            self._control.open_block()
        self._wait()
        self.running.began = _now()

    def _finish(self) -> None:
        """All is measured. When `over` is set everything is on disk, on all ranks.

        Whatever fails here, the script ends: with what is known by then.
        """
        try:
            if self._control:
                self._control.leave()
                self._control.restore()
                self._ask("end")
        except Exception as error:
            _warn(f"the ranks do not end together: {_words(error)}")
            self._save_blocks()
        self.over = True
        try:
            self._stop("success")
        except Exception as error:  # such as a full disk
            _warn(f"its last lines are not written: {_words(error)}")

    def _save_blocks(self) -> None:
        """Without the last meeting: the rank's blocks in its file, and the parts of the passes before it in the log."""
        with contextlib.suppress(Exception):
            if self._control:
                self._said = {"question": "end", "rank": self.rank, "host": self.host, **self._control.all()}
                self._write_note()
        with contextlib.suppress(Exception):
            if self.rank == 0 and not self._parts_told:
                self._tell_control(self._others)

    def _by_files(self, question: str) -> Any:
        """Without an exchange each rank leaves what it says in its note. Rank 0 reads them all, and writes its answer.

        Raises RuntimeError if a rank is missing or has turned its meter off. At the end, only rank 0 waits.
        """
        self._said = {"question": question, **self._mine(question)}
        self._write_note()
        if self.rank and question == "end":
            return True
        if self.rank:
            return self._notes([self._decision], question, _JOIN_S)[0]["answer"]
        try:
            notes = self._notes([self._note(rank) for rank in range(self.size)], question, _JOIN_S / 2)
        except RuntimeError as error:
            if question != "end":
                raise
            _warn(f"does not tell the parts of a step: {error}")
            return True
        found = self._answer(question, notes) if question != "settled" else True
        _write(self._decision, json.dumps({"question": question, "answer": found}))
        return found

    def _notes(self, paths: list[str], question: str, seconds: float) -> list[dict[str, Any]]:
        """What these files say to a question, once they all do. Raises RuntimeError if they do not in time."""
        until = time.monotonic() + seconds
        found: dict[str, dict[str, Any]] = {path: {} for path in paths}
        while time.monotonic() < until:
            for path in [*paths, self._note(0)]:
                note: dict[str, Any] = {}
                with contextlib.suppress(OSError, ValueError), open(path, encoding="utf-8") as file:
                    note = json.load(file)
                if note.get("off"):
                    raise RuntimeError(f"{os.path.basename(path)} says that its meter is off")
                said = note.get("said") or note
                if path in found and said.get("question") == question:
                    found[path] = said
            if all(found.values()):
                return list(found.values())
            time.sleep(0.2)
        raise RuntimeError("not all ranks wrote that they take fixed numbers of steps")

    # --- the log -----------------------------------------------------------------------------------------------

    def tell(
        self, key: str, value: Any = None, kind: str = "POINT_IN_TIME", at: int | None = None, **about: Any
    ) -> None:
        """Append one line to train.log, after those that wait. Rank 0 alone has the file open."""
        if self._fd is None:
            return
        line = {"namespace": "", "time_ms": _ms() if at is None else at, "event_type": kind, "key": key, "value": value}
        line["metadata"] = {"file": "meter.py", "lineno": 0, **about}
        self._lines.append(f":::MLLOG {json.dumps(line)}\n")
        self._write_lines()

    def _write_lines(self) -> None:
        """Append the lines that wait, by one write. Raises OSError if the disk is full."""
        if self._fd is None or not self._lines:
            return
        lines, self._lines = self._lines, []
        self.running.wrote = _now()
        about: Any = (time.time() - self.running.wrote, self.size, self._fed)
        text = "".join([line if isinstance(line, str) else _window_line(*line, *about) for line in lines]).encode()
        if os.write(self._fd, text) < len(text):
            os.close(self._fd)  # what would be written now would stand behind half a line
            self._fd = None
            raise OSError("train.log: the disk is full")

    def _begin(self) -> None:
        """At the end of the first step: who this rank is, and what the run is."""
        self.rank, self.size = _place()
        if self.rank == 0:
            self._open_log()
            with contextlib.suppress(OSError):
                os.unlink(self._decision)  # of an earlier start
        self._begun = True
        previous = sys.excepthook

        def hook(*about: Any) -> Any:
            self._failed = True
            return previous(*about)

        sys.excepthook = hook
        atexit.register(self._at_exit)
        util = sys.modules.get("multiprocessing.util")
        if util is not None and sys.modules["multiprocessing"].parent_process() is not None:
            # Children of multiprocessing (torch.multiprocessing.spawn) end by this, and without an excepthook.
            util.Finalize(None, self._at_exit, exitpriority=0)
        if self.size > 1 and self.measure.mode == "benchmark":
            self._exchange = _Exchange(self.folder, self.rank, self.size, self.host)
        elif self.size == 1 or os.environ.get("HPCJOBS_NODES") == "1":
            self._hosts = [self.host]
        if self.rank == 0:
            self.tell("submission_benchmark", "hpcjobs-meter", at=self._started_ms)
            self._describe()
            self.tell("run_start", kind="INTERVAL_START", at=self._started_ms)
        self._write_note()

    def _open_log(self) -> None:
        """The log of an earlier process of this attempt (a restart by torchrun) is kept beside it.

        Raises RuntimeError if a process that lives writes it: that one started this one, or has the same rank.
        """
        path = os.path.join(self.folder, "train.log")
        if os.path.exists(path):
            earlier = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                if not _lock(earlier):
                    raise RuntimeError("another process of rank 0 is measured")
            finally:
                os.close(earlier)
            number = 1
            while os.path.exists(os.path.join(self.folder, f"train.{number}.log")):
                number += 1
            os.rename(path, os.path.join(self.folder, f"train.{number}.log"))
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        _lock(self._fd)

    def _describe(self) -> None:
        """Write hpcjobs_run, and write it anew where more has become known of the run."""
        if self._fd is None:
            return
        self._count_alike()
        m = self.measure
        whole = self._local_batch()
        local = (int(whole) if whole == int(whole) else whole) or None
        about: dict[str, Any] = {"run": m.run, "sweep": m.sweep, "params": m.params, "mode": m.mode, "gpus": self.size}
        if os.environ.get("HPCJOBS_NODES", "").isdigit():
            about["nodes"] = int(os.environ["HPCJOBS_NODES"])
        about.update(local_batch=local, global_batch=local and local * self.size, unit=self._unit(), device=m.device)
        if self._hosts:
            about["hosts"] = self._hosts
        about.update(gradient_bytes=_gradient_bytes(self.models), optimizers=len(self.optimizers) or None)
        about["accumulation"] = _usual(self._step_fetches) if self._step_fetches else None
        about.update(flops_per_unit=self.flops, flops_precision=self.flops_precision)
        about.update(meter=self.way, by=_framework(), exchanges=self._exchanges())
        sizes = sorted(self._step_units)
        if len(sizes) > 1:
            about["local_batch_varies"] = [sizes[0], sizes[-1]]
        for key, value in self._facts.items():
            if about.get(key) is None:
                about[key] = value  # such as of a model that is gone at the end
        if about != self._facts:
            if about["global_batch"] != self._facts.get("global_batch"):
                self.tell("global_batch_size", about["global_batch"])
            self._facts = about
            self.tell("hpcjobs_run", about)

    def _exchanges(self) -> bool | None:
        """Whether the ranks of a PyTorch training have talked to each other since the first step; None: not known."""
        if self.size == 1 or self.step < 2 or self.way != "auto" or self.models:
            return None
        now = _sequence()
        if now < self._talked:
            return None  # the group is gone
        return True if now > self._talked else False if _by_default_group() else None

    def _local_batch(self) -> float:
        """Units of a step on this rank: what at least half of the steps have, else their mean."""
        if not self._step_units:
            return self.running.units
        usual, steps = _usual(self._step_units), sum(self._step_units.values())
        return (
            usual
            if 2 * self._step_units[usual] >= steps
            else sum(units * n for units, n in self._step_units.items()) / steps
        )

    def _unit(self) -> str:
        """`tokens` and `sequences` only where such were counted; another word of the experiment names samples."""
        asked = self.measure.unit
        if self.told.unit in ("tokens", "sequences"):
            return str(self.told.unit)
        if asked == "tokens":
            return "tokens" if self._tokens else "samples"
        return asked if asked and asked != "steps" else "samples"

    def _note(self, rank: int) -> str:
        return os.path.join(self.folder, f"meter-r{rank:03d}.json")

    def _write_note(self) -> None:
        """meter-rNNN.json: what this rank did."""
        if not self._begun:
            return
        self._noted = _now()
        note: dict[str, Any] = {"rank": self.rank, "host": self.host, "pid": self.pid, "began_ms": self._started_ms}
        note.update(way=self.way, steps=self.step, phase=self.phase, off=self.why_off)
        if self._control:
            note.update(switches=self._control.switches, restored=self._control.restored)
        timed = self._timed_windows
        note["loader_ms"] = 1000 * timed.loader_s / timed.steps if timed.steps and self._fed else None
        self._count_alike()
        often = sorted(self._step_units.items(), key=lambda item: -item[1])[:20]
        note["units_of_steps"] = {f"{units:g}": times for units, times in often}
        if self._said:
            note["said"] = self._said
        _write(self._note(self.rank), json.dumps(note))

    def _stop(self, status: str) -> None:
        """The last lines of the log."""
        if self._closed:
            return
        self._closed = True
        self._write_note()
        if self._fd is not None:
            self._describe()
            self._tell_epoch(False)
            missing = {"parts_missing": True} if status == "success" and self._parts_missing() else {}
            self.tell("run_stop", kind="INTERVAL_END", status=status, **missing)
            os.close(self._fd)
            self._fd = None
        if self._exchange:
            self._exchange.close()

    def _at_exit(self) -> None:
        """At the end of the process. A benchmark that ended the script leaves torch.distributed in peace."""
        if self.pid != os.getpid():
            return
        error = sys.exc_info()[1]
        if error is not None and not (isinstance(error, SystemExit) and not error.code):
            self._failed = True
        with contextlib.suppress(Exception):
            self._unsteady()
            if self.on and not self.over:
                if not self._failed:
                    self._pause()
                if not self.over:
                    self._unfinished()
            self._stop("aborted" if self._failed else "success")
        if self.over and not self._failed:
            with contextlib.suppress(Exception):
                distributed = sys.modules["torch"].distributed
                if distributed.is_available() and distributed.is_initialized():
                    distributed.destroy_process_group()

    def _parts_missing(self) -> bool:
        """Whether a benchmark's script ended by itself before the control blocks that this repeat should have."""
        return self.on and not self.over and self._has_blocks()

    def _has_blocks(self) -> bool:
        """Whether the experiment asks for control blocks in this repeat."""
        m = self.measure
        asked = m.control_passes > 0 and int(os.environ.get("HPCJOBS_REPEAT") or 1) <= m.control_repeats
        return m.mode == "benchmark" and asked

    def _unfinished(self) -> None:
        """A script that ended before the benchmark did: what its timed steps say."""
        if self.measure.mode == "benchmark" and not self._control and self._timed_steps:
            self._tell_precision(False)


class Alone(Exception):
    """Not all ranks came to the first meeting."""


def _traces(error: BaseException) -> Iterator[Any]:
    """Where it passed through, the outermost first."""
    trace = error.__traceback__
    while trace:
        yield trace
        trace = trace.tb_next


def _words(error: BaseException) -> str:
    """One line: what was raised, and where in this file."""
    line = ([trace.tb_lineno for trace in _traces(error) if trace.tb_frame.f_code.co_filename == __file__] or [0])[-1]
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text} (meter.py:{line})"


def _of_a_signal(error: BaseException) -> bool:
    """Whether a signal handler of the script raised it, wherever the signal struck (its frame lies in the trace)."""
    handlers = [signal.getsignal(number) for number in signal.Signals]
    functions = [getattr(one, "__func__", getattr(one, "func", one)) for one in handlers if callable(one)]
    codes = {getattr(one, "__code__", getattr(type(one).__call__, "__code__", None)) for one in functions} - {None}
    return any(trace.tb_frame.f_code in codes for trace in _traces(error))


def _warn(text: str) -> None:
    """One line about the meter. Without a stderr (closed, its disk full) it is lost: it must not end a training."""
    with contextlib.suppress(Exception):
        print(f"hpcjobs: warning: the meter {text}", file=sys.stderr, flush=True)


def _usual(times: dict[Any, int]) -> Any:
    """What came the most times."""
    return max(times, key=times.__getitem__)


def _window_line(
    window: _Window, epoch: int, loss: float | None, warm: bool, clock: float, ranks: int, fed: bool
) -> str:
    """`clock` is the time of day at perf_counter's 0, in s."""
    steps = window.steps
    figures = window_figures(steps, window.ended - window.opened, window.units * ranks / steps or None)
    wait = 1000 * window.loader_s / steps if fed else None
    values = (_number(figures["throughput"]), _number(figures["step_ms"]), _number(loss), _number(wait))
    at = int(1000 * (clock + window.ended))
    return _WINDOW_LINE % (at, *values, window.step, steps, max(epoch, 1), "true" if warm else "false")


def _number(value: float | None) -> str:
    """As JSON has it; null of what is none."""
    return repr(float(value)) if value is not None and math.isfinite(value) else "null"


def _ms() -> int:
    return int(time.time() * 1000)


def _lock(file: int) -> bool:
    """Lock an open file, as long as this process has it open. False if another holds it. Not all file systems can."""
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _write(path: str, text: str, mode: int = 0o644) -> None:
    """Write a file whole or not at all."""
    new = f"{path}.{os.getpid()}.new"
    file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with os.fdopen(file, "w", encoding="utf-8") as stream:
        stream.write(text)
    os.replace(new, path)


# --- control blocks --------------------------------------------------------------------------------------------


class _Control:
    """The control blocks of this rank: what they took, and what must be put back after them."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.passes: list[dict[str, Any]] = []
        self.collectives: list[int] = []
        self.restored = False
        self._sent = 0
        self._ways: list[Callable[[bool], Any]] = []
        self._silent = False
        self.switches = 0  # ways to switch an all-reduce off that were found
        self._phase = ""
        self._load: tuple[float, ...] | None = None
        self._clock: Callable[[], float] | None = None
        self._sequence = -1
        self._state: _State | None = None

    def phases(self) -> str:
        """The phases that this loop lets be: (b) and (c) need its batches, (c) a way to switch the all-reduce off.

        One rank has no all-reduce and waits for nobody: there (b) is (c).
        """
        if not self.meter._fed:  # it sees no batches: a callback, or a training that makes its own
            return ""
        self._ways = [way for way in map(_switch, self.meter.models) if way] + list(self.meter.switches)
        for optimizer in self.meter.optimizers:
            way = _horovod_switch(optimizer)
            if way:
                self._ways.append(way)
        self.switches = len(self._ways)
        return "abc" if self._ways and self.meter.size > 1 else "ab"

    def keep(self) -> None:
        """Copy weights and optimizers, to put them back."""
        try:
            self._state = _State(self.meter.models, self.meter.optimizers)
            self.restored = self._state.whole
        except Exception as error:  # such as a device without memory for it
            self._state, self.restored = None, False
            _warn(f"does not put weights back after control blocks: {_words(error)}")

    def begin_pass(self) -> None:
        self.close_block()
        self.passes.append({"a": [], "b": [], "c": [], "load": {}})
        self.collectives.append(-1)

    def enter(self, phase: str) -> None:
        """From the next step on it is that phase."""
        self._phase = phase
        self._silence(phase == "c")

    def open_block(self) -> None:
        self._clock = self._clock or _own_gpu_clock()
        self._load = load_now(self._clock)

    def timed(self, phase: str, ms: float | None) -> None:
        """A timed step. None: it does not count, on any rank."""
        self.passes[-1][phase].append(ms)

    def first_timed(self) -> None:
        """The first timed step of a block comes next: from here (c) must be silent."""
        if self._phase == "c":
            self._sequence = _sequence()

    def close_block(self) -> None:
        if not self._phase:
            return
        self.passes[-1]["load"][self._phase] = load_between(self._load, load_now(self._clock)) if self._load else {}
        if self._phase == "c":
            if self._sequence >= 0:
                self.collectives[-1] = _sequence() - self._sequence
            self._silence(False)
            self.restore()
        self._phase, self._load, self._sequence = "", None, -1

    def new(self) -> dict[str, Any]:
        """Passes since the last time they were asked for."""
        found = {"passes": self.passes[self._sent :], "collectives": self.collectives[self._sent :]}
        self._sent = len(self.passes)
        return found

    def all(self) -> dict[str, Any]:
        """All passes."""
        return {"passes": self.passes, "collectives": self.collectives}

    def restore(self) -> None:
        if self._state:
            try:
                self._state.put_back()
            except Exception as error:
                self._state, self.restored = None, False
                _warn(f"does not put weights back after control blocks: {_words(error)}")

    def leave(self) -> None:
        """The loop is as it was."""
        self._silence(False)
        self.close_block()

    def _silence(self, silent: bool) -> None:
        if silent != self._silent:
            self._silent = silent
            failed: list[Exception] = []
            for way in self._ways:
                try:
                    way(not silent)
                except Exception as error:  # the others must be switched
                    failed.append(error)
            if failed:
                raise failed[0]


def _switch(model: Any) -> Callable[[bool], Any] | None:
    """What switches the all-reduce of a model off (False) and on (True), if there is such a thing."""
    model = getattr(model, "_orig_mod", model)  # of torch.compile
    inner = list(model.modules()) if hasattr(model, "modules") else [model]
    parallel = [module for module in inner if hasattr(module, "require_backward_grad_sync")]
    if parallel:  # DistributedDataParallel
        kinds = [module.__class__ for module in parallel]  # not type(): a driver may give weak proxies
        silent = {kind: _silent_kind(kind) for kind in kinds}

        def set_all(on: bool) -> None:
            for module, kind in zip(parallel, kinds):
                module.__class__ = kind if on else silent[kind]
                if on:
                    module.require_backward_grad_sync = True

        return set_all
    if hasattr(model, "set_requires_gradient_sync"):  # FSDP2
        return lambda on: model.set_requires_gradient_sync(on)
    if hasattr(model, "no_sync"):  # FSDP
        held: list[Any] = []

        def turn(on: bool) -> None:
            if on and held:
                held.pop().__exit__(None, None, None)
            elif not on and not held:
                held.append(model.no_sync())
                held[-1].__enter__()

        return turn
    return None


def _silent_kind(kind: type) -> type:
    """A DistributedDataParallel that does not reduce, whatever a script sets (it may, for accumulation)."""
    silent = property(lambda self: False, lambda self, value: None)
    return type(kind.__name__, (kind,), {"require_backward_grad_sync": silent, "__module__": kind.__module__})


def _horovod_switch(optimizer: Any) -> Callable[[bool], Any] | None:
    """Horovod's optimizer for PyTorch (0.28): `skip_synchronize` as its context manager does it, and no all-reduce
    from its hooks, which count `_allreduce_delay` down to 0. Not run by us.
    """
    delays = getattr(optimizer, "_allreduce_delay", None)
    if not isinstance(delays, dict) or not hasattr(optimizer, "skip_synchronize"):
        return None
    usual = dict(delays)

    def turn(on: bool) -> None:
        optimizer._should_synchronize = on
        for parameter in delays:
            delays[parameter] = usual[parameter] if on else 1 << 40

    return turn


class _State:
    """Copies of weights, buffers and optimizers of PyTorch. `whole`: both models and optimizers are known.

    The copies lie beside the originals where the device has twice their size free, else in the host's memory.
    """

    def __init__(self, models: Sequence[Any], optimizers: Sequence[Any]) -> None:
        self.whole = False
        if "torch" not in sys.modules or not (models or optimizers):
            return
        torch = sys.modules["torch"]
        found: dict[int, Any] = {}
        for model in models:
            for tensor in [*model.parameters(), *model.buffers()]:
                found[id(tensor)] = tensor
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                for tensor in group["params"]:
                    found[id(tensor)] = tensor
        size = 3 * sum(tensor.numel() * tensor.element_size() for tensor in found.values())
        to_host = False
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            to_host = torch.cuda.mem_get_info()[0] < 2 * size

        def copy(value: Any) -> Any:
            if not torch.is_tensor(value):
                return value
            return value.detach().to("cpu", copy=True) if to_host else value.detach().clone()

        self.tensors = [(tensor, copy(tensor)) for tensor in found.values()]
        self.optimizers = []
        for optimizer in optimizers:
            state = {
                parameter: {key: copy(value) for key, value in kept.items()}
                for parameter, kept in optimizer.state.items()
                if isinstance(kept, dict)
            }
            groups = [{k: copy(v) for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
            self.optimizers.append((optimizer, state, groups))
        self.whole = bool(models and optimizers)

    def put_back(self) -> None:
        if not hasattr(self, "tensors"):
            return
        torch = sys.modules["torch"]
        with torch.no_grad():
            for tensor, copy in self.tensors:
                tensor.detach().copy_(copy)
            for optimizer, state, groups in self.optimizers:
                for parameter in list(optimizer.state):
                    if isinstance(optimizer.state[parameter], dict):
                        self._one(torch, optimizer.state, parameter, state.get(parameter))
                for group, kept in zip(optimizer.param_groups, groups):
                    for key, value in kept.items():
                        if torch.is_tensor(value) and torch.is_tensor(group.get(key)):
                            group[key].copy_(value)
                        else:
                            group[key] = value

    @staticmethod
    def _one(torch: Any, states: Any, parameter: Any, kept: dict[str, Any] | None) -> None:
        if kept is None:
            del states[parameter]
            return
        for key, value in kept.items():
            there = states[parameter].get(key)
            if torch.is_tensor(value) and torch.is_tensor(there):
                there.copy_(value)
            else:
                states[parameter][key] = value


# Ways for ranks to talk to each other that PyTorch's default group does not count.
_OTHER_WAYS = ("horovod", "mpi4py", "jax", "cupy", "bagua", "byteps", "torch_xla", "torch.distributed.pipelining")


def _by_default_group() -> bool:
    """Whether the ranks have no other way to talk to each other than PyTorch's default group, if they have that."""
    try:
        distributed = sys.modules["torch"].distributed
        if any(name in sys.modules for name in _OTHER_WAYS) or distributed.rpc.api._is_current_rpc_agent_set():
            return False
        if not (distributed.is_available() and distributed.is_initialized()):
            return True
        return _sequence() >= 0 and len(distributed.distributed_c10d._world.pg_map) == 1
    except Exception:
        return False


def _sequence() -> int:
    """How many collectives torch's default group has begun; -1 where that is not known."""
    try:
        return int(sys.modules["torch"].distributed.group.WORLD._get_sequence_number_for_group())
    except Exception:
        return -1


# --- what else ran on the node ---------------------------------------------------------------------------------


def _align(everyone: list[list[dict[str, Any]]]) -> None:
    """Of the passes of all ranks drop the steps that do not count on one of them: the others waited for it there."""
    for ranks in zip(*everyone):
        for phase in "abc":
            steps = [step for step in zip(*(each[phase] for each in ranks)) if None not in step]
            for rank, each in enumerate(ranks):
                each[phase] = [step[rank] for step in steps]


def _has_c(everyone: list[dict[str, Any]]) -> bool:
    """Whether there are blocks (c), or one rank alone, which needs none."""
    return len(everyone) == 1 or any(each["c"] for one in everyone for each in one["passes"])


def _without_c(everyone: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Blocks of a loop whose all-reduce cannot be switched off: (b) stands for (c), a (c) in which the script talks."""
    return [
        {
            **one,
            "passes": [{**each, "c": each["b"], "load": {**each["load"], "c": {}}} for each in one["passes"]],
            "collectives": [1 for _ in one["passes"]],
        }
        for one in everyone
    ]


def _attributed(everyone: list[dict[str, Any]]) -> dict[str, Any]:
    """The parts of a step. Without (c) the input wait alone: what of (b) is computing is not known."""
    if _has_c(everyone):
        return attribute(everyone)
    found = attribute(_without_c(everyone))
    found["rest_ms"] = _rounded(found["step_ms"] - found["input_wait_ms"])
    for name in ("compute_ms", "typical_ms", "collectives_in_c", "talked", "starved", "slowest_rank", "slowest_host"):
        found[name] = None
    for name in ("standard_errors", "half_widths", "freedom"):
        found[name] = {part: value for part, value in found[name].items() if part == "input_wait_ms"}
    found["not_told_apart"] = [part for part in found["not_told_apart"] if part == "input_wait_ms"]
    found["ranks"] = []
    return found


def gpu_clock(uuid: str) -> Callable[[], float]:
    """What reads the present clock of a GPU's multiprocessors, in MHz; NaN where NVML does not tell it.

    NVML is asked through its C library (NVML API reference: nvmlDeviceGetClockInfo, NVML_CLOCK_SM = 1), because the
    Python of a training need not have a package for it.
    """
    ctypes = importlib.import_module("ctypes")  # Only where there is a GPU: it costs a start its time.
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
        handle, mhz = ctypes.c_void_p(), ctypes.c_uint()
        found = not nvml.nvmlInit_v2() and not nvml.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(handle))
    except (OSError, AttributeError):
        found = False
    if not found:
        return lambda: math.nan
    return lambda: math.nan if nvml.nvmlDeviceGetClockInfo(handle, 1, ctypes.byref(mhz)) else float(mhz.value)


def _own_gpu_clock() -> Callable[[], float] | None:
    """The clock of the GPU that PyTorch uses; None where there is none, or its UUID is not known."""
    cuda: Any = getattr(sys.modules.get("torch"), "cuda", None)
    try:
        if not cuda.is_initialized():
            return None
        uuid = str(cuda.get_device_properties(cuda.current_device()).uuid)
    except Exception:  # no CUDA, or a PyTorch that does not tell the UUID
        return None
    return gpu_clock(uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}")


def load_now(clock: Callable[[], float] | None = None) -> tuple[float, ...]:
    """Seconds: wall; CPU time in use, stolen, in all of the node; CPU pressure; this rank's CPU time, run-queue wait.

    The last is the clock of the rank's GPU, in MHz. NaN where the kernel does not say. A rank is this process with its
    children, such as the workers of a loader.
    """
    tick = os.sysconf("SC_CLK_TCK")
    busy = steal = whole = pressure = math.nan
    with contextlib.suppress(OSError, ValueError, IndexError):
        with open("/proc/stat") as file:
            # user nice system idle iowait irq softirq steal; guests are in user and nice already (proc(5))
            fields = [int(word) for word in file.readline().split()[1:9]]
        whole, steal = sum(fields) / tick, fields[7] / tick
        busy = whole - steal - (fields[3] + fields[4]) / tick
    with contextlib.suppress(OSError, ValueError, IndexError), open("/proc/pressure/cpu") as file:
        pressure = int(file.readline().split("total=")[1]) / 1e6
    own, waited = 0.0, 0.0
    pids, seen = [os.getpid()], 0
    while seen < len(pids):
        pid = pids[seen]
        seen += 1
        with contextlib.suppress(OSError, ValueError):
            # CPU time of all threads of a process: the clock of clock_getcpuclockid(3), in ns unlike /proc/PID/stat.
            own += time.clock_gettime(~pid << 3 | 2)
            for thread in os.listdir(f"/proc/{pid}/task"):
                path = f"/proc/{pid}/task/{thread}/children"
                with contextlib.suppress(OSError, ValueError), open(path) as file:
                    pids += [int(word) for word in file.read().split()]
                if pid == pids[0]:
                    try:
                        with open(f"/proc/{pid}/task/{thread}/schedstat") as file:
                            waited += int(file.read().split()[1]) / 1e9
                    except (OSError, ValueError, IndexError):
                        waited = math.nan
    return _now(), busy, steal, whole, pressure, own, waited, clock() if clock else math.nan


def load_between(before: tuple[float, ...], after: tuple[float, ...]) -> dict[str, float | None]:
    """Figures of a block: CPUs in use on the node and by this rank, the shares of time that others took, its GPU's MHz.

    The clock is the one at the end: before a block the GPU may be idle.
    """
    wall, busy, steal, whole, pressure, own, waited = (b - a for a, b in zip(before[:-1], after[:-1]))

    def known(value: float) -> float | None:
        return round(max(value, 0.0), 4) if math.isfinite(value) else None

    return {
        "busy_cpu": known(busy / wall),
        "own_cpu": known(own / wall),
        "cpu_wait": known(waited / wall),
        "steal": known(steal / whole) if whole > 0 else None,
        "pressure": known(pressure / wall),
        "sm_mhz": known(after[-1]),
    }


def with_foreign(everyone: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The blocks with `foreign_cpu`: CPUs in use on a node less those that the job's ranks there use."""
    found = [{**one, "passes": [{**p, "load": dict(p["load"])} for p in one["passes"]]} for one in everyone]
    hosts: dict[str, list[dict[str, Any]]] = {}
    for one in found:
        hosts.setdefault(str(one["host"]), []).append(one)
    for ranks in hosts.values():
        for number in range(min(len(one["passes"]) for one in ranks)):
            for phase in "abc":
                loads = [one["passes"][number]["load"].get(phase) or {} for one in ranks]
                own = [load["own_cpu"] for load in loads if load.get("own_cpu") is not None]
                busy = [load["busy_cpu"] for load in loads if load.get("busy_cpu") is not None]
                known = busy and len(own) == len(loads)
                foreign = round(max(sum(busy) / len(busy) - sum(own), 0.0), 4) if known else None
                for one, load in zip(ranks, loads):
                    kept = {key: value for key, value in load.items() if key not in ("busy_cpu", "own_cpu")}
                    one["passes"][number]["load"][phase] = {"foreign_cpu": foreign, **kept}
    return found


# --- the exchange ----------------------------------------------------------------------------------------------


class _Exchange:
    """Where the ranks meet between two steps: rank 0 listens, the others connect, JSON lines go to and fro.

    `meter-exchange.json` (mode 0600) says where, with a token that a rank must know. No collective of the training is
    used, and no pickle.
    """

    def __init__(self, folder: str, rank: int, size: int, host: str) -> None:
        self.rank, self.size, self.host = rank, size, host
        self.path = os.path.join(folder, _EXCHANGE)
        self.met = False
        self._tries = 3
        self._peers: dict[int, Any] = {}
        self._listener: socket.socket | None = None
        if rank == 0:
            self._listen()

    def approach(self) -> None:
        """Connect, if rank 0 can be found without waiting; a few tries between steps of the warm-up."""
        if self.rank and not self._peers and self._tries and os.path.exists(self.path):
            self._tries -= 1
            self._connect(2.0)

    def meet(self, question: str, mine: dict[str, Any], answer: Callable[[str, list[dict[str, Any]]], Any]) -> Any:
        """The answer of rank 0 to what all ranks say. Raises Alone if not all come to the first, OSError later."""
        try:
            found = self._lead(question, mine, answer) if self.rank == 0 else self._follow(question, mine)
        except (OSError, ValueError, KeyError) as error:
            if _of_a_signal(error):
                raise
            if self.met:
                raise OSError(f"the ranks do not meet any more: {error}") from None
            raise Alone(f"not all ranks met: {error}") from None
        self.met = True
        return found

    def close(self) -> None:
        for peer in self._peers.values():
            with contextlib.suppress(OSError):
                peer.close()
        self._peers = {}
        if self._listener:
            self._listener.close()
            self._listener = None
            with contextlib.suppress(OSError):
                os.unlink(self.path)

    # rank 0

    def _listen(self) -> None:
        _allow_files(self.size + 64)
        self.token = secrets.token_hex(16)
        self._listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._listener.bind(("", 0))
        self._listener.listen(4096)
        about = {"host": self.host, "addresses": _addresses(), "port": self._listener.getsockname()[1]}
        _write(self.path, json.dumps({**about, "token": self.token}), 0o600)

    def _lead(self, question: str, mine: dict[str, Any], answer: Callable[[str, list[dict[str, Any]]], Any]) -> Any:
        try:
            if not self.met:
                self._accept()
            until = time.monotonic() + _MEET_S
            everyone = [mine]
            for rank in range(1, self.size):
                said = self._peers[rank].receive(until)
                if said["question"] != question:
                    raise ValueError(f"rank {rank} is at {said['question']!r}, rank 0 at {question!r}")
                everyone.append(said["said"])
            found = answer(question, everyone)
        except Exception as error:
            alone = not self.met and isinstance(error, (OSError, ValueError, KeyError))
            self._tell_all({"alone": True} if alone else {"off": True})
            raise
        self._tell_all({"answer": found})
        return found

    def _tell_all(self, message: dict[str, Any]) -> None:
        until = time.monotonic() + _MEET_S
        failed: OSError | None = None
        for peer in self._peers.values():
            try:
                peer.send(message, until)
            except OSError as error:
                failed = error
        if failed and "answer" in message:
            raise failed

    def _accept(self) -> None:
        """Let the other ranks in, as they come. A stranger, who does not say the token, holds up nobody."""
        assert self._listener
        until = time.monotonic() + _JOIN_S
        with selectors.DefaultSelector() as waiting:
            waiting.register(self._listener, selectors.EVENT_READ)
            while len(self._peers) < self.size - 1:
                left = until - time.monotonic()
                if left <= 0:
                    raise OSError(f"{self.size - 1 - len(self._peers)} of {self.size} ranks did not connect")
                for key, _ in waiting.select(left):
                    if key.data is None:
                        peer = _Peer(self._listener.accept()[0])
                        waiting.register(peer.connection, selectors.EVENT_READ, peer)
                        continue
                    waiting.unregister(key.fileobj)
                    try:
                        hello = key.data.receive(time.monotonic() + 1, _HELLO)
                        rank = hello["rank"]
                        if not hmac.compare_digest(str(hello["token"]), self.token) or not 0 < rank < self.size:
                            raise ValueError("a stranger")
                        self._peers[rank] = key.data
                    except Exception:  # whatever a stranger may say
                        key.data.close()
            for key in waiting.get_map().values():
                if key.data is not None:
                    key.data.close()

    # the others

    def _follow(self, question: str, mine: dict[str, Any]) -> Any:
        until = time.monotonic() + _JOIN_S
        while not self._peers:
            if self.met or time.monotonic() > until:
                raise OSError("rank 0 cannot be reached")
            if not self._connect(5.0):
                time.sleep(0.2)
        until = time.monotonic() + _JOIN_S + _MEET_S
        peer = self._peers[0]
        peer.send({"question": question, "said": mine}, until)
        message = peer.receive(until)
        if "off" in message:
            raise RuntimeError("rank 0 has turned its meter off")
        if "answer" not in message:
            raise OSError("rank 0 says so")
        return message["answer"]

    def _connect(self, timeout: float) -> bool:
        try:
            with open(self.path, encoding="utf-8") as file:
                about = json.load(file)
            addresses = [str(address) for address in about["addresses"]]
        except (OSError, ValueError, KeyError, TypeError):
            return False
        if about.get("host") == self.host:
            addresses.insert(0, "127.0.0.1")
        for address in addresses:
            try:
                connection = socket.create_connection((address, int(about["port"])), timeout)
                peer = _Peer(connection)
                peer.send({"rank": self.rank, "token": about["token"]}, time.monotonic() + timeout)
            except (OSError, ValueError, KeyError):
                continue
            self._peers[0] = peer
            return True
        return False


class _Peer:
    """A connection that carries one JSON object a line."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = b""

    def send(self, message: dict[str, Any], until: float) -> None:
        """Raises OSError (of which socket.timeout is one)."""
        self.connection.settimeout(max(until - time.monotonic(), 0.01))
        self.connection.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, until: float, longest: int = _LONGEST) -> dict[str, Any]:
        """The next message. Raises OSError if none comes until then, ValueError if it is no JSON object."""
        pieces = [self._rest]
        length = len(self._rest)
        while b"\n" not in pieces[-1]:
            self.connection.settimeout(max(until - time.monotonic(), 0.01))
            piece = self.connection.recv(1 << 16)
            if not piece:
                raise ConnectionError("the connection is closed")
            length += len(piece)
            if length > longest:
                raise ValueError("a message is too long")
            pieces.append(piece)
        line, self._rest = b"".join(pieces).split(b"\n", 1)
        message = json.loads(line)
        if not isinstance(message, dict):
            raise ValueError("a message is no object")
        return message

    def close(self) -> None:
        self.connection.close()


def _addresses() -> list[str]:
    """The addresses of this node, the likeliest first: on the way to MASTER_ADDR, then those of its name."""
    found: list[str] = []
    for goal in filter(None, (os.environ.get("MASTER_ADDR"), "192.0.2.1")):  # the second: TEST-NET-1 of RFC 5737
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((goal, 9))  # sends nothing: it asks the routes
            found.append(str(probe.getsockname()[0]))
    with contextlib.suppress(OSError):
        found += [str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)]
    return [address for address in dict.fromkeys(found) if not address.startswith("127.")] + [socket.gethostname()]


def _allow_files(count: int) -> None:
    """Let this process have so many more files open, as far as it may."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = count + 1024 if hard == resource.RLIM_INFINITY else min(count + 1024, hard)
        if count > 512 and soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


# --- frameworks, and what a batch is ---------------------------------------------------------------------------


def _place() -> tuple[int, int]:
    """(rank, number of ranks), as the framework that is at work says, else the launcher's variables."""
    with contextlib.suppress(Exception):
        distributed = sys.modules["torch"].distributed
        if distributed.is_available() and distributed.is_initialized():
            return int(distributed.get_rank()), int(distributed.get_world_size())
    for name in ("horovod.torch", "horovod.tensorflow", "horovod.tensorflow.keras", "horovod.keras", "horovod.mxnet"):
        with contextlib.suppress(Exception):
            if sys.modules[name].is_initialized():
                return int(sys.modules[name].rank()), int(sys.modules[name].size())
    with contextlib.suppress(Exception):
        jax = _jax()
        if jax is not None and jax.process_count() > 1:
            return int(jax.process_index()), int(jax.process_count())
    ranks = [os.environ[name] for name in _RANKS if os.environ.get(name, "").isdigit()]
    sizes = [os.environ[name] for name in _SIZES if os.environ.get(name, "").isdigit()]
    rank, size = int((ranks or ["0"])[0]), int((sizes or ["1"])[0])
    return (rank, size) if rank < size else (0, 1)


def _framework() -> str:
    return next((name for name in ("torch", "tensorflow", "jax", "mxnet") if name in sys.modules), "python")


def _devices() -> Callable[[], Any] | None:
    """What waits for a device that works beside the host: PyTorch's CUDA or XPU, JAX's arrays. None: no such device."""
    torch = sys.modules.get("torch")
    for name in ("cuda", "xpu"):
        kind = getattr(torch, name, None)
        if kind is not None and getattr(kind, "is_initialized", bool)():
            return kind.synchronize  # type: ignore[no-any-return]
    jax = _jax()
    if jax is not None and hasattr(jax, "live_arrays"):
        return lambda: jax.block_until_ready(jax.live_arrays())
    return None


def _jax() -> Any:
    """JAX, if it is at work. A question to one that is only imported would make it take the GPUs' memory."""
    bridge = sys.modules.get("jax._src.xla_bridge")
    return sys.modules.get("jax") if getattr(bridge, "_backends", None) else None


def _gradient_bytes(models: Sequence[Any]) -> int | None:
    """Bytes of the gradients of PyTorch modules; None if that is not known."""
    try:
        return sum(p.numel() * p.element_size() for m in models for p in m.parameters() if p.requires_grad) or None
    except Exception:
        return None


def _shape(value: Any) -> tuple[int, ...] | None:
    """The shape of an array or tensor with at least one dimension."""
    shape = getattr(value, "shape", None)
    if shape is None:
        return None
    try:
        return tuple(map(int, shape)) or None
    except (TypeError, ValueError):
        return None


def _samples(batch: Any) -> int | None:
    """Samples of a batch; None if that is not known.

    The first tensor's first dimension. Of fields at the top (x, y) the tensors count first; a list below the top is
    a list of samples, as detection has it.
    """
    # The usual cases first: this is done in each step.
    kind = type(batch)
    if kind is list or kind is tuple or kind is dict:
        first = (next(iter(batch.values())) if kind is dict else batch[0]) if batch else None
        found = getattr(first, "shape", None)
        if type(first) in (int, float, str) and kind is not dict:
            return len(batch)
    else:
        found = getattr(batch, "shape", None)
    if found:
        try:
            return int(found[0])
        except (TypeError, ValueError):
            pass
    shape = _shape(batch)
    if shape:
        return shape[0]
    if isinstance(batch, (str, bytes)):
        return None
    fields = _fields(batch)
    if fields is None:
        return None
    shapes = [shape for shape in map(_shape, fields) if shape]
    if shapes:
        return shapes[0][0]
    if isinstance(batch, (list, tuple)) and not any(isinstance(field, (dict, list, tuple)) for field in fields):
        return len(fields) or None
    if len(fields) > 1 and all(isinstance(f, dict) and f.keys() == fields[0].keys() for f in fields):
        return len(fields)
    for field in fields:
        if isinstance(field, (list, tuple)) and field:
            return len(field)
        found = _samples(field)
        if found:
            return found
    return None


def _fields(batch: Any) -> list[Any] | None:
    if isinstance(batch, (list, tuple)):
        return list(batch)
    with contextlib.suppress(Exception):
        return list(batch.values())  # dict, and what is like one
    with contextlib.suppress(Exception):
        return [None] * len(batch) if not isinstance(batch, (str, bytes)) else None
    return None


def _tokens(batch: Any) -> int | None:
    """Tokens of a batch, padding included: the size of its first array of integers [B, T]. None: it has none."""
    shape = _shape(batch)
    if shape:
        kind = str(getattr(batch, "dtype", ""))
        return shape[0] * shape[1] if len(shape) == 2 and "int" in kind else None
    for field in _fields(batch) or []:
        found = _tokens(field) if field is not None else None
        if found:
            return found
    return None


def _map(value: Any, leaf: Callable[[Any], Any]) -> Any:
    """The same containers, new, with `leaf` of all that lies in them."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_map(item, leaf) for item in value))
    if type(value) in (list, tuple):
        return type(value)(_map(item, leaf) for item in value)
    if isinstance(value, dict):
        found = {key: _map(item, leaf) for key, item in value.items()}
        return found if type(value) is dict else type(value)(found)
    if isinstance(value, collections.UserDict):  # transformers' BatchEncoding
        return type(value)({key: _map(item, leaf) for key, item in value.items()})
    return leaf(value)


def _copy(value: Any) -> Any:
    for method in ("clone", "copy"):  # of PyTorch, of NumPy
        if hasattr(value, method) and _shape(value) is not None:
            return getattr(value, method)()
    return value


# --- what a user's training calls ------------------------------------------------------------------------------


class _Loop:
    """A loader whose batches the meter hands out. All else of the loader is there as it was."""

    def __init__(self, meter: Meter, loader: Iterable[Any]) -> None:
        self._meter, self._loader = meter, loader
        self._self: Iterator[Any] | None = None

    def __iter__(self) -> Iterator[Any]:
        meter = self._meter
        if not meter.drives("loop") or meter._depth:
            # Within another loop's step: an evaluation. That step is none of the steady state.
            if meter._depth:
                meter._guard(meter._spoil)
            yield from self._loader
            return
        meter._depth += 1
        try:
            meter._guard(meter.watch_optimizers)
            meter.loop_began()
            iterator, run = iter(self._loader), meter.running
            take = functools.partial(next, iterator)
            source, of = id(self._loader), id(take)  # not the iterator's, which is meter_torch's mark
            buffered = _buffered(self._loader)
            while True:
                try:
                    batch = run.fetch(next, iterator) if run.of == of else meter.fetch(take, source, buffered, of)
                except StopIteration:
                    return
                yield batch
                del batch
                if run.of == of and run.optimizer_steps:
                    run.optimizer_steps, run.due = 0, True
                else:
                    meter.body_ended()
        except GeneratorExit:
            meter.broken_off()
            raise
        finally:
            meter._depth -= 1
            meter.loop_ended()

    def __next__(self) -> Any:
        if self._self is None:
            self._self = iter(self)
        return next(self._self)

    def __len__(self) -> int:
        return len(self._loader)  # type: ignore[arg-type]

    def __bool__(self) -> bool:
        return bool(self._loader)

    def __getattr__(self, name: str) -> Any:
        if name in ("_loader", "_meter"):  # of a copy that is being made
            raise AttributeError(name)
        return getattr(self._loader, name)


def _buffered(loader: Any) -> int:
    """Batches that a torch DataLoader prepares ahead."""
    try:
        return int(getattr(loader, "num_workers", 0) or 0) * int(getattr(loader, "prefetch_factor", None) or 2)
    except (TypeError, ValueError):
        return 0


def steps(
    loader: Iterable[Any],
    samples: Any = None,
    tokens: Any = None,
    sequences: Any = None,
    model: Any = None,
    sync: Callable[[bool], Any] | None = None,
    wait: Callable[[], Any] | None = None,
    drain: int | None = None,
) -> Any:
    """The batches of `loader`, timed. Outside of a run of hpcjobs the loader itself.

    `samples`, `tokens` or `sequences`: how many of them one batch of this rank has (a number, or a callable of the
    batch); absent: the length of the batch. `model`: the DistributedDataParallel or FSDP module, or a list of them.
    `sync(False)` switches off all that the ranks say to each other in a step, `sync(True)` on again; `wait()` waits
    for the device. `drain`: batches that the loader prepares ahead (known of a torch DataLoader).
    """
    if not METER.drives("loop"):
        return loader
    METER._guard(_tell_meter, samples, tokens, sequences, model, sync, wait, drain)
    return _Loop(METER, loader)


def _tell_meter(samples: Any, tokens: Any, sequences: Any, model: Any, sync: Any, wait: Any, drain: int | None) -> None:
    if METER._depth:
        return  # an evaluation within a step
    for unit, count in (("samples", samples), ("sequences", sequences), ("tokens", tokens)):
        if count is not None:
            METER._tell_count(Told(count, unit))
    for module in model if isinstance(model, (list, tuple)) else [model]:
        if module is not None and not any(module is known for known in METER.models):
            METER.models.append(module)
            METER._expects = METER._expects or (hasattr(module, "parameters") and "torch" in sys.modules)
    if sync is not None and not any(sync is known for known in METER.switches):
        METER.switches.append(sync)
    METER.waiting = wait or METER.waiting
    METER.drain = METER.drain if drain is None else drain


def score(name: str, value: float) -> None:
    """The score of the model after an evaluation, such as ("accuracy", 0.91). Raises nothing."""
    METER._guard(lambda: METER.tell("eval_accuracy", float(value), name=str(name), epoch_num=max(METER.epoch, 1)))


def flops(per_unit: float, precision: str | None = None) -> None:
    """Floating-point operations of one unit (sample, token), forward and backward, without recomputation.

    `precision` is what the matrix products are computed in: fp32, tf32, fp16, bf16 or fp8.
    """

    def told() -> None:
        METER.flops = float(per_unit)
        METER.flops_precision = precision or METER.flops_precision
        METER._describe()

    METER._guard(told)


def window(
    steps: int,
    seconds: float | None = None,
    samples: float | None = None,
    tokens: float | None = None,
    sequences: float | None = None,
    loss: float | None = None,
) -> None:
    """A window of `steps` steps that has ended now, of a loop that is none (a scan, another language).

    `seconds`: how long it took; absent: since the last call (the first call then only starts the clock). `samples`,
    `tokens` or `sequences`: of the whole window, on this rank.
    """
    if METER.drives("loop"):
        METER._guard(_window_told, steps, seconds, samples, tokens, sequences, loss)


def _window_told(count: int, seconds: float | None, *units: float | None) -> None:
    meter, now = METER, _now()
    run = meter.running
    began, run.began = run.began, now
    if seconds is None and began is not None:
        seconds = now - began
    meter._started_ms = meter._started_ms or _ms() - int(1000 * (seconds or 0))
    if not seconds or count < 1:
        return
    for unit, number in zip(("samples", "tokens", "sequences"), units):
        if number is not None:
            meter.told, run.units = Told(number / count, unit), number / count
    if units[3] is not None:
        meter.loss = float(units[3])
    if not meter._begun:
        meter._begin()
        meter.tell("hpcjobs_first_step", step=count)
    warm = meter.step < meter.measure.warmup
    run.step += count
    run.window = _Window(now - seconds)
    run.window.ended, run.window.steps, run.window.units = now, count, run.units * count
    meter._shut(warm)
    run.window = None
    meter._count_step_of(run.units, None, count)
    if meter.measure.mode == "benchmark" and not warm:
        meter._timed_steps += count
        meter._times.append(1000 * seconds / count)
        if meter._timed_steps >= meter.measure.max_steps:
            meter._tell_precision(False)
            meter._finish()
            raise SystemExit(0)


def keras_callback(samples: int | None = None, tokens: int | None = None) -> Any:
    """A Keras callback that tells steps of `samples` or `tokens` on this rank: throughput, nothing taken apart."""
    module = _first_of("keras", "tensorflow.keras")
    sync = getattr(getattr(sys.modules.get("tensorflow"), "test", None), "experimental", None)
    METER.waiting = METER.waiting or getattr(sync, "sync_devices", None)
    return _callback_of(module.callbacks.Callback, _KerasSide, samples, tokens)


def lightning_callback(samples: int | None = None, tokens: int | None = None) -> Any:
    """A Lightning callback. Without `samples` or `tokens` the batch is measured."""
    module = _first_of("lightning.pytorch", "pytorch_lightning")
    return _callback_of(module.Callback, _LightningSide, samples, tokens)


def huggingface_callback(samples: int | None = None, tokens: int | None = None) -> Any:
    """A callback of the Hugging Face Trainer. Without `samples` or `tokens` the batch is what its arguments say."""
    return _callback_of(importlib.import_module("transformers").TrainerCallback, _HuggingFaceSide, samples, tokens)


def _first_of(*names: str) -> Any:
    """The first of these modules that is there. Raises ImportError."""
    for name in names[:-1]:
        with contextlib.suppress(ImportError):
            return importlib.import_module(name)
    return importlib.import_module(names[-1])


def _callback_of(base: Any, side: type, samples: int | None, tokens: int | None) -> Any:
    kind = type("HpcjobsMeter", (side, base), {})
    if METER.drives("callback"):
        METER._guard(_tell_meter, samples, tokens, None, None, None, None, None)
    return kind()


class _Side:
    """What all callbacks do."""

    def _opens(self) -> None:
        if METER.drives("callback"):
            METER.beat_began()

    def _ends(self, units: float | None = None, loss: Any = None) -> None:
        if METER.drives("callback"):
            if isinstance(loss, (int, float)):
                METER.loss = float(loss)
            METER.beat(units)

    def _epoch(self, begins: bool) -> None:
        if METER.drives("callback"):
            (METER.loop_began if begins else METER.loop_ended)()

    def _evaluation(self, begins: bool) -> None:
        if METER.drives("callback"):
            METER.pause()
            kind = "INTERVAL_START" if begins else "INTERVAL_END"
            METER._guard(lambda: METER.tell("eval_start" if begins else "eval_stop", kind=kind, epoch_num=METER.epoch))


class _KerasSide(_Side):
    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch(True)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._epoch(False)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._opens()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._ends(loss=(logs or {}).get("loss"))

    def on_test_begin(self, logs: Any = None) -> None:
        self._evaluation(True)

    def on_test_end(self, logs: Any = None) -> None:
        self._evaluation(False)


class _LightningSide(_Side):
    _steps = 0

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        self._epoch(True)

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        self._epoch(False)

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
        self._opens()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
        if METER.drives("callback"):
            self._units = getattr(self, "_units", 0.0) + (METER._guard(METER._count, batch) or 0.0)
            if trainer.global_step != self._steps:  # else accumulation
                self._steps, units, self._units = trainer.global_step, self._units, 0.0
                self._ends(units)

    def on_validation_start(self, trainer: Any, module: Any) -> None:
        self._evaluation(True)

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        self._evaluation(False)


class _HuggingFaceSide(_Side):
    def on_epoch_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self._epoch(True)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self._epoch(False)

    def on_step_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self._opens()

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        batch = args.per_device_train_batch_size * max(getattr(args, "n_gpu", 1), 1)
        self._ends(batch * args.gradient_accumulation_steps if METER.told.count is None else None)

    def on_evaluate(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if METER.drives("callback"):
            METER.pause()


# The one meter of this process, whichever way it was loaded: inject/ loads this file under a name of its own.
_injected = sys.modules.get("_hpcjobs_meter") if __name__ != "_hpcjobs_meter" else None
METER: Meter = _injected.METER if _injected is not None else Meter()


# --- statistics ----------------------------------------------------------------------------------
# Pure functions: the interval of a mean of step times, and the parts of a step with theirs.

BATCHES = 20
CORRELATION = 0.2
# Passes through the control blocks before the first look at the parts, and the fewest undisturbed ones that are
# taken without the others.
FIRST_LOOK, FEWEST = 6, 4
# Above this share of the time in which a rank waits for a CPU, all the time, (c) is not the machine of (b): there a
# rank that waits for the others leaves its CPU to them, and in (c) none does, so that they end their steps at other
# times. Four ranks on three CPUs wait that much each, four on two twice as much, ranks with CPUs of their own less than
# a tenth of it.
STARVED = 0.25
# A part is not told apart from nothing if the half of its interval is wider than this fraction of a step, and than
# this fraction of the part itself: what is known to half of itself is there; what is not known to 5 % of a step could
# hide a loss that matters.
TOLD_OF_STEP, TOLD_OF_PART = 0.05, 0.5
PARTS = ("input_wait_ms", "allreduce_ms", "skew_ms", "compute_ms")


class Estimate(NamedTuple):
    """Mean of a series and half the width of its 95 % interval (in the series' unit), with the batches behind them."""

    mean: float
    half_width: float
    batches: int
    batch_length: int
    correlation: float

    @property
    def relative(self) -> float:
        """Half-width over mean."""
        return self.half_width / self.mean


def estimate(series: Sequence[float]) -> Estimate | None:
    """The mean of a stationary series and its interval; None if the series is too short.

    Batch means (Law and Kelton, Simulation Modeling and Analysis, section 9.5.3): the values are
    averaged in batches. The batch length doubles, from one, until the lag-1 correlation r of the batch
    means is below 0.2 and the correlation of the values implies that too, while there are at least 20
    batches. From k batches, r is known only to within 1 / sqrt(k), and (1 + 3 r) / k too low (Kendall,
    Biometrika 41, 1954). Its upper 95 % bound R widens the variance of Student's interval by
    (1 + R) / (1 - R), as for a first-order autoregression.
    """
    values = [float(each) for each in series]
    if len(values) < BATCHES:
        return None
    # The length from which batch means of a first-order autoregression with the correlation of the values are
    # correlated by less than about 0.2, whatever a few batches show.
    close = min(max(lag_one(values), 0.0) + 4 / len(values), 0.99)
    least = (1 + close) / (1 - close) - 1
    length = 1
    while len(values) // length >= BATCHES:
        count = len(values) // length
        # The newest values: the remainder that is left out is nearest to the start-up.
        newest = values[-count * length :]
        means = [_mean(newest[begin : begin + length]) for begin in range(0, len(newest), length)]
        found = lag_one(means)
        if found < CORRELATION and length >= least:
            bound = found + (1 + 3 * max(found, 0.0)) / count + 1.645 / math.sqrt(count)
            bound = min(max(bound, 0.0), 0.9)
            error = math.sqrt(statistics.variance(means) / count * (1 + bound) / (1 - bound))
            return Estimate(_mean(means), student(count - 1) * error, count, length, found)
        length *= 2
    return None


def lag_one(values: Sequence[float]) -> float:
    """Correlation of each value with the next; 0 of a constant series."""
    mean = _mean(values)
    deviations = [value - mean for value in values]
    whole = math.fsum(each * each for each in deviations)
    return math.fsum(one * two for one, two in zip(deviations, deviations[1:])) / whole if whole > 0 else 0.0


def next_check(steps: int) -> int:
    """The timed step of the next check: 20, then a quarter more each time.

    The points are fixed and few, because each check is one more chance to stop at an interval that is too narrow
    by luck.
    """
    return max(BATCHES, steps + steps // 4)


def next_look(passes: int) -> int:
    """The number of control passes at the next look at the parts: 6, 8, 11, 14, 18, ..."""
    return max(FIRST_LOOK, passes * 5 // 4 + 1)


def agree(means: Sequence[float], tolerance: float) -> bool:
    """Whether the last three windows' means lie within `tolerance` of each other, as a fraction of their mean."""
    last = means[-3:]
    return len(last) == 3 and max(last) - min(last) <= tolerance * sum(last) / 3


def window_figures(steps: int, seconds: float, global_batch: float | None) -> dict[str, float | None]:
    """What the line of a window says: units per second over all ranks (None without a batch), and ms per step."""
    rate = None if global_batch is None else steps * global_batch / seconds
    return {"throughput": rate, "step_ms": 1000 * seconds / steps}


# t(0.975) of Student's distribution with 1 to 30 degrees of freedom: Abramowitz and Stegun, Handbook of Mathematical
# Functions, table 26.10, to four digits as NIST's e-Handbook of Statistical Methods, section 1.3.6.7.2, has them.
_STUDENT = (
    *(12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281),
    *(2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860),
    *(2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423),
)
_NORMAL = 1.959964


def student(freedom: int) -> float:
    """t(0.975) with `freedom` degrees of freedom, at least 1, to four digits after the point.

    Above 30 by the expansion in 1 / freedom (Abramowitz and Stegun, 26.7.5).
    """
    if freedom <= len(_STUDENT):
        return _STUDENT[freedom - 1]
    x = _NORMAL
    first = (x**3 + x) / 4
    second = (5 * x**5 + 16 * x**3 + 3 * x) / 96
    third = (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / 384
    return x + first / freedom + second / freedom**2 + third / freedom**3


class Part(NamedTuple):
    """A part of a step over the passes: its value and standard error in ms, and the degrees of freedom of that.

    Without a degree of freedom the error is None.
    """

    value: float
    error: float | None
    freedom: int

    @property
    def half_width(self) -> float | None:
        """Half the width of the 95 % interval in ms; None if the passes are too few."""
        return None if self.error is None else student(self.freedom) * self.error


def by_order(values: Sequence[float], forward: Sequence[bool]) -> Part:
    """The mean of a difference of blocks, one value a pass, without what a drift adds to it.

    A drift lowers a difference in the passes that run forward (ABC) by as much as it raises it in the others (CBA).
    Both means are taken, and the value is the middle between them: least squares of value = part +- order, with two
    parameters. Where all passes have one order it is the mean.
    """
    groups = [[v for v, f in zip(values, forward) if f is way] for way in (True, False)]
    groups = [group for group in groups if group]
    count = len(groups)
    means = [_mean(group) for group in groups]
    freedom = len(values) - count
    squares = math.fsum((v - mean) ** 2 for group, mean in zip(groups, means) for v in group)
    weight = math.fsum(1 / len(group) for group in groups) / count**2
    error = math.sqrt(squares / freedom * weight) if freedom > 0 else None
    return Part(_mean(means), error, max(freedom, 0))


def trimmed(values: Sequence[float]) -> Part:
    """The trimmed mean, one value a pass: without the largest and the smallest, from 11 passes on without two of each.

    A neighbour that no figure of the load shows makes a block slower, never faster. The error is that of Tukey and
    McLaughlin (Sankhya A 25, 1963): of the winsorized values, with n - 2 g - 1 degrees of freedom. Fewer than five
    values are not trimmed.
    """
    ordered, count = sorted(values), len(values)
    cut = _cut(count)
    kept = ordered[cut : count - cut]
    freedom = len(kept) - 1
    winsorized = [kept[0]] * cut + kept + [kept[-1]] * cut
    error = statistics.stdev(winsorized) / ((1 - 2 * cut / count) * math.sqrt(count)) if freedom > 0 else None
    return Part(_mean(kept), error, freedom)


def _cut(passes: int) -> int:
    return 0 if passes < 5 else 1 if passes < 11 else 2


def by_pairs(values: Sequence[float]) -> Part:
    """The mean of a time, one value a pass; its error is that of the means of neighbouring passes, two by two.

    In ... CBA ABC ... neighbours lie close together, so what changes slowly is alike in them. The last of an odd
    number of passes goes with the two before it.
    """
    count = max(len(values) // 2, 1)
    if len(values) < 4:
        return Part(_mean(values), None, 0)
    sums = [math.fsum(values[2 * n : 2 * n + 2 if n < count - 1 else len(values)]) for n in range(count)]
    sizes = [2] * (count - 1) + [len(values) - 2 * (count - 1)]
    mean = _mean(values)
    # Of batches of unequal size: the variance of one value, from each batch's squared distance times its size.
    one = math.fsum(size * (each / size - mean) ** 2 for each, size in zip(sums, sizes)) / (count - 1)
    return Part(mean, math.sqrt(one / len(values)), count - 1)


def freedom(part: str, passes: int) -> int:
    """The degrees of freedom of a part (PARTS, or waiting_ms) over passes of both orders; below 1: no interval."""
    if part in ("input_wait_ms", "allreduce_ms"):
        return passes - 2
    if part in ("skew_ms", "waiting_ms"):
        return passes - 2 * _cut(passes) - 1
    return passes // 2 - 1


class _Pass(NamedTuple):
    """What one pass says, in ms: means over ranks and steps, and of each rank its steps in (c)."""

    number: int
    forward: bool
    a: float
    b: float
    slowest: float
    compute: float
    alone: list[list[float]]


def _passes(everyone: Sequence[Mapping[str, Any]]) -> list[_Pass]:
    """The passes that all ranks have whole; a step counts that all ranks have. Pass 0 runs forward, 1 backward, ...

    Of one rank alone the steps of (b) are steps without all-reduce, too.
    """
    found = []
    for number, ranks in enumerate(zip(*(one["passes"] for one in everyone))):
        steps = {phase: list(zip(*(one[phase] for one in ranks))) for phase in "abc"}
        if len(ranks) == 1:  # It has no all-reduce: (b) and (c) are the same, whether (c) was run or not.
            steps["c"] += steps["b"]
        if all(steps.values()):
            a, b = (_mean([_mean(step) for step in steps[phase]]) for phase in "ab")
            slowest, compute = _mean([max(step) for step in steps["c"]]), _mean([_mean(step) for step in steps["c"]])
            alone = [list(rank) for rank in zip(*steps["c"])]
            found.append(_Pass(number, number % 2 == 0, a, b, slowest, compute, alone))
    return found


def parts_of(passes: Sequence[_Pass], hosts: Sequence[str]) -> dict[str, Part]:
    """The four parts of a step (PARTS), and `typical_ms` and `waiting_ms`, which the report compares sizes by.

    `typical_ms` is the time that a typical rank computes: the median over nodes of the median over ranks (of an even
    number the smaller of the middle two). `waiting_ms` is the time by which the slowest rank of a step is later.
    One rank has no all-reduce and waits for nobody: these parts are 0 exactly.
    """
    forward = [each.forward for each in passes]
    typical = [_typical([_mean(rank) for rank in each.alone], hosts) for each in passes]
    parts = {
        "input_wait_ms": by_order([each.a - each.b for each in passes], forward),
        "allreduce_ms": by_order([each.b - each.slowest for each in passes], forward),
        "skew_ms": trimmed([each.slowest - each.compute for each in passes]),
        "compute_ms": by_pairs([each.compute for each in passes]),
        "typical_ms": by_pairs(typical),
        "waiting_ms": trimmed([each.slowest - middle for each, middle in zip(passes, typical)]),
    }
    if len(hosts) == 1:
        for name in ("allreduce_ms", "skew_ms", "waiting_ms"):
            parts[name] = Part(0.0, 0.0, max(freedom(name, len(passes)), 1))
    return parts


def _typical(ranks: Sequence[float], hosts: Sequence[str]) -> float:
    by_node: dict[str, list[float]] = {}
    for ms, host in zip(ranks, hosts):
        by_node.setdefault(host, []).append(ms)
    return statistics.median_low(map(statistics.median_low, by_node.values()))


# How a figure of the load tells a disturbed block, and the words for it: it is above that of the quiet blocks of the
# same phase on the same rank by this amount at least, and by half of it, because ranks that share their CPUs with each
# other wait much and not always alike. A clock is below by this fraction.
_LOADS: Mapping[str, tuple[float, str]] = {
    "foreign_cpu": (0.25, "other processes used {:.1f} CPUs on {} ({:.1f} in quiet blocks)"),
    "cpu_wait": (0.10, "a rank waited for a CPU {:.0%} of the time on {} ({:.0%} in quiet blocks)"),
    "steal": (0.02, "the hypervisor took {:.0%} of the CPU time of {} ({:.0%} in quiet blocks)"),
    "pressure": (0.10, "tasks waited for a CPU {:.0%} of the time on {} ({:.0%} in quiet blocks)"),
    "sm_mhz": (0.03, "the GPU ran at {:.0f} MHz on {} ({:.0f} MHz in quiet blocks)"),
}


def disturbed(everyone: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The blocks that another load disturbed, by the measured load and never by the step times, in order of time.

    [{"phase", "pass", "why"}], one for each block; `pass` counts from 0. A figure is compared with its lower quartile
    (of a clock, the upper) over the passes, in blocks of the same phase on the same rank: what is there all the time
    disturbs no block, it is a part of what the machine is. A figure that is None says nothing.
    """
    found: dict[tuple[int, str], str] = {}
    for one in everyone:
        for phase, (name, (limit, words)) in itertools.product("abc", _LOADS.items()):
            figures = [((each.get("load") or {}).get(phase) or {}).get(name) for each in one["passes"]]
            known = [(number, each) for number, each in enumerate(figures) if each is not None and math.isfinite(each)]
            if not known:
                continue
            ordered = sorted(figure for _, figure in known)
            quarter = (len(ordered) - 1) // 4
            quiet = ordered[-1 - quarter] if name == "sm_mhz" else ordered[quarter]
            for number, figure in known:
                if figure < quiet * (1 - limit) if name == "sm_mhz" else figure > quiet + max(limit, quiet / 2):
                    found.setdefault((number, phase), words.format(figure, one["host"], quiet))
    place = {(number, phase): (number, (1 if number % 2 == 0 else -1) * ord(phase)) for number, phase in found}
    return [
        {"phase": phase, "pass": number, "why": found[number, phase]}
        for number, phase in sorted(found, key=place.__getitem__)
    ]


def _quiet(passes: Sequence[_Pass], blocks: Sequence[Mapping[str, Any]]) -> list[_Pass]:
    """The passes without a disturbed block, if they are enough; else all."""
    noisy = {each["pass"] for each in blocks}
    quiet = [each for each in passes if each.number not in noisy]
    return quiet if len(quiet) >= FEWEST else list(passes)


def _talked(everyone: Sequence[Mapping[str, Any]]) -> set[int]:
    """The passes in whose timed steps of (c) the script itself began a collective. One rank talks to nobody.

    A script that averages its loss every ten steps talks in some passes, one that does so in each step in all.
    """
    if len(everyone) == 1:
        return set()
    return {number for one in everyone for number, count in enumerate(one.get("collectives") or ()) if count > 0}


def _silent(passes: Sequence[_Pass], talked: set[int]) -> list[_Pass]:
    """The passes in which the script did not talk, if they are enough; else all."""
    silent = [each for each in passes if each.number not in talked]
    return silent if len(silent) >= FEWEST else list(passes)


def starved(everyone: Sequence[Mapping[str, Any]]) -> float | None:
    """The share of the time that a typical rank waits for a CPU in (b) or (c), whichever is more, if above STARVED.

    The median over passes and over the ranks of a node, of the node where it is the largest. None too where it is not
    known, or where one rank is alone.
    """
    figures: dict[tuple[str, str], list[float]] = {}
    for one in everyone:
        for each, phase in itertools.product(one["passes"], "bc"):
            share = ((each.get("load") or {}).get(phase) or {}).get("cpu_wait")
            if share is not None and math.isfinite(share):
                figures.setdefault((one["host"], phase), []).append(share)
    largest = max(map(statistics.median, figures.values()), default=0.0)
    return largest if largest > STARVED and len(everyone) > 1 else None


def _talks(everyone: Sequence[Mapping[str, Any]], used: Sequence[_Pass]) -> int | None:
    """The most collectives that a rank began in (c), beside the one that is left out; None: not known."""
    counts = [
        one["collectives"][each.number] if each.number < len(one.get("collectives") or ()) else -1
        for one in everyone
        for each in used
    ]
    return None if -1 in counts else max(counts)


def attribute(everyone: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The value of train.log's hpcjobs_control line: the parts of a step, from the control blocks of all ranks.

    everyone[rank] = {"rank", "host", "passes": [{"a": [ms, ...], "b": [...], "c": [...], "load": {"a": {...}, ...}},
    ...], "collectives": [a number, or -1 for unknown, per pass]}. (a) is the unchanged training, (b) the same on a
    batch in the device's memory, (c) as (b) without the all-reduce, so that no rank waits for another. The blocks of
    a pass follow each other, in the order (a), (b), (c) in pass 0, (c), (b), (a) in pass 1, and so on.

    Each pass gives one value of each part: `input_wait_ms` = (a) - (b); `allreduce_ms` = (b) - mean over steps of the
    slowest rank in (c), the exposed part of the all-reduce without waiting for the slowest rank; `skew_ms` = mean
    over steps of (slowest rank - mean rank) in (c); `compute_ms` = mean of (c). The error of a part is that from pass
    to pass (by_order, trimmed, by_pairs), because blocks differ by more than steps within a block. Passes with a
    disturbed block are left out if FEWEST others remain. A part may be below 0 by chance. Each part is estimated in
    the way that is best for it, so they sum to the step as well as they are known; `rest_ms` is what is left.

    Where the script itself talks in (c), its ranks wait there for each other. Passes with that, `talked` in number, are
    left out if FEWEST others remain; if not, allreduce_ms and skew_ms are None, and allreduce_claimed is False.

    Where ranks wait for CPUs all the time (`starved` is the share), (c) is not the machine of (b). Then all-reduce,
    skew and computing are in not_told_apart, whatever their intervals say.

    One rank has no all-reduce and no skew: both are 0, with intervals of no width, and (b) and (c) both tell what it
    computes. Times in ms. Raises ValueError if no pass is whole on all ranks.
    """
    whole = _passes(everyone)
    if not whole:
        raise ValueError("no pass through the control blocks is whole on all ranks")
    blocks = disturbed(everyone)
    talked = _talked(everyone)
    used = _quiet(_silent(whole, talked), blocks)
    talks = _talks(everyone, used)
    claimed = not talks or len(everyone) == 1
    hungry = starved(everyone)
    step = _mean([each.a for each in used])
    parts = parts_of(used, [one["host"] for one in everyone])
    if not claimed:
        parts = {name: parts[name] for name in ("input_wait_ms", "compute_ms")}
    widths = {name: part.half_width for name, part in parts.items()}
    rank_steps = [list(itertools.chain(*(each.alone[rank] for each in used))) for rank in range(len(everyone))]
    medians = [statistics.median(steps) for steps in rank_steps]
    told = [part.value for name, part in parts.items() if name in PARTS]
    vague = {name for name, part in parts.items() if is_vague(part.value, widths[name], step)}
    if hungry is not None:
        vague |= {"allreduce_ms", "skew_ms", "compute_ms"}
    slowest = max(range(len(medians)), key=medians.__getitem__)
    return {
        "step_ms": _rounded(step),
        **{
            name: _rounded(parts[name].value if name in parts else None)
            for name in (*PARTS, "typical_ms", "waiting_ms")
        },
        "rest_ms": _rounded(step - math.fsum(told)),
        "standard_errors": {name: _rounded(part.error) for name, part in parts.items()},
        "half_widths": {name: _rounded(width) for name, width in widths.items()},
        "freedom": {name: part.freedom for name, part in parts.items()},
        "passes": len(whole),
        "passes_used": len(used),
        "control_steps": max(len(each[phase]) for each in everyone[0]["passes"] for phase in "abc"),
        "disturbed": blocks,
        "not_told_apart": [name for name in PARTS if name in parts and name in vague],
        "starved": _rounded(hungry),
        "collectives_in_c": talks,
        "talked": None if talks is None else len(talked & {each.number for each in whole}),
        "allreduce_claimed": claimed,
        "slowest_rank": slowest,
        "slowest_host": everyone[slowest]["host"],
        "ranks": [
            {
                "host": one["host"],
                "min_ms": _rounded(min(steps)),
                "median_ms": _rounded(median),
                "max_ms": _rounded(max(steps)),
            }
            for one, steps, median in zip(everyone, rank_steps, medians)
        ],
    }


def is_vague(value: float, half_width: float | None, step: float) -> bool:
    """Whether a part is not told apart from nothing: its interval is wide both in the step and beside the part."""
    return half_width is None or half_width > max(TOLD_OF_STEP * step, TOLD_OF_PART * abs(value))


def parts_known(everyone: Sequence[Mapping[str, Any]], precision: float) -> bool:
    """Whether each part's half-width is at most `precision` of a step, so that the control blocks may end.

    It looks only after 6, 8, 11, 14, ... whole passes, of which 6 are undisturbed: each look is one more chance to
    stop at an interval that is narrow by luck. With these few the loss of coverage is below one point
    (benchmarks/parts.py), so that the intervals need no correction for it.
    """
    whole = _passes(everyone)
    look = FIRST_LOOK
    while look < len(whole):
        look = next_look(look)
    if look != len(whole):
        return False
    noisy = {each["pass"] for each in disturbed(everyone)}
    talked = _talked(everyone)
    # A script that talks in each pass is not waited for; one that talks in some may have enough others later.
    silent = [each for each in whole if each.number not in talked] or whole
    used = [each for each in silent if each.number not in noisy]
    if len(used) < FIRST_LOOK:
        return False
    parts = parts_of(used, [one["host"] for one in everyone])
    limit = precision * _mean([each.a for each in used])
    names: Sequence[str] = ("input_wait_ms", "compute_ms") if silent is whole and talked else PARTS
    if starved(everyone) is not None:
        names = ("input_wait_ms",)  # no number of passes tells the others
    widths = [parts[name].half_width for name in names]
    return all(width is not None and width <= limit for width in widths)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
