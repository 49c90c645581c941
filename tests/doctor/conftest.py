"""Small data sets with a fault on purpose."""

import json

import pytest


@pytest.fixture
def write_set(tmp_path):
    """Writes a COCO split of these files (name: bytes, or None for a missing one).

    Every picture holds one box unless `boxes` gives others; `sizes` (w, h) differ from
    60x40 where named.
    """

    def write(files, *, boxes=None, sizes=None, split="train", names=("cat",)):
        images, annotations = [], []
        for key, (name, content) in enumerate(files.items(), start=1):
            w, h = (sizes or {}).get(name, (60, 40))
            images.append({"id": key, "file_name": name, "width": w, "height": h})
            for box in (boxes or {}).get(name, [[5, 5, 20, 20]]):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": key,
                        "category_id": 1,
                        "bbox": box,
                        "area": 400,
                        "iscrowd": 0,
                    }
                )
            if content is not None:
                path = tmp_path / "images" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        categories = [{"id": i, "name": n} for i, n in enumerate(names, start=1)]
        listed = {"images": images, "annotations": annotations}
        path = tmp_path / "annotations" / f"{split}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({**listed, "categories": categories}))
        return tmp_path

    return write
