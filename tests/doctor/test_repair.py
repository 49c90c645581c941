import json

import pytest

from frcnn_jax import config
from frcnn_jax.data import records, sources
from frcnn_jax.doctor import check, repair
from tests.doctor.samples import encode, scene


def change(root, edit):
    path = root / "annotations" / "train.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def examined(root, split="train"):
    run = config.Run()
    run.data.root = str(root)
    return check.examine(run, [split])


def repaired(root, split="train"):
    """Write the repaired copy; return it and its log, checked again."""
    out = root / "annotations" / "good.json"
    count = repair.write(examined(root, split).splits[0], root, out)
    log = out.with_suffix(".log").read_text().splitlines()
    assert len(log) == count
    again = examined(root, "good")
    assert again.count("error") == 0
    sources.load(config.Data(root=str(root), train="good", val="good"), "good", True)
    return json.loads(out.read_text()), log, again


def broken(content):
    """One of everything that can be broken in a file that can be read."""
    images, annotations = content["images"], content["annotations"]
    images += [
        {"id": 1, "file_name": "b.png", "width": 60, "height": 40},
        {"id": 50, "file_name": "../out.png", "width": 60, "height": 40},
        {"file_name": "no_id.png", "width": 60, "height": 40},
        "text",
    ]
    base = annotations[0]
    for key, changes in enumerate(
        [
            {"bbox": [1, 2, None, 4]},
            {"image_id": 99},
            {"category_id": 7},
            {"bbox": [30, 30, -10, -20]},
            {"bbox": [50, 30, 20, 20]},
            {"bbox": [500, 30, 20, 20]},
            {"bbox": [9, 9, 0, 0]},
            {"area": None},
            {"iscrowd": None, "bbox": [1, 1, 8, 8]},
            {"category_id": 2},
            {"image_id": 50},
        ],
        start=0,
    ):
        annotations.append({**base, "id": key, **changes})
    annotations.append("text")
    content["categories"] += [{"id": 2, "name": "cat"}, {"id": 3}, {"name": "dog"}]


def test_what_can_be_repaired_is_and_the_rest_left_out(write_set):
    root = write_set(
        {
            "a.png": encode(scene()),
            "b.png": encode(scene(5)),
            "c.jpg": b"",
            "d.jpg": None,
        },
        sizes={"b.png": (65, 45)},
    )
    change(root, broken)
    assert examined(root).count("error") >= 10
    content, log, again = repaired(root)
    assert [(i["id"], i["width"]) for i in content["images"]] == [(1, 60), (2, 60)]
    assert content["categories"] == [
        {"id": 1, "name": "cat"},
        {"id": 3, "name": "category 3"},
    ]
    boxes = [a["bbox"] for a in content["annotations"]]
    kept = [[5, 5, 20, 20]] * 2 + [[20, 10, 10, 20], [50, 30, 10, 10], [1, 1, 8, 8]]
    assert boxes == kept
    assert [a["id"] for a in content["annotations"]] == [1, 2, 3, 4, 8]
    assert all(a["iscrowd"] == 0 and a["area"] for a in content["annotations"])
    for words in (
        "image 3: left out with its boxes, image files that cannot be read: empty file",
        "image 4: left out with its boxes, its file is missing or outside",
        "image 1: left out with its boxes, its id is that of an earlier image",
        "annotation 1 of image 99: left out, the image_id 99 is not listed",
        "image 2: size 65x45 corrected to 60x40",
        "category 2: joined with 1, also 'cat'",
        "annotation 3 of image 1: bbox [30, 30, -10, -20] had a negative size, now"
        " bbox [20, 10, 10, 20]",
        "annotation 6 of image 1: left out, the bbox [9, 9, 0, 0] has no area",
        "annotation 9 of image 1: left out, the same as an earlier one",
    ):
        assert any(line.startswith(words) for line in log), (words, log)
    assert not again.count("warn") + again.count("fix")


def test_a_clipped_box_keeps_its_area(write_set):
    root = write_set({"a.png": encode(scene())}, boxes={"a.png": [[50, 30, 20, 20]]})
    content, log, _ = repaired(root)
    (a,) = content["annotations"]
    assert (a["bbox"], a["area"]) == ([50, 30, 10, 10], 400)
    assert log == [
        "annotation 1 of image 1: bbox [50, 30, 20, 20] left the image, now"
        " bbox [50, 30, 10, 10]"
    ]


@pytest.mark.parametrize(
    ("boxes", "kept", "words"),
    [
        ([[20, 20, 50, 35]] * 2 + [[30, 25, 55, 38]], 2, "held corners"),
        ([[0.25, 0.5, 0.5, 0.25]], 1, "was relative to the image"),
    ],
)
def test_boxes_in_another_unit_are_turned_into_pixels(write_set, boxes, kept, words):
    root = write_set({"a.png": encode(scene())}, boxes={"a.png": boxes})
    content, log, _ = repaired(root)
    assert len(content["annotations"]) == kept and words in log[0]
    first = {"held": [20, 20, 30, 15], "was": [15, 20, 30, 10]}[words.split()[0]]
    assert content["annotations"][0]["bbox"] == first
    assert content["annotations"][0]["area"] == first[2] * first[3]


def test_ids_that_are_no_ids_are_counted_anew(write_set):
    root = write_set({"a.png": encode(scene())}, boxes={"a.png": [[1, 1, 9, 9]] * 3})

    def edit(content):
        for n, (a, key) in enumerate(
            zip(content["annotations"], (0, 5, 5), strict=True)
        ):
            a |= {"id": key, "bbox": [n, 1, 9, 9]}

    change(root, edit)
    content, log, _ = repaired(root)
    assert [a["id"] for a in content["annotations"]] == [1, 2, 3]
    assert log == ["all 3 annotations renumbered from 1"]


def test_a_good_set_is_copied_as_it_is(write_set):
    root = write_set({"sub/a.png": encode(scene())})
    before = json.loads((root / "annotations" / "train.json").read_text())
    content, log, _ = repaired(root)
    assert content == before and log == []


def test_yolo_becomes_coco(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "data.yaml").write_text("names: [cat]\ntrain: images\n")
    (tmp_path / "images" / "a.png").write_bytes(encode(scene()))
    (tmp_path / "images" / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n0 2 2 2 2\n")
    assert examined(tmp_path).count("error") == 1
    content, _, _ = repaired(tmp_path)
    assert [a["bbox"] for a in content["annotations"]] == [[15, 10, 30, 20]]


def test_voc_becomes_coco(tmp_path):
    for name in ("JPEGImages", "Annotations"):
        (tmp_path / name).mkdir()
    (tmp_path / "JPEGImages" / "a.png").write_bytes(encode(scene()))
    corners = "<xmin>1</xmin><ymin>1</ymin><xmax>70</xmax><ymax>20</ymax>"
    (tmp_path / "Annotations" / "a.xml").write_text(
        "<annotation><filename>a.png</filename><size><width>60</width><height>40"
        f"</height></size><object><name>cat</name><bndbox>{corners}</bndbox></object>"
        "</annotation>"
    )
    content, _, _ = repaired(tmp_path, "all")
    assert [a["bbox"] for a in content["annotations"]] == [[0, 0, 60, 20]]
    assert content["images"][0]["file_name"] == "JPEGImages/a.png"


def test_nothing_is_replaced(write_set):
    root = write_set({"a.png": encode(scene())})
    out = root / "annotations" / "train.json"
    with pytest.raises(FileExistsError, match="choose another name"):
        repair.write(examined(root).splits[0], root, out)


def test_pictures_inside_a_set_cannot_be_named(write_set):
    root = write_set({"a.png": encode(scene())})
    split = examined(root).splits[0]
    stored = split.examined.raw._replace(pictures=[records.Stored("a", [], 0)])
    split = split._replace(examined=split.examined._replace(raw=stored))
    with pytest.raises(ValueError, match="repair its source"):
        repair.write(split, root, root / "out.json")
