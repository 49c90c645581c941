"""Precision, recall and scores of classes whose detections are matched.

Everything is read off one list per class, its counted detections from the best score
on, equal scores in the order of images. Figures that need objects are NaN in arrays and
None in dictionaries where a class has none. numpy only.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from frcnn_jax.evaluation import matching

RECALLS = np.linspace(0.0, 1.0, 101)  # pycocotools' recall points
BINS = 10  # of the calibration


class Ranking(NamedTuple):
    """Detections as a curve needs them; those that do not count are left out."""

    label: np.ndarray  # [N] 0..C-1
    score: np.ndarray  # [N]
    true: np.ndarray  # [N] bool
    objects: np.ndarray  # [C] objects to be found


class Curves(NamedTuple):
    """Precision at RECALLS, and the score that reaches each recall."""

    precision: np.ndarray  # [C, 101], 0 where the recall is not reached
    score: np.ndarray  # [C, 101], 0 where the recall is not reached


def ranking(sets: matching.Sets, matches: matching.Matches) -> Ranking:
    """Return the counted detections of a matching."""
    counted, found = matches.counted, sets.found
    return Ranking(
        found.label[counted],
        found.score[counted],
        matches.true[counted],
        matches.objects_of(sets.objects.label, len(sets.names)),
    )


def precision_recall(ranked: Ranking) -> Curves:
    """Return the interpolated precision of each class at 101 recalls.

    The precision at a recall is the best at this recall or any higher. Equal to
    pycocotools' `eval["precision"]` and `eval["scores"]`, which have -1 for NaN, save
    for the score at recall 0, which pycocotools may read off an ignored detection.
    """
    shape = len(ranked.objects), len(RECALLS)
    curves = Curves(np.full(shape, np.nan), np.full(shape, np.nan))
    for label, score, true in _classes(ranked):
        objects = ranked.objects[label]
        if not objects:
            continue
        hits = np.cumsum(true).astype(float)
        # The small number is pycocotools' guard against 0 / 0; equality needs it.
        precision = hits / (np.arange(1, len(true) + 1) + np.spacing(1))
        best = np.maximum.accumulate(precision[::-1])[::-1]
        at = np.searchsorted(hits / objects, RECALLS, side="left")
        curves.precision[label] = np.append(best, 0.0)[at]
        curves.score[label] = np.append(score, 0.0)[at]
    return curves


def average_precision(ranked: Ranking) -> np.ndarray:
    """Return [C], the AP of each class, NaN without objects; pycocotools' figure."""
    return precision_recall(ranked).precision.mean(1)


def mean(values: np.ndarray) -> float | None:
    """Return the mean over classes that have a figure, None without any."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else None


def best_scores(ranked: Ranking) -> list[dict[str, float | None]]:
    """Find the score threshold of each class with the highest F1.

    Returns per class score, f1, precision and recall of the detections from that score
    on; of equal F1 the highest score. Without objects all are None; without any true
    detection f1 and recall are 0.0 and the others None, as no threshold is any use.
    """
    none: dict[str, Any] = dict.fromkeys(("score", "f1", "precision", "recall"))
    rows = [none | ({"f1": 0.0, "recall": 0.0} if n else {}) for n in ranked.objects]
    for label, score, true in _classes(ranked):
        objects = ranked.objects[label]
        if not objects or not true.any():
            continue
        # A threshold cannot part equal scores: only the last of them is a choice.
        ends = np.flatnonzero(np.append(np.diff(score) != 0, True))
        hits = np.cumsum(true)[ends]
        f1 = 2 * hits / (ends + 1 + objects)
        k = int(np.argmax(f1))
        rows[label] = {
            "score": float(score[ends[k]]),
            "f1": float(f1[k]),
            "precision": float(hits[k] / (ends[k] + 1)),
            "recall": float(hits[k] / objects),
        }
    return rows


def by_size(sets: matching.Sets, score: float) -> dict[str, dict[str, Any]]:
    """Recall and precision at IoU 0.5 of small, medium and large objects.

    Per size, areas as in `matching.SIZES`: objects; AP50 and recall of all detections,
    both means over classes and equal to pycocotools; and of detections from `score`
    on, all classes together, recall and precision. A figure without objects, or a
    precision without detections, is None.
    """
    figures = {}
    for size in matching.SIZES:
        ranked = ranking(sets, matching.match(sets, size=size))
        objects = int(ranked.objects.sum())
        hits = np.bincount(ranked.label[ranked.true], minlength=len(ranked.objects))
        with np.errstate(invalid="ignore"):  # 0 / 0: a class without such objects
            recall = np.where(ranked.objects, hits / ranked.objects, np.nan)
        sure = ranked.score >= score
        true = int((sure & ranked.true).sum())
        figures[size] = {
            "objects": objects,
            "AP50": mean(average_precision(ranked)),
            "recall": mean(recall),
            "recall_at_score": true / objects if objects else None,
            "precision_at_score": true / int(sure.sum()) if sure.any() else None,
        }
    return figures


def calibration(ranked: Ranking) -> dict[str, Any]:
    """Compare scores with the share of true detections, in ten equal bins of score.

    Returns `bins`, each with low, high, detections, mean score and precision (None in
    an empty bin), and `error`, the expected calibration error: the mean over detections
    of |mean score - precision| of their bin (Guo et al. 2017, precision in place of
    accuracy); None without detections. Scores outside 0..1 go to the end bins.
    """
    place = np.clip((ranked.score * BINS).astype(int), 0, BINS - 1)
    counts = np.bincount(place, minlength=BINS)
    scores = np.bincount(place, weights=ranked.score, minlength=BINS)
    true = np.bincount(place, weights=ranked.true, minlength=BINS)
    bins = []
    for k, count in enumerate(counts.tolist()):
        bins.append(
            {
                "low": k / BINS,
                "high": (k + 1) / BINS,
                "detections": count,
                "score": float(scores[k] / count) if count else None,
                "precision": float(true[k] / count) if count else None,
            }
        )
    total = int(counts.sum())
    error = float(np.abs(scores - true).sum() / total) if total else None
    return {"bins": bins, "error": error}


def _classes(ranked: Ranking) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield label, scores and hits of each class, best scores first."""
    order = np.lexsort((-ranked.score, ranked.label))
    limits = np.searchsorted(ranked.label[order], np.arange(len(ranked.objects) + 1))
    for label, (start, stop) in enumerate(zip(limits, limits[1:], strict=False)):
        rows = order[start:stop]
        yield label, ranked.score[rows], ranked.true[rows]
