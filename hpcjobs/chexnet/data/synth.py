"""Made-up chest X-rays in the format of the real ones, with findings that a network can learn.

They are drawn with +, -, *, / and whole random numbers only, so that the bytes do not depend on the machine's
mathematical library or vector unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hpcjobs.base.errors import InputError
from hpcjobs.chexnet.classes import CLASSES
from hpcjobs.chexnet.data.recipe import Recipe, check_size
from hpcjobs.chexnet.data.split import cut, in_order

if TYPE_CHECKING:
    from hpcjobs.chexnet.data.tfrecord import Record

# Images with each finding among the 112,120 of NIH's Data_Entry_2017_v2020.csv.
NIH_IMAGES = 112120
NIH_POSITIVES = {
    "Atelectasis": 11559,
    "Cardiomegaly": 2776,
    "Effusion": 13317,
    "Infiltration": 19894,
    "Mass": 5782,
    "Nodule": 6331,
    "Pneumonia": 1431,
    "Pneumothorax": 5302,
    "Consolidation": 4667,
    "Edema": 2303,
    "Emphysema": 2516,
    "Fibrosis": 1686,
    "Pleural_Thickening": 3385,
    "Hernia": 227,
}
# A split of at least _ENOUGH images has at least two images of every finding: otherwise an AUC may be undefined.
_LEAST_POSITIVES = 2
_ENOUGH = _LEAST_POSITIVES * len(CLASSES)
_VAL, _TEST = 0.1, 0.2
_MOST_PER_PATIENT = 5

Array = NDArray[np.float64]


@dataclass(frozen=True)
class _Artist:
    """Draws an image by its name."""

    size: int
    seed: int
    patients: dict[str, str]
    labels: dict[str, bytes]

    def __call__(self, name: str) -> Record:
        from hpcjobs.chexnet.data.tfrecord import Record

        labels = self.labels[name]
        return Record(draw(name, labels, self.size, self.seed).tobytes(), labels, name, self.patients[name])


def synth_recipe(images: int = 512, size: int = 64, seed: int = 1) -> Recipe:
    """The recipe of `images` made-up X-rays of `size` x `size` pixels, 70/10/20 train/val/test by patient.

    Findings are as frequent as in NIH's data, rounded to whole images in each split; a split of 28
    images or more has at least two of each. The bytes follow from the arguments alone. Raises
    InputError if an argument is wrong.
    """
    check_size(size)
    if images < 3:
        raise InputError(f"--images {images}: give 3 or more, one each for train, val and test")
    if seed < 0:
        raise InputError(f"--seed {seed}: give 0 or more")
    patients = _patients(images, seed)
    val, test, train = cut(in_order(sorted(set(patients.values())), seed), _VAL, _TEST)
    plan = {
        "train": in_order((name for name, patient in patients.items() if patient in train), seed),
        "val": [name for name, patient in patients.items() if patient in val],
        "test": [name for name, patient in patients.items() if patient in test],
    }
    labels = {name: row for split, names in plan.items() for name, row in _labels(names, seed, split).items()}
    return Recipe(
        command="synth",
        plan=plan,
        read=_Artist(size, seed, patients, labels),
        size=size,
        options={"images": images, "size": size, "seed": seed},
        sources={"made_up": "hpcjobs data synth"},
        split_rule="val, test, train: 10 %, 20 %, 70 % of the patients in the order of BLAKE2b(seed:patient)",
    )


def _patients(images: int, seed: int) -> dict[str, str]:
    """Patient of each image, by image index; one to five images each, at least three patients."""
    random = np.random.default_rng((seed, 0))
    patients: dict[str, str] = {}
    patient = 0
    while len(patients) < images:
        patient += 1
        count = int(random.integers(1, min(_MOST_PER_PATIENT, images // 3) + 1))
        for follow_up in range(min(count, images - len(patients))):
            patients[f"{patient:08d}_{follow_up:03d}.png"] = str(patient)
    return patients


def _labels(names: Sequence[str], seed: int, split: str) -> dict[str, bytes]:
    """14 labels of each image. Each finding is on its share of the images, which are chosen at random."""
    random = np.random.default_rng((seed, 1, *split.encode()))
    table = np.zeros((len(names), len(CLASSES)), np.uint8)
    least = _LEAST_POSITIVES if len(names) >= _ENOUGH else 0
    for column, name in enumerate(CLASSES):
        count = max(least, round(len(names) * NIH_POSITIVES[name] / NIH_IMAGES))
        table[random.permutation(len(names))[:count], column] = 1
    return {name: row.tobytes() for name, row in zip(names, table, strict=True)}


def draw(name: str, labels: bytes, size: int, seed: int) -> NDArray[np.uint8]:
    """One X-ray, uint8 [size, size]: a chest that depends on the patient, the findings of `labels`, and noise."""
    patient, follow_up = int(name[:8]), int(name[9:12])
    body = np.random.default_rng((seed, 2, patient))
    here = np.random.default_rng((seed, 3, patient, follow_up))
    axis = (np.arange(size) + 0.5) / size
    # The position varies a little between images. x grows to the viewer's right, y downwards.
    x = (axis - _between(here, -0.02, 0.02))[np.newaxis, :]
    y = (axis - _between(here, -0.02, 0.02))[:, np.newaxis]
    width = _between(body, 0.15, 0.18)
    lungs = _disc(x, y, 0.29, 0.5, width, 0.36) + _disc(x, y, 0.71, 0.5, width, 0.36)
    ribs = np.abs((y + 0.6 * (x - 0.5) * (x - 0.5)) * 8 % 1 - 0.5) - 0.25
    image = _between(body, 150, 170) - 75 * lungs + 40 * lungs * ribs
    heart, spine = _disc(x, y, 0.56, 0.66, _between(body, 0.11, 0.13), 0.15), _disc(x, y, 0.5, 0.5, 0.06, 0.6)
    image = image + 45 * heart + 25 * spine
    for index, finding in enumerate(CLASSES):
        if labels[index]:
            image = image + _finding(finding, x, y, lungs, here)
    noise = here.integers(-6, 7, (size, size)) + here.integers(-6, 7, (size, size))
    pixels: NDArray[np.uint8] = np.clip(np.floor(image + noise + 0.5), 0, 255).astype(np.uint8)
    return pixels


def _finding(finding: str, x: Array, y: Array, lungs: Array, random: np.random.Generator) -> Array:
    """The brightness that a finding adds: each has a place, shape and strength, which vary a little at random."""
    dx, dy = _between(random, -0.03, 0.03), _between(random, -0.03, 0.03)
    strength = _between(random, 0.8, 1.2)
    u, v = x - dx, y - dy
    stripes = np.abs((u + v) * 16 % 1 - 0.5) * 4 - 1
    added: Array
    match finding:
        case "Atelectasis":  # a flat band at the base of the left half
            added = 70 * _disc(u, v, 0.29, 0.72, 0.13, 0.03)
        case "Cardiomegaly":
            added = 70 * _disc(u, v, 0.56, 0.66, 0.24, 0.17)
        case "Effusion":  # fluid fills the lower corner of the right half
            added = 80 * _disc(u, v, 0.78, 0.86, 0.14, 0.12)
        case "Infiltration":  # mottled, in the middle of the left half
            added = 60 * _disc(u, v, 0.29, 0.5, 0.15, 0.1) * stripes
        case "Mass":
            added = 95 * _disc(u, v, 0.29, 0.3, 0.09, 0.09)
        case "Nodule":
            added = 95 * _disc(u, v, 0.71, 0.3, 0.045, 0.045)
        case "Pneumonia":  # hazy, below the middle of the left half
            added = 60 * _disc(u, v, 0.22, 0.62, 0.1, 0.12)
        case "Pneumothorax":  # air, black, along the outer edge of the right half
            added = -80 * _disc(u, v, 0.86, 0.32, 0.05, 0.2)
        case "Consolidation":
            added = 75 * _disc(u, v, 0.74, 0.52, 0.11, 0.08)
        case "Edema":  # on both sides of the middle
            added = 60 * (_disc(u, v, 0.38, 0.45, 0.06, 0.16) + _disc(u, v, 0.62, 0.45, 0.06, 0.16))
        case "Emphysema":
            added = -40 * lungs
        case "Fibrosis":  # a net over both bases
            added = 60 * (_disc(u, v, 0.29, 0.8, 0.14, 0.1) + _disc(u, v, 0.71, 0.74, 0.14, 0.1)) * stripes
        case "Pleural_Thickening":  # a white line along the outer edge of the left half
            added = 90 * _disc(u, v, 0.1, 0.5, 0.025, 0.25)
        case _:  # Hernia: a pale ring below the heart
            added = 90 * (_disc(u, v, 0.5, 0.88, 0.1, 0.08) - _disc(u, v, 0.5, 0.88, 0.05, 0.04))
    return strength * added


def _disc(x: Array, y: Array, cx: float, cy: float, rx: float, ry: float) -> Array:
    """1 inside an ellipse, 0 outside, with a soft edge: 1 / (1 + r^8)."""
    square = ((x - cx) / rx) * ((x - cx) / rx) + ((y - cy) / ry) * ((y - cy) / ry)
    fourth = square * square
    result: Array = 1 / (1 + fourth * fourth)
    return result


def _between(random: np.random.Generator, low: float, high: float) -> float:
    """One of 1001 evenly spaced values from `low` to `high`."""
    return low + (high - low) * int(random.integers(0, 1001)) / 1000
