"""A sweep's files become runs: one per planned run, measured or not; and its runs.csv is written."""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hpcjobs.base import contract, sweepdir
from hpcjobs.base.columns import (
    FLAG_CLOCKS,
    FLAG_DIRTY,
    FLAG_HARDWARE,
    FLAG_OVERSUBSCRIBED,
    FLAG_SHARED,
    FLAG_SOFTWARE,
    FLAG_SUSPENDED,
)
from hpcjobs.base.contract import RunConfig, split_batch
from hpcjobs.base.errors import InputError
from hpcjobs.base.files import make_folder, open_plain, read_json, write_atomic
from hpcjobs.base.hostlist import brief, union
from hpcjobs.base.metrics import MEASURED_COMMAND, Run
from hpcjobs.base.records import ExitRecord, RunState
from hpcjobs.base.sizes import Size
from hpcjobs.base.sweepdir import SweepDir
from hpcjobs.base.tabular import to_csv
from hpcjobs.collect import clocks, cpus, nccl_transport, nvml, runs_csv, utilisation
from hpcjobs.collect.attempts import Reading

# The keys of node-HOST.json that make `software`, in this order.
_SOFTWARE = ("python", "tensorflow", "horovod", "mpi", "nccl", "cuda", "cudnn", "driver", "kernel")


# What is wrong with a file may quote the file: so many characters of it are shown.
_LONGEST = 400

# Reads attempts, whatever trainer they are of (`hpcjobs.engine.follow.Readings.attempt`).
Reader = Callable[[RunConfig, Path], Reading]


def collect(
    where: SweepDir,
    planned: Mapping[str, RunConfig],
    states: Mapping[str, tuple[RunState, str]],
    read: Reader,
    check: Callable[[RunConfig], None],
) -> list[Run]:
    """Every run of a sweep, in the order of `states`.

    `planned` is each run as the sweep's plan has it: it stands in for a run.yaml that is damaged. `states` gives each
    run its state and, if it failed, why. The newest attempt that finished counts; a run that has none keeps its row.
    Each log is read once. `check` raises InputError for a damaged run.yaml. Raises InputError if sweep.yaml is damaged,
    or a run.yaml whose run is not planned. A run of which a file cannot be read has no figures, and says why.
    """
    sweep = _Sweep(where, planned, check)
    return [_run_or_why(sweep, name, *states[name], read) for name in states]


class _Sweep:
    """What is known of a sweep before any of its runs is looked at."""

    def __init__(self, where: SweepDir, planned: Mapping[str, RunConfig], check: Callable[[RunConfig], None]):
        self.where, self.planned, self.check = where, planned, check
        data = sweepdir.read_sweep_yaml(where.sweep_yaml)
        cluster, repeats = data.get("cluster"), data.get("repeats")
        self.cluster: Mapping[str, Any] = cluster if isinstance(cluster, dict) else {}
        self.repeats = repeats if isinstance(repeats, int) else None
        git = (read_json(where.provenance) or {}).get("git")
        self.flags = [FLAG_SHARED] if self.cluster.get("sharing") == "shared" else []
        self.flags += [FLAG_DIRTY] if isinstance(git, dict) and git.get("clean") is False else []
        terms = data.get("terms")
        self.node_energy = read_json(where.node_energy) or {}
        self.is_one_job = isinstance(terms, dict) and bool(terms.get("one_allocation"))
        # The size of what each run's job holds: one job that runs everything has the largest.
        self.whole = max(planned.values(), key=lambda each: each.gpus, default=None) if self.is_one_job else None
        journal = sweepdir.read_journal(where)
        # When each job was submitted, and when its submission began, in seconds since the epoch.
        self.submitted = {
            str(event["job"]): float(event["time"])
            for event in journal
            if event["event"] == "submitted" and "job" in event and isinstance(event.get("time"), (int, float))
        }
        self.asked = _asked(journal)
        # Experiments that were found right, by their identity: many runs share one.
        self._right: dict[int, Mapping[str, Any]] = {}

    @functools.cached_property
    def begun(self) -> dict[str, float]:
        """When the one job that runs everything first began, by its id."""
        found: dict[str, float] = {}
        for path in self.where.runs.glob(f"*/a*/{contract.CLAIM}"):
            claim: Mapping[str, Any] = {}
            with suppress(OSError):
                claim = sweepdir.read_claim(path)
            if "start" in claim and claim.get("restart") == 0:
                task = str(claim.get("job", ""))
                found[task] = min(claim["start"], found.get(task, claim["start"]))
        return found

    def queue_s(self, claim: Mapping[str, Any]) -> float | None:
        """Seconds from the submission to the start.

        None for a requeued job, because the time of its first start lies between the two, and for a job that was
        recorded only after its start.
        """
        task = str(claim.get("job", ""))
        at = self.submitted.get(task.rpartition("_")[0])
        begun = self.begun.get(task) if self.is_one_job else claim.get("start")
        if at is None or claim.get("restart") != 0 or begun is None:
            return None
        if begun < at - clocks.CLOSE_S:
            return None
        # The script's clock has whole seconds, so the start may lie before the submission.
        return max(0.0, begun - at)

    def gpu_hours(self, config: RunConfig) -> float | None:
        """GPU-hours that the run's attempts held; None if an attempt left no exit.json."""
        times = [_wall_s(attempt) for attempt in self.where.attempts(config.run)]
        known = [seconds for seconds in times if seconds is not None]
        if len(known) < len(times):
            return None
        whole = self.whole or config
        per_node = self.cluster.get("gpus_per_node")
        on_fullest = whole.gpus_per_node or whole.tasks_per_node
        held = Size(whole.gpus, whole.nodes, on_fullest, on_fullest, whole.gpus).gpus_held(
            per_node if isinstance(per_node, int) else None, self.cluster.get("sharing") == "exclusive"
        )
        return held * sum(known) / 3600

    def energy_of_nodes(self, claim: Mapping[str, Any]) -> dict[str, Any]:
        """node_energy_kwh and node_energy_plugin of the job that made an attempt, if the scheduler measured it."""
        joules = self.node_energy.get("joules")
        found = joules.get(str(claim.get("job", ""))) if isinstance(joules, dict) else None
        if not isinstance(found, (int, float)):
            return {}
        return {"node_energy_kwh": found / 3.6e6, "node_energy_plugin": str(self.node_energy.get("plugin", ""))}

    def config(self, name: str) -> tuple[RunConfig, str]:
        """The run's config, and what is wrong with its run.yaml, in which case the config is the planned one.

        Raises InputError if the run is not planned either.
        """
        path = self.where.run(name) / contract.RUN_YAML
        try:
            config = contract.load_run(path)
            if config.run != name:
                raise ValueError(f"it is that of the run {config.run!r}")
            if id(config.experiment) not in self._right:
                self.check(config)
                self._right[id(config.experiment)] = config.experiment
            _batches(config)
            return config, ""
        except OSError as error:
            wrong = error.strerror or str(error)
        except (InputError, ValueError, KeyError, TypeError, AttributeError) as error:
            wrong = " ".join(str(error).removeprefix(f"{path}: ")[:_LONGEST].split())
        if name not in self.planned:
            raise InputError(f"{path}: {wrong}; and {self.where.sweep_yaml} does not plan the run")
        return self.planned[name], f"run_yaml: {path.relative_to(self.where.root)}: {wrong}"


def _asked(journal: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """The time before the first call of the scheduler for each job, in seconds since the epoch."""
    begun: dict[tuple[str, int], float] = {}
    found = {}
    for event in journal:
        if event["event"] == "submitting":
            begun.setdefault((event["group"], event["submission"]), event["time"])
        elif event["event"] == "submitted" and (event["group"], event["submission"]) in begun:
            found[event["job"]] = begun[event["group"], event["submission"]]
    return found


def _wall_s(attempt: Path) -> float | None:
    """Seconds from an attempt's start to its end, as its exit.json has them; None if it cannot be read."""
    with suppress(OSError):
        found = sweepdir.read_exit(attempt)
        return _between(found) if found is not None else None
    return None


def _between(found: ExitRecord) -> float | None:
    return found.end - found.start if found.end >= found.start else None


def _batches(config: RunConfig) -> tuple[int | None, int | None]:
    batch = config.experiment["batch"]
    if batch.get("local") is None and batch.get("global") is None:
        return None, None
    return split_batch(batch, config.gpus)


def _run_or_why(sweep: _Sweep, name: str, state: RunState, failure: str, read: Reader) -> Run:
    try:
        return _run(sweep, name, state, failure, read)
    except OSError as error:
        path = Path(str(error.filename or name))
        place = path.relative_to(sweep.where.root) if path.is_relative_to(sweep.where.root) else path
        why = f"not read: {place}: {error.strerror}"
        return _run(sweep, name, state, "; ".join(text for text in (failure, why) if text), None)


def _run(sweep: _Sweep, name: str, state: RunState, failure: str, read: Reader | None) -> Run:
    config, wrong = sweep.config(name)
    attempt, found = _newest(sweep.where, config, read) if read is not None else (None, None)
    measured = found.measurement if found else None
    claim = sweepdir.read_claim(attempt / contract.CLAIM) if attempt else {}
    nodes = [read_json(path) or {} for path in sorted(attempt.glob(contract.node_json("*")))] if attempt else []
    local_batch, global_batch = _batches(config)
    start = claim.get("start")
    fields: dict[str, Any] = {"start": start if isinstance(start, (int, float)) else None}
    hosts: Sequence[str] = ()
    ended = sweepdir.read_exit(attempt) if attempt and read else None
    asked = sweep.asked.get(str(claim.get("job", "")).rpartition("_")[0])
    is_skewed = attempt is not None and clocks.submitter_differs(attempt, claim, ended, asked)
    strangers = clocks.differing_hosts(attempt, claim, ended) if attempt else set()
    if found is not None:
        fields["unit"] = found.progress.unit
        local_batch, global_batch = found.batch or (local_batch, global_batch)
        hosts = found.hosts or hosts
    if measured is not None:
        fields |= measured.figures()
        fields |= {name: getattr(measured, name) for name in ("throughput", "step_ms", "windows", "outlier_windows")}
        if fields["start"] is not None and measured.first_step_at is not None:
            startup_s = measured.first_step_at - fields["start"]
            fields["startup_s"] = startup_s if startup_s >= -clocks.CLOSE_S else None
        hosts = measured.hosts or hosts
        # Without one node's GPUs the energy of the run is not known.
        timed = found.timed if found and not strangers else ()
        energy = nvml.energy(_nvml_files(attempt), timed) if attempt and timed else None
        models = _models(nodes) if config.device == "gpu" else []
        fields |= utilisation.of_run(config, measured, models, energy)
    if found is not None and found.finished and found.command_s is not None and not fields.get("time_to_train_s"):
        # The job script's clock has whole seconds.
        fields |= {"time_to_train_s": found.command_s or None, "time_to_train_kind": MEASURED_COMMAND}
    flags = [
        *sweep.flags,
        *(found.flags if found else ()),
        *_flags(config, attempt, found, nodes, strangers),
        *([FLAG_SUSPENDED] if ended is not None and ended.suspended_s else ()),
        *([FLAG_CLOCKS] if is_skewed or strangers else ()),
        *(measured.flags if measured else ()),
    ]
    return Run(
        run=name,
        attempt=attempt.name if attempt else "",
        state=state,
        failure="; ".join(text for text in (failure, wrong) if text),
        source=str(found.log.relative_to(sweep.where.root)) if found else "",
        experiment=config.experiment["name"],
        params=config.params,
        gpus=config.gpus,
        nodes=config.nodes,
        gpus_per_node=config.gpus_per_node or config.tasks_per_node,
        local_batch=local_batch,
        global_batch=global_batch,
        job_ids=str(claim.get("job", "")),
        nodelist=union(hosts) or brief(str(claim.get("nodelist", ""))),
        repeats_asked=sweep.repeats,
        gpu_model=", ".join(_models(nodes)) if config.device == "gpu" else "",
        queue_s=None if is_skewed else sweep.queue_s(claim),
        gpu_hours=sweep.gpu_hours(config),
        flags=" ".join(flags),
        software=" | ".join(_software(nodes)),
        transport=nccl_transport.read(attempt) if attempt else "",
        **sweep.energy_of_nodes(claim if measured else {}),
        **fields,
    )


def _newest(where: SweepDir, config: RunConfig, read: Reader) -> tuple[Path | None, Reading | None]:
    """The newest attempt that finished, and what its files say; if none did, the last attempt."""
    last: tuple[Path | None, Reading | None] = None, None
    for attempt in reversed(where.attempts(config.run)):
        found = read(config, attempt)
        if found.finished:
            return attempt, found
        last = last if last[0] else (attempt, found)
    return last


# --- flags, GPUs, software -----------------------------------------------------------------------


def _flags(
    config: RunConfig,
    attempt: Path | None,
    found: Reading | None,
    nodes: Sequence[Mapping[str, Any]],
    strangers: Collection[str],
) -> Iterator[str]:
    # What became of GPUs that do not train says nothing of the run.
    yield from _gpu_flags(attempt, found, strangers) if attempt and found and config.device == "gpu" else ()
    wanted = config.tasks_per_node * config.cpus_per_task
    few = any(isinstance(node.get("cpus"), int) and node["cpus"] < wanted for node in nodes)
    if few or (attempt and cpus.too_few(attempt, config.cpus_per_task)):
        yield FLAG_OVERSUBSCRIBED
    if len(_software(nodes)) > 1:
        yield FLAG_SOFTWARE
    if config.device == "gpu" and len(_models(nodes)) > 1:
        yield FLAG_HARDWARE


def _gpu_flags(attempt: Path, found: Reading, strangers: Collection[str]) -> list[str]:
    return nvml.flags(_nvml_files(attempt, strangers), found.timed)


def _nvml_files(attempt: Path, without: Collection[str] = ()) -> Iterator[Iterator[str]]:
    """The lines of the file of each node, but for those of the hosts `without`."""
    left_out = {contract.nvml_csv(host) for host in without}
    return (_lines(path) for path in sorted(attempt.glob(contract.nvml_csv("*"))) if path.name not in left_out)


def _lines(path: Path) -> Iterator[str]:
    # One line at a time: a line per second and GPU is 10 MB in eight hours.
    with suppress(OSError), io.TextIOWrapper(open_plain(path), "utf-8", "replace", newline="\n") as file:
        yield from file


def _models(nodes: Sequence[Mapping[str, Any]]) -> list[str]:
    """The GPUs' names, each once."""
    listed = [node.get("gpus") for node in nodes]
    return sorted({str(name) for names in listed if isinstance(names, list) for name in names})


def _software(nodes: Sequence[Mapping[str, Any]]) -> list[str]:
    """The software of the nodes, each text once. An MPI describes itself at length: its first clause is enough."""
    texts = []
    for node in nodes:
        versions = {name: str(node[name]).partition(",")[0] for name in _SOFTWARE if node.get(name)}
        texts.append(", ".join(f"{name} {version}" for name, version in versions.items()))
    return sorted({text for text in texts if text})


# --- files ---------------------------------------------------------------------------------------


def joined(where: SweepDir, runs: Iterable[Run], name: str, columns: Sequence[str]) -> str:
    """A table that every run leaves, in one: run, experiment, params and gpus before each run's own `columns`."""
    rows = []
    for run in runs:
        if run.source and run.throughput is not None:
            path = where.root / Path(run.source).parent / name
            try:
                with io.TextIOWrapper(open_plain(path), "utf-8", "replace", newline="") as file:
                    found = list(csv.DictReader(file))
            except (OSError, csv.Error):
                continue
            for line in found:
                own = {column: line.get(column, "") for column in columns}
                rows.append(
                    {"run": run.run, "experiment": run.experiment, "params": run.params, "gpus": run.gpus, **own}
                )
    return to_csv(["run", "experiment", "params", "gpus", *columns], rows)


def write(
    where: SweepDir, runs: Sequence[Run], tables: Mapping[str, Sequence[str]], folder: Path | None = None
) -> list[Path]:
    """Write runs.csv, and the `tables` that the runs leave, joined, into the sweep's report/ or into `folder`.

    Returns their paths.
    """
    if folder is None:
        make_folder(where.report)
    else:
        folder.mkdir(parents=True, exist_ok=True)
    texts = {"runs.csv": runs_csv.to_text(runs)}
    texts |= {name: joined(where, runs, name, columns) for name, columns in tables.items()}
    paths = {(folder or where.report) / name: text for name, text in texts.items()}
    for path, text in paths.items():
        write_atomic(path, text)
    return list(paths)
