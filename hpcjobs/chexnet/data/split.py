"""Who goes where: the official test list is test; train and val share the other patients, never a patient's images."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence


def in_order(names: Iterable[str], seed: int) -> list[str]:
    """`names` shuffled: sorted by the BLAKE2b hash of seed and name, so on every machine and Python alike."""
    return sorted(names, key=lambda name: hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=16).digest())


def cut(patients: Sequence[str], *fractions: float) -> list[set[str]]:
    """The first of `patients` as one set per fraction, then one set of the rest.

    Each set has at least one patient while there are as many patients as sets.
    """
    sets: list[set[str]] = []
    start = 0
    for index, fraction in enumerate(fractions):
        left_for_others = len(fractions) - index
        count = min(max(1, round(fraction * len(patients))), len(patients) - start - left_for_others)
        sets.append(set(patients[start : start + max(0, count)]))
        start += max(0, count)
    return [*sets, set(patients[start:])]


def val_patients(listed: Collection[str], present: Collection[str], seed: int, fraction: float) -> set[str]:
    """The patients that validate, among those of the official train_val list.

    Who validates follows from (seed, the whole list) and not from what is downloaded so far:
    `fraction` of the `listed` patients. Where the `present` ones (two or more) would all fall on one
    side, one of them changes over, so that train and val both have a patient.
    """
    chosen = cut(in_order(listed, seed), fraction)[0]
    here = in_order(present, seed)
    if len(here) >= 2 and not chosen.intersection(here):
        return {*chosen, here[0]}
    if len(here) >= 2 and chosen.issuperset(here):
        return chosen - {here[-1]}
    return chosen
