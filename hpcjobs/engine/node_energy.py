"""Keeps in node-energy.json of a sweep's folder what the scheduler says of the energy of its jobs' nodes."""

from __future__ import annotations

from collections.abc import Sequence

from hpcjobs.base import contract
from hpcjobs.base.errors import HpcjobsError
from hpcjobs.base.files import read_json, write_json
from hpcjobs.engine.state import RunStatus
from hpcjobs.engine.sweep import Sweep
from hpcjobs.schedulers import factory


def update(sweep: Sweep, statuses: Sequence[RunStatus]) -> None:
    """Ask once for the energy of runs that have ended, and keep it. Never fails: what is not told stays empty.

    Only of jobs that had their nodes alone, and a run to themselves: else it would be that of others, too.
    """
    cluster = sweep.plan.cluster
    if cluster.sharing != "exclusive" or sweep.plan.terms.one_allocation:
        return
    if not factory.capabilities(cluster).accounting:
        return
    known = read_json(sweep.where.node_energy) or {}
    if known.get("plugin") == "":
        return  # The site measures none.
    joules = known.get("joules")
    joules = dict(joules) if isinstance(joules, dict) else {}
    ended = [run.run for run in statuses if run.state.final]
    claims = (read_json(each / contract.CLAIM) or {} for name in ended for each in sweep.where.attempts(name)[-1:])
    tasks = {str(claim["job"]) for claim in claims if claim.get("job")} - joules.keys()
    if not tasks:
        return
    try:
        plugin, found = sweep.scheduler.node_energy(sorted(tasks), sweep.id)
    except HpcjobsError:
        return
    if plugin and not found and known:
        return
    try:
        write_json(sweep.where.node_energy, {"plugin": plugin, "joules": {**joules, **found}})
    except OSError:
        return
