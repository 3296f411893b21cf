"""A training command of the user, as the control half knows it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hpcjobs.base.contract import FAILURE, Finding, RunConfig
from hpcjobs.base.errors import InputError
from hpcjobs.base.records import ExitRecord, Tell
from hpcjobs.base.sizes import Size
from hpcjobs.collect.attempts import Reading
from hpcjobs.config import Cluster, Experiment
from hpcjobs.trainers import Launch, NodeCheck, Start, Stop, Word, command_checks
from hpcjobs.trainers.command_keys import CommandExperiment
from hpcjobs.trainers.command_line import script_of
from hpcjobs.trainers.placeholders import filled

# More than the logs of most runs. What the command itself writes is not known.
_LOG_BYTES = 50_000_000


class CommandTrainer:
    """Any command. hpcjobs says which processes it has, and reads its log."""

    keys: type[Experiment] = CommandExperiment
    needs_mpi = False
    tables: Mapping[str, Sequence[str]] = {}

    def check_keys(self, experiments: Sequence[Experiment], cluster: Cluster | None) -> None:
        ours = _ours(experiments)
        first = ours[0]
        for each in ours:
            for key in ("mode", "start", "stop", "stall_s", "workdir"):
                if getattr(each, key) != getattr(first, key):
                    raise InputError(f"--set {key}: takes one value, because the runs of a size share a job script")
            command_checks.check_command(each)
            command_checks.check_measure(each)
        command_checks.check_swept(ours)
        if cluster is not None:
            command_checks.check_start(first, cluster)

    def check(self, experiments: Sequence[Experiment], cluster: Cluster, tell: Tell) -> None:
        self.check_keys(experiments, cluster)
        ours = _ours(experiments)
        first = ours[0]
        if first.workdir is not None and not Path(first.workdir).is_dir():
            # Only compute nodes may see the folder: a warning, not an error.
            tell(f"warning: this host sees no folder {first.workdir} (workdir); the nodes of the runs need it")
        for warning in command_checks.unused(ours):
            tell(f"warning: {warning}")
        command_checks.check_program(first, _first_word(first), cluster)

    def check_size(self, experiment: Experiment, size: Size) -> None:
        ours = _our(experiment)
        try:
            ours.batch.split(size.gpus)
        except ValueError as error:
            raise InputError(str(error), ("batch", "global")) from None
        _words(ours, size)
        command_checks.check_rate(ours)

    def start(self, experiment: Experiment) -> Start:
        return _our(experiment).start

    def restarts(self, experiment: Experiment) -> bool:
        return _stop(_our(experiment)) is not None

    def launch(self, experiment: Experiment, size: Size, cluster: Cluster) -> Launch:
        ours = _our(experiment)
        local, _ = ours.batch.split(size.gpus)
        return Launch(
            words=tuple(_words(ours, size)),
            start=ours.start,
            open=True,
            environment={} if local is None else {"HPCJOBS_LOCAL_BATCH": str(local)},
            workdir=ours.workdir,
            stop=_stop(ours),
            stall_s=ours.stall_s,
            measure=_told(ours),
            metered=ours.measure.metered,
            nccl_inspector=ours.measure.nccl_inspector,
        )

    def inputs(self, experiment: Experiment) -> Sequence[str]:
        """The working folder, then the inputs."""
        ours = _our(experiment)
        folder = Path(ours.workdir or "/")
        return [str(folder), *(str(folder / Path(path).expanduser()) for path in ours.inputs)]

    def data_dir(self, experiment: Experiment, made: Path) -> str:
        return ""

    def prepare(self, experiments: Sequence[Experiment], folder: Path) -> None:
        """Nothing: a command brings its own data."""

    def work(self, experiment: Experiment, size: Size, repeat: int) -> float | None:
        return _our(experiment).work

    def unit(self, experiment: Experiment) -> str:
        about = _our(experiment).measure
        return about.unit or ("samples" if about.pattern is not None else "")

    def stated_rate(self, experiment: Experiment) -> float | None:
        return None

    def unknown_cost(self, experiment: Experiment, cluster: Cluster, *, rate_known: bool) -> str:
        unit = self.unit(experiment)
        counts = f" that counts {unit}" if unit else ""
        missing = [] if rate_known else [f"no earlier sweep of it beside this one{counts}"]
        if _our(experiment).work is None:
            missing.append("no `work`, the units of a whole run, in the experiment")
        return ", and ".join(missing)

    def may_end_early(self, experiment: Experiment) -> bool:
        return _our(experiment).mode == "benchmark"

    def read(self, run: RunConfig, attempt: Path, exit: ExitRecord | None) -> Reading:
        """The whole log is read only of a run that ended with success; of any other, its ends.

        What a meter wrote counts before what the command printed.
        """
        # Imported here: other commands of hpcjobs need no reader of logs.
        from hpcjobs.collect import torch_errors
        from hpcjobs.trainers.command_reading import CommandFiles

        files = CommandFiles(run, attempt)
        log, progress = files.progress()
        if exit is None or exit.rc != 0:
            return Reading(log=log, progress=progress, errors=tuple(torch_errors.read_errors(attempt)))
        # A benchmark is no whole training.
        command_s = None if files.is_benchmark else max(0.0, exit.end - exit.start)
        if files.format == "none":
            return Reading(log=log, finished=True, progress=progress, command_s=command_s)
        found = files.measured()
        return Reading(
            log=found.log,
            finished=found.said.measurement is not None,
            measurement=found.said.measurement,
            problem=found.said.looked_for,
            progress=progress,
            timed=found.said.timed,
            flags=found.flags,
            command_s=command_s,
            batch=found.batch,
        )

    def hints(self) -> Mapping[str, str]:
        return {
            "stalled": "look at the end of job.log; stall_s sets how long hpcjobs waits for a line",
            "timeout": "ask for more time (`time` in the profile); give `stop` if the command can write a checkpoint",
            "interrupted": "run it again: it wrote a checkpoint, and continues from there",
            "out_of_memory": "ask for more memory (`mem_per_gpu_mib` in the profile), or use a smaller batch",
            "device_memory": "use a smaller batch",
            "host_memory": "ask for more memory (`mem_per_gpu_mib` in the profile), or use fewer loader workers",
            "no_measurement": "the meter times any Python loop (`for batch in meter.steps(loader)`); `hpcjobs collect "
            "--logs JOB.LOG --pattern REGEX` tries a pattern; measure.format=none asks a training for no rate",
            "mpi_error": "see the run's job.log; the launcher must belong to the MPI that the command was built with",
            "launch": "no process started: check the command's first word, `launcher`, `mpi_plugin`, "
            "`launcher_options` and `modules`",
            "import_error": "a library is missing on the nodes: check the command's Python, and `modules` and "
            "`prologue` in the profile",
        }

    def findings(self, experiment: Experiment) -> Iterator[Finding]:
        ours = _our(experiment)
        try:
            _words(ours, Size(1, 1, 1, 1, 1))
        except InputError as error:
            yield Finding("command", FAILURE, str(error), "")

    def node_check(self, experiments: Sequence[Experiment], cluster: Cluster, gpus: int, folder: Path) -> NodeCheck:
        """It looks for the command's first word and script, workdir, inputs, a free port, and names of nodes."""
        ours = _ours(experiments)[0]
        told = (_first_word(ours), script_of(ours.command), *self.inputs(ours))
        script = folder / "command_check.sh"
        request = {"nodes": -(-gpus // (cluster.gpus_per_node or gpus))}
        return NodeCheck(("bash", str(script), str(folder), *told), request, ("command_check.sh",))

    def bytes_on_disk(self, experiment: Experiment) -> int:
        return _LOG_BYTES


def _our(experiment: Experiment) -> CommandExperiment:
    assert isinstance(experiment, CommandExperiment)
    return experiment


def _ours(experiments: Iterable[Experiment]) -> list[CommandExperiment]:
    return [_our(each) for each in experiments]


def _stop(experiment: CommandExperiment) -> Stop | None:
    """How a run is asked to write a checkpoint; None: it is not. A benchmark has none to continue from."""
    if experiment.stop is None or experiment.mode == "benchmark":
        return None
    return Stop(experiment.stop.signal, experiment.stop.exit_code)


def _told(experiment: CommandExperiment) -> dict[str, Any]:
    """What the meter is told of the experiment."""
    about = experiment.measure
    names = ("unit", "warmup", "window_steps", "precision", "max_steps", "control_repeats", "control_passes")
    more = ("control_steps", "parts_precision", "flops_per_unit", "flops_precision")
    return {
        "mode": experiment.mode,
        "meter": "auto" if about.metered else "off",
        **{name: getattr(about, name) for name in (*names, *more)},
    }


def _words(experiment: CommandExperiment, size: Size) -> list[Word]:
    """The command with its placeholders filled in. Raises InputError for a placeholder that cannot be."""
    local, whole = experiment.batch.split(size.gpus)
    values = {
        "gpus": size.gpus,
        "nodes": size.nodes,
        "gpus_per_node": size.gpus_per_node,
        "processes_per_node": size.processes_per_node,
        "batch.local": local,
        "batch.global": whole,
        **{f"params.{key}": value for key, value in experiment.params.items()},
    }
    known = {name: str(value) for name, value in values.items() if value is not None}
    return [filled(word, known) for word in experiment.command]


def _first_word(experiment: CommandExperiment) -> str:
    """The command's first word; empty if it is known only on the node of a run."""
    first = _words(experiment, Size(1, 1, 1, 1, 1))[0]
    texts = [part for part in first if isinstance(part, str)]
    return "".join(texts) if len(texts) == len(first) else ""
