"""A training command of the user, as the control half knows it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from hpcjobs.base.contract import FAILURE, JOB_LOG, TRAIN_LOG, Finding, RunConfig
from hpcjobs.base.errors import InputError, nearest
from hpcjobs.base.records import ExitRecord, Tell
from hpcjobs.base.sizes import Size
from hpcjobs.collect.attempts import Reading
from hpcjobs.config import Cluster, Experiment
from hpcjobs.trainers import Launch, NodeCheck, Start, Stop, Word
from hpcjobs.trainers.command_keys import CommandExperiment
from hpcjobs.trainers.placeholders import filled

if TYPE_CHECKING:
    from hpcjobs.collect.claims import Sizes
    from hpcjobs.collect.pattern import Pattern

# Values of measure.format that are not formats of logs.
_NO_FORMATS = ("auto", "meter", "pattern", "none")
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
            for key in ("start", "stop", "stall_s", "workdir"):
                if getattr(each, key) != getattr(first, key):
                    raise InputError(f"--set {key}: takes one value, because the runs of a size share a job script")
            _check_command(each)
            _check_measure(each)
        if cluster is not None:
            _check_start(first, cluster)

    def check(self, experiments: Sequence[Experiment], cluster: Cluster, tell: Tell) -> None:
        self.check_keys(experiments, cluster)
        first = _ours(experiments)[0]
        if first.workdir is not None and not Path(first.workdir).is_dir():
            # Only compute nodes may see the folder: a warning, not an error.
            tell(f"warning: this host sees no folder {first.workdir} (workdir); the nodes of the runs need it")

    def check_size(self, experiment: Experiment, size: Size) -> None:
        ours = _our(experiment)
        try:
            ours.batch.split(size.gpus)
        except ValueError as error:
            raise InputError(str(error), ("batch", "global")) from None
        _words(ours, size)

    def start(self, experiment: Experiment) -> Start:
        return _our(experiment).start

    def restarts(self, experiment: Experiment) -> bool:
        return _our(experiment).stop is not None

    def batch(self, experiment: Experiment, gpus: int) -> tuple[int | None, int | None]:
        return _our(experiment).batch.split(gpus)

    def launch(self, experiment: Experiment, size: Size, cluster: Cluster) -> Launch:
        ours = _our(experiment)
        local, _ = ours.batch.split(size.gpus)
        stop = None if ours.stop is None else Stop(ours.stop.signal, ours.stop.exit_code)
        return Launch(
            words=tuple(_words(ours, size)),
            start=ours.start,
            open=True,
            environment={} if local is None else {"HPCJOBS_LOCAL_BATCH": str(local)},
            workdir=ours.workdir,
            stop=stop,
            stall_s=ours.stall_s,
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
        return False

    def read(self, run: RunConfig, attempt: Path, exit: ExitRecord | None, *, whole: bool = True) -> Reading:
        """The whole log is read only of a run that ended with success; of any other, its end."""
        # Imported here: other commands of hpcjobs need no reader of logs.
        from hpcjobs.collect import command_logs, kept_readings, torch_errors
        from hpcjobs.collect.log_progress import tail_progress

        about, known = run.experiment["measure"], _sizes(run)
        pattern, log = _pattern(about), attempt / JOB_LOG
        if about["format"] in ("auto", "meter") and (attempt / TRAIN_LOG).is_file():
            pattern, log, how = None, attempt / TRAIN_LOG, "hpcjobs"
        else:
            how = about["format"]
        progress = tail_progress(log, pattern, known)
        if exit is None or exit.rc != 0:
            return Reading(log=log, progress=progress, errors=tuple(torch_errors.read_errors(attempt)))
        command_s = max(0.0, exit.end - exit.start)
        if how == "none":
            return Reading(log=log, finished=True, progress=progress, command_s=command_s)
        if how == "meter":
            return Reading(log=log, problem=f"hpcjobs.meter wrote no {TRAIN_LOG}", progress=progress)
        if not whole:
            return Reading(log=log, progress=progress)
        ways = pattern or how, known, about["unit"] or ""
        found = kept_readings.kept(log, ways, lambda: command_logs.read_command_log(log, *ways))
        return Reading(
            log=log,
            finished=found.measurement is not None,
            measurement=found.measurement,
            problem=found.looked_for,
            progress=progress,
            command_s=command_s,
        )

    def hints(self) -> Mapping[str, str]:
        return {
            "stalled": "look at the end of job.log; stall_s sets how long hpcjobs waits for a line",
            "timeout": "ask for more time (`time` in the profile); give `stop` if the command can write a checkpoint",
            "interrupted": "run it again: it wrote a checkpoint, and continues from there",
            "out_of_memory": "ask for more memory (`mem_per_gpu_mib` in the profile), or use a smaller batch",
            "device_memory": "use a smaller batch",
            "host_memory": "ask for more memory (`mem_per_gpu_mib` in the profile), or use fewer loader workers",
            "no_measurement": "`hpcjobs collect --logs JOB.LOG --pattern ...` tries a pattern; measure.format=none "
            "if the command prints no rate",
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
        """It looks for the command's first word, for workdir and inputs, for a free port, and for names of nodes."""
        ours = _ours(experiments)[0]
        first = _words(ours, Size(1, 1, 1, 1, 1))[0]
        # Empty if it is known only on the node of a run.
        texts = [part for part in first if isinstance(part, str)]
        word = "".join(texts) if len(texts) == len(first) else ""
        script = folder / "command_check.sh"
        request = {"nodes": -(-gpus // (cluster.gpus_per_node or gpus))}
        return NodeCheck(("bash", str(script), str(folder), word, *self.inputs(ours)), request, ("command_check.sh",))

    def bytes_on_disk(self, experiment: Experiment) -> int:
        return _LOG_BYTES


def _our(experiment: Experiment) -> CommandExperiment:
    assert isinstance(experiment, CommandExperiment)
    return experiment


def _ours(experiments: Iterable[Experiment]) -> list[CommandExperiment]:
    return [_our(each) for each in experiments]


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


def _sizes(run: RunConfig) -> Sizes:
    from hpcjobs.collect.claims import Sizes

    batch = run.experiment["batch"]
    return Sizes(run.gpus, run.nodes, batch["local"], batch["global"]).whole()


def _pattern(about: Mapping[str, Any]) -> Pattern | None:
    """The pattern of a `measure` section, if it has one. Raises InputError if it is wrong."""
    if about["pattern"] is None:
        return None
    from hpcjobs.collect.pattern import Pattern

    return Pattern(
        about["pattern"],
        about["of"],
        "samples" if about["unit"] is None else about["unit"],
        about["warmup"],
        about["take"],
    )


def _check_command(experiment: CommandExperiment) -> None:
    first = experiment.command[0]
    if not first:
        raise InputError("the first word is empty: give a program", ("command",))
    if first.startswith("-"):
        raise InputError(
            f"command: the first word {first!r} is an option: give a program first; options of hpcjobs stand before --",
            ("command",),
        )
    if experiment.workdir == "":
        raise InputError("expected a folder, got '': leave the key out for the working folder", ("workdir",))


def _check_measure(experiment: CommandExperiment) -> None:
    from hpcjobs.collect.reading import FORMATS

    about = experiment.measure
    if about.format not in (*_NO_FORMATS, *FORMATS):
        known = nearest(about.format, [*_NO_FORMATS, *FORMATS])
        raise InputError(f"no format {about.format!r}: {known}", ("measure", "format"))
    if about.format == "pattern" and about.pattern is None:
        raise InputError("measure.format is pattern, but measure.pattern is missing", ("measure", "format"))
    if about.pattern is not None and about.format not in ("auto", "pattern"):
        why = f"measure.pattern is not used with measure.format {about.format}: give one of them"
        raise InputError(why, ("measure", "pattern"))
    # The other keys are those of a pattern, too, and are checked with one that is right.
    as_pattern = {**msgspec.to_builtins(about), "pattern": about.pattern or "(?P<throughput>1)"}
    try:
        _pattern(as_pattern)
    except InputError as error:
        raise InputError(str(error), ("measure", *error.key)) from None


def _check_start(experiment: CommandExperiment, cluster: Cluster) -> None:
    """Raises InputError where the profile's launcher cannot do what the experiment asks for."""
    start, launcher = experiment.start, cluster.launcher
    if launcher == "horovodrun" and start != "once":
        raise InputError(
            f"start: {start} needs launcher srun or mpirun, but cluster '{cluster.name}' has launcher horovodrun; with "
            "start: once, the command may begin with horovodrun itself"
        )
    if start == "once" and cluster.container.kind == "pyxis":
        raise InputError("start: once runs without srun, which container.kind pyxis needs: give start rank or node")
