"""The COCO metric: stored figures, hand-made cases, guards."""

import copy
import json
import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from frcnn_jax import terminal
from frcnn_jax.evaluation import coco, results

GOLDEN = Path(__file__).parents[1] / "golden" / "coco_eval.json"
KEYS = coco.PRECISIONS + coco.RECALLS
ONE = pytest.approx(1.0, abs=1e-12)  # pycocotools divides by count + 2e-16
LONG = {"s": "small", "m": "medium", "l": "large"}


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text())


def stored(stats, key):
    return stats[key[:2] + LONG[key[2]] if key[2:] in LONG else key]


def scene(boxes, **extra):
    """One image, class 3 'cat', one annotation per xywh box, ids from 1."""
    rows = [
        {"id": k, "image_id": 7, "category_id": 3, "bbox": list(b), **extra}
        for k, b in enumerate(boxes, 1)
    ]
    return {
        "images": [{"id": 7, "file_name": "seven.jpg", "width": 500, "height": 400}],
        "categories": [{"id": 3, "name": "cat"}],
        "annotations": rows,
    }


def hit(bbox, score=0.9, image_id=7, category_id=3):
    return {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": list(bbox),
        "score": score,
    }


# ---- figures -----------------------------------------------------------------------


def test_equals_stored_pycocotools_figures(golden):
    metrics = coco.evaluate(golden["ground_truth"], golden["detections"])
    for key in KEYS:
        assert abs(metrics[key] - stored(golden["expected"]["stats"], key)) < 1e-12
    names = {c["name"]: str(c["id"]) for c in golden["ground_truth"]["categories"]}
    for name, row in metrics["per_class"].items():
        expected = golden["expected"]["per_class_AP"][names[name]]
        assert abs(row["AP"] - expected) < 1e-12


def test_equals_stored_figures_for_confident_detections(golden):
    confident = [r for r in golden["detections"] if r["score"] >= 0.5]
    metrics = coco.evaluate(golden["ground_truth"], confident)
    for key in KEYS:
        expected = stored(golden["expected"]["stats_score_ge_0.5"], key)
        assert abs(metrics[key] - expected) < 1e-12


def test_equals_stored_figures_for_perfect_detections(golden):
    truth = golden["ground_truth"]
    perfect = [
        hit(a["bbox"], 1.0, a["image_id"], a["category_id"])
        for a in truth["annotations"]
        if not a["iscrowd"]
    ]
    metrics = coco.evaluate(truth, perfect)
    for key in KEYS:
        expected = stored(golden["expected"]["stats_perfect_noncrowd"], key)
        assert abs(metrics[key] - expected) < 1e-12


def test_per_class_means_give_the_whole(golden):
    metrics = coco.evaluate(golden["ground_truth"], golden["detections"])
    rows = metrics["per_class"].values()
    for key in ("AP", "AP50", "AR100"):
        assert np.isclose(np.mean([r[key] for r in rows]), metrics[key], atol=1e-12)
    crowds = sum(a["iscrowd"] for a in golden["ground_truth"]["annotations"])
    objects = len(golden["ground_truth"]["annotations"]) - crowds
    assert crowds > 0 and sum(r["ground_truth"] for r in rows) == objects
    assert sum(r["detections"] for r in rows) == len(golden["detections"])


def test_a_larger_cap_changes_only_what_it_should(golden):
    truth, found = golden["ground_truth"], golden["detections"]
    at_100 = coco.evaluate(truth, found)
    at_300 = coco.evaluate(truth, found, max_detections=300)
    for key in ("AR1", "AR10", "AR100"):
        assert at_300[key] == at_100[key]
    assert at_300["AP"] >= at_100["AP"]


def test_perfect_boxes_score_one():
    boxes = [(10, 10, 20, 20), (100, 100, 200, 150)]  # small and large
    metrics = coco.evaluate(scene(boxes), [hit(b) for b in boxes])
    assert [metrics[k] for k in ("AP", "AP50", "APs", "APl", "AR100")] == [ONE] * 5
    assert metrics["APm"] is None and metrics["ARm"] is None
    assert metrics["AR1"] == 0.5  # one detection may find one of two


def test_a_shifted_box_counts_below_its_iou():
    # 100 x 100 moved by 10: IoU = 90 / 110 = 0.818, seven of the ten thresholds
    metrics = coco.evaluate(scene([(50, 50, 100, 100)]), [hit((60, 50, 100, 100))])
    assert np.isclose(metrics["AP"], 0.7, atol=1e-12)
    assert metrics["AP50"] == ONE and metrics["AP75"] == ONE
    assert np.isclose(metrics["AR100"], 0.7, atol=1e-12)


def test_a_false_alarm_with_the_best_score_halves_precision():
    found = [hit((300, 300, 40, 40), 0.95), hit((50, 50, 100, 100), 0.9)]
    metrics = coco.evaluate(scene([(50, 50, 100, 100)]), found)
    assert np.isclose(metrics["AP"], 0.5, atol=1e-12)


def test_crowds_are_no_objects_and_no_false_alarms():
    truth = scene([(0, 0, 200, 200), (300, 300, 50, 50)])
    truth["annotations"][0]["iscrowd"] = 1
    found = [hit((10, 10, 30, 30), 0.99), hit((300, 300, 50, 50), 0.5)]
    metrics = coco.evaluate(truth, found)
    assert metrics["AP"] == ONE
    assert metrics["per_class"]["cat"]["ground_truth"] == 1


# ---- guards ------------------------------------------------------------------------


@pytest.mark.parametrize("ids", [(0, 1), (5, 5), (None, None)])
def test_annotation_ids_do_not_matter(ids):
    boxes = [(10, 10, 40, 40), (100, 100, 60, 60)]
    truth = scene(boxes)
    for ann, key in zip(truth["annotations"], ids, strict=True):
        ann["id"] = key
    assert coco.evaluate(truth, [hit(b) for b in boxes])["AP"] == ONE


def test_missing_area_is_width_times_height():
    metrics = coco.evaluate(scene([(0, 0, 20, 20)]), [hit((0, 0, 20, 20))])
    assert metrics["APs"] == ONE and metrics["APl"] is None
    metrics = coco.evaluate(scene([(0, 0, 20, 20)], area=1e5), [hit((0, 0, 20, 20))])
    assert metrics["APs"] is None and metrics["APl"] == ONE  # a given area is kept


def test_arguments_stay_as_they_were(golden):
    truth, found = golden["ground_truth"], golden["detections"]
    before = copy.deepcopy((truth, found))
    coco.evaluate(truth, found)
    assert (truth, found) == before


def test_pycocotools_prints_are_silenced(golden, capfd):
    coco.evaluate(golden["ground_truth"], golden["detections"])
    assert capfd.readouterr().out == ""


def test_no_detections_give_zero_and_a_sentence(caplog):
    with caplog.at_level(logging.WARNING):
        metrics = coco.evaluate(scene([(0, 0, 50, 50)]), [])
    assert metrics["AP"] == 0.0 and metrics["AR100"] == 0.0 and metrics["APl"] is None
    assert "no detections" in caplog.text


def test_no_ground_truth_is_none_not_minus_one(caplog):
    for found in ([], [hit((0, 0, 50, 50))]):
        with caplog.at_level(logging.WARNING):
            metrics = coco.evaluate(scene([]), found)
        assert all(metrics[key] is None for key in KEYS)
        assert metrics["per_class"]["cat"]["detections"] == len(found)
        assert "no ground truth" in caplog.text
        assert "-1" not in terminal.text(
            coco.table(metrics)
        ) and "n/a" in terminal.text(coco.table(metrics))


@pytest.mark.parametrize(
    "bad",
    [
        hit((0, 0, float("nan"), 5)),
        hit((float("inf"), 0, 5, 5)),
        hit((0, 0, 5, 5), score=float("nan")),
        hit((0, 0, 5, 5), score=None),
        hit((0, 0, 5, 5), score="0.9"),
        hit((0, 0, -5, 5)),
        hit((0, 0, 5)),
    ],
)
def test_broken_detections_name_image_and_class(bad):
    with pytest.raises(ValueError, match=r"detection 1 \(image 7 seven.jpg.*'cat'"):
        coco.evaluate(scene([(0, 0, 50, 50)]), [hit((0, 0, 50, 50)), bad])


@pytest.mark.parametrize("box", [(0, 0, float("nan"), 5), (1, 2, 3), None])
def test_broken_ground_truth_names_its_annotation(box):
    truth = scene([(0, 0, 50, 50)])
    truth["annotations"][0]["bbox"] = box
    with pytest.raises(ValueError, match="annotation 1 .*seven.jpg.*'cat'"):
        coco.evaluate(truth, [])


def test_unknown_image_and_category_are_errors():
    with pytest.raises(ValueError, match="detection 0 has image_id 8"):
        coco.evaluate(scene([(0, 0, 5, 5)]), [hit((0, 0, 5, 5), image_id=8)])
    with pytest.raises(ValueError, match="detection 0 has category_id 4"):
        coco.evaluate(scene([(0, 0, 5, 5)]), [hit((0, 0, 5, 5), category_id=4)])
    with pytest.raises(ValueError, match="annotation 1 has category_id 9"):
        coco.evaluate(scene([(0, 0, 5, 5)], category_id=9), [])


def test_empty_or_ambiguous_annotations_are_errors():
    with pytest.raises(ValueError, match="no images"):
        coco.evaluate({"images": [], "categories": [], "annotations": []}, [])
    truth = scene([])
    truth["categories"].append({"id": 4, "name": "cat"})
    with pytest.raises(ValueError, match="repeats an id or a name"):
        coco.evaluate(truth, [])
    with pytest.raises(ValueError, match="at least 1"):
        coco.evaluate(scene([]), [], max_detections=0)


def test_dense_images_are_told_in_numbers(caplog):
    boxes = [(10 * k, 0, 8, 8) for k in range(12)]
    with caplog.at_level(logging.WARNING):
        metrics = coco.evaluate(scene(boxes), [hit(b) for b in boxes], 10)
    assert "1 of 1 images" in caplog.text and "7 seven.jpg (12)" in caplog.text
    assert "2 of 12 detections" in caplog.text
    assert metrics["AP"] < 1.0
    caplog.clear()
    metrics = coco.evaluate(scene(boxes), [hit(b) for b in boxes], 12)
    assert metrics["AP"] == ONE and not caplog.records


# ---- table, file ----------------------------------------------------------


def test_results_from_arrays_score_one():
    boxes = np.float32([[[10, 20, 40, 60]]])
    label, score = np.int32([[1]]), np.float32([[0.5]])
    found = SimpleNamespace(boxes=boxes, scores=score, labels=label)
    rows = results.to_results(found, np.array([0]), (7,), (3,))
    assert coco.evaluate(scene([(10, 20, 30, 40)]), rows)["AP"] == ONE


@pytest.mark.parametrize("count", [1, 85])
def test_table_is_aligned_for_any_number_of_classes(count):
    truth = scene([(0, 0, 50, 50)])
    names = ["cat", "Bücherregal", "日本語", *(f"c{k}" for k in range(count))][:count]
    truth["categories"] = [{"id": 3 + k, "name": n} for k, n in enumerate(names)]
    text = terminal.text(coco.table(coco.evaluate(truth, [hit((0, 0, 50, 50))])))
    rows = text.split("\n\n")[1].splitlines()
    assert len(rows) == 1 + count
    assert len({len(row) for row in rows if row.isascii()}) == 1
    assert "1.000" in rows[1]
    assert all("n/a" in row for row in rows[2:])


def texts(truth, found):
    """The same scene as VOC and YOLO sets have it: image ids are texts."""
    images = [{**i, "id": f"{i['id']:09}"} for i in truth["images"]]
    own, rows = (
        [{**row, "image_id": f"{row['image_id']:09}"} for row in rows]
        for rows in (truth["annotations"], found)
    )
    return {**truth, "images": images, "annotations": own}, rows


def everything(metrics):
    """All figures, overall and per class, in one row."""
    rows = metrics["per_class"].values()
    return [metrics[k] for k in KEYS] + [v for row in rows for v in row.values()]


@pytest.mark.parametrize("ids", ["numbers", "texts"])
@pytest.mark.parametrize("cap", [5, 100])
def test_the_faster_backend_gives_the_same_figures(golden, ids, cap):
    pytest.importorskip("faster_coco_eval")
    scored = golden["ground_truth"], golden["detections"]
    official = coco.evaluate(*scored, cap)
    scored = texts(*scored) if ids == "texts" else scored
    faster = coco.evaluate(*scored, cap, "faster")
    assert everything(faster) == pytest.approx(everything(official), rel=1e-12)
    assert list(faster["per_class"]) == list(official["per_class"])


def test_image_ids_may_be_texts_or_both_kinds(golden):
    scored = golden["ground_truth"], golden["detections"]
    assert coco.evaluate(*texts(*scored)) == coco.evaluate(*scored)
    both = scene([(0, 0, 50, 50)])
    both["images"].append({"id": "a", "file_name": "a.jpg"})
    both["annotations"].append({**both["annotations"][0], "image_id": "a"})
    found = [hit((0, 0, 50, 50)), hit((0, 0, 50, 50), image_id="a")]
    assert coco.evaluate(both, found)["AR1"] == ONE


@pytest.mark.parametrize("backend", ["pycocotools", "faster"])
def test_objects_marked_ignore_count(backend):
    """COCO knows crowds only; VOC's metric leaves difficult ones out."""
    if backend == "faster":
        pytest.importorskip("faster_coco_eval")
    truth = scene([(0, 0, 50, 50), (100, 100, 60, 60)])
    truth["annotations"][1]["ignore"] = 1
    metrics = coco.evaluate(truth, [hit((0, 0, 50, 50))], backend=backend)
    assert metrics["AR100"] == 0.5
    assert metrics["per_class"]["cat"]["ground_truth"] == 2
