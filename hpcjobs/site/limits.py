"""What a partition says of who may use it, as comments of a detected profile. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from hpcjobs.site.facts import Facts

# Values by which Slurm says that nobody is kept out.
_ANYBODY = ("", "ALL", "(null)", "N/A")


def lines(facts: Facts, about: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(``""``, comment) for each limit: groups, accounts, qualities of service, the partition's own, reservations."""
    for comment in _comments(facts, about):
        yield "", comment


def _comments(facts: Facts, about: Mapping[str, str]) -> Iterator[str]:
    groups = about.get("AllowGroups", "")
    if groups not in _ANYBODY:
        mine = [name for name in groups.split(",") if name in facts.groups]
        you = f"you are in {', '.join(mine)}" if mine else "you are in none of them here" if facts.groups else ""
        yield f"Only members of these groups may use the partition (AllowGroups): {groups}{you and f'; {you}'}"
    for key, whose in (("AllowAccounts", "accounts"), ("AllowQos", "qualities of service")):
        if (allowed := about.get(key, "")) not in _ANYBODY:
            yield f"Only these {whose} may use the partition ({key}): {allowed}"
    for key, whose in (("DenyAccounts", "accounts"), ("DenyQos", "qualities of service")):
        if (denied := about.get(key, "")) not in _ANYBODY:
            yield f"These {whose} may not use the partition ({key}): {denied}"
    if (own := about.get("QoS", "")) not in _ANYBODY:
        yield f"The partition's own quality of service {own} may limit jobs further: `sacctmgr show qos {own}`"
    if (least := about.get("MinNodes", "")).isdigit() and int(least) > 1:
        yield f"A job has at least {least} nodes here (MinNodes): plan no runs on fewer"
    if about.get("ReqResv") == "YES":
        yield "Jobs need a reservation here (ReqResv): reservation: NAME"
    if about.get("RootOnly") == "YES":
        yield "Only root may submit to this partition (RootOnly)"
    for each in facts.reservations:
        if each.get("PartitionName", "(null)") in (about.get("PartitionName"), "(null)"):
            yield f"Reservation {each['ReservationName']}{_reserved(each)}"


def _reserved(each: Mapping[str, str]) -> str:
    """What a reservation holds, from when to when and for whom."""
    nodes = f" holds {each.get('NodeCnt', '?')} nodes ({each.get('Nodes', '?')})"
    when = f" from {each.get('StartTime', '?')} to {each.get('EndTime', '?')}"
    whose = [
        f"{key.lower()} {each[key]}" for key in ("Users", "Groups", "Accounts") if each.get(key, "") not in _ANYBODY
    ]
    return nodes + when + (f", for {' and '.join(whose)}" if whose else "")
