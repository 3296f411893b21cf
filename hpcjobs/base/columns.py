"""The columns of runs.csv and scaling-report.csv with their units, and the flags. Other tools read these names."""

from __future__ import annotations

from collections.abc import Mapping

from hpcjobs.base.metrics import Run, ScalingRow
from hpcjobs.base.tabular import metrics_of

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

# Columns of scaling-report.csv and of runs.csv in their order, with units and meanings. After `flags` comes one
# param.KEY per swept key.
REPORT_COLUMNS: Mapping[str, str] = {name: about.described for name, about in metrics_of(ScalingRow).items()}
RUN_COLUMNS: Mapping[str, str] = {name: about.described for name, about in metrics_of(Run).items()}
