"""The metric that a run asks for: one way to score, print and keep it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from frcnn_jax import config
from frcnn_jax.evaluation import coco, voc
from frcnn_jax.terminal import Part


def evaluate(
    asked: config.Eval,
    annotations: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    max_detections: int,
) -> dict[str, Any]:
    """Score results; "AP" is the headline of every metric.

    Errors are those of `coco.evaluate` and `voc.evaluate`.
    """
    match asked.metric:
        case "coco":
            found = coco.evaluate(annotations, results, max_detections, asked.backend)
        case "voc07":
            found = voc.evaluate(annotations, results, points="eleven")
        case "voc":
            found = voc.evaluate(annotations, results, points="area")
    return {"metric": asked.metric, **found}


def table(metrics: Mapping[str, Any]) -> list[Part]:
    """Lay out the figures of `evaluate`, for `terminal.show`."""
    return (coco if metrics["metric"] == "coco" else voc).table(metrics)


def save(metrics: Mapping[str, Any], path: str | Path) -> None:
    """Write the figures of `evaluate` as JSON (None as null), making the folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(metrics, indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
