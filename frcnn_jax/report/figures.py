"""The charts of a report, for the page and for pictures alike."""

from collections.abc import Mapping, Sequence
from typing import Any

from frcnn_jax.pages.charts import COLORS, FAINT, Chart, Line
from frcnn_jax.training.log import SHOWN

NAMED = 6  # classes with a colour and a name; more are faint lines behind the mean
POINTS = 1500  # of a line; of more every n-th is drawn
UNIT = (0.0, 1.0, 0.0, 1.0)
PARTS = {"loss": "loss"} | {k: f"{v} loss" for k, v in SHOWN.items()}
SCORES = {"eval/AP": "AP", "eval/AP50": "AP50", "eval/AP75": "AP75"}


def precision_recall(found: Mapping[str, Any]) -> list[Chart]:
    """Precision over recall at each IoU of the analysis: classes and their mean."""
    curves, charts = found["curves"], []
    for iou, classes in curves.items():
        if iou == "recall" or not classes:
            continue
        named = len(classes) <= NAMED
        lines = [
            Line(
                *(name, curves["recall"], curve["precision"]),
                color=COLORS[k % len(COLORS)] if named else FAINT,
                width=1.6 if named else 0.4,
                listed=named,
            )
            for k, (name, curve) in enumerate(classes.items())
        ]
        columns = zip(*(c["precision"] for c in classes.values()), strict=True)
        mean = [sum(column) / len(column) for column in columns]
        name = "mean" if named else f"mean of {len(classes)} classes"
        color = "#7f7f7f" if named else COLORS[0]
        lines.append(Line(name, curves["recall"], mean, color=color, width=3.0))
        title = f"precision over recall, IoU {iou}"
        charts.append(Chart(title, "recall", "precision", lines, UNIT))
    return charts


def calibration(found: Mapping[str, Any]) -> Chart:
    """The share of true detections over the mean score, bin by bin."""
    bins = [b for b in found["calibration"]["bins"] if b["detections"]]
    lines = [
        Line("as it should be", (0, 1), (0, 1), color=FAINT, width=1.2, dashed=True),
        Line("measured", [b["score"] for b in bins], [b["precision"] for b in bins]),
    ]
    return Chart(
        "share of true detections over score", "mean score", "true", lines, UNIT
    )


def training(history: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Losses, AP and learning rate over the steps; charts without a point are left."""
    losses = _lines(history, PARTS)
    losses += [
        line._replace(color=COLORS[5], width=2.4)
        for line in _lines(history, {"eval/loss": "loss of the scored split"})
    ]
    charts = [
        Chart("loss", "step", "loss", losses),
        Chart("AP of the evaluations", "step", "AP", _lines(history, SCORES)),
        Chart("learning rate", "step", "rate", _lines(history, {"lr": "rate"})),
    ]
    return [chart for chart in charts if chart.lines]


def _lines(history: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> list:
    lines = []
    for k, (key, name) in enumerate(names.items()):
        points = [(row["step"], row[key]) for row in history if key in row]
        if not any(y is not None for _, y in points):
            continue
        step = -(-len(points) // POINTS)
        points = points[: -1 if step > 1 else None : step] + points[-1:] * (step > 1)
        xs, ys = zip(*points, strict=True)
        width = 1.8 if k == 0 else 1.2
        lines.append(Line(name, xs, ys, COLORS[k % len(COLORS)], width))
    return lines
