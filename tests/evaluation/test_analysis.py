"""The whole analysis: figures that agree with the metric, files, lines."""

import csv
import json
from pathlib import Path

import pytest

from frcnn_jax import terminal
from frcnn_jax.evaluation import analysis, coco, errors

GOLDEN = Path(__file__).parents[1] / "golden" / "coco_eval.json"


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text())


@pytest.fixture(scope="module")
def found(golden):
    return analysis.evaluate(golden["ground_truth"], golden["detections"])


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_figures_agree_with_the_metric(golden, found):
    metrics = coco.evaluate(golden["ground_truth"], golden["detections"])
    for key in ("AP50", "AP75"):
        assert found["totals"][key] == pytest.approx(metrics[key], abs=1e-12)
    assert found["sizes"]["all"]["AP50"] == pytest.approx(metrics["AP50"], abs=1e-12)
    for name, row in metrics["per_class"].items():
        own = found["per_class"][name]
        assert own["AP50"] == pytest.approx(row["AP50"], abs=1e-12)
        assert own["objects"] == row["ground_truth"]
    totals = found["totals"]
    assert totals["objects"] == totals["true_positives"] + totals["false_negatives"]
    counted = totals["true_positives"] + totals["false_positives"]
    left_out = totals["on_crowds"] + totals["beyond_max_detections"]
    assert counted + left_out == len(golden["detections"])
    of_classes = sum(row["detections"] for row in found["per_class"].values())
    assert of_classes == counted


def test_files_hold_the_same_figures(found, tmp_path):
    analysis.save(found, tmp_path / "new")
    whole, classes, types, points = (tmp_path / "new" / n for n in analysis.FILES)
    assert json.loads(whole.read_text(encoding="utf-8")) == found
    assert [r["error"] for r in rows(types)] == list(errors.TYPES)
    for row in rows(types):
        own = found["errors"][row["error"]]
        assert (int(row["count"]), float(row["dAP50"])) == tuple(own.values())
    for row in rows(classes):
        own = found["per_class"][row["class"]]
        assert float(row["AP50"]) == own["AP50"]
        assert float(row["best_score"]) == own["best"]["score"]
        assert int(row["missed"]) == own["errors"]["missed"]
    drawn = rows(points)
    assert len(drawn) == 2 * len(found["per_class"]) * 101
    name = drawn[0]["class"]
    mean = sum(float(r["precision"]) for r in drawn[:101]) / 101
    assert mean == pytest.approx(found["per_class"][name]["AP50"])


def test_lines_name_every_type(found):
    head, titles, *lines = terminal.text(analysis.table(found)).split("\n")
    assert head.startswith("AP50 0.502: ") and titles.split()[0] == "error"
    assert [line.split()[0] for line in lines] == list(errors.TYPES)


def test_nothing_found_and_nothing_to_find(golden, tmp_path):
    truth = golden["ground_truth"]
    nothing = analysis.evaluate(truth, [])
    assert nothing["totals"]["AP50"] == 0.0 and nothing["calibration"]["error"] is None
    empty = analysis.evaluate(truth | {"annotations": []}, golden["detections"])
    assert empty["totals"]["AP50"] is None
    false = empty["totals"]["false_positives"]
    assert empty["errors"]["background"]["count"] == false > 0
    for k, case in enumerate((nothing, empty)):
        analysis.save(case, tmp_path / str(k))
        assert "n/a" in terminal.text(analysis.table(case))
    assert rows(tmp_path / "1" / analysis.FILES[1])[0]["AP50"] == ""
