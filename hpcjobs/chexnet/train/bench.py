"""`mode: benchmark`: measures a step time with its interval, and its parts, in a fraction of a training's time."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import horovod.tensorflow as hvd
import tensorflow as tf
from horovod.tensorflow import allgather_object
from mlperf_logging.mllog.mllog import MLLogger

from hpcjobs import meter
from hpcjobs.base.contract import LogKey
from hpcjobs.chexnet.train.agreement import Agreement
from hpcjobs.chexnet.train.input import BUFFERED
from hpcjobs.chexnet.train.mllog import interrupted
from hpcjobs.chexnet.train.ranks import Interrupted
from hpcjobs.chexnet.train.step import Step
from hpcjobs.chexnet.train.watchdog import Watchdog
from hpcjobs.chexnet.train.windows import log_window

# The warm-up: steps per window; how closely three successive windows must agree; at most this many times the minimum.
_WINDOW, _AGREE, _PATIENCE = 3, 0.02, 10


@dataclasses.dataclass
class Benchmark:
    """Times the steps of one rank; `run` does it. Collective.

    `batches` are this rank's batches, more than are ever taken; `hosts[rank]` is the host of each rank; `measure`
    is the experiment's section; `log` is None except on rank 0; `clock` reads the MHz of this rank's GPU. Rank 0
    decides for all, by its clock.
    """

    step: Step
    batches: Iterator[Any]
    measure: Mapping[str, Any]
    global_batch: int
    hosts: Sequence[str]
    device: str
    watchdog: Watchdog
    log: MLLogger | None = None
    clock: Callable[[], float] | None = None

    def __post_init__(self) -> None:
        self.agreement = Agreement(0, checkpoint_s=float("inf"))
        self.done = 0
        self.loss = 0.0

    def run(self, *, with_control: bool) -> None:
        """Warm up, time, and with `with_control` measure the parts of a step.

        Raises Interrupted after a signal (a benchmark cannot be continued), TrainError (nan_loss).
        """
        self._warm_up()
        self._time()
        if with_control:
            self._control()

    # --- the unchanged training --------------------------------------------------------------------------------

    def _warm_up(self) -> None:
        """Run until enough steps are done, the buffers have been emptied twice, and three windows agree."""
        least = max(self.measure["warmup_steps"], 2 * BUFFERED)
        self._steps(1, warmup=True)  # The first step compiles: it is not part of a window.
        if self.log:
            self.log.event(LogKey.FIRST_STEP, metadata={"step": 1})
        means: list[float] = []
        settled = False
        while not settled and self.done < _PATIENCE * least:
            means.append(statistics.fmean(self._steps(_WINDOW, warmup=True)))
            settled = self._decide(self.done >= least and meter.agree(means, _AGREE))
        if self.log:
            self.log.event(LogKey.WARMUP, {"steps": self.done, "settled": settled})

    def _time(self) -> None:
        """Run until the mean is as precise as requested, checked after fixed numbers of steps, or to the limit."""
        times: list[float] = []
        limit, goal = self.measure["max_steps"], self.measure["precision"]
        found, enough = None, False
        while not enough and len(times) < limit:
            times += self._steps(min(meter.next_check(len(times)), limit) - len(times), warmup=False)
            found = meter.estimate(times) if self.log else None
            enough = self._decide(found is not None and found.relative <= goal)
        if self.log:
            value = {"reached": enough, "steps": len(times), "asked": goal}
            if found:
                value |= {"half_width": found.relative, "batches": found.batches, "batch_steps": found.batch_length}
            self.log.event(LogKey.PRECISION, value)
            if not enough:
                print(
                    f"hpcjobs: precision not reached: {_shortfall(found and found.relative, goal, len(times))}",
                    flush=True,
                )

    def _steps(self, count: int, *, warmup: bool) -> list[float]:
        """Run `count` steps of the unchanged training; returns the milliseconds of each."""
        found: list[float] = []
        stamp = opened = time.perf_counter()
        logged = 0
        for number in range(1, count + 1):
            self.step(self.batches)
            loss = float(self.step.loss_sum)  # Waits for the step's end.
            now = time.perf_counter()
            found.append(1000 * (now - stamp))
            stamp = now
            self.done += 1
            self.watchdog.beat(f"step {self.done}")
            self._stop_on(self.agreement.after(self.done).signal)
            if self.log and (number - logged == self.measure["window_steps"] or number == count):
                steps = number - logged
                log_window(
                    self.log,
                    step=self.done,
                    steps=steps,
                    seconds=now - opened,
                    global_batch=self.global_batch,
                    loss=(loss - self.loss) / steps,
                    epoch=1,
                    warmup=warmup,
                )
                logged, opened, self.loss = number, now, loss
        return found

    def _decide(self, mine: bool) -> bool:
        """The answer of rank 0, on all ranks. Raises Interrupted if a rank received a signal."""
        self._stop_on(self.agreement.now(self.done).signal)
        return bool(hvd.broadcast(tf.constant(int(mine)), root_rank=0, name="decision").numpy())

    def _stop_on(self, number: int) -> None:
        """Raises Interrupted if the ranks agreed to stop on signal `number` (0: none)."""
        if number:
            if self.log:
                interrupted(self.log, number, self.done, "a benchmark has no checkpoint")
            raise Interrupted(number)

    # --- control phases -----------------------------------------------------------------------------

    def _control(self) -> None:
        """Passes of a block of (a), (b) and (c), as ABC CBA ABC ..., so that a drift does not look like a difference.

        They end when each part is known to measure.parts_precision of a step, or after measure.control_passes.
        """
        images, labels = self._resident()
        actions: dict[str, Callable[[], None]] = {
            "a": lambda: self.step(self.batches),
            "b": lambda: self.step.on(images, labels),
            "c": lambda: self.step.alone(images, labels),
        }
        restore = self._snapshot()
        for phase in "bc":
            self._block(actions[phase], 0, 1)  # The first call compiles.
        restore()
        # Of the ranks' graphs only those of (a) and (b) communicate.
        mine: dict[str, Any] = {"rank": hvd.rank(), "host": self.hosts[hvd.rank()], "passes": [], "collectives": []}
        everyone: list[dict[str, Any]] = []
        enough, look = False, 0
        while not enough and len(mine["passes"]) < self.measure["control_passes"]:
            look = min(meter.next_look(look), self.measure["control_passes"])
            while len(mine["passes"]) < look:
                mine["passes"].append(self._pass(actions, restore, forward=len(mine["passes"]) % 2 == 0))
                mine["collectives"].append(0)
            everyone = meter.with_foreign(allgather_object(mine))
            enough = self._decide(meter.parts_known(everyone, self.measure.get("parts_precision", 0.02)))
        restore()
        if self.log:
            self.log.event(LogKey.CONTROL, meter.attribute(everyone))

    def _pass(self, actions: Mapping[str, Callable[[], None]], restore: Callable[[], None], *, forward: bool) -> Any:
        """One block of each phase: its step times in ms, and the load that was measured beside it."""
        found: dict[str, Any] = {"load": {}}
        for phase in "abc" if forward else "cba":
            self._stop_on(self.agreement.now(self.done).signal)  # All ranks begin the block together.
            if phase == "a":
                # The pipeline has filled its buffers during the other phases. Empty them, as they are if the
                # pipeline is slower than the steps; if it is faster, two steps fill them again.
                for _ in range(BUFFERED):
                    next(self.batches)
            before = meter.load_now(self.clock)
            found[phase] = self._block(actions[phase], self.measure["control_steps"], 2 if phase == "a" else 1)
            found["load"][phase] = meter.load_between(before, meter.load_now(self.clock))
            if phase == "c":
                restore()
        return found

    def _block(self, action: Callable[[], None], count: int, untimed: int) -> list[float]:
        found = []
        for _ in range(untimed + count):
            started = time.perf_counter()
            action()
            float(self.step.loss_sum)
            found.append(1000 * (time.perf_counter() - started))
            self.watchdog.beat("control phases")
        return found[untimed:]

    def _resident(self) -> tuple[tuple[tf.Tensor, tf.Tensor], tf.Tensor]:
        """One batch in the memory of the device."""
        (pixels, keys), labels = next(self.batches)
        with tf.device("/GPU:0" if self.device == "gpu" else "/CPU:0"):
            return (tf.identity(pixels), tf.identity(keys)), tf.identity(labels)

    def _snapshot(self) -> Callable[[], None]:
        """Copies model, optimizer and loss. Returns a function that restores them bit by bit."""
        variables = [*self.step.variables, self.step.loss_sum]
        copies = [tf.identity(variable) for variable in variables]

        def restore() -> None:
            for variable, copy in zip(variables, copies, strict=True):
                variable.assign(copy)

        return restore


def _shortfall(found: float | None, goal: float, steps: int) -> str:
    if found is None:
        return f"{steps} steps are too few, or too correlated, for an interval"
    return f"+-{found:.1%} after {steps} steps, requested is {goal:.1%}; see measure.max_steps"
