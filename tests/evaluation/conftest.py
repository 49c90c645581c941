"""Random data sets with every oddity at once, and pycocotools' word on them."""

import contextlib
import copy
import io

import numpy as np
import pytest


def random_case(seed: int, coarse: bool = True):
    """COCO annotations and results of 12 images and 5 classes, the last one empty.

    Crowds, areas that are not width * height, empty images; `coarse` boxes and scores
    are often equal, so that every rule for ties matters.
    """
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for image in range(1, 13):
        for _ in range(rng.integers(0, 7)):
            box = np.r_[rng.uniform(0, 60, 2), rng.choice([12.0, 40, 110], 2)]
            box = np.round(box, 0 if coarse else 9).tolist()
            crowd = int(rng.random() < 0.15)
            area = box[2] * box[3] * rng.uniform(0.5, 1)
            row = {"category_id": int(rng.integers(1, 5)), "bbox": box, "area": area}
            truth.append({**row, "image_id": image, "iscrowd": crowd})
            truth[-1]["id"] = len(truth)
        own = [row for row in truth if row["image_id"] == image]
        for _ in range(rng.integers(0, 25) if own else rng.integers(0, 3)):
            start = own[rng.integers(len(own))] if own else truth[0]
            moved = np.array(start["bbox"]) * rng.normal(1, rng.choice([0.02, 0.3]), 4)
            score, label = rng.uniform(0, 1), start["category_id"]
            row = {
                "image_id": image,
                "bbox": np.abs(np.round(moved, -1 if coarse else 9)).tolist(),
                "score": round(score, 1 if coarse else 9),
                "category_id": label if rng.random() < 0.7 else int(rng.integers(1, 6)),
            }
            found.append(row)
    images = [{"id": image, "file_name": f"{image}.jpg"} for image in range(1, 13)]
    classes = [{"id": label, "name": f"class {label}"} for label in range(1, 6)]
    return {"images": images, "categories": classes, "annotations": truth}, found


def scored_by_pycocotools(annotations, results, cap: int = 100):
    """The COCOeval of boxes, accumulated; the last axis of its arrays is `cap`."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(dict(annotations))
        truth.createIndex()
        rows = [{**r, "area": r["bbox"][2] * r["bbox"][3]} for r in results]
        rows = [{**r, "id": k, "iscrowd": 0} for k, r in enumerate(rows, 1)]
        found = COCO()
        found.dataset = {**truth.dataset, "annotations": rows}
        found.createIndex()
        scored = COCOeval(truth, found, "bbox")
        scored.params.maxDets = [cap]
        scored.evaluate()
        scored.accumulate()
    return scored


@pytest.fixture(name="random_case")
def random_case_fixture():
    return random_case


@pytest.fixture(name="scored_by_pycocotools")
def scored_by_pycocotools_fixture():
    return scored_by_pycocotools
