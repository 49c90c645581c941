import json

import pytest

from frcnn_jax.data import coco
from frcnn_jax.data.findings import Findings

BOM = b"\xef\xbb\xbf"
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


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b'{"images": [{"id": 1', "broken JSON at byte 20 of 20 (Expecting ',' delimi"),
        (b'{"images": [{"id": 1', "; the file looks cut off: copy it again"),
        (b'{"\xc3\xa9\xc3\xa9": 1 "b": [1, 2]}', "broken JSON at byte 11 of 23 (E"),
        (b'{"\xc3\xa9\xc3\xa9": 1 "b": [1, 2]}', "; repair it there"),
        (BOM + b'{"images": 1 "b": [1, 2]}', "broken JSON at byte 16 of 28 (Expect"),
        (b'{"images": "\xff"}', "not UTF-8 at byte 12 of 15; save it in that encod"),
        (BOM + b'{"images": "\xff"}', "not UTF-8 at byte 15 of 18; "),
        ('{"images": []}'.encode("utf-16"), "not UTF-8 at byte 0 of 30; "),
        (b"", "broken JSON at byte 0 of 0 (Expecting value); the file looks cut off"),
    ],
)
def test_broken_json_names_the_byte(tmp_path, raw, told):
    path = tmp_path / "annotations" / "train.json"
    write(path)
    path.write_bytes(raw)
    with pytest.raises(ValueError) as error:
        read(tmp_path, "train")
    assert str(error.value).startswith(f"{path}: ") and told in str(error.value)


def test_a_byte_order_mark_is_harmless(tmp_path):
    path = tmp_path / "annotations" / "train.json"
    write(path)
    path.write_bytes(BOM + path.read_bytes())
    assert read(tmp_path, "train").content == CONTENT


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[]", "top level is a list"),
        ('{"images": []}', "'annotations' is missing .*keys there: images"),
        ('{"images": {}, "annotations": [], "categories": []}', "'images' is missing"),
    ],
)
def test_wrong_layout(tmp_path, text, match):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "train.json").write_text(text)
    with pytest.raises(ValueError, match=match):
        read(tmp_path, "train")


def test_the_memory_that_a_large_file_takes_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(coco, "LARGE", 10)
    path = tmp_path / "annotations" / "train.json"
    path.parent.mkdir()
    path.write_text('{"images": [], "annotations": [], "categories": []}')
    read(tmp_path, "train")
    assert capsys.readouterr().out.endswith("GB of JSON take about 0 GB of memory\n")
