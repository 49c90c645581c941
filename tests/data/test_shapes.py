"""The drawn data set: exact boxes, promised variety, the same bytes every time."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from frcnn_jax.data import shapes
from frcnn_jax.evaluation import coco

ROOT = Path(__file__).parents[2]
SIZE = (96, 128)


@pytest.fixture(scope="module")
def scenes():
    return [shapes.scene(np.random.default_rng([3, k]), (192, 256)) for k in range(80)]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    done = shapes.write_shapes(root, train_images=6, val_images=3, seed=5, size=SIZE)
    return root, done


def contents(root):
    return {p.relative_to(root): p.read_bytes() for p in root.rglob("*.*")}


# ---- scenes ------------------------------------------------------------------------


def test_boxes_are_tight_around_the_drawn_masks(scenes):
    for drawn in scenes:
        assert drawn.masks.shape == (len(drawn.labels), *drawn.image.shape[:2])
        for (x1, y1, x2, y2), mask in zip(drawn.boxes, drawn.masks, strict=True):
            ys, xs = np.nonzero(mask)
            assert (x1, y1, x2, y2) == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)


def test_scenes_vary_as_promised(scenes):
    labels = np.concatenate([s.labels for s in scenes])
    boxes = np.concatenate([s.boxes for s in scenes])
    counts = [len(s.labels) for s in scenes]
    sides = boxes[:, 2:] - boxes[:, :2]
    assert set(labels) == {1, 2, 3, 4, 5}
    assert 0 < counts.count(0) < 16 and max(counts) <= 6
    assert sides.max() > 80 and 5 <= sides.min() < 30
    shapes_hw = {s.image.shape[0] > s.image.shape[1] for s in scenes}
    assert shapes_hw == {True, False}
    assert all(s.image.dtype == np.uint8 for s in scenes)


def test_shapes_stay_visible_apart_and_inside(scenes):
    overlaps = 0
    for drawn in scenes:
        height, width = drawn.image.shape[:2]
        assert (drawn.boxes >= 0).all()
        assert (drawn.boxes <= [width, height, width, height]).all()
        for k, mask in enumerate(drawn.masks):
            later = drawn.masks[k + 1 :].any(0)
            assert (mask & ~later).sum() >= shapes.MIN_VISIBLE * mask.sum()
            overlaps += (mask & later).any()
            for other in drawn.boxes[k + 1 :]:
                assert shapes._iou(drawn.boxes[k], other) <= shapes.MAX_IOU
    assert overlaps > 5


def test_shapes_stand_out_of_the_background(scenes):
    inside, outside = [], []
    for drawn in scenes:
        saturation = cv2.cvtColor(drawn.image, cv2.COLOR_RGB2HSV)[..., 1]
        mask = drawn.masks.any(0)
        inside.append(saturation[mask])
        outside.append(saturation[~mask])
    assert np.median(np.concatenate(inside)) > 2 * np.median(np.concatenate(outside))


def test_a_scene_depends_on_its_generator_alone():
    first, again, other = (
        shapes.scene(np.random.default_rng(seed), SIZE) for seed in (4, 4, 5)
    )
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first.image, other.image)


def test_mask_box_by_hand():
    mask = np.zeros((4, 6), bool)
    mask[1, 2] = mask[2, 4] = True
    assert shapes.mask_box(mask) == (2, 1, 5, 3)


# ---- files -------------------------------------------------------------------------


def test_files_hold_what_was_drawn(written):
    root, done = written
    assert done.fresh and done.images == {"train": 6, "val": 3}
    for number, split in enumerate(shapes.SPLITS):
        stored = json.loads((root / "annotations" / f"{split}.json").read_text())
        assert [c["name"] for c in stored["categories"]] == list(shapes.CLASSES)
        assert len(stored["annotations"]) == done.objects[split]
        for k, image in enumerate(stored["images"]):
            drawn = shapes.scene(np.random.default_rng([5, number, k]), SIZE)
            rows = [a for a in stored["annotations"] if a["image_id"] == image["id"]]
            xywh = np.array([a["bbox"] for a in rows]).reshape(-1, 4)
            xyxy = np.hstack([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]])
            assert np.array_equal(xyxy, drawn.boxes)
            assert [a["category_id"] for a in rows] == drawn.labels.tolist()
            pixels = cv2.imread(str(root / "images" / image["file_name"]))[..., ::-1]
            assert pixels.shape == drawn.image.shape
            assert pixels.shape[:2] == (image["height"], image["width"])
            assert np.abs(pixels.astype(int) - drawn.image).mean() < 8  # JPEG loss


def test_its_ground_truth_scores_one(written):
    root, _ = written
    stored = json.loads((root / "annotations" / "train.json").read_text())
    keys = ("image_id", "category_id", "bbox")
    perfect = [{k: a[k] for k in keys} | {"score": 1.0} for a in stored["annotations"]]
    assert coco.evaluate(stored, perfect)["AP"] == pytest.approx(1.0, abs=1e-12)


def test_same_seed_gives_the_same_bytes(written, tmp_path):
    root, _ = written
    shapes.write_shapes(tmp_path, train_images=6, val_images=3, seed=5, size=SIZE)
    assert contents(tmp_path) == contents(root)
    assert len(contents(root)) == 6 + 3 + 2 + 1


def test_fewer_images_are_a_prefix(written, tmp_path):
    root, _ = written
    shapes.write_shapes(tmp_path, train_images=2, val_images=1, seed=5, size=SIZE)
    for path in (tmp_path / "images").iterdir():
        assert path.read_bytes() == (root / "images" / path.name).read_bytes()


def test_an_existing_set_is_kept_and_a_broken_one_redrawn(tmp_path):
    wanted = {"train_images": 2, "val_images": 1, "seed": 1, "size": (64, 64)}
    fresh = shapes.write_shapes(tmp_path, **wanted)
    before = contents(tmp_path)
    again = shapes.write_shapes(tmp_path, **wanted)
    assert fresh.fresh and not again.fresh and again.objects == fresh.objects
    (tmp_path / "images" / "train_0001.jpg").unlink()
    assert shapes.write_shapes(tmp_path, **wanted).fresh
    assert contents(tmp_path) == before


def test_other_data_is_never_overwritten(written, tmp_path):
    root, _ = written
    with pytest.raises(FileExistsError, match="another set"):
        shapes.write_shapes(root, train_images=6, val_images=3, seed=6, size=SIZE)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "train.json").write_text("{}")
    with pytest.raises(FileExistsError, match="no shapes.json"):
        shapes.write_shapes(tmp_path, train_images=1, val_images=1, seed=0)


def test_impossible_requests_are_errors(tmp_path):
    with pytest.raises(ValueError, match="at least 64"):
        shapes.write_shapes(tmp_path, train_images=1, val_images=1, seed=0, size=(9, 9))
    with pytest.raises(ValueError, match="needs an image"):
        shapes.write_shapes(tmp_path, train_images=1, val_images=0, seed=0)
    assert not list(tmp_path.iterdir())


def test_tool_writes_once_and_says_so(tmp_path):
    command = [sys.executable, str(ROOT / "tools" / "make_shapes.py")]
    command += ["--out", str(tmp_path / "s"), "--train", "2", "--val", "1"]
    said = [
        subprocess.run(command + extra, capture_output=True, text=True, cwd=tmp_path)
        for extra in ([], [], ["--seed", "1"])
    ]
    assert [s.returncode for s in said] == [0, 0, 1], said
    assert "now holds train 2 images" in said[0].stdout
    assert "nothing written" in said[1].stdout
    assert "another set" in said[2].stderr
