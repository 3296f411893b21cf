"""`hpcjobs init`: a study begins with an experiment's file and, if Slurm answers, a profile of its cluster."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from hpcjobs.base.contract import Finding
from hpcjobs.base.errors import InputError, SchedulerUnreachable
from hpcjobs.base.new_files import write_all
from hpcjobs.config import Cluster, Document, Experiment, profiles
from hpcjobs.config.commented import commented
from hpcjobs.config.words import Name
from hpcjobs.plan import planning
from hpcjobs.schedulers import factory
from hpcjobs.schedulers.slurm.commands import Refused
from hpcjobs.site import facts
from hpcjobs.site.detect import Detected, profile_of
from hpcjobs.trainers.registry import trainer_of


@dataclasses.dataclass(frozen=True)
class Begun:
    """A study that was begun in the working folder.

    `written` and `unchanged` are its files; `shadowed` are (file, the file of the same name that it hides). `profile`
    is the cluster's file, or None: then `no_profile` says why. `cluster` is the one to compute on. `missing`: what
    the experiment still lacks, a line each.
    """

    experiment: Path
    written: list[Path]
    unchanged: list[Path]
    shadowed: list[tuple[Path, Path]]
    profile: Path | None
    no_profile: str
    cluster: Cluster
    missing: list[str]

    @property
    def sizes(self) -> list[int]:
        """GPU counts to begin with: one, those of a node, those of two nodes."""
        node = self.cluster.gpus_per_node or 2
        several = self.cluster.gpus_per_node is not None and self.cluster.nodes != 1
        return sorted({1, node, 2 * node if several else node})


def check_working_folder() -> None:
    """Raises InputError if the folder in which a study would begin cannot be used."""
    try:
        Path.cwd()
    except OSError as error:
        raise InputError(
            f"the working folder cannot be used: {error.strerror}; change to a folder that exists"
        ) from None


def begin_study(
    name: str,
    base: Document,
    origin: str,
    partition: str | None,
    device: str | None,
    *,
    settings: Sequence[str] = (),
    force: bool = False,
) -> Begun:
    """Write experiments/NAME.yaml with the values of the experiment `base`, and a profile if Slurm answers.

    `origin` says in the file where the values come from; `settings` override some of them, as `--set` does. `partition`
    and `device` are those of site.detect. All files are written, or none. Raises InputError.
    """
    experiment = _experiment(name, base, settings)
    own = Path("experiments") / f"{name}.yaml"
    origin = origin if origin.isprintable() else ascii(origin)
    files = {own: commented(experiment, f"By `hpcjobs init`, with the values of {origin}.")}
    found, why = _detected(partition, device)
    profile = None
    if found is not None:
        profile = Path("clusters") / f"{found.cluster.name}.yaml"
        files[profile] = found.text
    written = write_all(files, force)
    return Begun(
        experiment=own,
        written=list(written),
        unchanged=sorted(files.keys() - written.keys()),
        shadowed=[(path, other) for path in files for other in _shadowed(path, Experiment if path == own else Cluster)],
        profile=profile,
        no_profile=why,
        cluster=found.cluster if found is not None else profiles.cluster("local"),
        missing=[_told(finding) for finding in trainer_of(experiment).findings(experiment)],
    )


def _told(finding: Finding) -> str:
    return f"{finding.message}: {finding.remedy}" if finding.remedy else finding.message


def _shadowed(path: Path, kind: type[Experiment] | type[Cluster]) -> Iterator[Path]:
    return (other for each in profiles.available(kind) if each.name == path.stem for other in each.shadows)


def _experiment(name: str, base: Document, settings: Sequence[str]) -> Experiment:
    """The base under its new name, its paths absolute. Raises InputError."""
    try:
        msgspec.convert(name, Name)
    except msgspec.ValidationError:
        raise InputError(
            f"NAME {name}: cannot name an experiment: give up to 40 letters (A to z), digits, - and _, the first a "
            "letter or a digit"
        ) from None
    (variant,) = planning.parameter_grid(base, settings)
    try:
        trainer_of(variant.experiment).check_keys([variant.experiment], None)
    except InputError as error:
        raise base.placed(error, settings) from None
    return msgspec.structs.replace(variant.experiment, name=name)


def _detected(partition: str | None, device: str | None) -> tuple[Detected | None, str]:
    """(what Slurm says of a partition, why there is nothing). Raises InputError if no partition can be chosen."""
    if not factory.slurm_answers():
        return None, "Slurm does not answer here"
    try:
        return profile_of(facts.ask(), partition, device), ""
    except (Refused, SchedulerUnreachable) as error:
        return None, f"Slurm did not describe its nodes ({error})"
