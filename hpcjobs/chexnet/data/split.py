"""Which patients are in which split: the official test list is test; each other patient is in train or in val."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence


def in_order(names: Iterable[str], seed: int) -> list[str]:
    """`names` in a random order that is the same on every machine: sorted by the BLAKE2b hash of seed and name."""
    return sorted(names, key=lambda name: hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=16).digest())


def cut(patients: Sequence[str], *fractions: float) -> list[set[str]]:
    """Cuts `patients` in order into one set per fraction and one set of the rest.

    Each set has at least one patient if there are as many patients as sets.
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
    """The patients of the val split, among those of the official train_val list.

    They are `fraction` of the `listed` patients and follow from the seed and the whole list, not from the
    part of it that is downloaded. If all `present` patients (two or more) are in one split, one of
    them changes to the other, so that both splits have a patient.
    """
    chosen = cut(in_order(listed, seed), fraction)[0]
    here = in_order(present, seed)
    if len(here) >= 2 and not chosen.intersection(here):
        return {*chosen, here[0]}
    if len(here) >= 2 and chosen.issuperset(here):
        return chosen - {here[-1]}
    return chosen
