"""A drawn data set in COCO layout: five kinds of shapes on cluttered backgrounds.

For demonstrations, smoke tests and benchmarks that need real files with exact boxes
but no download. Every pixel comes from a seeded generator, so a seed, a size and a
version of numpy and OpenCV give the same bytes.

Conventions: images are RGB uint8 here and JPEG on disk. A box is the tight xyxy box, in
whole pixels, of the pixels that the shape covers at least half, cut at the image
border but NOT at later shapes drawn over it: what is hidden still counts, as people
label it. No shape stays with less than `MIN_VISIBLE` of itself in view, and no two
boxes share an IoU above `MAX_IOU`: a placement that would break either is not drawn,
so everything in a picture is annotated. `area` is width times height; there are no
segmentations and no crowds.

Not here: how shapes and backgrounds are painted (see `drawing.py`), reading (see
`coco.py`), augmentation, anything a detector should be published on.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from frcnn_jax.data import drawing
from frcnn_jax.data.drawing import CLASSES, Shape

COUNTS = (0.08, 0.14, 0.2, 0.2, 0.16, 0.12, 0.1)  # share of images with 0, 1, .. 6
MIN_VISIBLE = 0.4
MAX_IOU = 0.4
ATTEMPTS = 12  # placements tried for one shape before it is given up
JPEG_QUALITY = 92
SPLITS = ("train", "val")
VERSION = 1  # raise it when the same seed gives other pixels


class Scene(NamedTuple):
    """One drawn image with everything known about it."""

    image: np.ndarray  # [H, W, 3] uint8 RGB
    boxes: np.ndarray  # [N, 4] float32 xyxy pixels
    labels: np.ndarray  # [N] int32, 1..5: CLASSES[label - 1]
    masks: np.ndarray  # [N, H, W] bool: the shape inside the image, hidden parts too


class Written(NamedTuple):
    """What `write_shapes` left on disk."""

    fresh: bool  # False = the folder held the same set already
    images: dict[str, int]  # by split
    objects: dict[str, int]


# ---- the data set ------------------------------------------------------------------


def write_shapes(
    root: str | Path,
    *,
    train_images: int,
    val_images: int,
    seed: int,
    size: tuple[int, int] = (192, 256),
) -> Written:
    """Write root/annotations/{train,val}.json and root/images/<split>_NNNN.jpg.

    `size` is (height, width) in pixels; each image varies around it by 15 % and half of
    them stand upright. The parameters are kept in root/shapes.json: when it tells of
    the same set and the files are there, nothing is written. Image k of a split does
    not depend on how many there are.

    Raises ValueError for sizes or counts that make no set, and FileExistsError when the
    folder holds another set, rather than overwrite it.
    """
    root = Path(root)
    if min(size) < 64 or min(train_images, val_images) < 1:
        raise ValueError(
            f"size {size} with {train_images} train and {val_images} val images: sides "
            "must be at least 64 pixels and each split needs an image"
        )
    images = {"train": train_images, "val": val_images}
    wanted = {"version": VERSION, "seed": seed, "size": list(size), "images": images}
    if (objects := _present(root, wanted)) is not None:
        return Written(False, images, objects)
    (root / "images").mkdir(parents=True, exist_ok=True)
    (root / "annotations").mkdir(exist_ok=True)
    _keep_parameters(root, wanted, objects=None)  # an interrupted set is redrawn
    objects = {
        split: _write_split(root, split, count=images[split], seed=seed, size=size)
        for split in SPLITS
    }
    _keep_parameters(root, wanted, objects=objects)
    return Written(True, images, objects)


def _present(root: Path, wanted: dict) -> dict[str, int] | None:
    """The objects by split when the folder holds the wanted set, else None."""
    path = root / "shapes.json"
    if not path.exists():
        if any((root / "annotations").glob("*.json")):
            raise FileExistsError(
                f"{root} holds annotations but no shapes.json: it is another data "
                "set; choose another folder"
            )
        return None
    stored = json.loads(path.read_text(encoding="utf-8"))
    objects = stored.pop("objects")
    if stored != wanted:
        raise FileExistsError(
            f"{path} tells of another set, {stored}, not {wanted}; choose another "
            "folder or remove this one"
        )
    files = [root / "annotations" / f"{split}.json" for split in SPLITS]
    for split, count in wanted["images"].items():
        files += [root / "images" / _file_name(split, k) for k in range(count)]
    return objects if all(f.exists() for f in files) else None


def _keep_parameters(root: Path, wanted: dict, *, objects: dict | None) -> None:
    text = json.dumps({**wanted, "objects": objects}, indent=2)
    (root / "shapes.json").write_text(text + "\n", encoding="utf-8")


def _write_split(
    root: Path, split: str, *, count: int, seed: int, size: tuple[int, int]
) -> int:
    """Draw and write one split; returns the number of its objects."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for k in range(count):
        drawn = scene(np.random.default_rng([seed, SPLITS.index(split), k]), size)
        name = _file_name(split, k)
        _write_jpeg(root / "images" / name, drawn.image)
        height, width = drawn.image.shape[:2]
        images.append({"id": k + 1, "file_name": name, "width": width})
        images[-1]["height"] = height
        annotations += _rows(drawn, image_id=k + 1, first_id=len(annotations) + 1)
    categories = [{"id": k, "name": name} for k, name in enumerate(CLASSES, 1)]
    content: dict[str, Any] = {"info": {"description": f"drawn shapes, seed {seed}"}}
    content |= {"images": images, "annotations": annotations, "categories": categories}
    path = root / "annotations" / f"{split}.json"
    path.write_text(json.dumps(content) + "\n", encoding="utf-8")
    return len(annotations)


def _file_name(split: str, k: int) -> str:
    return f"{split}_{k:04d}.jpg"


def _rows(drawn: Scene, *, image_id: int, first_id: int) -> Iterator[dict]:
    pairs = zip(drawn.boxes.tolist(), drawn.labels.tolist(), strict=True)
    for k, ((x1, y1, x2, y2), label) in enumerate(pairs):
        yield {
            "id": first_id + k,
            "image_id": image_id,
            "category_id": label,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1),
            "iscrowd": 0,
        }


def _write_jpeg(path: Path, image: np.ndarray) -> None:
    # encode and write apart: cv2.imwrite fails on some non-ASCII paths
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    good, data = cv2.imencode(".jpg", image[..., ::-1], quality)
    if not good:
        raise OSError(f"{path}: OpenCV could not encode the image")
    path.write_bytes(data.tobytes())


# ---- one scene ---------------------------------------------------------------------


def scene(rng: np.random.Generator, size: tuple[int, int]) -> Scene:
    """Draw one image around `size` = (height, width) pixels, with 0 to 6 shapes."""
    hw = _image_size(rng, size)
    canvas = drawing.background(rng, hw)
    shapes: list[Shape] = []
    masks: list[np.ndarray] = []
    for _ in range(rng.choice(len(COUNTS), p=COUNTS)):
        label = int(rng.integers(1, len(CLASSES) + 1))
        for _ in range(ATTEMPTS):
            shape = drawing.place(rng, label, hw=hw, near=shapes)
            mask = drawing.coverage(shape, hw) >= 0.5
            if _acceptable(shape, mask, shapes, masks):
                shapes.append(shape)
                masks.append(mask)
                break
    for shape in shapes:
        drawing.paint(canvas, shape, rng)
    image = drawing.develop(rng, canvas)
    stacked = np.array(masks, bool).reshape(-1, *hw)
    boxes = np.array([mask_box(m) for m in stacked], np.float32).reshape(-1, 4)
    return Scene(image, boxes, np.array([s.label for s in shapes], np.int32), stacked)


def mask_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """The tight xyxy box of a non-empty [H, W] bool mask, in whole pixels."""
    xs, ys = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1


def _image_size(rng: np.random.Generator, size: tuple[int, int]) -> tuple[int, int]:
    height, width = (int(round(s * rng.uniform(0.85, 1.15))) for s in size)
    return (width, height) if rng.random() < 0.5 else (height, width)


def _acceptable(
    shape: Shape, mask: np.ndarray, shapes: list[Shape], masks: list[np.ndarray]
) -> bool:
    """Whether every shape stays visible enough and every box apart enough."""
    if mask.sum() < MIN_VISIBLE * (shape.alpha >= 0.5).sum():
        return False
    box = mask_box(mask)
    if any(_iou(box, mask_box(other)) > MAX_IOU for other in masks):
        return False
    hidden = mask.copy()
    for earlier, other in zip(reversed(shapes), reversed(masks), strict=True):
        if (other & ~hidden).sum() < MIN_VISIBLE * (earlier.alpha >= 0.5).sum():
            return False
        hidden |= other
    return True


def _iou(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return both / (sum(areas) - both)
