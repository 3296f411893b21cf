"""Makes up logs of benchmarks, MLPerf, DLLogger, MXNet and Keras from a known truth."""

from __future__ import annotations

import json

from tests.control.logs_formats.truth import Truth

# Lines of figures in the shortest log.
LINES = 30


def horovod(truth: Truth) -> str:
    text = f"Model: ResNet50\nBatch size: {truth.local}\nNumber of GPUs: {truth.gpus}\n"
    # Its warm-up is not printed.
    rates = [truth.local / time for time in truth.times(2 + LINES * truth.length)[2:]]
    text += "".join(f"Iter #{step}: {rate:.1f} img/sec per GPU\n" for step, rate in enumerate(rates))
    mean = sum(rates) / len(rates)
    return text + (
        f"Img/sec per GPU: {mean:.1f} +-0.0\nTotal img/sec on {truth.gpus} GPU(s): {mean * truth.gpus:.1f} +-0.0\n"
    )


def tf_cnn(truth: Truth) -> str:
    text = (
        f"Model:       resnet50\nMode:        training\nBatch size:  {truth.local * truth.gpus} global\n"
        f"             {truth.local} per device\nDevices:     {[f'/gpu:{gpu}' for gpu in range(truth.gpus)]}\n"
        "Variables:   replicated\n==========\n"
    )
    rate = truth.local * truth.gpus / truth.step_s
    for step in range(1, LINES * truth.length):
        text += f"{10 * step}\timages/sec: {rate:.1f} +/- 0.0 (jitter = 0.0)\t7.8\n"
    return text + f"{'-' * 64}\ntotal images/sec: {rate:.2f}\n{'-' * 64}\n"


def dllogger(truth: Truth) -> str:
    about = {
        "world_size": truth.gpus,
        "local_batch_size": truth.local,
        "gradient_accumulation_steps": truth.accumulation,
        "global_batch_size": truth.batch,
    }
    at, times = 1_600_000_000.0, truth.times(LINES * truth.length)
    entries: list[tuple[float, object, dict[str, object]]] = [(at, "PARAMETER", about)]
    for step, time in enumerate(times):
        at += time
        entries.append((at, [0, step], {"train.total_ips": round(truth.batch / time, 2)}))
    return "".join(
        "DLLL " + json.dumps({"timestamp": str(at), "type": "LOG", "step": step, "data": data}) + "\n"
        for at, step, data in entries
    )


def mxnet(truth: Truth) -> str:
    batch, listed = truth.local * truth.gpus, ",".join(map(str, range(truth.gpus)))
    text = f"INFO:root:start with arguments Namespace(batch_size={batch}, gpus='{listed}', kv_store='device')\n"
    for step, time in enumerate(truth.times(LINES * truth.length)):
        text += f"INFO:root:Epoch[0] Batch [{20 * step + 20}]\tSpeed: {batch / time:.2f} samples/sec\taccuracy=0.1\n"
    return text


def keras(truth: Truth) -> str:
    steps, times = 100, truth.times(LINES * truth.length)[1:]  # one slow epoch
    text = f"Number of devices: {truth.gpus}\nglobal batch size: {truth.batch}\n"
    for epoch, time in enumerate(times, 1):
        text += f"Epoch {epoch}/{len(times)}\n{steps}/{steps} - {steps * time:.0f}s - loss: 0.5 - accuracy: 0.5\n"
    return text


def mlperf(truth: Truth, *, rate: str = "total", samples: str = "samples", mark: str = "epochs") -> str:
    """`rate` may be one GPU's or absent, `samples` may be steps or a plan, `mark` may count samples."""
    lines, at, steps, epochs = [], 1_600_000_000.0, 100, LINES * truth.length
    each = steps * truth.batch

    def event(key: str, value: object = None, **about: object) -> None:
        entry = {"namespace": "", "time_ms": round(at * 1000), "key": key, "value": value, "metadata": about}
        lines.append(":::MLLOG " + json.dumps(entry))

    event("submission_benchmark", "made_up")
    event("global_batch_size", truth.batch)
    event("gradient_accumulation_steps", truth.accumulation)
    event("local_batch_size", truth.local)
    event("train_samples", {"samples": each, "steps": steps, "plan": 3 * epochs * each}[samples])
    event("run_start")
    if mark == "samples":
        event("epoch_start", epoch_num=0)
    for epoch, time in enumerate(truth.times(2 + epochs)[2:]):
        if mark == "epochs":
            event("epoch_start", epoch_num=epoch)
        at += steps * time + (2 * (truth.warmup - 1) * truth.step_s if epoch == 0 else 0)  # two slow steps
        done = epoch if mark == "epochs" else (epoch + 1) * each
        if rate != "absent":
            total = truth.batch / time
            event("tracked_stats", {"throughput": total / truth.gpus if rate == "one" else total}, step=done)
        if mark == "epochs":
            event("epoch_stop", epoch_num=epoch)
        event("eval_start", epoch_num=done)
        at += 0.5 * truth.step_s * steps
        event("eval_stop", epoch_num=done)
        event("eval_accuracy", 0.1, epoch_num=done)
    if mark == "samples":
        event("epoch_stop", epoch_num=epochs * each)
    event("run_stop", status="success")
    return "\n".join(lines) + "\n"
