"""Running a detector over a data set."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from frcnn_jax.data.records import Dataset
from frcnn_jax.evaluation.results import to_results


def detections(
    predict: Callable[[dict[str, np.ndarray]], Callable[[], tuple[Any, np.ndarray]]],
    batches: Iterable[dict[str, np.ndarray]],
    dataset: Dataset,
) -> list[dict[str, Any]]:
    """COCO results of every image in `batches`, boxes in original pixels.

    `predict` starts one batch on the devices and returns a function that waits for it
    and gives (detections, image rows) as numpy, all processes' rows together. The next
    batch is read while one computes. Filler images are left out.
    """
    source_ids = [record.source_id for record in dataset.records]
    results: list[dict[str, Any]] = []

    def collect(found) -> None:
        detections, rows = found()
        ids = dataset.category_ids
        results.extend(to_results(detections, rows, source_ids, ids))

    running = None
    for arrays in batches:
        started = predict(arrays)
        if running is not None:
            collect(running)
        running = started
    if running is not None:
        collect(running)
    return results
