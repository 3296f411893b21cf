"""The columns of runs.csv and scaling-report.csv with their units, and the flags. Other tools read these names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

FLAG_SHARED = "shared_nodes"
FLAG_OVERSUBSCRIBED = "oversubscribed"
FLAG_SHORT_WARMUP = "short_warmup"
FLAG_UNSETTLED = "warmup_unsettled"
FLAG_IMPRECISE = "precision_not_reached"
FLAG_THROTTLED = "throttled"
FLAG_POWER_CAPPED = "power_capped"
FLAG_ECC = "ecc_errors"
FLAG_FOREIGN = "foreign_processes"
FLAG_UNFINISHED = "unfinished"
FLAG_VALIDATION = "validation_in_epoch"
FLAG_DIRTY = "dirty_code"
FLAG_SOFTWARE = "software_differs"
FLAG_HARDWARE = "gpus_differ"
FLAG_FEWER = "fewer_repeats"
FLAG_SAME_NODES = "same_nodes"
FLAG_CONFOUNDED = "time_size_confounded"
FLAG_SLOW_NODE = "slow_node"
FLAG_NO_BASELINE = "no_baseline"

# What each flag says of a row; the first ones of a run, too.
FLAGS: Mapping[str, str] = {
    FLAG_SHARED: "other jobs may have run beside",
    FLAG_OVERSUBSCRIBED: "a node has fewer CPUs than its ranks were to have",
    FLAG_SHORT_WARMUP: "fewer steps of warm-up than the experiment asks for",
    FLAG_UNSETTLED: "a benchmark whose step times did not settle",
    FLAG_IMPRECISE: "a benchmark that ended at its limit of steps",
    FLAG_THROTTLED: "a GPU was slowed by heat or its power supply",
    FLAG_POWER_CAPPED: "a GPU stood at its power cap most of the time",
    FLAG_ECC: "memory errors that ECC could not mend",
    FLAG_FOREIGN: "another job used a GPU",
    FLAG_UNFINISHED: "a log that ends before its run did: the windows that it has are taken",
    FLAG_VALIDATION: "a log that times whole epochs only, in which the validation is",
    FLAG_DIRTY: "the code had changes that no commit holds",
    FLAG_SOFTWARE: "the runs that are compared, or the nodes of one, did not have the same software",
    FLAG_HARDWARE: "the runs that are compared, or the nodes of one, did not have the same GPUs",
    FLAG_FEWER: "fewer runs with a measurement than were asked for",
    FLAG_SAME_NODES: "runs of the row shared a node: they are not independent, and the interval holds less than "
    "what differs from node to node",
    FLAG_CONFOUNDED: "runs of one size began before those of another, so that a drift in time looks like scaling",
    FLAG_SLOW_NODE: "slowest_node is slower than the others by more than 2 % in two runs or more",
    FLAG_NO_BASELINE: "the size that was asked for as the base has no measurement here",
}

# Columns of scaling-report.csv in their order, and what each holds; after `flags` comes one param.KEY per swept key.
REPORT_COLUMNS: Mapping[str, str] = {
    "experiment": "name of the experiment",
    "params": "swept keys of this row, k=v;k=v, sorted; empty where none is swept",
    "gpus": "GPUs (ranks) over all nodes",
    "nodes": "nodes",
    "gpus_per_node": "GPUs (ranks) on each node",
    "local_batch": "images per GPU and step",
    "global_batch": "images over all GPUs and step",
    "runs": "runs with a measurement",
    "failed_runs": "runs without one",
    "images_per_sec": "images/s over all GPUs in the steady state, mean over runs",
    "images_per_sec_low": "images/s, lower end of Student's 95 % interval over runs; empty below two",
    "images_per_sec_high": "images/s, its upper end",
    "images_per_sec_per_gpu": "images/s and GPU",
    "speedup": "images_per_sec over that of the base: the smallest measured size of the same params and kind of "
    "scaling, or the one asked for",
    "efficiency": "speedup x base GPUs / gpus, a fraction",
    "step_ms": "ms of one training step in the steady state",
    "input_wait_ms": "ms of a step spent waiting for input; empty where not measured",
    "allreduce_ms": "ms of a step spent in exposed all-reduce; empty where not measured",
    "epoch_s": "s of one pass over the training images",
    "time_to_train_s": "s of the whole training, start-up apart",
    "time_to_train_kind": "measured_to_target, measured_fixed_epochs or derived_fixed_epochs",
    "startup_s": "s from the job's start to the end of the first training step",
    "eval_s": "s of one evaluation",
    "mean_auc": "area under the ROC curve, mean over the findings that have one, of auc_split",
    "predicted_images_per_sec": "images/s by the fitted model; empty where none is fitted",
    "job_ids": "scheduler's ids of the runs, space-separated",
    "nodelist": "nodes that the runs used, expanded, space-separated",
    "baseline_gpus": "GPUs of the base of speedup and efficiency",
    "scaling": "weak (local_batch fixed), strong (global_batch fixed) or mixed (neither: compared with nothing); "
    "empty where one size, or no batch, does not tell",
    "speedup_low": "lower end of Welch's 95 % interval of speedup, on log images/s; empty for the base and below "
    "two runs of the row or the base",
    "speedup_high": "its upper end",
    "efficiency_low": "lower end of the 95 % interval of efficiency, a fraction; empty as speedup_low",
    "efficiency_high": "its upper end",
    "repeats_asked": "runs that the sweep planned; empty where not known",
    "gpu_model": "GPUs of the nodes, by nvidia-smi; empty without",
    "precision": "float32, mixed_float16 or mixed_bfloat16, as the log says",
    "skew_ms": "ms of a step spent waiting for the slowest rank; empty where not measured",
    "other_ms": "ms of a step beside the parts in this table: step_ms - input_wait_ms - allreduce_ms - skew_ms, "
    "hence computing and what nothing explains; empty where none of the parts is measured",
    "queue_s": "s from the submission of the job to its start",
    "auc_split": "split that mean_auc is of",
    "nodes_distinct": "nodes that the runs used, each counted once",
    "flags": "what to know before trusting the row, space-separated, of hpcjobs.base.columns.FLAGS",
    "cv": "coefficient of variation of images/s over runs, a fraction; empty below two",
    "compute_ms": "ms of a step that a typical rank computes: median over steps, ranks and nodes, without input and "
    "all-reduce; empty where not measured",
    "slowest_rank_ms": "ms of such a step of the slowest rank, mean over steps",
    "lost_ms": "ms of a step that the base would not take for as many images per GPU: step_ms x (1 - efficiency). "
    "The five parts below sum to it; a part is empty where it is not measured here and at the base",
    "lost_input_ms": "ms of it: more waiting for input than the base",
    "lost_allreduce_ms": "ms of it: more exposed all-reduce",
    "lost_skew_ms": "ms of it: more waiting of a typical rank for the slowest",
    "lost_compute_ms": "ms of it: a typical rank computes longer",
    "lost_other_ms": "ms of it: what the parts do not explain",
    "lost_pct": "per cent of the step: lost_ms / step_ms, as the next five",
    "lost_input_pct": "per cent of the step",
    "lost_allreduce_pct": "per cent of the step",
    "lost_skew_pct": "per cent of the step",
    "lost_compute_pct": "per cent of the step",
    "lost_other_pct": "per cent of the step",
    "slowest_node": "the node whose ranks compute longest, of runs on two nodes or more that took the step apart",
    "slow_node_ms": "ms by which its ranks compute longer than the other nodes' (medians); within lost_skew_ms",
    "gradient_bytes": "bytes that one step's gradients hand to the all-reduce; empty where the log does not say",
    "software": "versions of what the runs ran on, NAME VERSION separated by commas",
}

# Columns of the table alone, which a single run has not.
_OF_ROWS = {
    *("runs", "failed_runs", "speedup", "efficiency", "predicted_images_per_sec"),
    *("baseline_gpus", "scaling", "nodes_distinct", "cv"),
    *(name for name in REPORT_COLUMNS if name.endswith(("_low", "_high")) or name.startswith("lost_")),
}

# Columns of runs.csv: who the run is, the same per-run columns, and more of the run alone.
RUN_COLUMNS: Mapping[str, str] = {
    "run": "name of the run",
    "attempt": "its newest attempt with a measurement, or its last one",
    "state": "planned, submitting, pending, running, done, failed, cancelled or lost",
    "failure": "why it failed: CLASS: the line that says so; or what is wrong with its files",
    "source": "the log, relative to the sweep's folder",
    **{name: meaning for name, meaning in REPORT_COLUMNS.items() if name not in _OF_ROWS},
    "start": "when the attempt's job script began, UTC, ISO 8601",
    "windows": "timed windows of the steady state: all after the warm-up, outliers too",
    "outlier_windows": "of these: further than 3 scaled median absolute deviations (and 1 %) from the median",
}


def with_params(columns: Iterable[str], params: Iterable[str]) -> list[str]:
    """The columns of a table, with one param.KEY after `flags` for each swept key of any row's `params`."""
    keys = dict.fromkeys(f"param.{key}" for text in params for key in swept(text))
    found: list[str] = []
    for column in columns:
        found += [column, *sorted(keys)] if column == "flags" else [column]
    return found


def swept(params: str) -> dict[str, str]:
    """The keys and values of `k=v;k=v`. A value may hold a semicolon, and then no equals sign."""
    found: dict[str, str] = {}
    key = ""
    for part in params.split(";") if params else []:
        name, equals, value = part.partition("=")
        if equals:
            key = name
            found[key] = value
        elif key:
            found[key] += f";{part}"
    return found
