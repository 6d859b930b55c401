"""How two merged checkpoints compare: element by element, by mask, or by distribution."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from parity_cases import Case
from safetensors.numpy import load_file

Weights = dict[str, NDArray[np.float32]]

ROUNDING = 2.0**-18
"""Difference that rounding explains, relative to the largest weight of the tensor: a few float32
operations in another order, and sums over a tensor."""
SIGMAS = 5.0
"""Deviation of a drawn density that chance explains, in standard deviations: there are hundreds."""
KS_LEVEL = 1e-4
"""Probability with which chance alone would exceed the allowed distance of two distributions."""


@dataclass
class Row:
    """What one configuration over one family came to."""

    method: str
    about: str
    family: str
    elements: int = 0
    largest: float = 0.0
    """Largest absolute difference."""
    relative: float = 0.0
    """Largest difference relative to the largest weight of its tensor."""
    beyond: int = 0
    """Elements that differ by more than rounding."""
    beyond_float64: int | None = None
    """The same, when mergekit computes in float64; asked where `beyond` is not 0."""
    tied: bool = False
    """Whether all that is beyond rounding then lies at equal magnitudes."""
    worst: str = ""
    chance: dict[str, float] = field(default_factory=dict)
    """Of methods that draw, what was compared in place of elements."""
    error: str = ""
    verdict: str = ""


def read(directory: Path) -> Weights:
    made: Weights = {}
    for file in sorted(directory.glob("*.safetensors")):
        made.update(load_file(file))
    return made


def compare(row: Row, ours: Weights, theirs: Weights) -> dict[str, NDArray[np.bool_]]:
    """Fill `row` with the differences, element by element.

    Returns:
        For each tensor, where it differs by more than rounding.
    """
    found: dict[str, NDArray[np.bool_]] = {}
    if ours.keys() != theirs.keys():
        row.error = f"other tensors: {sorted(ours.keys() ^ theirs.keys())[:3]}"
        return found
    for name, here in ours.items():
        there = theirs[name]
        if here.shape != there.shape:
            row.error = f"{name}: shapes {here.shape} and {there.shape}"
            return found
        difference = np.abs(here.astype(np.float64) - there)
        size = max(float(np.abs(there).max()), float(np.abs(here).max()), 1e-30)
        row.elements += here.size
        found[name] = difference > ROUNDING * size
        row.beyond += int(found[name].sum())
        largest = float(difference.max())
        row.largest = max(row.largest, largest)
        if largest / size > row.relative:
            row.relative, row.worst = largest / size, name
    return found


def all_tied(where: dict[str, NDArray[np.bool_]], models: Path, experts: int) -> bool:
    """Whether each of these entries has, in the delta of some expert, the magnitude of another
    entry of its tensor: then a cut may fall between the two, and either may be kept."""
    base = read(models / "base")
    deltas = [read(models / f"expert-{i + 1}") for i in range(experts)]
    for name, mask in where.items():
        tied = np.zeros(mask.size, bool)
        for expert in deltas:
            size = np.abs(expert[name] - base[name]).ravel()
            _, inverse, counts = np.unique(size, return_inverse=True, return_counts=True)
            tied |= counts[inverse] > 1
        if (mask.ravel() & ~tied).any():
            return False
    return True


def compare_masks(row: Row, case: Case, ours: Weights, theirs: Weights, models: Path) -> None:
    """One expert: read both masks off the results, and check each against the formula.

    mergekit's formula, which its recipe asks for: delta * mask, times the ratio of the tensor's
    1-norm before the mask to that after.
    """
    base, expert = read(models / "base"), read(models / "expert-1")
    density = dict(case.own)["density"][0]
    ranked = case.method.startswith("della")
    kept = {"zoo": np.zeros(10), "mergekit": np.zeros(10)}
    seen = np.zeros(10)
    wrong = dict.fromkeys(kept, 0.0)
    for name, origin in base.items():
        delta = expert[name].astype(np.float64) - origin
        rank = np.argsort(np.argsort(np.abs(np.atleast_2d(delta)), axis=-1), axis=-1)
        tenth = (rank * 10 // rank.shape[-1]).reshape(delta.shape) if ranked else 0 * delta
        seen += np.bincount(tenth.astype(int).ravel(), minlength=10)
        for program, made in (("zoo", ours[name]), ("mergekit", theirs[name])):
            mask = made != origin
            kept[program] += np.bincount(tenth.astype(int)[mask].ravel(), minlength=10)
            after = np.abs(delta * mask).sum()
            ratio = np.abs(delta).sum() / after if after else 1.0
            gap = np.abs(made - (origin + delta * mask * ratio)).max()
            wrong[program] = max(wrong[program], float(gap / np.abs(made).max()))
    sigma = math.sqrt(density * (1 - density) / seen[seen > 0].min())
    shares = {p: k[seen > 0] / seen[seen > 0] for p, k in kept.items()}
    total = seen.sum()
    row.elements = int(total)
    row.chance = {
        "asked density": density,
        "zoo kept": float(kept["zoo"].sum() / total),
        "mergekit kept": float(kept["mergekit"].sum() / total),
        "sigmas apart at a rank": float(
            np.abs(shares["zoo"] - shares["mergekit"]).max() / (sigma * math.sqrt(2))
        ),
        "zoo off the formula": wrong["zoo"],
        "mergekit off the formula": wrong["mergekit"],
    }
    row.relative = max(wrong.values())
    far = row.chance["sigmas apart at a rank"] > SIGMAS or row.relative > ROUNDING
    row.verdict = "differs" if far else "same law; given the mask, rounding"


def compare_distributions(row: Row, ours: Weights, theirs: Weights, models: Path) -> None:
    """Three experts: distance of the distributions of the merged changes."""
    base = read(models / "base")
    changes = [
        np.sort(np.concatenate([(made[name] - base[name]).ravel() for name in sorted(base)]))
        for made in (ours, theirs)
    ]
    grid = np.concatenate(changes)
    places = [np.searchsorted(c, grid, side="right") / len(c) for c in changes]
    distance = float(np.abs(places[0] - places[1]).max())
    allowed = math.sqrt(-math.log(KS_LEVEL / 2) / len(changes[0]))
    row.elements = len(changes[0])
    row.chance = {
        "distance": distance,
        "allowed": allowed,
        "zoo spread": float(changes[0].std()),
        "mergekit spread": float(changes[1].std()),
    }
    row.verdict = "same distribution" if distance < allowed else "differs"
