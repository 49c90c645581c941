import json

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from frcnn_jax import config
from frcnn_jax.data import sources, transforms
from frcnn_jax.data.findings import FAULTS

BOX = [1, 1, 9, 9]


def text(fault):
    return FAULTS[fault].text


def image(i, name=None, width=100, height=80):
    name = name or f"{i}.png"
    return {"id": i, "file_name": name, "width": width, "height": height}


def box(i, image_id, bbox, category_id=1, **extra):
    fields = {"id": i, "image_id": image_id, "category_id": category_id, "bbox": bbox}
    return {**fields, "area": bbox[2] * bbox[3], "iscrowd": 0, **extra}


def category(i, name):
    return {"id": i, "name": name}


def content(images=None, annotations=None, categories=None):
    return {
        "images": [image(1)] if images is None else images,
        "annotations": [box(1, 1, [10, 10, 20, 30])]
        if annotations is None
        else annotations,
        "categories": [category(1, "cat")] if categories is None else categories,
    }


def write(root, data, *, name="train.json", folder="images", pictures=True):
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / name).write_text(json.dumps(data))
    for entry in data["images"] if pictures else []:
        path = root / folder / entry["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        ok, encoded = cv2.imencode(".png", np.zeros((4, 5, 3), np.uint8))
        assert ok
        path.write_bytes(encoded.tobytes())


def load(root, training=True, split="train", **fields):
    fields = {"val": "train", **fields}  # so that nothing is held out
    return sources.load(config.Data(root=str(root), **fields), split, training)


def read(root, training=True, data=None, **fields):
    write(root, data or content())
    return load(root, training, **fields)


# ---- the good case


def test_reads_boxes_labels_and_sizes(tmp_path):
    ds = read(tmp_path)
    (record,) = ds.records
    assert (ds.name, ds.class_names, ds.category_ids) == ("train", ("cat",), (1,))
    assert (record.source_id, record.width, record.height) == (1, 100, 80)
    assert record.path == tmp_path / "images" / "1.png"
    np.testing.assert_array_equal(record.boxes, np.float32([[10, 10, 30, 40]]))
    np.testing.assert_array_equal(record.labels, [1])
    assert record.boxes.dtype == np.float32 and record.labels.dtype == np.int32
    assert record.crowd.tolist() == [False] and ds.skipped == {}


@pytest.mark.parametrize("folder", ["images", "train", "images/train", "."])
def test_finds_images_in_the_usual_folders(tmp_path, folder):
    write(tmp_path, content(), name="instances_train.json", folder=folder)
    ds = load(tmp_path)
    assert ds.records[0].path.is_file() and ds.name == "instances_train"


def test_odd_file_names_are_read(tmp_path):
    names = [
        "UP.PNG",
        "two.jpg.png",
        "sub/ü ñ 漢.png",
        "a b.jpg",
        "link.png",
        "l/5.png",
    ]
    write(
        tmp_path, content([image(i, n) for i, n in enumerate(names)], [box(1, 0, BOX)])
    )
    folder, elsewhere = tmp_path / "images", tmp_path / "elsewhere"
    (folder / "l").rename(elsewhere)
    (folder / "l").symlink_to(elsewhere)  # links may lead anywhere, unlike names
    (folder / "link.png").rename(elsewhere / "6.png")
    (folder / "link.png").symlink_to(elsewhere / "6.png")
    found = load(tmp_path).records
    assert [r.path for r in found] == [folder / name for name in names]
    assert [transforms.decode(r.path).shape for r in found] == [(4, 5, 3)] * 6


def test_records_ascend_by_id_and_boxes_stay_with_their_image(tmp_path):
    images = [image(30), image(4), image(100)]
    annotations = [box(9, 100, [1, 1, 7, 7]), box(8, 4, [2, 2, 5, 5])]
    annotations += [box(7, 100, [3, 3, 9, 9])]
    ds = read(tmp_path, data=content(images, annotations))
    assert [r.source_id for r in ds.records] == [4, 30, 100]
    assert [len(r.boxes) for r in ds.records] == [1, 0, 2]
    np.testing.assert_array_equal(ds.records[2].boxes[:, 0], [1, 3])


def test_text_ids_are_allowed(tmp_path):
    data = content(
        [image("b"), image("a")],
        [box(1, "a", [1, 1, 9, 9], "x")],
        [category("x", "cat")],
    )
    ds = read(tmp_path, data=data)
    assert [r.source_id for r in ds.records] == ["a", "b"]
    assert ds.category_ids == ("x",)


@pytest.mark.parametrize("ids", [(90, 1, 7), (1, 0, 5)])
def test_labels_follow_ascending_category_id(tmp_path, ids):
    annotations = [box(n + 1, 1, [n, 1, 9, 9], c) for n, c in enumerate(ids)]
    categories = [category(c, f"class{c}") for c in ids]
    ds = read(tmp_path, data=content(None, annotations, categories))
    assert ds.category_ids == tuple(sorted(ids))
    back = [ds.category_ids[label - 1] for label in ds.records[0].labels]
    assert back == list(ids)
    assert ds.class_names == tuple(f"class{c}" for c in sorted(ids))


# ---- files


def test_missing_root_and_json(tmp_path):
    with pytest.raises(ValueError, match="data.root is empty"):
        load("")
    with pytest.raises(FileNotFoundError, match="no folder"):
        load(tmp_path / "none")
    write(tmp_path, content(), name="instances_val.json")
    write(tmp_path, content(), name="instances_train2017.json")
    with pytest.raises(FileNotFoundError) as error:
        load(tmp_path, split="train")
    listing = str(error.value).split("first): ")[1]
    assert listing.startswith("annotations/instances_train2017.json, annotations/inst")
    with pytest.raises(FileNotFoundError, match="no data set .*There is: 1.png"):
        load(tmp_path / "images")
    with pytest.raises(FileNotFoundError, match="is a file; name its folder"):
        load(tmp_path / "images" / "1.png")


def test_missing_images_are_listed_or_dropped_with_a_count(tmp_path):
    write(tmp_path, content([image(i) for i in range(1, 31)]))
    for i in range(2, 27):
        (tmp_path / "images" / f"{i}.png").unlink()
    with pytest.raises(ValueError, match="image files missing: 25 ") as error:
        load(tmp_path)
    told = str(error.value)
    assert "image 21: 21.png\n  ... and 5 more" in told and "22.png" not in told
    assert told.count(".png") == 20 and 'set data.on_bad_image to "skip"' in told
    ds = load(tmp_path, on_bad_image="skip")
    assert len(ds.records) == len(ds.annotations["images"]) == 5
    assert ds.skipped == {"image files missing": 25}


@pytest.mark.parametrize("name", ["/etc/a.png", "../a.png", "x/../../a.png"])
def test_file_names_must_stay_inside(tmp_path, name):
    write(tmp_path, content([image(1, name)]), pictures=False)
    with pytest.raises(ValueError, match="leave the folder of the data: 1 ") as error:
        load(tmp_path)
    head, place = str(error.value).split("\n")
    assert "set data.allow_outside_root to read them" in head
    assert place.endswith(f"train.json, image 1: {name}")


def test_file_names_may_leave_the_folder_where_that_is_allowed(tmp_path):
    root, beside = tmp_path / "set", tmp_path / "beside"
    for folder in (root, beside):
        folder.mkdir()
    names = ["../../beside/a.png", str(beside / "b.png"), "c.png"]
    write(root, content([image(i, n) for i, n in enumerate(names)], [box(1, 0, BOX)]))
    found = load(root, allow_outside_root=True)
    assert [len(transforms.decode(r.path)) for r in found.records] == [4, 4, 4]
    assert found.records[1].path == beside / "b.png"
    assert {p.name for p in beside.iterdir()} == {"a.png", "b.png"}
    (beside / "b.png").unlink()
    with pytest.raises(ValueError, match="image files missing: 1 .*\n.*b.png"):
        load(root, allow_outside_root=True)


# ---- images and categories


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (content(images=[]), "'images' is empty; list every one there"),
        (content(images=[image(1), image(1)]), "image ids used more than once: 1"),
        (content(images=[image(1, height=0)]), "1.png has height 0"),
        (content(images=[{"id": 1, "file_name": "a"}]), "has width None"),
        (content(images=[{"id": 1}]), "no file_name"),
        (content(images=[{"file_name": "a"}]), "without an id"),
        (content(images=[image(1.5)]), "neither a whole number"),
        (content(categories=[]), "'categories' is empty"),
        (content(categories=[{"id": 1}]), "has no name"),
        (
            content(categories=[category(1, "cat"), category(2, "cat")]),
            "2 categories have the name 'cat'",
        ),
        (
            content(categories=[category(1, "cat"), category(1, "dog")]),
            "2 categories have the id 1",
        ),
        (content(annotations=[]), "no box to learn from"),
        (content(annotations=[7]), "annotation 'number 0': is not an object"),
    ],
)
def test_contents_that_cannot_be_meant(tmp_path, data, match):
    write(tmp_path, data, pictures=False)
    (tmp_path / "1.png").touch()
    with pytest.raises(ValueError, match=match):
        load(tmp_path)


def test_scoring_may_have_no_boxes(tmp_path):
    ds = read(tmp_path, False, content(annotations=[]))
    assert len(ds.records) == 1 and ds.annotations["annotations"] == []


# ---- boxes


@pytest.mark.parametrize(
    "bbox",
    [None, [1, 2, 3], [1, 2, "3", 4], [1, 2, None, 4], [1, 2, float("nan"), 4], 7]
    + [[1, 2, float("inf"), 4], [True, 2, 3, 4]],
)
def test_boxes_must_be_four_finite_numbers(tmp_path, bbox):
    bad = {**box(17, 1, [1, 1, 1, 1]), "bbox": bbox}
    with pytest.raises(ValueError, match="image 1, annotation 17: the bbox is"):
        read(tmp_path, data=content(annotations=[bad]))


def test_unknown_image_and_category_ids(tmp_path):
    bad = content(annotations=[box(17, 5, [1, 1, 9, 9])])
    with pytest.raises(ValueError, match="annotation 17: the image_id is 5"):
        read(tmp_path, data=bad)
    bad = content(
        annotations=[box(17, 1, [1, 1, 9, 9], "dgo")],
        categories=[category("cat", "cat"), category("dog", "dog")],
    )
    with pytest.raises(ValueError, match="'dgo'.*did you mean 'dog'"):
        read(tmp_path, data=bad)
    bad = content(annotations=[box(17, 1, [1, 1, 9, 9], [1])])
    with pytest.raises(ValueError, match=r"category_id is \[1\]"):
        read(tmp_path, data=bad)


def test_small_and_empty_boxes_leave_training_but_not_scoring(tmp_path):
    sides = [[0, 0], [0.9, 20], [1, 1], [5, 5]]
    boxes = [box(n + 1, 1, [10, 10, *s]) for n, s in enumerate(sides)]
    ds = read(tmp_path, data=content(annotations=boxes))
    assert ds.records[0].boxes[:, 2].tolist() == [11, 15]
    assert ds.skipped == {text("small"): 2}
    assert [a["bbox"][2:] for a in ds.annotations["annotations"]] == sides
    assert len(load(tmp_path, False).records[0].boxes) == 4
    assert len(load(tmp_path, min_box_side=0.0).records[0].boxes) == 3


def test_boxes_partly_outside_are_clipped_and_counted(tmp_path):
    boxes = [box(n, 1, [5, n, 9, 9]) for n in range(1, 41)]
    boxes += [box(41, 1, [90, -10, 20, 30]), box(42, 1, [100, 10, 5, 5])]
    boxes += [box(43, 1, [200, 10, 0, 0]), box(44, 1, [-9, 10, 9, 5])]
    ds = read(tmp_path, data=content(annotations=boxes))
    np.testing.assert_array_equal(ds.records[0].boxes[-1], [90, 0, 100, 20])
    assert ds.skipped == {
        text("outside"): 3,
        text("clipped"): 1,
    }
    kept = {a["id"]: a for a in ds.annotations["annotations"]}
    assert kept[41]["bbox"] == [90, -10, 20, 30] and kept[41]["area"] == 600
    assert len(kept) == 44


def test_negative_sizes_and_xyxy_are_told(tmp_path):
    bad = [box(1, 1, [50, 50, -5, 5])]
    with pytest.raises(
        ValueError, match=r"negative width or height: 1 .*\n.*bbox \[50, 50, -5, 5\]"
    ) as error:
        read(tmp_path, data=content(annotations=bad))
    assert "probably" not in str(error.value)
    corners = [[60, 50, 90, 75], [10, 10, 30, 30], [50, 40, 95, 80], [70, 5, 99, 50]]
    bad = [box(n + 1, 1, c) for n, c in enumerate(corners)]
    with pytest.raises(
        ValueError, match=r"\[x1, y1, x2, y2\](.|\n)*3 of 4 boxes leave"
    ):
        read(tmp_path, data=content(annotations=bad))


def test_repeated_boxes_are_counted_and_stay(tmp_path):
    same = [box(1, 1, [5, 5, 9, 9]), box(2, 1, [5, 5, 9, 9]), box(3, 1, [5, 5, 9, 8])]
    ds = read(tmp_path, data=content(annotations=same))
    assert len(ds.records[0].boxes) == 3 and ds.skipped == {text("duplicate"): 1}


def test_boxes_relative_to_the_image_are_told(tmp_path):
    bad = [box(1, 1, [0.2, 0.3, 0.5, 0.1]), box(2, 1, [0, 0, 1, 1])]
    with pytest.raises(ValueError, match=r"relative to the image(.|\n)*all 2 boxes"):
        read(tmp_path, data=content(annotations=bad))


def test_a_single_pixel_image_is_no_relative_box(tmp_path):
    data = content([image(1, width=1, height=1)], [box(1, 1, [0, 0, 1, 1])])
    assert read(tmp_path, data=data).records[0].boxes.tolist() == [[0, 0, 1, 1]]


def test_crowd_is_flagged_and_ignore_leaves_training(tmp_path):
    boxes = [box(1, 1, [1, 1, 9, 9], iscrowd=1), box(2, 1, [1, 1, 9, 9], ignore=1)]
    ds = read(tmp_path, data=content(annotations=boxes))
    assert ds.records[0].crowd.tolist() == [True]
    assert ds.skipped == {text("ignored"): 1}
    assert [a["iscrowd"] for a in ds.annotations["annotations"]] == [1, 0]


def test_images_without_boxes(tmp_path):
    data = content([image(1), image(2)])
    assert [len(r.boxes) for r in read(tmp_path, data=data).records] == [1, 0]
    ds = load(tmp_path, keep_empty=False)
    assert [r.source_id for r in ds.records] == [1]
    assert ds.skipped == {text("empty-image"): 1}
    assert len(load(tmp_path, False, keep_empty=False).records) == 2


def test_a_thousand_boxes_are_all_kept(tmp_path):
    boxes = [box(n + 1, 1, [n % 50, n % 40, 10, 10]) for n in range(1000)]
    ds = read(tmp_path, data=content(annotations=boxes))
    assert len(ds.records[0].boxes) == 1000


def test_classes_are_a_subset_by_name(tmp_path):
    names = {2: "dog", 5: "cat", 9: "cow"}
    boxes = [box(n, 1, [n, 1, 9, 9], c) for n, c in enumerate([9, 5, 2, 9], start=1)]
    data = content(None, boxes, [category(*c) for c in names.items()])
    ds = read(tmp_path, data=data, classes=("cow", "dog"))
    assert ds.class_names == ("dog", "cow") and ds.category_ids == (2, 9)
    assert ds.records[0].labels.tolist() == [2, 1, 2]
    assert ds.skipped == {text("left-out"): 1}
    assert {a["category_id"] for a in ds.annotations["annotations"]} == {2, 9}
    assert [c["name"] for c in ds.annotations["categories"]] == ["dog", "cow"]
    with pytest.raises(ValueError, match="'cwo' is not in .* did you mean 'cow'"):
        load(tmp_path, classes=("cwo",))


def test_of_a_subset_training_keeps_its_images_and_scoring_keeps_all(tmp_path):
    """As mmdetection's rows of one and three classes."""
    names = {1: "person", 2: "bicycle", 3: "car"}
    images = [image(1), image(2), image(3)]
    boxes = [box(1, 1, [1, 1, 9, 9], 1), box(2, 2, [2, 1, 9, 9], 3)]
    data = content(images, boxes, [category(*c) for c in names.items()])
    chosen = {"data": data, "classes": ("person",), "keep_empty": False}
    train = read(tmp_path, **chosen)
    assert [r.source_id for r in train.records] == [1]
    assert train.skipped[text("empty-image")] == 2
    val = read(tmp_path, **chosen, training=False)
    assert [r.source_id for r in val.records] == [1, 2, 3]
    assert [len(r.boxes) for r in val.records] == [1, 0, 0]
    assert [c["name"] for c in val.annotations["categories"]] == ["person"]
    assert len(val.annotations["images"]) == 3
    assert [a["id"] for a in val.annotations["annotations"]] == [1]


# ---- the dictionary for scoring


def perfect_ap(ds):
    truth = COCO()
    truth.dataset = ds.annotations
    truth.createIndex()
    keys = ("image_id", "category_id", "bbox")
    own = [
        {**{k: a[k] for k in keys}, "score": 1.0} for a in ds.annotations["annotations"]
    ]
    scores = COCOeval(truth, truth.loadRes(own), "bbox")
    scores.evaluate()
    scores.accumulate()
    scores.summarize()
    return scores.stats[0]


@pytest.mark.parametrize("ids", [(0, 1), (5, 5), (None, 1), ("a", 2)])
def test_annotation_ids_pycocotools_cannot_take_are_renumbered(tmp_path, ids):
    boxes = [box(i, 1, [40 * n, 5, 9, 9]) for n, i in enumerate(ids)]
    ds = read(tmp_path, data=content(annotations=boxes))
    assert [a["id"] for a in ds.annotations["annotations"]] == [1, 2]
    assert ds.skipped == {text("annotation-id"): 1}
    assert perfect_ap(ds) == pytest.approx(1.0)


def test_good_annotation_ids_stay(tmp_path):
    boxes = [box(i, 1, [i, 5, 9, 9]) for i in (70, 3)]
    ds = read(tmp_path, data=content(annotations=boxes))
    assert [a["id"] for a in ds.annotations["annotations"]] == [70, 3]
    assert ds.skipped == {}


def test_missing_area_and_crowd_are_filled(tmp_path):
    bare = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 6]}
    ds = read(tmp_path, data=content(annotations=[bare]))
    (a,) = ds.annotations["annotations"]
    assert (a["area"], a["iscrowd"]) == (24, 0) and sum(ds.skipped.values()) == 2
    assert perfect_ap(ds) == pytest.approx(1.0)


def test_own_area_stays(tmp_path):
    ds = read(tmp_path, data=content(annotations=[box(1, 1, [1, 1, 4, 6], area=3.5)]))
    assert ds.annotations["annotations"][0]["area"] == 3.5


# ---- choosing images


def ids(dataset):
    return [r.source_id for r in dataset.records]


def many(count=40):
    boxes = [box(i + 1, i, [1, 1, 9, 9]) for i in range(count)]
    return content([image(i) for i in range(count)], boxes)


def test_a_set_without_validation_split_gives_a_part_of_its_images(tmp_path, capsys):
    write(tmp_path, many())
    train = load(tmp_path, val="val")
    val = load(tmp_path, False, "val", val="val")
    assert len(ids(val)) == 4 and sorted(ids(train) + ids(val)) == list(range(40))
    assert {a["image_id"] for a in val.annotations["annotations"]} == set(ids(val))
    assert ids(load(tmp_path, False, "val", val="val")) == ids(val)  # the same again
    told = capsys.readouterr().out.splitlines()[0]
    assert told.endswith(
        "has no split 'val': 4 of the 40 images of 'train' are held out for it"
        " (data.val_fraction)"
    )
    half = load(tmp_path, False, "val", val="val", val_fraction=0.5)
    assert len(ids(half)) == 20


def test_a_misspelt_split_is_no_missing_one(tmp_path):
    write(tmp_path, many(4))
    write(tmp_path, many(4), name="valid.json")
    assert len(load(tmp_path, val="val").records) == 4
    with pytest.raises(FileNotFoundError, match="annotations/valid.json, annotations/"):
        load(tmp_path, False, "val", val="val")


def test_some_images_by_id_or_share(tmp_path):
    write(tmp_path, many())
    some = load(tmp_path, image_ids=("7", "31"))
    assert ids(some) == [7, 31] and len(some.annotations["annotations"]) == 2
    assert some.skipped == {text("not-chosen"): 38}
    with pytest.raises(ValueError, match=r"data.image_ids: '311' is not .*mean '31'"):
        load(tmp_path, image_ids=("7", "311"))
    tenth = load(tmp_path, fraction=0.1)
    assert len(tenth.records) == 4 and ids(tenth) == ids(load(tmp_path, fraction=0.1))
    assert set(ids(tenth)) < set(ids(load(tmp_path, fraction=0.5)))
    assert len(load(tmp_path, False, fraction=0.1).records) == 40
    assert len(load(tmp_path, False, image_ids=("99",)).records) == 40


# ---- kinds


def test_kinds_are_recognised(tmp_path):
    assert sources.kind("tfds:coco/2017") == "tfds"
    (tmp_path / "Annotations").mkdir()
    assert sources.kind(str(tmp_path)) == "voc"
    (tmp_path / "data.yaml").write_text("names: [cat]")
    assert sources.kind(str(tmp_path)) == "yolo"
    assert sources.kind(str(tmp_path / "data.yaml")) == "yolo"
    write(tmp_path, content())
    assert sources.kind(str(tmp_path)) == "coco"
    assert sources.splits(str(tmp_path)) == ["train"]
