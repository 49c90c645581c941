"""Pascal VOC's metric: a published example, hand-made cases, the kit's rules."""

import numpy as np
import pytest

from frcnn_jax import terminal
from frcnn_jax.evaluation import voc

# Image, x, y, width, height, and image, score, x, y, width, height: the example of
# github.com/rafaelpadilla/Object-Detection-Metrics (dcb285e7, MIT), which publishes
# 24.56 % (area) and 26.84 % (eleven points) at IoU 0.3 with widths of one pixel more.
OBJECTS = [
    (1, 25, 16, 38, 56),
    (1, 129, 123, 41, 62),
    (2, 123, 11, 43, 55),
    (2, 38, 132, 59, 45),
    (3, 16, 14, 35, 48),
    (3, 123, 30, 49, 44),
    (3, 99, 139, 47, 47),
    (4, 53, 42, 40, 52),
    (4, 154, 43, 31, 34),
    (5, 59, 31, 44, 51),
    (5, 48, 128, 34, 52),
    (6, 36, 89, 52, 76),
    (6, 62, 58, 44, 67),
    (7, 28, 31, 55, 63),
    (7, 58, 67, 50, 58),
]
FOUND = [
    (1, 0.88, 5, 67, 31, 48),
    (1, 0.7, 119, 111, 40, 67),
    (1, 0.8, 124, 9, 49, 67),
    (2, 0.71, 64, 111, 64, 58),
    (2, 0.54, 26, 140, 60, 47),
    (2, 0.74, 19, 18, 43, 35),
    (3, 0.18, 109, 15, 77, 39),
    (3, 0.67, 86, 63, 46, 45),
    (3, 0.38, 160, 62, 36, 53),
    (3, 0.91, 105, 131, 47, 47),
    (3, 0.44, 18, 148, 40, 44),
    (4, 0.35, 83, 28, 28, 26),
    (4, 0.78, 28, 68, 42, 67),
    (4, 0.45, 87, 89, 25, 39),
    (4, 0.14, 10, 155, 60, 26),
    (5, 0.62, 50, 38, 28, 46),
    (5, 0.44, 95, 11, 53, 28),
    (5, 0.95, 29, 131, 72, 29),
    (5, 0.23, 29, 163, 72, 29),
    (6, 0.45, 43, 48, 74, 38),
    (6, 0.84, 17, 155, 29, 35),
    (6, 0.43, 95, 110, 25, 42),
    (7, 0.48, 16, 20, 101, 88),
    (7, 0.95, 33, 116, 37, 49),
]


def scene(objects, found):
    images = [{"id": i, "file_name": f"{i}.jpg"} for i in range(1, 8)]
    truth = [
        {"id": n, "image_id": i, "category_id": 1, "bbox": list(box)}
        for n, (i, *box) in enumerate(objects, 1)
    ]
    results = [
        {"image_id": i, "category_id": 1, "bbox": list(box), "score": score}
        for i, score, *box in found
    ]
    categories = [{"id": 1, "name": "person"}, {"id": 2, "name": "cat"}]
    return {"images": images, "categories": categories, "annotations": truth}, results


@pytest.mark.parametrize(
    ("points", "plus_one", "expected"),
    [
        ("area", True, 0.245687),
        ("eleven", True, 0.268398),
        ("area", False, 0.225397),
        ("eleven", False, 0.268398),
    ],
)
def test_equals_the_published_example(points, plus_one, expected):
    options = {"points": points, "plus_one": plus_one, "iou": 0.3}
    found = voc.evaluate(*scene(OBJECTS, FOUND), **options)
    assert found["AP"] == pytest.approx(expected, abs=5e-7)
    row = found["per_class"]["person"]
    assert (row["ground_truth"], row["detections"]) == (15, 24)
    assert found["per_class"]["cat"]["AP"] is None


@pytest.mark.parametrize("points", ["area", "eleven"])
def test_perfect_and_doubled_detections(points, caplog):
    objects = [(1, 10, 10, 20, 20), (1, 50, 10, 20, 20), (2, 5, 5, 9, 9)]
    found = [(i, 0.9 - n / 10, *box) for n, (i, *box) in enumerate(objects)]
    assert voc.evaluate(*scene(objects, found), points=points)["AP"] == 1.0
    again = [(1, 0.95, 10, 10, 20, 20), *found]  # the second on this object is false
    hits = {"area": (1 + 2 / 3 * 0 + 3 / 4 * 2) / 3, "eleven": (4 + 7 * 3 / 4) / 11}
    assert voc.evaluate(*scene(objects, again), points=points)["AP"] == pytest.approx(
        hits[points]
    )
    assert voc.evaluate(*scene(objects, []), points=points)["AP"] == 0.0
    assert "no detections at all" in caplog.text


def test_ignored_objects_are_neither_missed_nor_hit():
    truth, results = scene(
        [(1, 10, 10, 20, 20), (1, 60, 60, 20, 20)],
        [(1, 0.9, 60, 60, 20, 20), (1, 0.8, 10, 10, 20, 20), (1, 0.7, 60, 61, 20, 20)],
    )
    truth["annotations"][1]["ignore"] = 1
    found = voc.evaluate(truth, results)
    assert found["AP"] == 1.0 and found["per_class"]["person"]["ground_truth"] == 1


def test_the_threshold_itself_is_a_hit_and_the_nearest_object_counts():
    half = scene([(1, 0, 0, 10, 10)], [(1, 0.9, 0, 0, 10, 5)])
    assert voc.evaluate(*half)["AP"] == 1.0
    # Both lie above the threshold for the first object; the kit does not look for a
    # second choice once the best one is taken.
    objects = [(1, 0, 0, 10, 10), (1, 0, 3, 10, 10)]
    found = [(1, 0.9, 0, 0, 10, 10), (1, 0.8, 0, 1, 10, 10)]
    assert voc.evaluate(*scene(objects, found))["AP"] == pytest.approx(0.5)


def test_no_objects_at_all(caplog):
    found = voc.evaluate(*scene([], [(1, 0.9, 0, 0, 10, 5)]))
    assert found["AP"] is None and "no ground truth at all" in caplog.text
    assert terminal.text(voc.table(found)).splitlines()[0] == (
        "mAP  n/a  (area, VOC 2010 on; IoU 0.5)"
    )


def test_the_table_names_the_rule_and_every_class():
    lines = terminal.text(
        voc.table(voc.evaluate(*scene(OBJECTS, FOUND), points="eleven"))
    ).split("\n")
    assert lines[0].endswith("(11 recalls, VOC 2007; IoU 0.5)")
    assert lines[2].split() == ["class", "AP", "objects", "detections"]
    assert lines[3].split()[0] == "person" and lines[4].split()[1] == "n/a"


def test_average_precision_by_hand():
    hits = np.array([True, False, True])
    assert voc.average_precision(hits, 4, "area") == pytest.approx(0.25 + 0.25 * 2 / 3)
    # Recalls 0, 0.1, 0.2 have precision 1; 0.3, 0.4, 0.5 have 2/3; the rest 0.
    assert voc.average_precision(hits, 4, "eleven") == pytest.approx((3 + 2) / 11)
