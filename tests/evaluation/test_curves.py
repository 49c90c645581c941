"""Curves, best scores, sizes and calibration."""

import json
from pathlib import Path

import numpy as np
import pytest

from frcnn_jax.evaluation import coco, curves, matching

GOLDEN = Path(__file__).parents[1] / "golden" / "coco_eval.json"


def cases(random_case):
    stored = json.loads(GOLDEN.read_text())
    yield stored["ground_truth"], stored["detections"]
    yield stored["ground_truth"], []
    for seed in range(6):
        yield random_case(seed)


def order_of(truth):
    """Where pycocotools, which sorts categories, has ours."""
    return np.argsort(np.argsort([c["id"] for c in truth["categories"]]))


def ranking(score, true, objects):
    """One class."""
    score, true = np.array(score, float), np.array(true, bool)
    label = np.zeros(len(score), int)
    return curves.Ranking(label, score, true, np.array([objects]))


@pytest.mark.parametrize(("iou", "place"), [(0.5, 0), (0.75, 5)])
def test_curves_equal_pycocotools(random_case, scored_by_pycocotools, iou, place):
    for truth, found in cases(random_case):
        sets = matching.read(truth, found)
        drawn = curves.precision_recall(curves.ranking(sets, matching.match(sets, iou)))
        scored = scored_by_pycocotools(truth, found).eval
        # At recall 0 their score may be that of a detection on a crowd.
        for name, own, start in (
            ("precision", drawn.precision, 0),
            ("scores", drawn.score, 1),
        ):
            theirs = scored[name][place, :, order_of(truth), 0, 0]
            own = np.nan_to_num(own, nan=-1)
            assert np.array_equal(own[:, start:], theirs[:, start:])


def test_sizes_equal_the_metric(random_case, scored_by_pycocotools):
    for truth, found in cases(random_case):
        sets = matching.read(truth, found)
        scored = scored_by_pycocotools(truth, found).eval
        for k, figures in enumerate(curves.by_size(sets, 0.5).values()):
            for key, values in (
                ("AP50", scored["precision"][0, :, :, k, 0]),
                ("recall", scored["recall"][0, :, k, 0]),
            ):
                values = values[values > -1]
                expected = values.mean() if values.size else None
                assert figures[key] == pytest.approx(expected, abs=1e-12)


def test_average_precision_is_that_of_the_table(random_case):
    for truth, found in cases(random_case):
        sets = matching.read(truth, found)
        ap = curves.average_precision(curves.ranking(sets, matching.match(sets)))
        rows = coco.evaluate(truth, found)["per_class"].values()
        expected = [np.nan if r["AP50"] is None else r["AP50"] for r in rows]
        assert np.allclose(ap, expected, atol=1e-12, equal_nan=True)


def test_figures_at_a_score_count_all_classes_together():
    box = [0, 0, 40, 40]  # medium
    rows = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": box}]
    rows.append({"id": 2, "image_id": 1, "category_id": 2, "bbox": [0, 0, 9, 9]})
    truth = {
        "images": [{"id": 1}],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": rows,
    }
    hit = {"image_id": 1, "category_id": 1, "bbox": box, "score": 0.5}
    false = hit | {"bbox": [200, 0, 40, 40], "score": 0.6}
    found = curves.by_size(matching.read(truth, [hit, false]), 0.5)
    assert found["all"]["recall_at_score"] == 0.5
    assert found["medium"]["precision_at_score"] == 0.5
    assert found["small"]["recall_at_score"] == 0.0
    assert found["small"]["precision_at_score"] is None
    assert found["large"] == {
        "objects": 0,
        "AP50": None,
        "recall": None,
        "recall_at_score": None,
        "precision_at_score": None,
    }


def test_best_score_does_not_part_equal_scores():
    # From 0.9 on: F1 = 2 / (1 + 3); from 0.5 on: 2 * 2 / (4 + 3)
    (best,) = curves.best_scores(ranking([0.9, 0.5, 0.5, 0.5], [1, 1, 0, 0], 3))
    assert best == {
        "score": 0.5,
        "f1": pytest.approx(4 / 7),
        "precision": 0.5,
        "recall": pytest.approx(2 / 3),
    }


@pytest.mark.parametrize("seed", range(4))
def test_best_score_equals_a_search_over_all_scores(random_case, seed):
    sets = matching.read(*random_case(seed))
    ranked = curves.ranking(sets, matching.match(sets))
    for label, best in enumerate(curves.best_scores(ranked)):
        own, objects = ranked.label == label, ranked.objects[label]
        if not objects:
            assert set(best.values()) == {None}
            continue
        tried = []
        for score in set(ranked.score[own].tolist()):
            sure = own & (ranked.score >= score)
            hits = int(ranked.true[sure].sum())
            tried.append((2 * hits / (sure.sum() + objects), score))
        assert (best["f1"], best["score"]) == pytest.approx(max(tried))


def test_no_threshold_is_any_use_without_hits():
    nothing = {"score": None, "f1": 0.0, "precision": None, "recall": 0.0}
    assert curves.best_scores(ranking([0.9], [False], 2)) == [nothing]
    assert curves.best_scores(ranking([], [], 2)) == [nothing]
    (absent,) = curves.best_scores(ranking([0.9], [False], 0))
    assert set(absent.values()) == {None}


def test_calibration_on_paper():
    found = curves.calibration(ranking([0.9, 0.94, 0.12, 1.0, -3], [1, 0, 0, 1, 0], 2))
    last, second = found["bins"][9], found["bins"][1]
    assert last["detections"] == 3 and last["low"] == 0.9 and last["high"] == 1.0
    assert last["score"] == pytest.approx(2.84 / 3)
    assert last["precision"] == pytest.approx(2 / 3)
    assert (second["detections"], second["precision"]) == (1, 0.0)
    assert found["bins"][5]["precision"] is None
    assert found["error"] == pytest.approx((abs(2.84 - 2) + 0.12 + 3) / 5)
    assert sum(row["detections"] for row in found["bins"]) == 5


def test_true_scores_have_no_calibration_error_and_none_no_figure():
    assert curves.calibration(ranking([1.0, 0.0], [True, False], 1))["error"] == 0.0
    assert curves.calibration(ranking([], [], 1))["error"] is None
