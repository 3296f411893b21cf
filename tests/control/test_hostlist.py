"""Lists of hosts are counted, joined and compared without a name for each host: a study may have millions."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcjobs.base.hostlist import FEW, brief, count, expand_hosts, share_a_host, union

BOUND = st.integers(0, 130)


@st.composite
def parts(draw: st.DrawFn) -> str:
    """One part of a host list, such as `n[08-11]-ib`, `r1n7` or `head`."""
    low, more, digits = draw(BOUND), draw(st.integers(0, 40)), draw(st.integers(1, 3))
    prefix, suffix = draw(st.sampled_from(["n", "r1n", "n1", "7"])), draw(st.sampled_from(["", "", "-ib", "x2"]))
    number = f"{low:0{digits}d}"
    forms = (f"[{number}-{low + more:0{digits}d}]", f"[{number},{low + 50:0{digits}d}-{low + 60}]", number)
    return draw(st.sampled_from([*(f"{prefix}{form}{suffix}" for form in forms), "head"]))


LISTS = st.lists(st.lists(parts(), max_size=4).map(",".join), max_size=5)


@given(LISTS)
def test_what_is_said_of_ranges_is_what_the_names_say(texts: list[str]) -> None:
    named = [set(expand_hosts(text)) for text in texts]
    shown = [brief(text) for text in texts]
    assert [{host for word in text.split() for host in expand_hosts(word)} for text in shown] == named
    every = set().union(*named)
    assert count(shown) == len(every)
    assert {host for word in union(shown).split() for host in expand_hosts(word)} == every
    assert share_a_host(shown) == any(one & other for one, other in itertools.combinations(named, 2))


def test_few_hosts_are_named_and_many_are_not() -> None:
    assert brief("n[1-3],head") == "n1 n2 n3 head"
    assert brief(f"n[1-{FEW}]") == " ".join(f"n{number}" for number in range(1, FEW + 1))
    assert brief("n[001-512],head") == "n[001-512] head"
    assert brief("None assigned") == ""
    assert union(["n2 n1", "n1 n3"]) == "n2 n1 n3"
    assert union(["n[001-512] head", "n[500-600]"]) == "head n[001-600]"
    assert union(["n98 n99", "n[100-120]"]) == "n[98-99] n[100-120]"


def test_a_list_of_more_hosts_than_a_cluster_has_is_one_host() -> None:
    for text in ("n[1-999999999]", f"n[1-{'9' * 5000}]", f"n[{'1' * 5000}-{'1' * 5000}]"):
        assert brief(text) == text
        assert (count([text]), share_a_host([text, "n1"]), union([text, "n1"])) == (1, False, f"{text} n1")


@pytest.mark.parametrize("damage", ["[", "a[", "x]", "],", "n[1-3],", "1", "1y", "x"])
def test_damage_of_200_kb_is_read_in_one_go(damage: str) -> None:
    """A parser that goes back for each bracket takes hours for this."""
    text = damage * (200_000 // len(damage))
    assert count([brief(text)]) == len(set(expand_hosts(text)))
    assert share_a_host([brief(text), "another"]) is False


def test_a_part_that_is_no_host_list_is_a_name() -> None:
    assert expand_hosts("n[1-2]m[3-4],[],a],n[5") == ["n[1-2]m[3-4]", "[]", "a]", "n[5"]
