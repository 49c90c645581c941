import json

import pytest

from frcnn_jax.data import coco
from frcnn_jax.data.findings import Findings

CONTENT = {
    "images": [{"id": 1, "file_name": "1.jpg", "width": 4, "height": 4}],
    "annotations": [],
    "categories": [{"id": 1, "name": "cat"}],
}


def write(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(CONTENT))


def read(root, split, outside=False):
    return coco.read(root, split, outside=outside, findings=Findings())


def test_the_usual_places_and_their_order(tmp_path):
    for name in ("instances_train", "train", "instances_val"):
        write(tmp_path / "annotations" / f"{name}.json")
    for name in ("val", "test"):
        write(tmp_path / name / "_annotations.coco.json")
    found = {k: str(p.relative_to(tmp_path)) for k, p in coco.splits(tmp_path).items()}
    assert found == {
        "train": "annotations/train.json",
        "val": "annotations/instances_val.json",
        "test": "test/_annotations.coco.json",
    }


def test_images_beside_their_json(tmp_path):
    write(tmp_path / "valid" / "_annotations.coco.json")
    (tmp_path / "valid" / "1.jpg").touch()
    raw = read(tmp_path, "valid")
    assert raw.name == "valid" and raw.pictures == [tmp_path / "valid" / "1.jpg"]
    with pytest.raises(FileNotFoundError, match="one of the splits: valid"):
        read(tmp_path, "val")


def test_the_memory_that_a_large_file_takes_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(coco, "LARGE", 10)
    path = tmp_path / "annotations" / "train.json"
    path.parent.mkdir()
    path.write_text('{"images": [], "annotations": [], "categories": []}')
    read(tmp_path, "train")
    assert capsys.readouterr().out.endswith("GB of JSON take about 0 GB of memory\n")
