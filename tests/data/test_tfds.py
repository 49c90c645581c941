"""Features of other sets; what write_tfds.py wrote is in tests/tools."""

import io

import numpy as np
from PIL import Image

from frcnn_jax.data import tfds


def rows(objects, **more):
    file = io.BytesIO()
    Image.new("RGB", (200, 100)).save(file, "PNG")
    return [{"image": file.getvalue(), "objects": objects, **more}]


COLUMNS = {
    "bbox": np.float32([[0.1, 0.2, 0.5, 0.4], [0, 0, 1, 1]]),
    "label": np.int64([1, 0]),
}


def test_shares_become_pixels_with_the_size_of_the_header():
    extra = {"is_crowd": np.array([False, True]), "area": np.int64([70, 80])}
    content = tfds._scanned(rows(COLUMNS | extra, **{"image/id": np.int64(9)}), *ARGS)
    assert content["images"] == [
        {"id": 9, "file_name": "00000000", "width": 200, "height": 100}
    ]
    first, second = content["annotations"]
    np.testing.assert_allclose(first["bbox"], [40, 10, 40, 40], rtol=1e-6)
    assert (first["category_id"], first["area"], first["iscrowd"]) == ("b", 70, 0)
    assert (second["category_id"], second["iscrowd"]) == ("a", 1)


def test_names_are_ids_where_there_are_none():
    objects = COLUMNS | {"is_difficult": np.array([True, False])}
    content = tfds._scanned(rows(objects, **{"image/filename": b"x.jpg"}), *ARGS)
    assert content["images"][0]["id"] == "x.jpg"
    assert [a.get("ignore") for a in content["annotations"]] == [1, None]


def test_pixels_of_voc_count_from_1():
    boxes = [{"bbox": [1.0, 2.0, 39.0, 28.0], "area": 39 * 28.0, "iscrowd": 0}]
    tfds._count_from_0(boxes)
    assert boxes == [{"bbox": [0, 1, 40, 29], "area": 40 * 29, "iscrowd": 0}]


ARGS = ("objects", ["a", "b"], False)
