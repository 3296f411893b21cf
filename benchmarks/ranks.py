"""The time that Horovod and hpcjobs add to a step.

    .venv/bin/python benchmarks/ranks.py [--ranks N] [--blocks N]; exit code 1 if a target is missed

It prints three tables, for DenseNet-121 on one batch of 16 images of 64x64 in memory, with one thread a
rank: one rank under Horovod against Keras' `model.fit`, in turns in one process; 1 to N ranks under
Horovod against as many processes without it, in turns, with the parts of the difference (by the control
phases of `mode: benchmark`); and the work of the training loop on the host, measured with a step that does
nothing, against the 346 ms of a step on the article's V100.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

BATCH, SIZE, STEPS = 16, 64, 8
ARTICLE_STEP_MS = 64 / 185.12 * 1000


def make_step(name: str = "densenet121"):
    """A step and a batch for it: ((pixels, keys), labels)."""
    import numpy as np
    import tensorflow as tf

    from hpcjobs.chexnet.train.model import build
    from hpcjobs.chexnet.train.step import Step, make_optimizer
    from hpcjobs.chexnet.train.threads import limit_tensorflow

    limit_tensorflow(1)
    tf.keras.utils.set_random_seed(1)
    model = build(name, (SIZE, SIZE), 127.5, 73.9)
    random = np.random.default_rng(1)
    pixels = tf.constant(random.integers(0, 256, (BATCH, SIZE, SIZE, 1), np.uint8))
    labels = tf.constant((random.random((BATCH, 14)) < 0.1).astype(np.uint8))
    images = (pixels, tf.zeros((BATCH, 2), tf.int64))
    return Step(model, make_optimizer(0.001, "float32", model.trainable_variables)), images, labels


def timed(action: Callable[[], None], loss: Callable[[], float]) -> list[float]:
    """Milliseconds of each of STEPS steps."""
    found = []
    for _ in range(STEPS):
        began = time.perf_counter()
        action()
        loss()
        found.append(1000 * (time.perf_counter() - began))
    return found


def against_fit(blocks: int) -> None:
    """One rank against Keras' fit."""
    import horovod.tensorflow as hvd
    import tensorflow as tf

    hvd.init()
    step, images, labels = make_step()
    plain, _, _ = make_step()
    plain.model.compile(tf.keras.optimizers.Adam(0.001), "binary_crossentropy")
    batches = tf.data.Dataset.from_tensors((images[0], labels)).repeat()

    def fit() -> float:
        began = time.perf_counter()
        plain.model.fit(batches, steps_per_epoch=STEPS, epochs=1, verbose=0)
        return 1000 * (time.perf_counter() - began) / STEPS

    def ours() -> float:
        return statistics.fmean(timed(lambda: step.on(images, labels), lambda: float(step.loss_sum)))

    fit(), ours()
    pairs = [(ours(), fit()) if number % 2 else (fit(), ours())[::-1] for number in range(blocks)]
    mine, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"model.fit        {theirs:7.1f} ms a step")
    print(f"one Horovod rank {mine:7.1f} ms a step; images/s ratio {theirs / mine:.3f} (required: at least 0.97)")
    raise SystemExit(theirs / mine < 0.97)


def worker(kind: str, folder: Path, ranks: int, blocks: int) -> None:
    """One of N processes: runs blocks of steps, each of which begins when all processes have arrived."""
    import numpy as np

    if kind == "horovod":
        import horovod.tensorflow as hvd

        hvd.init()
        me = hvd.rank()
    else:
        me = int(os.environ["WORKER"])
    step, images, labels = make_step()
    phases = {"on": step.on, "alone": step.alone} if kind == "horovod" else {"alone": step.alone}
    for action in phases.values():
        action(images, labels)
    found: dict[str, list[float]] = {name: [] for name in phases}
    for number in range(blocks):
        for name in phases if number % 2 == 0 else reversed(phases):
            wait_for_all(folder, f"{kind}-{number}-{name}", me, ranks)
            found[name] += timed(lambda name=name: phases[name](images, labels), lambda: float(step.loss_sum))
    np.savez(folder / f"{kind}-{me}.npz", **found)


def wait_for_all(folder: Path, name: str, me: int, ranks: int) -> None:
    """A barrier of files."""
    (folder / f"{name}-{me}").touch()
    while len(list(folder.glob(f"{name}-*"))) < ranks:
        time.sleep(0.001)


def against_processes(ranks: int, blocks: int) -> None:
    """N ranks against N processes, each kind twice, in turns, so that a drift of the machine shows."""
    import numpy as np

    environment = os.environ | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    rows: dict[str, list[np.ndarray]] = {"horovod-on": [], "horovod-alone": [], "alone-alone": []}
    for kind in ("horovod", "alone", "alone", "horovod"):
        with tempfile.TemporaryDirectory() as scratch:
            command = [sys.executable, __file__, "--worker", kind, "--folder", scratch]
            command += ["--ranks", str(ranks), "--blocks", str(blocks)]
            if kind == "horovod":
                launcher = ["mpirun", "--oversubscribe", "--bind-to", "none", "-np", str(ranks)]
                subprocess.run([*launcher, *command], env=environment, check=True)
            else:
                started = [
                    subprocess.Popen(command, env=environment | {"WORKER": str(number)}) for number in range(ranks)
                ]
                codes = [process.wait() for process in started]
                if any(codes):
                    raise SystemExit("a process failed")
            files = [np.load(Path(scratch, f"{kind}-{number}.npz")) for number in range(ranks)]
            for name in files[0].files:
                rows[f"{kind}-{name}"].append(np.stack([file[name] for file in files]))
    on, free, floor = (np.concatenate(rows[name], axis=1) for name in rows)
    slowest = float(free.max(axis=0).mean())
    print(f"{ranks} processes without Horovod {floor.mean():7.1f} ms a step")
    print(
        f"{ranks} ranks under Horovod       {on.mean():7.1f} ms a step; images/s ratio {floor.mean() / on.mean():.3f}"
    )
    print(
        f"  of which computing {free.mean():.1f} ms, waiting for the slowest rank {slowest - free.mean():.1f} ms, "
        f"exposed all-reduce {on.mean() - slowest:.1f} ms"
    )


def host_work(steps: int = 2000) -> None:
    """Time the training loop around a step that does nothing."""
    import horovod.tensorflow as hvd
    import tensorflow as tf

    from hpcjobs.chexnet.train import mllog
    from hpcjobs.chexnet.train.checkpoints import Progress
    from hpcjobs.chexnet.train.loop import Loop
    from hpcjobs.chexnet.train.rates import Plateau
    from hpcjobs.chexnet.train.schedule import Schedule
    from hpcjobs.chexnet.train.step import Step, optimizer_state
    from hpcjobs.chexnet.train.watchdog import Watchdog
    from hpcjobs.chexnet.train.windows import Windows

    hvd.init()
    step, _, _ = make_step()
    state = [*step.model.variables, *optimizer_state(step.optimizer).values()]

    def touch() -> None:
        for variable in state:
            variable.read_value()

    # The step's graph with all its variables, but without work.
    run = tf.function(touch, autograph=False)

    class Nothing(Step):
        def __call__(self, batches: object) -> None:
            run()

    step.__class__ = Nothing
    with tempfile.TemporaryDirectory() as scratch:
        log, plan = mllog.open_log(Path(scratch)), Schedule(steps, 1, steps)
        windows = Windows(log, plan, 64, step.loss_sum, step=0, warmup_steps=10, window_steps=5)
        options = {"watchdog": Watchdog(Path(scratch), 600), "attempt": Path(scratch), "log": log, "windows": windows}
        loop = Loop(step, plan, Progress(Plateau(0.1, 1)), rate=0.001, warmup_steps=0, **options)
        began = time.perf_counter()
        loop.run(iter(()))
        each = 1000 * (time.perf_counter() - began) / steps
    share = each / ARTICLE_STEP_MS
    print(f"host work {each:.3f} ms a step: {share:.2%} of {ARTICLE_STEP_MS:.0f} ms (required: under 1 %)")
    raise SystemExit(share >= 0.01)


def main() -> None:
    """Print the three tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--ranks", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--worker", choices=["horovod", "alone", "fit", "host"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker == "fit":
        against_fit(options.blocks)
    elif options.worker == "host":
        host_work()
    elif options.worker:
        worker(options.worker, options.folder, options.ranks, options.blocks)
    else:
        print(json.dumps({"model": "densenet121", "batch": BATCH, "size": SIZE, "steps a block": STEPS}))
        again = [sys.executable, __file__, "--blocks", str(options.blocks), "--worker"]
        missed = subprocess.run([*again, "fit"]).returncode
        for ranks in range(1, options.ranks + 1):
            against_processes(ranks, options.blocks)
        missed |= subprocess.run([*again, "host"]).returncode
        raise SystemExit(missed)


if __name__ == "__main__":
    main()
