"""The columns of runs.csv and scaling-report.csv with their units, and the flags. Other tools read these names."""

from __future__ import annotations

from collections.abc import Mapping

from hpcjobs.base.metrics import Run, ScalingRow
from hpcjobs.base.run_figures import FLAG_LOADER as FLAG_LOADER
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
FLAG_RATE_OF_RANK = "rate_of_rank"
FLAG_RATES_DIFFER = "rates_differ"
FLAG_VAGUE = "parts_not_told_apart"
FLAG_DISTURBED = "blocks_disturbed"
FLAG_UNCLAIMED = "allreduce_not_claimed"
FLAG_STARVED = "ranks_wait_for_cpus"
FLAG_ALONE = "ranks_alone"
FLAG_NO_PARTS = "ended_before_parts"
FLAG_BASE_DISTURBED = "base_disturbed"
FLAG_SUSPENDED = "suspended"
FLAG_CLOCKS = "clocks_differ"

# What each flag says of a row. Some are raised for a single run and stand in runs.csv too.
FLAGS: Mapping[str, str] = {
    FLAG_SHARED: "the nodes were shared, so other jobs may have run on them",
    FLAG_OVERSUBSCRIBED: "a node has fewer CPUs than the profile gives to its ranks",
    FLAG_SUSPENDED: "the scheduler suspended the job of a run for a while: its times include that, and its rate does "
    "where a timed window was under way",
    FLAG_CLOCKS: "the clocks of the nodes, of the file server and of the submitting host differ, as the run's files "
    "show. What compares their times is left out: queue_s, startup_s, and energy and states of the GPUs of such nodes",
    FLAG_SHORT_WARMUP: "the warm-up had fewer steps than the experiment asks for",
    FLAG_UNSETTLED: "the step times of a benchmark did not settle during its warm-up",
    FLAG_IMPRECISE: "a benchmark reached its limit of steps, or the script's end, before the precision that was asked "
    "for",
    FLAG_NO_PARTS: "the script of a benchmark ended before its control blocks did, so the parts of its steps are not "
    "told: let it train longer",
    FLAG_VAGUE: "the passes through the control blocks differ so much that a part of the step is not told apart: half "
    "of its 95 % interval is more than 5 % of the step, and more than half of the part (or the ranks wait for CPUs, as "
    "ranks_wait_for_cpus says)",
    FLAG_UNCLAIMED: "all-reduce, skew and computing are not told, because no block ran without the all-reduce: the "
    "script communicates by itself in each step, or nothing switches it off. Let it communicate less often, "
    "or give meter.steps model= or sync=",
    FLAG_STARVED: "the ranks wait for a CPU more than a quarter of the time, so a block without the all-reduce is not "
    "like the others: all-reduce, skew and computing are not told. Put fewer ranks or threads on a node",
    FLAG_DISTURBED: "another load disturbed control blocks, as the CPUs or clocks of their nodes show; their passes "
    "are left out if enough others remain",
    FLAG_BASE_DISTURBED: "the base of this row has the flag blocks_disturbed or ranks_wait_for_cpus: its rate may be "
    "too low, and speed-up and efficiency of this row too high",
    FLAG_LOADER: "input_wait_ms is the time in the loader alone, of the slowest rank, as no control blocks were run: "
    "where the device has work left meanwhile, a step loses less",
    FLAG_ALONE: "the ranks of a PyTorch training exchanged nothing, so each seems to have trained alone: their rates "
    "are not that of one training",
    FLAG_THROTTLED: "a GPU was slowed by heat or its power supply",
    FLAG_POWER_CAPPED: "a GPU ran at its power cap most of the time",
    FLAG_ECC: "a GPU had memory errors that ECC cannot correct",
    FLAG_FOREIGN: "another job used one of the GPUs",
    FLAG_UNFINISHED: "the log ends before the run does: only the windows in it are counted",
    FLAG_VALIDATION: "the log gives only times of whole epochs, which include the validation",
    FLAG_RATE_OF_RANK: "the pattern's figure seems to be the rate of one rank, and `of` is all: several ranks print "
    "figures that differ, or throughput x step_ms x ranks is the batch",
    FLAG_RATES_DIFFER: "the rate that the command itself prints differs from the meter's by more than 25 % of it",
    FLAG_DIRTY: "the code had uncommitted changes",
    FLAG_SOFTWARE: "the software differs between runs that are compared, or between the nodes of a run",
    FLAG_HARDWARE: "the GPUs differ between runs that are compared, or between the nodes of a run",
    FLAG_FEWER: "fewer runs have a measurement than the sweep plans",
    FLAG_SAME_NODES: "runs of the row shared a node: they are not independent, and the interval leaves out a part of "
    "the variation between nodes",
    FLAG_CONFOUNDED: "runs of one size began before those of another, so that a drift in time looks like scaling",
    FLAG_SLOW_NODE: "slowest_node is slower than the others by more than 2 % in two runs or more",
    FLAG_NO_BASELINE: "the base that --baseline names was not measured here",
}

# Columns of scaling-report.csv and of runs.csv in their order, with units and meanings. After `flags` comes one
# param.KEY per swept key.
REPORT_COLUMNS: Mapping[str, str] = {name: about.described for name, about in metrics_of(ScalingRow).items()}
RUN_COLUMNS: Mapping[str, str] = {name: about.described for name, about in metrics_of(Run).items()}
