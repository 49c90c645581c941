"""The COCO box metric: pycocotools' own figures, guarded against its silent traps.

Conventions: boxes come in as xyxy in ORIGINAL image pixels and leave as COCO's
(x, y, width, height), continuous, nothing added or taken away. Labels are 1..C; COCO's
category ids appear only here and in the data readers. A figure pycocotools reports as
-1 (no ground truth of that kind) is None here, `null` in JSON and "n/a" in tables.

What pycocotools alone would let pass is caught in `checked`. Objects marked "ignore"
count like any other, as pycocotools counts them. `backend` "faster" has
faster-coco-eval (an extra of the package) compute the same figures in less time.

Not here: running the network (see `infer.py`), masks, VOC's metric (see `voc.py`).
"""

import contextlib
import io
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from frcnn_jax.evaluation import checked
from frcnn_jax.terminal import Part, Rows, figure

log = logging.getLogger(__name__)

PRECISIONS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
RECALLS = ("AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
SIZES = ("all", "s", "m", "l")  # pycocotools' order of area ranges
NAMED = 5  # offenders listed in one message


def evaluate(
    annotations: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    max_detections: int = 100,
    backend: str = "pycocotools",
) -> dict[str, Any]:
    """Score COCO results against COCO annotations.

    Returns AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl (float, or
    None without ground truth of that kind) and `per_class`: {class name: {AP, AP50,
    AR100, ground_truth, detections}}, where ground_truth counts objects that are not
    crowds. With the default `max_detections` the twelve figures are those of
    `COCOeval.summarize`, bit for bit. Another value counts that many detections per
    image and class in all but AR1, AR10 and AR100, whose names say their number.

    Missing `area` (width * height) and `iscrowd` (0) are filled in and annotation ids
    are renumbered, in a copy. No detections give figures of 0.0 and a logged sentence;
    images holding more objects, or more detections of one class, than
    `max_detections` are logged with their numbers.

    Raises ValueError naming the image and class for boxes or scores that are no finite
    numbers, negative sizes, unknown images or categories, and ambiguous class names.
    """
    if max_detections < 1:
        raise ValueError(f"max_detections is {max_detections}; it must be at least 1")
    names = checked.class_names(annotations)
    files = {i["id"]: i.get("file_name", "") for i in annotations["images"]}
    truth = checked.ground_truth(annotations, names=names, files=files)
    found = checked.detections(results, names=names, files=files)
    _log_limits(truth, found, files=files, max_detections=max_detections)
    places = checked.places(files)
    for row in (*truth, *found):
        row["image_id"] = places[row["image_id"]]
    images = [{"id": place} for place in places.values()]
    categories = [{"id": key, "name": name} for key, name in names.items()]
    scored = _accumulate(
        {"images": images, "categories": categories},
        truth,
        found,
        max_detections=max_detections,
        backend=backend,
    )
    metrics: dict[str, Any] = _figures(scored, max_detections)
    metrics["per_class"] = _per_class(scored, max_detections, truth, found, names=names)
    return metrics


def table(metrics: Mapping[str, Any]) -> list[Part]:
    """Lay out the figures of `evaluate`.

    Twelve figures in two lines, then one line per class; three decimals, "n/a" where
    there is no ground truth.
    """
    parts: list[Part] = [
        Rows([keys, [figure(metrics[key]) for key in keys]], left=0)
        for keys in (PRECISIONS, RECALLS)
    ]
    parts += ["(IoU 0.50:0.95; s, m, l: area below 32^2, up to 96^2, above, in pixels)"]
    head = ("class", "AP", "AP50", "AR100", "objects", "detections")
    rows: list[Sequence[str]] = [head]
    for name, row in metrics["per_class"].items():
        shown = [figure(row[key]) for key in head[1:4]]
        rows.append((name, *shown, str(row["ground_truth"]), str(row["detections"])))
    return [*parts, "", Rows(rows)]


# ---- what is worth a word -----------------------------------------------------------


def _log_limits(
    truth: list[dict], found: list[dict], *, files: Mapping, max_detections: int
) -> None:
    """Say in numbers where `max_detections` alone lowers the score."""
    checked.log_empty(truth, found)
    objects = Counter(ann["image_id"] for ann in truth if not ann["iscrowd"])
    dense = [(i, n) for i, n in objects.most_common() if n > max_detections]
    if dense:
        listed = ", ".join(f"{i} {files[i]} ({n})" for i, n in dense[:NAMED])
        log.warning(
            "%d of %d images hold more than max_detections = %d objects, so some must "
            "be missed; the fullest: %s",
            *(len(dense), len(files), max_detections, listed),
        )
    rows = Counter((d["image_id"], d["category_id"]) for d in found).values()
    if dropped := sum(max(0, n - max_detections) for n in rows):
        log.warning(
            "%d of %d detections lie beyond max_detections = %d per image and class "
            "and do not count",
            *(dropped, len(found), max_detections),
        )


# ---- pycocotools -------------------------------------------------------------------


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def _accumulate(
    shared: dict[str, list],
    truth: list[dict],
    found: list[dict],
    *,
    max_detections: int,
    backend: str,
) -> Any:
    """Run the backend and return its COCOeval, with `eval` and `params`."""
    coco, coco_eval = _backend(backend)
    sets = []
    with _silence():
        for rows in (truth, found):
            sets.append(coco())
            sets[-1].dataset = {**shared, "annotations": rows}
            sets[-1].createIndex()
        scored = coco_eval(*sets, iouType="bbox")
        scored.params.maxDets = sorted({1, 10, 100, max_detections})
        scored.evaluate()
        scored.accumulate()
    return scored


def _backend(name: str) -> tuple[Any, Any]:
    """Return the classes COCO and COCOeval of a backend."""
    if name == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        return COCO, COCOeval
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise ValueError(
            'eval.backend "faster" needs the package faster-coco-eval:'
            ' pip install faster-coco-eval, or set eval.backend to "pycocotools"'
        ) from error
    return COCO, COCOeval_faster


def _figures(scored: Any, cap: int) -> dict[str, float | None]:
    """The twelve figures, as `COCOeval.summarize` forms them from its two arrays."""
    return {
        "AP": _precision(scored, cap),
        "AP50": _precision(scored, cap, iou=0.5),
        "AP75": _precision(scored, cap, iou=0.75),
        **{f"AP{s}": _precision(scored, cap, size=s) for s in SIZES[1:]},
        **{f"AR{n}": _recall(scored, n) for n in (1, 10, 100)},
        **{f"AR{s}": _recall(scored, cap, size=s) for s in SIZES[1:]},
    }


def _per_class(
    scored: Any,
    cap: int,
    truth: list[dict],
    found: list[dict],
    *,
    names: Mapping[Any, str],
) -> dict[str, dict]:
    objects = Counter(ann["category_id"] for ann in truth if not ann["iscrowd"])
    detections = Counter(d["category_id"] for d in found)
    axis = {key: [k] for k, key in enumerate(scored.params.catIds)}
    return {
        name: {
            "AP": _precision(scored, cap, classes=axis[key]),
            "AP50": _precision(scored, cap, iou=0.5, classes=axis[key]),
            "AR100": _recall(scored, 100, classes=axis[key]),
            "ground_truth": objects[key],
            "detections": detections[key],
        }
        for key, name in names.items()
    }


def _precision(
    scored: Any,
    cap: int,
    *,
    iou: float | None = None,
    size: str = "all",
    classes: Any = slice(None),
) -> float | None:
    """Mean over [iou, recall, class]; -1 marks classes without ground truth."""
    values = scored.eval["precision"][
        :, :, :, SIZES.index(size), scored.params.maxDets.index(cap)
    ][:, :, classes]
    if iou is not None:
        values = values[np.flatnonzero(scored.params.iouThrs == iou)]
    return _mean(values)


def _recall(
    scored: Any, cap: int, *, size: str = "all", classes: Any = slice(None)
) -> float | None:
    """Mean over [iou, class] of the highest recall reached."""
    values = scored.eval["recall"][
        :, :, SIZES.index(size), scored.params.maxDets.index(cap)
    ]
    return _mean(values[:, classes])


def _mean(values: np.ndarray) -> float | None:
    present = values[values > -1]
    return float(np.mean(present)) if present.size else None
