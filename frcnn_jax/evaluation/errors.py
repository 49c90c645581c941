"""Why AP50 is not 1: six types of error and what each costs.

Types and repairs are those of Bolya et al., "TIDE: A General Toolbox for Identifying
Object Detection Errors", ECCV 2020; figures of the authors' program were not compared,
and the order below is our choice. A detection is right or wrong by COCO's matching at
IoU 0.5, within COCO's cap of detections per image and class; crowds cost nothing and
explain nothing.

| type | a false detection that |
|---|---|
| duplicate | overlaps an object of its class from 0.5 on, taken by a better score |
| classification | overlaps an object of another class from 0.5 on |
| localisation | overlaps an object of its class, 0.1 to 0.5 |
| both | overlaps an object of another class, 0.1 to 0.5 |
| background | overlaps no object, or all by less than 0.1 |
| missed | (an object) is not found, nor meant by one of the two fixable types |

A detection that fits several rows is of the first that fits.
The cost of a type is AP50 after its repair minus AP50; costs do not add up to 1 - AP50.
"""

from typing import NamedTuple

import numpy as np

from frcnn_jax.evaluation import curves, matching

TYPES = (
    "classification",
    "localisation",
    "both",
    "duplicate",
    "background",
    "missed",
)
CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, BACKGROUND, MISSED = range(6)


class Errors(NamedTuple):
    """The type of each false detection, and the objects that are missed."""

    type: np.ndarray  # [D] index in TYPES, -1 = true or not counted
    target: np.ndarray  # [D] object meant, of classification and localisation; else -1
    missed: np.ndarray  # [G] bool


def classify(sets: matching.Sets, matches: matching.Matches) -> Errors:
    """Give every false detection one type and say which objects are missed.

    `matches` are those at IoU 0.5 of all sizes. The object meant is the one that the
    detection overlaps most, of its class or of the others.
    """
    own, own_object = _nearest(sets, sets.pairs.own)
    other, other_object = _nearest(sets, ~sets.pairs.own)
    first: tuple[tuple[np.ndarray, int], ...] = (
        (own >= matching.FOREGROUND, DUPLICATE),
        (other >= matching.FOREGROUND, CLASSIFICATION),
        (own >= matching.BACKGROUND, LOCALISATION),
        (other >= matching.BACKGROUND, BOTH),
    )
    kind = np.select([hit for hit, _ in first], [one for _, one in first], BACKGROUND)
    kind[matches.true | ~matches.counted] = -1
    target = np.full(len(kind), -1)
    for fixable, meant in (
        (CLASSIFICATION, other_object),
        (LOCALISATION, own_object),
    ):
        target[kind == fixable] = meant[kind == fixable]
    missed = matches.objects.copy()
    missed[matches.object[matches.true]] = False
    missed[target[target >= 0]] = False
    return Errors(kind, target, missed)


def counts(errors: Errors) -> dict[str, int]:
    """Return how many errors there are of each type, in the order of TYPES."""
    found = np.bincount(errors.type[errors.type >= 0], minlength=MISSED).tolist()
    return dict(zip(TYPES, [*found, int(errors.missed.sum())], strict=True))


def class_counts(sets: matching.Sets, errors: Errors) -> np.ndarray:
    """Return [C, 6], the errors of each class: of detections theirs, of objects too."""
    table = np.zeros((len(sets.names), len(TYPES)), int)
    wrong = errors.type >= 0
    np.add.at(table, (sets.found.label[wrong], errors.type[wrong]), 1)
    np.add.at(table, (sets.objects.label[errors.missed], MISSED), 1)
    return table


def costs(
    sets: matching.Sets, matches: matching.Matches, errors: Errors
) -> dict[str, float | None]:
    """Return AP50 after the repair of each type alone, minus AP50; never negative.

    Repairs, by the paper: a false class or box becomes that of the object meant, where
    the best score for an object stays and the others go; other false detections go;
    missed objects do not count. A class whose objects were all missed leaves the mean.
    None where no class is left, and for all types without ground truth.
    """
    before = curves.mean(curves.average_precision(curves.ranking(sets, matches)))
    after: dict[str, float | None] = {}
    for kind, name in enumerate(TYPES):
        if kind in (CLASSIFICATION, LOCALISATION):
            ranked = _claimed(sets, matches, errors, kind)
        elif kind == MISSED:
            left = matches._replace(objects=matches.objects & ~errors.missed)
            ranked = curves.ranking(sets, left)
        else:
            kept = matches.counted & (errors.type != kind)
            ranked = curves.ranking(sets, matches._replace(counted=kept))
        after[name] = curves.mean(curves.average_precision(ranked))
    return {
        name: None if before is None or value is None else value - before
        for name, value in after.items()
    }


def _nearest(sets: matching.Sets, use: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The largest IoU of each detection [D], 0 if none, and its object; no crowds."""
    pairs, count = sets.pairs, len(sets.found.image)
    rows = np.flatnonzero(use & ~sets.objects.crowd[pairs.object])
    # Of a repeated index the last value stays: the largest.
    rows = rows[np.argsort(pairs.iou[rows], kind="stable")]
    iou, nearest = np.zeros(count), np.full(count, -1)
    iou[pairs.detection[rows]] = pairs.iou[rows]
    nearest[pairs.detection[rows]] = pairs.object[rows]
    return iou, nearest


def _claimed(
    sets: matching.Sets, matches: matching.Matches, errors: Errors, kind: int
) -> curves.Ranking:
    """The detections after those of one type have become right for their object."""
    fixed = errors.type == kind
    claim = np.where(fixed, errors.target, -1)
    claim[matches.true] = matches.object[matches.true]
    rows = np.flatnonzero(claim >= 0)
    rows = rows[np.lexsort((-sets.found.score[rows], claim[rows]))]
    best = rows[np.append(True, np.diff(claim[rows]) != 0)[: len(rows)]]
    true = np.zeros(len(claim), bool)
    true[best] = True
    label = sets.found.label.copy()
    label[best] = sets.objects.label[claim[best]]
    kept = matches.counted & (true | (claim < 0))
    ranked = curves.ranking(sets, matches._replace(counted=kept, true=true))
    return ranked._replace(label=label[kept])
