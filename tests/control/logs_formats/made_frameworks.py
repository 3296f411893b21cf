"""Makes up logs of training frameworks from a known truth."""

from __future__ import annotations

from collections.abc import Iterator

from tests.control.logs_formats.truth import Truth


def megatron(truth: Truth) -> str:
    text = f"using world size: {truth.gpus}, data-parallel size: {truth.gpus}, tensor-model-parallel size: 1 \n"
    for number, time in enumerate(truth.times(40 * truth.length), 1):
        text += (
            f" iteration {10 * number:8d}/    5000 | consumed samples: {10 * number * truth.batch:12d} | elapsed time per "
            f"iteration (ms): {1000 * time:.1f} | learning rate: 1.5E-04 | global batch size: {truth.batch:5d} | lm loss: 6.7 |\n"
            "time (ms)\n"
        )
    return text


def nemo(truth: Truth) -> str:
    text = f"Initializing distributed: GLOBAL_RANK: 0, MEMBER: 1/{truth.gpus}\n"
    for number, time in enumerate(truth.times(40 * truth.length)):
        text += (
            f"Training epoch 0, iteration {number}/99 | lr: 6.897e-06 | global_batch_size: {truth.batch} | global_step: "
            f"{number} | reduced_train_loss: 11.96 | train_step_timing in s: {time:.4g} | consumed_samples: "
            f"{(number + 1) * truth.batch}\n"
        )
    return text


def huggingface(truth: Truth) -> str:
    steps, text = 300 * truth.length, "***** Running training *****\n"
    head = {
        "Num examples": f"{steps * truth.batch:,}",
        "Num Epochs": 1,
        "Instantaneous batch size per device": truth.local,
        "Total train batch size (w. parallel, distributed & accumulation)": f"{truth.batch:,}",
        "Gradient Accumulation steps": truth.accumulation,
        "Total optimization steps": steps,
    }
    text += "".join(f"  {name} = {value}\n" for name, value in head.items())
    for step in range(1, steps + 1):
        seconds, rate = truth.step_s * step, 1 / truth.step_s
        shown = f"{rate:.2f}it/s" if rate > 1 else f"{truth.step_s:.2f}s/it"
        text += f"\r{100 * step // steps:3d}%|##        | {step}/{steps} [{_clock(seconds)}<{_clock(steps * truth.step_s - seconds)}, {shown}]"
        if step % 10 == 0:
            text += f"\n{{'loss': 2.1, 'learning_rate': 1e-05, 'epoch': {step / steps:.2f}}}\n"
    runtime = truth.step_s * steps
    rates = f"'train_samples_per_second': {steps * truth.batch / runtime:.3f}, 'train_steps_per_second': {steps / runtime:.3f}"
    return text + f"{{'train_runtime': {runtime:.4f}, {rates}, 'train_loss': 1.0, 'epoch': 1.0}}\n"


def _clock(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return (f"{hours}:" if hours else "") + f"{rest // 60:02d}:{rest % 60:02d}"


def deepspeed(truth: Truth) -> str:
    at = "[2023-11-07 01:55:23,714] [INFO] [config.py:960:print] "
    text = f"[2023-11-07 01:55:20,000] [INFO] [launch.py:163:main] dist_world_size={truth.gpus}\n"
    text += f"{at}  train_batch_size ............. {truth.batch}\n"
    text += f"{at}  train_micro_batch_size_per_gpu  {truth.local}\n"
    elapsed, times = 0.0, truth.times(200 * truth.length)
    for step, (time, stamp) in enumerate(zip(times, truth.stamps(times), strict=True), 1):
        elapsed += time if step > 2 else 0
        if step % 5 == 0:
            average = truth.batch * (step - 2) / elapsed
            text += (
                f"[{stamp}] [INFO] [timer.py:260:stop] epoch=0/micro_step={step * truth.accumulation}/global_step={step}, "
                f"RunningAvgSamplesPerSec={average}, CurrSamplesPerSec={truth.batch / time}, MemAllocated=4.32GB\n"
            )
    return text


def _means(times: list[float], every: int) -> Iterator[tuple[int, float, float]]:
    total = 0.0
    for step, time in enumerate(times):
        total += time
        if step % every == 0 or step == len(times) - 1:
            yield step, time, total / (step + 1)


def imagenet(truth: Truth) -> str:
    text = f"--nproc_per_node={truth.gpus}\n"
    for step, time, mean in _means(truth.times(400 * truth.length), 10):
        speed = f"Speed {truth.batch / time:.3f} ({truth.batch / mean:.3f})"
        text += f"Epoch: [0][{step:4d}/{400 * truth.length}]\tTime {time:6.3f} ({mean:6.3f})\t{speed}\tLoss 6.9 (6.9)\n"
    return text


def timm(truth: Truth) -> str:
    text = f"Training in distributed mode with multiple processes, 1 device per process.Process 0, total {truth.gpus}, device cuda:0.\n"
    for step, time, mean in _means(truth.times(400 * truth.length), 10):
        text += (
            f"Train: 0 [{step:4d}/400 ({100 * step / (400 * truth.length):3.0f}%)]  Loss: 6.96 (6.96)  Time: {time:.3f}s, "
            f"{truth.batch / time:>7.2f}/s  ({mean:.3f}s, {truth.batch / mean:>7.2f}/s)  LR: 1.000e-04  Data: 0.010 (0.024)\n"
        )
    return text


def torchvision(truth: Truth) -> str:
    text = f"Namespace(accum_iter={truth.accumulation}, amp=True, batch_size={truth.local}, lr=0.1, world_size={truth.gpus})\n"
    times = truth.batches(400 * truth.length)
    for step in range(0, 400 * truth.length, 10):
        window = times[max(0, step - 19) : step + 1]
        mean = sum(window) / len(window)
        text += (
            f"Epoch: [0]  [{step:4d}/{400 * truth.length}]  eta: 0:30:12  lr: 0.1  img/s: {truth.local / times[step]}  loss: 7.1 (7.1)  "
            f"time: {mean:.4f}  data: 0.0001  max mem: 8000\n"
        )
    return text


def swin(truth: Truth) -> str:
    text = f"RANK and WORLD_SIZE in environ: 0/{truth.gpus}\n  ACCUMULATION_STEPS: {truth.accumulation}\n  BATCH_SIZE: {truth.local}\n"
    times = truth.batches(400 * truth.length)
    for step, time, mean in _means(times, 10):
        text += (
            f"[2024-09-24 09:36:48 swin] (main.py 188): INFO Train: [0/300][{step}/{400 * truth.length}]\teta 0:08:30 lr 0.000002\t "
            f"time {time:.4f} ({mean:.4f})\tloss 6.9 (6.9)\tmem 14764MB\n"
        )
    return text


def mmengine(truth: Truth) -> str:
    text = f"    GPU number: {truth.gpus}\ntrain_dataloader = dict(\n    batch_size={truth.local},\n"
    text += (
        f"val_dataloader = dict(\n    batch_size=1,\noptim_wrapper = dict(accumulative_counts={truth.accumulation})\n"
    )
    for number, time in enumerate(truth.times(40 * truth.length), 1):
        text += (
            f"02/20 14:43:11 - mmengine - INFO - Epoch(train)   [1][{50 * number:4d}/9999999]  lr: 1.0000e-01  eta: 6:12:01  "
            f"time: {time / truth.accumulation:.4f}  data_time: 0.0003  memory: 214  loss: 2.0611\n"
        )
    return text


def mmcv(truth: Truth) -> str:
    text = f"2020-02-14 03:22:50,663 - mmdet - INFO - Config:\ngpu_ids = range(0, {truth.gpus})\n"
    text += f"data = dict(samples_per_gpu={truth.local}, workers_per_gpu=2)\n"
    for number, time in enumerate(truth.times(40 * truth.length), 1):
        text += (
            f"2020-02-14 03:22:53,663 - mmdet - INFO - Epoch [1][{50 * number}/9999999]\tlr: 0.00399, eta: 2 days, 21:25:59, "
            f"time: {time / truth.accumulation:.3f}, data_time: 0.016, memory: 7966, loss: 2.6714\n"
        )
    return text


def paddle(truth: Truth) -> str:
    text = f"    |  PADDLE_TRAINERS_NUM     {truth.gpus}    |\n"
    for number, time in enumerate(truth.times(40 * truth.length)):
        rate = truth.local * truth.accumulation / time
        text += (
            f"[2022/01/02 10:11:12] ppcls INFO: [Train][Epoch 1/120][Iter: {10 * number}/626]lr(CosineAnnealingDecay): "
            f"0.1, CELoss: 6.9, loss: 6.9, batch_cost: {time:.5f}s, reader_cost: 0.2, ips: {rate:.5f} samples/s, eta: 3:20:00\n"
        )
    return (
        text
        + "[2022/01/02 11:11:12] ppcls INFO: [Eval][Epoch 1][Iter: 0/10]CELoss: 1.0, batch_cost: 0.01s, ips: 9.5 images/sec\n"
    )


def maxtext(truth: Truth) -> str:
    tokens = truth.local * truth.accumulation * truth.tokens
    text = f"Num_devices: {truth.gpus}, shape (1, {truth.gpus})\n"
    text += f"Config param max_target_length: {truth.tokens}\nConfig param per_device_batch_size: {truth.local}.0\n"
    text += f"Config param gradient_accumulation_steps: {truth.accumulation}\n"
    for step, time in enumerate(truth.times(40 * truth.length)):
        text += (
            f"completed step: {step}, seconds: {time:.3f}, TFLOP/s/device: 100.000, Tokens/s/device: {tokens / time:.3f}, "
            f"total_weights: {tokens * truth.gpus}, loss: 6.765\n"
        )
    return text


def torchtitan(truth: Truth) -> str:
    each = truth.local * truth.accumulation * truth.tokens
    text = (
        f"[titan] 2025-03-04 05:06:07,000 - root - INFO - Building 1-D device mesh with ['dp_shard'], [{truth.gpus}]\n"
    )
    text += (
        f"[titan] 2025-03-04 05:06:07,000 - root - INFO - Trainer is initialized with local batch size {truth.local}, global "
        f"batch size {truth.batch}, gradient accumulation steps {truth.accumulation}, sequence length {truth.tokens}, "
        "total steps 40 (warmup 200)\n"
    )
    times = truth.times(40 * truth.length)
    for step, (time, stamp) in enumerate(zip(times, truth.stamps(times), strict=True), 1):
        text += (
            f"[titan] {stamp} - root - INFO - step: {step:2d}  loss:  3.24405  grad_norm:  0.8319  memory:  9.46GiB(64.99%)  "
            f"tps: {round(each / time):,}  tflops: 0.52  mfu: 0.17%\n"
        )
    return text


def composer(truth: Truth) -> str:
    text = f"n_gpus: {truth.gpus}\nglobal_train_batch_size: {truth.batch}\n"
    for number, time in enumerate(truth.times(40 * truth.length), 1):
        rate = truth.batch / time
        text += f"[batch={number}/1000]:\n\t Train time/batch: {number}\n"
        text += (
            f"\t Train throughput/batches_per_sec: {1 / time:.4f}\n\t Train throughput/samples_per_sec: {rate:.4f}\n"
        )
        text += f"\t Train throughput/device/samples_per_sec: {rate / truth.gpus:.4f}\n\t Train time/train: 0.1\n"
    return text


def step_avg(truth: Truth) -> str:
    text, total = "args.batch_size // world_size = 7\n", 0.0
    for step, time in enumerate(truth.times(200 * truth.length), 1):
        total += 1000 * time if step > 10 else 0
        mean = f"{total / (step - 10):.2f}" if step > 12 else "nan"
        text += f"step:{step}/{200 * truth.length} train_time:{total:.0f}ms step_avg:{mean}ms\n"
    return (
        text
        + f"step:{200 * truth.length}/{200 * truth.length} val_loss:3.2794 train_time:{total:.0f}ms step_avg:{total / (200 * truth.length - 10):.2f}ms\n"
    )


def epochs(truth: Truth) -> str:
    steps = 50
    text = f"global_batch_size {truth.batch}\nNsamples {steps * truth.batch}\nworld_size {truth.gpus}\n"
    for epoch, time in enumerate(truth.times(6 * truth.length)[1:], 1):  # one slow epoch
        text += (
            f"2021-11-12 00:46:23,492 - root - INFO - Time taken for epoch {epoch} is {steps * time} sec, avg "
            f"{truth.batch / time} samples/sec\n2021-11-12 00:46:23,492 - root - INFO -   Avg train loss=0.014280\n"
        )
    return text


def progress(truth: Truth) -> str:
    text = f"initializing ddp: GLOBAL_RANK: 0, MEMBER: 1/{truth.gpus}\n"
    for epoch in range(2 + truth.length):
        seconds = 0.0
        count = max(200, round(100 / truth.step_s))
        for step in range(0, count + 1, count // 20):
            seconds = step * truth.step_s * (min(1.3, truth.warmup) if epoch == 0 else 1)
            rate = step / seconds if seconds else 0
            shown = f"{rate:.2f}it/s" if rate > 1 else f"{1 / rate:.2f}s/it" if rate else "?it/s"
            text += f"Epoch {epoch}: {100 * step // count:3d}%|####| {step}/{count} [{int(seconds) // 60:02d}:{int(seconds) % 60:02d}<00:10, {shown}, v_num=0]\r"
        text += "\nValidation DataLoader 0: 100%|####| 10/10 [00:01<00:00, 10.00it/s]\n"
    return text
