"""Writes the report of a run: `report.html`, and its charts as PNG."""

from pathlib import Path

from frcnn_jax.pages import charts
from frcnn_jax.report import figures, page, paint
from frcnn_jax.report.material import Material
from frcnn_jax.report.tables import shown

FILE = "report.html"


def write(told: Material, folder: Path) -> list[str]:
    """Write page and pictures into a folder; return the names of the files.

    `report_precision_recall.png` and `report_errors.png` need an analysis,
    `report_training.png` a `metrics.jsonl`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text(page.html(told), encoding="utf-8")
    drawn = {"training": _lines(figures.training(told.history))}
    if told.found is not None:
        drawn["precision_recall"] = _lines(figures.precision_recall(told.found))
        costs = {name: row["dAP50"] for name, row in told.found["errors"].items()}
        values = {name: cost or 0.0 for name, cost in costs.items()}
        texts = [shown(cost) for cost in costs.values()]
        drawn["errors"] = paint.bars(
            "AP50 that each type of error costs", values, texts
        )
    names = [FILE]
    for name, picture in drawn.items():
        if picture is not None:
            names.append(f"report_{name}.png")
            paint.save(picture, folder / names[-1])
    return names


def _lines(drawn: list[charts.Chart]):
    return paint.stacked([paint.lines(chart) for chart in drawn]) if drawn else None
