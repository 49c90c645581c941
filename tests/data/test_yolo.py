import numpy as np
import pytest
from PIL import Image

from frcnn_jax import config
from frcnn_jax.data import sources, yolo

YAML = "path: .\ntrain: images/train\nval: images/val\nnames: [cat, dog]\nnc: 2\n"


def write(root, labels, description=YAML, size=(200, 100)):
    root.mkdir(exist_ok=True)
    (root / "data.yaml").write_text(description)
    for name, text in labels.items():
        picture = root / "images" / f"{name}.jpg"
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(picture)
        if text is not None:
            file = root / "labels" / f"{name}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(text if isinstance(text, bytes) else text.encode())


def load(root, split="train", training=True, **fields):
    return sources.load(config.Data(root=str(root), **fields), split, training)


def test_shares_become_pixels(tmp_path):
    lines = "1 0.5 0.5 0.2 0.4\n0 0 0 1 0 0.5 0.25\n"  # a box, and a triangle
    write(tmp_path, {"train/a": lines, "train/b": None, "val/c": ""})
    data = load(tmp_path)
    assert data.class_names == ("cat", "dog") and data.category_ids == (0, 1)
    first, second = data.records
    np.testing.assert_allclose(first.boxes, [[80, 30, 120, 70], [0, 0, 200, 25]])
    assert first.labels.tolist() == [2, 1] and len(second.boxes) == 0
    assert first.source_id == "images/train/a.jpg"
    text = "images without a label file, taken for images without objects"
    assert data.skipped == {text: 1}
    assert len(load(tmp_path, "val", False).records[0].boxes) == 0


def test_marks_of_windows_and_blank_lines_do_not_matter(tmp_path):
    text = b"\xef\xbb\xbf1 0.5 0.5 0.2 0.4\r\n\r\n  \r\n0 0.5 0.5 1 1\r\n"
    write(tmp_path, {"train/a": text, "val/b": ""})
    assert load(tmp_path).records[0].labels.tolist() == [2, 1]


def test_lists_dictionaries_and_folders_beside(tmp_path):
    described = "train: train.txt\nval: [../val/images]\nnames: {0: cat, 1: dog}\n"
    write(tmp_path, {"a": "1 0.5 0.5 0.5 0.5"}, described)
    (tmp_path / "train.txt").write_text("images/a.jpg\n\n")
    beside = tmp_path / "val" / "images" / "b.png"
    beside.parent.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(beside)
    beside.with_suffix(".txt").write_text("0 0.5 0.5 0.5 0.5")
    assert load(tmp_path).records[0].source_id == "images/a.jpg"
    assert load(tmp_path / "data.yaml", "val").records[0].labels.tolist() == [1]


def test_turned_pictures_have_their_turned_size(tmp_path):
    write(tmp_path, {"train/a": "0 0.5 0.5 1 1", "val/b": ""})
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (200, 100)).save(tmp_path / "images/train/a.jpg", exif=exif)
    (record,) = load(tmp_path).records
    assert (record.width, record.height) == (100, 200)
    assert record.boxes.tolist() == [[0, 0, 100, 200]]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("2 0.5 0.5 0.1 0.1", "a.txt line 2, image 'images/train/a.jpg': class 2, but"),
        ("0.5 0.5 0.5 0.1 0.1", "class 0.5, but classes are 0..1"),
        ("0 50 50 10 10", "are not shares of the picture"),
        ("0 0.5 0.5 0.1 nan", "are not finite"),
        ("cat 0.5 0.5 0.1 0.1", "are not numbers"),
        ("0 0.5 0.5 0.1", "4 numbers; expected 5, or a polygon"),
        ("0 0.5 0.5 0.1 0.1 0.9", "6 numbers; expected 5, or a polygon"),
    ],
)
def test_lines_that_are_no_boxes_are_named(tmp_path, line, told):
    write(tmp_path, {"train/a": f"0 0.5 0.5 0.1 0.1\n{line}", "val/b": ""})
    with pytest.raises(ValueError) as error:
        load(tmp_path)
    assert told in str(error.value)
    findings = sources.examine(config.Data(root=str(tmp_path)), "train", True)
    assert len(findings.dataset.records[0].boxes) == 1  # the image and its good box


@pytest.mark.parametrize(
    ("described", "told"),
    [
        ("names: [a]\nnc: 2\ntrain: x", "nc is 2, but 1 names"),
        ("names: {1: a}\ntrain: x", "write a list, or class numbers from"),
        ("names: {0: a, '1': b}\ntrain: x", "write a list, or class numbers from"),
        ("names: [a]\ntrain: none", "train is 'none', and there is no"),
        (
            "names: [a]\nval: x",
            "no split 'train'; set data.train or data.val to one of",
        ),
        ("names: [a\ntrain: x", "broken YAML"),
    ],
)
def test_descriptions_that_cannot_be_used(tmp_path, described, told):
    (tmp_path / "data.yaml").write_text(described)
    with pytest.raises((ValueError, FileNotFoundError), match=told):
        load(tmp_path)


def test_only_a_description_of_classes_counts(tmp_path):
    (tmp_path / "a.yaml").write_text("lr: 1")
    assert yolo.description(tmp_path) is None


def test_boxes_of_a_picture_without_size_are_not_guessed(tmp_path):
    write(tmp_path, {"train/a": "0 .5 .5 .5 .5", "train/b": "1 .5 .5 .5 .5"})
    (tmp_path / "images" / "train" / "b.jpg").write_bytes(b"<html>")
    with pytest.raises(ValueError, match="image files that cannot be read: 1"):
        load(tmp_path)
    found = load(tmp_path, on_bad_image="skip")
    assert [len(r.boxes) for r in found.records] == [1, 0]


def test_lists_may_name_pictures_anywhere(tmp_path):
    write(tmp_path / "set", {}, "train: train.txt\nval: train.txt\nnames: [cat, dog]\n")
    for name in "ab":
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text("1 0.5 0.5 0.5 0.5")
    (tmp_path / "set" / "train.txt").write_text(f"../a.png\n{tmp_path / 'b.png'}\n")
    found = load(tmp_path / "set").records
    assert [(r.path.name, r.labels.tolist()) for r in found] == [
        ("a.png", [2]),
        ("b.png", [2]),
    ]
