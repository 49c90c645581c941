import csv
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from frcnn_jax.evaluation.results import from_results
from frcnn_jax.labels import Labels
from frcnn_jax.prediction import outputs
from frcnn_jax.prediction.found import Found

LABELS = Labels(("cat", "dog", "unused 3"), (5, 18, None))
BOXES = np.float32([[10, 5, 40, 30], [-1, 0, 20, 20], [0, 0, 60, 40]])
SCORES, NUMBERS = np.float32([0.9, 0.6, 0.2]), np.int32([2, 1, 1])


def found(rows=3):
    parts = BOXES[:rows], SCORES[:rows], NUMBERS[:rows]
    return Found(*parts, LABELS.class_names, (40, 60))


@pytest.fixture
def paths(tmp_path, rng):
    places = [tmp_path / "in" / name for name in ("a.png", "b.png", "c.png")]
    places[0].parent.mkdir()
    for place in places:
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), np.uint8)).save(place)
    return places


def written(paths, out, kinds, score=0.5):
    """Of three pictures: the last is done first, the second cannot be read."""
    out.mkdir()
    with begun(out, kinds, paths, score) as writer:
        assert len(writer.add(2, found(0))) == 0
        assert len(writer.add(0, found())) == (SCORES >= score).sum()
        said = writer.said()
    return said, sorted(p.name for p in out.iterdir())


def begun(out, kinds, paths, score=0.5):
    return outputs.Outputs(out, kinds, paths, LABELS, score=score, max_pixels=10_000)


def test_drawn_pictures_and_nothing_else(paths, tmp_path):
    said, names = written(paths, tmp_path / "out", ("pictures",))
    assert names == ["a.jpg", "c.jpg"]
    assert said == f"2 detections with score >= 0.5 drawn into {tmp_path / 'out'}"
    with Image.open(tmp_path / "out" / "a.jpg") as drawn:
        assert drawn.size == (60, 40)


def test_results_are_read_back(paths, tmp_path):
    out = tmp_path / "out"
    said, names = written(paths, out, ("coco",))
    assert names == ["images.json", "predictions.json"]
    assert said == f"all 3 of any score are in {out / 'predictions.json'}"
    results = json.loads((out / "predictions.json").read_text())
    assert {row["file_name"] for row in results} == {str(paths[0])}
    again = from_results(results, 0, LABELS.category_ids)
    np.testing.assert_allclose(again.boxes, BOXES)
    assert again.labels.tolist() == NUMBERS.tolist()
    truth = COCO(out / "images.json")
    assert truth.loadImgs([0, 2])[1] == {
        "id": 2,
        "file_name": str(paths[2]),
        "height": 40,
        "width": 60,
    }
    assert [c["name"] for c in truth.loadCats(truth.getCatIds())] == ["cat", "dog"]
    assert len(truth.loadRes(str(out / "predictions.json")).anns) == 3


def test_a_table(paths, tmp_path):
    written(paths, tmp_path / "out", ("csv",))
    with open(tmp_path / "out" / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == ["dog", "cat"]
    assert rows[0] == dict(
        zip(
            outputs.COLUMNS,
            [str(paths[0]), "", "dog", "0.9000", "10.00", "5.00", "40.00", "30.00"],
            strict=True,
        )
    )


def test_yolo_lines_are_shares_of_the_picture(paths, tmp_path):
    out = tmp_path / "out"
    _, names = written(paths, out, ("yolo",))
    assert names == ["yolo", "yolo_classes.txt"]
    assert (out / "yolo_classes.txt").read_text() == "cat\ndog\nunused 3\n"
    assert sorted(p.name for p in (out / "yolo").iterdir()) == ["a.txt", "c.txt"]
    assert (out / "yolo" / "c.txt").read_text() == ""
    first, second = (out / "yolo" / "a.txt").read_text().splitlines()
    assert first == "1 0.416667 0.437500 0.500000 0.625000 0.9000"
    assert second == "0 0.166667 0.250000 0.333333 0.500000 0.6000"  # cut at the side


def test_all_kinds_are_told_in_one_line(paths, tmp_path):
    out = tmp_path / "out"
    said, _ = written(paths, out, outputs.KINDS, score=0.1)
    table, lines = out / "predictions.csv", out / "yolo"
    assert said == (
        f"3 detections with score >= 0.1 drawn into {out}, in {table}, in {lines};"
        f" all 3 of any score are in {out / 'predictions.json'}"
    )


def test_a_picture_is_not_drawn_over(paths):
    jpg = paths[0].rename(paths[0].with_suffix(".jpg"))
    with pytest.raises(ValueError, match=r"a\.jpg would be drawn over"):
        begun(jpg.parent, ("pictures",), [jpg])


def test_files_are_complete_where_the_rest_fails(paths, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(KeyboardInterrupt), begun(out, ("coco", "csv"), paths) as files:
        files.add(1, found())
        assert len((out / "predictions.csv").read_text().splitlines()) < 4  # buffered
        raise KeyboardInterrupt
    assert len(json.loads((out / "predictions.json").read_text())) == 3
    assert [
        i["id"] for i in json.loads((out / "images.json").read_text())["images"]
    ] == [1]
    with begun(out, ("coco",), paths) as files:
        files.add(1, found(0))
    assert json.loads((out / "predictions.json").read_text()) == []


def test_kinds_are_checked():
    assert outputs.checked(["csv", "pictures", "csv"]) == ("pictures", "csv")
    with pytest.raises(ValueError, match="--save: 'coc' is none .*did you mean coco"):
        outputs.checked(["coc"])
    with pytest.raises(ValueError, match="--save: name one or more of pictures, coco"):
        outputs.checked([])
