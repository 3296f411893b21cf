"""Logs that are made up from a known truth, one function for each format: a reader finds the truth, or refuses.

To add a format: a function that takes a Truth and gives the log's text, and an entry in FORMATS with what it hides.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Truth:
    """A training: `step_s` is the time of a step of `local` x `gpus` x `accumulation` samples over all GPUs.

    The first `warmup` of `steps` logged lines are four times as slow. Figures have `digits` after the point.
    """

    gpus: int
    local: int
    accumulation: int
    step_s: float
    steps: int
    warmup: int
    digits: int

    @property
    def batch(self) -> int:
        return self.local * self.gpus * self.accumulation

    @property
    def rate(self) -> float:
        return self.batch / self.step_s

    def took(self, step: int) -> float:
        """The time of one step, s."""
        return self.step_s * (4 if step < self.warmup else 1)

    def figure(self, value: float) -> str:
        return f"{value:.{self.digits}f}"


def horovod(truth: Truth) -> str:
    one = truth.local / truth.step_s
    lines = [f"Model: ResNet50\nBatch size: {truth.local}\nNumber of GPUs: {truth.gpus}"]
    lines += [f"Iter #{step}: {truth.figure(one)} img/sec per GPU" for step in range(truth.steps)]
    lines.append(f"Img/sec per GPU: {truth.figure(one)} +-0.0")
    lines.append(f"Total img/sec on {truth.gpus} GPU(s): {truth.figure(one * truth.gpus)} +-0.0")
    return "\n".join(lines) + "\n"


def tf_cnn(truth: Truth) -> str:
    devices = [f"/gpu:{gpu}" for gpu in range(truth.gpus)]
    lines = ["Model:       resnet50", "Mode:        training", f"Batch size:  {truth.local * truth.gpus} global"]
    lines += [
        f"             {truth.local} per device",
        f"Devices:     {devices}",
        "Variables:   replicated",
        "==========",
    ]
    rate = truth.local * truth.gpus / truth.step_s
    lines += [
        f"{10 * step}\timages/sec: {truth.figure(rate)} +/- 0.0 (jitter = 0.0)\t7.8" for step in range(1, truth.steps)
    ]
    lines += ["-" * 64, f"total images/sec: {truth.figure(rate)}", "-" * 64]
    return "\n".join(lines) + "\n"


def dllogger(truth: Truth) -> str:
    about = {
        "world_size": truth.gpus,
        "local_batch_size": truth.local,
        "gradient_accumulation_steps": truth.accumulation,
    }
    lines, at = [], 1_600_000_000.0
    entries: list[tuple[object, dict[str, object]]] = [("PARAMETER", {**about, "global_batch_size": truth.batch})]
    for step in range(truth.steps):
        entries.append(([0, step], {"train.total_ips": round(truth.batch / truth.took(step), truth.digits)}))
    for number, (step_, data) in enumerate(entries):
        at += truth.took(number - 1) if number else 0.0
        lines.append("DLLL " + json.dumps({"timestamp": str(at), "type": "LOG", "step": step_, "data": data}))
    return "\n".join(lines) + "\n"


def mxnet(truth: Truth) -> str:
    batch, listed = truth.local * truth.gpus, ",".join(map(str, range(truth.gpus)))
    lines = [f"INFO:root:start with arguments Namespace(batch_size={batch}, gpus='{listed}', kv_store='device')"]
    for step in range(truth.steps):
        speed = truth.figure(batch / truth.took(step))
        lines.append(f"INFO:root:Epoch[0] Batch [{20 * step + 20}]\tSpeed: {speed} samples/sec\taccuracy=0.1")
    return "\n".join(lines) + "\n"


def keras(truth: Truth) -> str:
    lines, steps = [f"Number of devices: {truth.gpus}", f"global batch size: {truth.batch}"], 100
    for epoch in range(truth.steps):
        lines += [f"Epoch {epoch + 1}/{truth.steps}"]
        lines += [
            f"{steps}/{steps} - {steps * (truth.took(epoch) if epoch == 0 else truth.step_s):.0f}s - loss: 0.5 - accuracy: 0.5"
        ]
    return "\n".join(lines) + "\n"


def mlperf(truth: Truth, *, rate: str = "total", samples: str = "samples", mark: str = "epochs") -> str:
    """`rate` may be one GPU's or absent, `samples` may be steps or a plan, `mark` may count samples."""
    lines, at, steps = [], 1_600_000_000.0, 100
    each = steps * truth.batch

    def event(key: str, value: object = None, **about: object) -> None:
        entry = {"namespace": "", "time_ms": round(at * 1000), "key": key, "value": value, "metadata": about}
        lines.append(":::MLLOG " + json.dumps(entry))

    event("submission_benchmark", "made_up")
    event("global_batch_size", truth.batch)
    event("gradient_accumulation_steps", truth.accumulation)
    event("local_batch_size", truth.local)
    planned = {"samples": each, "steps": steps, "plan": 3 * truth.steps * each}[samples]
    event("train_samples", planned)
    event("run_start")
    if mark == "samples":
        event("epoch_start", epoch_num=0)
    for epoch in range(truth.steps):
        if mark == "epochs":
            event("epoch_start", epoch_num=epoch)
        at += steps * truth.took(epoch)
        done = epoch if mark == "epochs" else (epoch + 1) * each
        if rate != "absent":
            total = truth.batch / truth.took(epoch)
            event("tracked_stats", {"throughput": total / truth.gpus if rate == "one" else total}, step=done)
        if mark == "epochs":
            event("epoch_stop", epoch_num=epoch)
        event("eval_start", epoch_num=done)
        at += 0.5 * truth.step_s * steps
        event("eval_stop", epoch_num=done)
        event("eval_accuracy", 0.1, epoch_num=done)
    if mark == "samples":
        event("epoch_stop", epoch_num=truth.steps * each)
    event("run_stop", status="success")
    return "\n".join(lines) + "\n"


# Of each format: how its log is made, whether gradients are accumulated in it, whether it may print whole numbers only.
FORMATS: dict[str, tuple[Callable[[Truth], str], bool]] = {
    "horovod": (horovod, False),
    "tf_cnn_benchmarks": (tf_cnn, False),
    "dllogger": (dllogger, True),
    "mxnet": (mxnet, False),
    "keras": (keras, True),
    "mlperf": (mlperf, True),
    "mlperf: one GPU's rate, steps": (lambda truth: mlperf(truth, rate="one", samples="steps"), True),
    "mlperf: no rate": (lambda truth: mlperf(truth, rate="absent"), True),
    "mlperf: a plan, counted samples": (lambda truth: mlperf(truth, samples="plan", mark="samples"), True),
    "mlperf: a plan, no rate": (lambda truth: mlperf(truth, rate="absent", samples="plan", mark="samples"), True),
}
