"""Images of a data set with predictions beside ground truth."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from frcnn_jax import vis
from frcnn_jax.data import transforms
from frcnn_jax.data.records import Dataset, Record
from frcnn_jax.evaluation.results import from_results


def chosen(data: Dataset, count: int) -> list[Record]:
    """At most `count` records, evenly over the data set; always the same ones."""
    rows = np.linspace(0, len(data.records) - 1, min(count, len(data.records)))
    return [data.records[row] for row in np.unique(rows.round().astype(int))]


def panel(
    record: Record,
    data: Dataset,
    results: Sequence[Mapping[str, Any]],
    *,
    max_pixels: int,
    score: float,
) -> np.ndarray | None:
    """One image with its objects and what COCO results have of it, from `score` on.

    None for an image that cannot be read: scoring counts it.
    """
    found = from_results(results, record.source_id, data.category_ids)
    try:
        image = transforms.decode(record.path, max_pixels)
    except transforms.BadImage:
        return None
    return vis.side_by_side(image, record, found, data.class_names, score)
