"""What a log says of a training: columns that a run and a row of the scaling table share, one field each."""

from __future__ import annotations

import dataclasses
from dataclasses import field
from typing import Any

from hpcjobs.base.tabular import Combine, Metric, metric


def _low(name: str) -> dict[str, Metric]:
    return metric(
        f"lower end of the 95 % interval of {name}, over the passes through the control blocks; empty if these are "
        "too few",
        "ms",
        Combine.INTERVAL,
        since="0.2",
    )


_HIGH = metric("upper end of that interval", "ms", Combine.INTERVAL, since="0.2")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figures:
    """What a log says of a training, and its run and its row too. What is not known is None, or empty."""

    epoch_s: float | None = field(default=None, metadata=metric("one pass over the training data", "s", Combine.MEAN))
    time_to_train_s: float | None = field(
        default=None, metadata=metric("the whole training without its start-up", "s", Combine.MEAN)
    )
    time_to_train_kind: str = field(
        default="",
        metadata=metric(
            "how time_to_train_s is known: measured_to_target, measured_fixed_epochs, derived_fixed_epochs "
            "(epochs x epoch_s), or measured_command (the whole command, its start-up included)",
            combine=Combine.WORDS,
        ),
    )
    eval_s: float | None = field(default=None, metadata=metric("one evaluation", "s", Combine.MEAN))
    score: float | None = field(
        default=None,
        metadata=metric(
            "how good the trained model is, as its log says; score_name says what is scored",
            combine=Combine.MEAN,
            heading="{score_name}",
            form=".3f",
        ),
    )
    score_name: str = field(
        default="",
        metadata=metric(
            "what score is, and of which part of the data: accuracy, accuracy (test), loss, ...", combine=Combine.TEXTS
        ),
    )
    input_wait_ms: float | None = field(
        default=None, metadata=metric("part of a step that waits for input", "ms", Combine.MEAN)
    )
    allreduce_ms: float | None = field(
        default=None, metadata=metric("part of a step in all-reduce that no computing hides", "ms", Combine.MEAN)
    )
    skew_ms: float | None = field(
        default=None, metadata=metric("part of a step that waits for the slowest rank", "ms", Combine.MEAN)
    )
    compute_ms: float | None = field(
        default=None,
        metadata=metric(
            "part of a step in which a typical rank computes, without input and all-reduce: median over steps, ranks "
            "and nodes",
            "ms",
            Combine.MEAN,
        ),
    )
    slowest_rank_ms: float | None = field(
        default=None,
        metadata=metric("the same part of a step on the slowest rank, mean over steps", "ms", Combine.MEAN),
    )
    slowest_node: str = field(
        default="",
        metadata=metric(
            "the node whose ranks compute longest; known only of runs on two nodes or more that took the step apart",
            combine=Combine.SLOWEST_NODE,
        ),
    )
    slow_node_ms: float | None = field(
        default=None,
        metadata=metric(
            "time by which the ranks of slowest_node compute longer than those of the other nodes (medians); part of "
            "lost_skew_ms",
            "ms",
            Combine.SLOWEST_NODE,
        ),
    )
    gradient_bytes: float | None = field(
        default=None, metadata=metric("size of one step's gradients, which all-reduce sums", "bytes", Combine.MEAN)
    )
    precision: str = field(
        default="",
        metadata=metric(
            "float32, mixed_float16 or mixed_bfloat16, as the log says it",
            combine=Combine.WORDS,
        ),
    )

    unit: str = field(
        default="",
        metadata=metric(
            "what the batches and throughput count: samples, sequences, tokens, steps, ...; empty if it is not known",
            combine=Combine.SAME,
            since="0.2",
        ),
    )

    input_wait_ms_low: float | None = field(default=None, metadata=_low("input_wait_ms"))
    input_wait_ms_high: float | None = field(default=None, metadata=_HIGH)
    allreduce_ms_low: float | None = field(default=None, metadata=_low("allreduce_ms"))
    allreduce_ms_high: float | None = field(default=None, metadata=_HIGH)
    skew_ms_low: float | None = field(default=None, metadata=_low("skew_ms"))
    skew_ms_high: float | None = field(default=None, metadata=_HIGH)
    compute_ms_low: float | None = field(default=None, metadata=_low("compute_ms"))
    compute_ms_high: float | None = field(default=None, metadata=_HIGH)
    waiting_ms: float | None = field(
        default=None,
        metadata=metric(
            "time by which the slowest rank of a step is later than a typical one, whose computing is compute_ms; "
            "what lost_skew_ms compares (skew_ms is relative to the mean rank)",
            "ms",
            Combine.MEAN,
            since="0.2",
        ),
    )
    waiting_ms_low: float | None = field(default=None, metadata=_low("waiting_ms"))
    waiting_ms_high: float | None = field(default=None, metadata=_HIGH)
    control_passes: int | None = field(
        default=None,
        metadata=metric(
            "passes through the control blocks that the parts of a run come from, without the disturbed ones",
            combine=Combine.LARGEST,
            since="0.2",
        ),
    )

    flops_per_unit: float | None = field(
        default=None,
        metadata=metric(
            "floating-point operations of the model for one unit, forward and backward, without those of recomputation",
            "FLOP",
            Combine.MEAN,
            since="0.2",
        ),
    )
    flops_precision: str = field(
        default="",
        metadata=metric(
            "in what matrix products are computed, as the log or the experiment says it: fp32, tf32, fp16, bf16, fp8",
            combine=Combine.WORDS,
            since="0.2",
        ),
    )

    def figures(self) -> dict[str, Any]:
        """These, by name."""
        return {each.name: getattr(self, each.name) for each in dataclasses.fields(Figures)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurement(Figures):
    """What one run's log says of its training. Fields that Run has too mean the same.

    `first_step_at` is the end of the first training step in seconds since the epoch. What a log does not say is None.
    """

    gpus: int
    throughput: float
    local_batch: int | None = None
    global_batch: int | None = None
    step_ms: float | None = None
    windows: int | None = None
    outlier_windows: int | None = None
    first_step_at: float | None = None
    hosts: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
