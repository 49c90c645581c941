"""Which images a detector gets most wrong, by the types of `errors`."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from frcnn_jax.evaluation import checked, errors, matching


class Worst(NamedTuple):
    """An image and its errors."""

    image_id: Any
    errors: dict[str, int]  # by type, in the order of errors.TYPES; those there are


def images(
    annotations: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    *,
    count: int,
    max_detections: int = 100,
    score: float = 0.5,
) -> list[Worst]:
    """Return at most `count` images with errors, most first, then by id.

    Only detections from `score` on are looked at, as only they are drawn; an object
    that none of them finds or means is missed. Raises ValueError as `coco.evaluate`.
    """
    sure = [row for row in results if row["score"] >= score]
    sets = matching.read(annotations, sure, max_detections)
    typed = errors.classify(sets, matching.match(sets))
    places = checked.places(image["id"] for image in annotations["images"])
    table = np.zeros((len(places) + 1, len(errors.TYPES)), int)  # places are from 1
    wrong = typed.type >= 0
    np.add.at(table, (sets.found.image[wrong], typed.type[wrong]), 1)
    np.add.at(table, (sets.objects.image[typed.missed], errors.MISSED), 1)
    total, ids = table.sum(1), [None, *places]
    order = np.argsort(-total, kind="stable")[:count]
    return [
        Worst(ids[k], {t: n for t, n in _named(table[k]).items() if n})
        for k in order.tolist()
        if total[k]
    ]


def _named(row: np.ndarray) -> dict[str, int]:
    return dict(zip(errors.TYPES, row.tolist(), strict=True))
