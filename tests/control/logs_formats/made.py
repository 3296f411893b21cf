"""The formats of which logs are made up from a known truth: `MADE` has each with what its log does not say."""

from __future__ import annotations

import functools

from tests.control.logs_formats import made_benchmarks, made_frameworks
from tests.control.logs_formats.truth import Made

_mlperf = functools.partial(functools.partial, made_benchmarks.mlperf)

MADE: dict[str, Made] = {
    "horovod": Made(made_benchmarks.horovod, "horovod", accumulates=False),
    "tf_cnn_benchmarks": Made(made_benchmarks.tf_cnn, "tf_cnn_benchmarks", accumulates=False),
    "dllogger": Made(made_benchmarks.dllogger, "dllogger"),
    "mxnet": Made(made_benchmarks.mxnet, "mxnet", accumulates=False),
    "keras": Made(made_benchmarks.keras, "keras"),
    "mlperf": Made(made_benchmarks.mlperf, "mlperf"),
    "mlperf: one GPU's rate, steps": Made(_mlperf(rate="one", samples="steps"), "mlperf"),
    "mlperf: no rate": Made(_mlperf(rate="absent"), "mlperf"),
    "mlperf: a plan, counted samples": Made(_mlperf(samples="plan", mark="samples"), "mlperf"),
    "mlperf: a plan, no rate": Made(_mlperf(rate="absent", samples="plan", mark="samples"), "mlperf"),
    "megatron": Made(made_frameworks.megatron, "megatron"),
    "nemo": Made(made_frameworks.nemo, "nemo"),
    "huggingface": Made(made_frameworks.huggingface, "huggingface"),
    "deepspeed": Made(made_frameworks.deepspeed, "deepspeed"),
    "imagenet": Made(made_frameworks.imagenet, "imagenet"),
    "timm": Made(made_frameworks.timm, "timm"),
    "torchvision": Made(made_frameworks.torchvision, "torchvision"),
    "swin": Made(made_frameworks.swin, "swin"),
    "mmengine": Made(made_frameworks.mmengine, "mmengine"),
    "mmcv": Made(made_frameworks.mmcv, "mmengine", accumulates=False),
    "paddle": Made(made_frameworks.paddle, "paddle"),
    "maxtext": Made(made_frameworks.maxtext, "maxtext", unit="tokens"),
    "torchtitan": Made(made_frameworks.torchtitan, "torchtitan", unit="tokens"),
    "composer": Made(made_frameworks.composer, "composer"),
    "step_avg": Made(made_frameworks.step_avg, "step_avg", rate=False),
    "epochs": Made(made_frameworks.epochs, "epochs"),
    "progress": Made(made_frameworks.progress, "progress", rate=False),
}
