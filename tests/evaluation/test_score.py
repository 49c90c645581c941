import json

import pytest

from frcnn_jax import config, terminal
from frcnn_jax.evaluation import checked, score

TRUTH = {
    "images": [{"id": 7, "file_name": "seven.jpg"}],
    "categories": [{"id": 3, "name": "cat"}],
    "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [0, 0, 9, 9]}],
}
FOUND = [{"image_id": 7, "category_id": 3, "bbox": [0, 0, 9, 8], "score": 0.5}]


@pytest.mark.parametrize(
    ("metric", "ap", "head"),
    [("coco", 0.8, "AP   AP50"), ("voc07", 1.0, "mAP"), ("voc", 1.0, "mAP")],
)
def test_each_metric_has_a_headline_and_a_table(metric, ap, head):
    found = score.evaluate(config.Eval(metric=metric), TRUTH, FOUND, 100)
    assert found["AP"] == pytest.approx(ap) and found["metric"] == metric
    assert terminal.text(score.table(found)).strip().startswith(head)


def test_save_keeps_none_as_null(tmp_path):
    score.save({"AP": None, "n": "ñ"}, tmp_path / "new" / "eval.json")
    text = (tmp_path / "new" / "eval.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"AP": None, "n": "ñ"} and "ñ" in text


@pytest.mark.parametrize("metric", ["coco", "voc"])
@pytest.mark.parametrize(
    "broken", [{"score": float("nan")}, {"bbox": [0, 0, 1e999, 1]}]
)
def test_broken_detections_are_refused_with_a_code_of_their_own(metric, broken):
    with pytest.raises(
        checked.Refused, match="image 7 seven.jpg, class 'cat'"
    ) as error:
        score.evaluate(config.Eval(metric=metric), TRUTH, [FOUND[0] | broken], 100)
    assert error.value.exit_code == 2
