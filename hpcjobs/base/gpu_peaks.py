"""The dense peaks of GPUs, by which `mfu` is a fraction: what the vendor states, without structured sparsity.

A GPU or a precision that is not here has no peak: nothing is guessed. Where a datasheet gives only the figure with
sparsity, half of it stands here, as its footnote says. fp32 is without TF32; of AMD's GPUs that of the matrix cores.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple


class Peaks(NamedTuple):
    """Names of a GPU, as nvidia-smi or amdsmi prints them (a pattern for the whole name), TFLOP/s, and their source."""

    names: str
    tflops: Mapping[str, float]
    source: str


def _tensor(fp32: float, tf32: float, half: float, fp8: float | None = None) -> dict[str, float]:
    found = {"fp32": fp32, "tf32": tf32, "fp16": half, "bf16": half}
    return found if fp8 is None else {**found, "fp8": fp8}


_HOPPER = "NVIDIA H100 Tensor Core GPU Architecture (white paper), table 3"
_MI200 = "AMD Instinct MI200 series data sheet; one of the card's two dies, which are GPUs of their own"
# The patterns exclude each other.
TABLE: tuple[Peaks, ...] = (
    Peaks(r"Tesla P100-PCIE-1[26]GB", {"fp32": 9.3, "fp16": 18.7}, "NVIDIA Tesla P100 data sheet"),
    Peaks(r"Tesla P100-SXM2-16GB", {"fp32": 10.6, "fp16": 21.2}, "NVIDIA Tesla P100 data sheet"),
    Peaks(r"Tesla V100-PCIE-(16|32)GB", {"fp32": 14.0, "fp16": 112.0}, "NVIDIA V100 data sheet"),
    Peaks(r"Tesla V100-SXM[23]-(16|32)GB", {"fp32": 15.7, "fp16": 125.0}, "NVIDIA V100 data sheet"),
    Peaks(r"Tesla V100S-PCIE-32GB", {"fp32": 16.4, "fp16": 130.0}, "NVIDIA V100 data sheet"),
    Peaks(r"(Tesla|NVIDIA) T4", {"fp32": 8.1, "fp16": 65.0}, "NVIDIA T4 data sheet"),
    Peaks(
        r"(NVIDIA )?A100-(SXM4-[48]0GB|PCIE-40GB)|NVIDIA A100 80GB PCIe",
        _tensor(19.5, 156.0, 312.0),
        "NVIDIA A100 data sheet",
    ),
    Peaks(r"NVIDIA A30", _tensor(10.3, 82.0, 165.0), "NVIDIA A30 data sheet"),
    Peaks(r"(NVIDIA )?A40", _tensor(37.4, 74.8, 149.7), "NVIDIA A40 data sheet"),
    Peaks(r"NVIDIA A10", _tensor(31.2, 62.5, 125.0), "NVIDIA A10 data sheet"),
    Peaks(r"NVIDIA L4", _tensor(30.3, 60.0, 121.0, 242.5), "NVIDIA L4 data sheet (half of its sparse figures)"),
    Peaks(r"NVIDIA L40S", _tensor(91.6, 183.0, 362.05, 733.0), "NVIDIA L40S data sheet"),
    Peaks(r"NVIDIA H100 80GB HBM3", _tensor(66.9, 494.7, 989.4, 1978.9), _HOPPER),
    Peaks(r"NVIDIA H100 PCIe", _tensor(51.2, 378.0, 756.0, 1513.0), _HOPPER),
    Peaks(
        r"NVIDIA H100 NVL", _tensor(60.0, 417.5, 835.5, 1670.5), "NVIDIA H100 data sheet (half of its sparse figures)"
    ),
    Peaks(r"NVIDIA H200", _tensor(66.9, 494.7, 989.4, 1978.9), "NVIDIA H200 data sheet: the compute of " + _HOPPER),
    Peaks(
        r"NVIDIA H200 NVL", _tensor(60.0, 417.5, 835.5, 1670.5), "NVIDIA H200 data sheet (half of its sparse figures)"
    ),
    Peaks(
        r"NVIDIA GH200 (480GB|144G HBM3e)",
        _tensor(66.9, 494.7, 989.4, 1978.9),
        "NVIDIA GH200 data sheet: the compute of " + _HOPPER,
    ),
    # Its fp32 differs between NVIDIA's own papers (75 and 80).
    Peaks(
        r"NVIDIA B200",
        {"tf32": 1100.0, "fp16": 2250.0, "bf16": 2250.0, "fp8": 4500.0},
        "NVIDIA Blackwell data sheet, HGX B200 (half of its sparse figures)",
    ),
    Peaks(r"AMD Instinct MI210", {"fp32": 45.3, "fp16": 181.0, "bf16": 181.0}, "AMD Instinct MI210 data sheet"),
    Peaks(r"AMD Instinct MI250", {"fp32": 45.25, "fp16": 181.05, "bf16": 181.05}, _MI200),
    Peaks(r"AMD Instinct MI250X", {"fp32": 47.85, "fp16": 191.5, "bf16": 191.5}, _MI200),
    Peaks(r"AMD Instinct MI300A", _tensor(122.6, 490.3, 980.6, 1961.2), "AMD Instinct MI300A data sheet"),
    Peaks(r"AMD Instinct MI300X", _tensor(163.4, 653.7, 1307.4, 2614.9), "AMD Instinct MI300X data sheet"),
)

# A text of a log or an experiment, in small letters, and the precision of the matrix products that it means.
_MEANS: Mapping[str, str] = {
    **{name: name for name in ("fp32", "tf32", "fp16", "bf16", "fp8")},
    "float16": "fp16",
    "mixed_float16": "fp16",
    "fp16_mixed": "fp16",
    "bfloat16": "bf16",
    "mixed_bfloat16": "bf16",
    "bf16_mixed": "bf16",
    "float8": "fp8",
}
# Whether products of float32 are rounded to TF32 is a setting of the framework: on a GPU that has TF32, `float32` alone
# does not say it.
_FLOAT32 = ("float32", "float")


def precision_of(text: str, model: str) -> str:
    """The precision (a key of Peaks.tflops) that a text such as `mixed_float16` means on that GPU; "" if unknown."""
    word = text.strip().lower().replace("-", "_")
    peaks = _peaks(model)
    if word in _FLOAT32:
        return "fp32" if peaks and "tf32" not in peaks.tflops else ""
    found = _MEANS.get(word, "")
    # A GPU without TF32 computes in float32 where TF32 is allowed.
    return "fp32" if found == "tf32" and peaks and "tf32" not in peaks.tflops else found


def peak(model: str, precision: str) -> float | None:
    """FLOP/s of one GPU of that name in that precision; None if either is not in the table."""
    peaks = _peaks(model)
    tflops = peaks.tflops.get(precision) if peaks else None
    return None if tflops is None else tflops * 1e12


def shares_card(model: str) -> bool:
    """Whether two GPUs share a card whose sensors measure the card: the first one shows its power, the other none."""
    return re.fullmatch(r"AMD Instinct MI250X?", model) is not None


def _peaks(model: str) -> Peaks | None:
    return next((each for each in TABLE if re.fullmatch(each.names, model)), None)
