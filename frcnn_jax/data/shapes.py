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

Not here: reading (see `coco.py`), augmentation, anything a detector should be
published on.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

CLASSES = ("circle", "square", "triangle", "star", "ring")
HUES = (8.0, 212.0, 128.0, 46.0, 288.0)  # preferred hue of each class, degrees
HUE_SPREAD = 14.0  # standard deviation, degrees: colour hints, shape decides
DIAMETERS = (22.0, 112.0)  # of the circle around a shape, pixels
COUNTS = (0.08, 0.14, 0.2, 0.2, 0.16, 0.12, 0.1)  # share of images with 0, 1, .. 6
MIN_VISIBLE = 0.4
MAX_IOU = 0.4
ATTEMPTS = 12  # placements tried for one shape before it is given up
FINE = 4  # subpixels per pixel and axis for smooth edges
MARGIN = 10  # pixels around a shape for its shadow
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


class _Shape(NamedTuple):
    label: int
    corner: tuple[int, int]  # x, y of the window's first pixel; may lie outside
    alpha: np.ndarray  # [h, w] float32, covered part of each pixel of the window
    rim: np.ndarray  # [h, w] float32, covered by the outline
    radius: float


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
    images, annotations = [], []
    for k in range(count):
        drawn = scene(np.random.default_rng([seed, SPLITS.index(split), k]), size)
        name = _file_name(split, k)
        _write_jpeg(root / "images" / name, drawn.image)
        height, width = drawn.image.shape[:2]
        images.append({"id": k + 1, "file_name": name, "width": width})
        images[-1]["height"] = height
        annotations += _rows(drawn, image_id=k + 1, first_id=len(annotations) + 1)
    categories = [{"id": k, "name": name} for k, name in enumerate(CLASSES, 1)]
    content = {"info": {"description": f"drawn shapes, seed {seed}"}}
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
    canvas = _background(rng, hw)
    shapes: list[_Shape] = []
    masks: list[np.ndarray] = []
    for _ in range(rng.choice(len(COUNTS), p=COUNTS)):
        label = int(rng.integers(1, len(CLASSES) + 1))
        for _ in range(ATTEMPTS):
            shape = _shape(rng, label, hw=hw, near=shapes)
            mask = _on_image(shape, hw) >= 0.5
            if _acceptable(shape, mask, shapes, masks):
                shapes.append(shape)
                masks.append(mask)
                break
    for shape in shapes:
        _paint(canvas, shape, rng)
    image = _develop(rng, canvas)
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
    shape: _Shape, mask: np.ndarray, shapes: list[_Shape], masks: list[np.ndarray]
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


# ---- shapes ------------------------------------------------------------------------


def _shape(
    rng: np.random.Generator, label: int, *, hw: tuple[int, int], near: list[_Shape]
) -> _Shape:
    """A shape with random size, turn, stretch and place, not yet painted."""
    largest = min(DIAMETERS[1], 0.62 * min(hw))
    radius = math.exp(rng.uniform(*np.log([DIAMETERS[0], largest]))) / 2
    inset = 0.6 * radius  # some shapes are cut by the border, few of them much
    centre = rng.uniform((inset, inset), (hw[1] - inset, hw[0] - inset))
    if near and rng.random() < 0.4:  # overlaps are common in real pictures
        other = near[int(rng.integers(len(near)))]
        middle = np.add(other.corner, np.divide(other.alpha.shape[::-1], 2))
        turn = rng.uniform(0, 2 * math.pi)
        reach = (radius + other.radius) * rng.uniform(0.5, 1.0)
        centre = middle + reach * np.array([math.cos(turn), math.sin(turn)])
    side = 2 * (math.ceil(radius) + MARGIN)
    corner = np.floor(centre).astype(int) - side // 2
    contours = [
        np.round((c * radius + centre - corner) * FINE * 16).astype(np.int32)
        for c in _contours(rng, CLASSES[label - 1])
    ]
    # coordinates count pixel centres in OpenCV: half a subpixel back, in 1/16
    contours = [c - 8 for c in contours]
    fill = np.zeros((side * FINE, side * FINE), np.uint8)
    cv2.fillPoly(fill, contours, 255, shift=4)
    line = np.zeros_like(fill)
    thick = max(FINE, round(radius * 0.1 * FINE))
    cv2.polylines(line, contours, True, 255, thick, shift=4)
    alpha, rim = (_reduced(m, side) for m in (fill, cv2.bitwise_and(fill, line)))
    return _Shape(label, (int(corner[0]), int(corner[1])), alpha, rim, radius)


def _reduced(fine: np.ndarray, side: int) -> np.ndarray:
    small = cv2.resize(fine, (side, side), interpolation=cv2.INTER_AREA)
    return small.astype(np.float32) / 255


def _contours(rng: np.random.Generator, kind: str) -> list[np.ndarray]:
    """Closed outlines inside the unit circle; a second one is a hole."""
    if kind in ("circle", "ring"):
        outer = _polygon(72)
        contours = [outer, outer * rng.uniform(0.5, 0.62)][: 1 + (kind == "ring")]
    elif kind == "star":
        spokes = np.tile([1.0, rng.uniform(0.4, 0.5)], 5)
        contours = [_polygon(10) * spokes[:, None]]
    else:
        contours = [_polygon({"square": 4, "triangle": 3}[kind])]
    turn, lean = rng.uniform(0, 2 * math.pi, 2)
    stretch = _rotation(-lean) @ np.diag([rng.uniform(0.84, 1.0), 1.0])
    motion = _rotation(turn) @ stretch @ _rotation(lean)
    return [c @ motion.T for c in contours]


def _polygon(corners: int) -> np.ndarray:
    turns = np.arange(corners) * (2 * math.pi / corners)
    return np.stack([np.cos(turns), np.sin(turns)], 1)


def _rotation(turn: float) -> np.ndarray:
    return np.array(
        [[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]
    )


def _overlap(
    shape: _Shape, hw: tuple[int, int]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where the shape's window lies in the image, and that part of the window."""
    image, window = [], []
    for start, side, limit in zip(
        shape.corner[::-1], shape.alpha.shape, hw, strict=True
    ):
        low = min(max(start, 0), limit)
        high = max(min(start + side, limit), low)
        image.append(slice(low, high))
        window.append(slice(low - start, high - start))
    return (image[0], image[1]), (window[0], window[1])


def _on_image(shape: _Shape, hw: tuple[int, int]) -> np.ndarray:
    image, window = _overlap(shape, hw)
    alpha = np.zeros(hw, np.float32)
    alpha[image] = shape.alpha[window]
    return alpha


# ---- colour ------------------------------------------------------------------------


def _paint(canvas: np.ndarray, shape: _Shape, rng: np.random.Generator) -> None:
    """Draw a shape with its shadow and texture onto a float canvas, in place."""
    hue = rng.normal(HUES[shape.label - 1], HUE_SPREAD)
    light = _rgb(hue, rng.uniform(0.6, 0.9), rng.uniform(0.72, 0.98))
    dark = _rgb(hue + rng.normal(0, 12), rng.uniform(0.6, 0.95), rng.uniform(0.4, 0.62))
    side = shape.alpha.shape[0]
    weave = (_texture(rng, side) * rng.uniform(0.25, 0.8))[..., None]
    fill = light * (1 - weave) + dark * weave
    fill *= (0.9 + 0.22 * _ramp(rng, (side, side)))[..., None]
    fill += (0.55 * dark - fill) * (0.75 * shape.rim)[..., None]
    shadow = np.roll(shape.alpha, rng.integers(1, 4, 2), (0, 1))
    shadow = cv2.GaussianBlur(shadow, (0, 0), 2.0) * rng.uniform(0.2, 0.45)
    image, window = _overlap(shape, canvas.shape[:2])
    part, alpha = canvas[image], shape.alpha[window][..., None]
    part *= 1 - shadow[window][..., None] * (1 - alpha)
    part += (fill[window] - part) * alpha


def _rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    """[3] float RGB in 0..255 of a hue in degrees."""
    sector = (hue / 60 + np.array([0.0, 4.0, 2.0])) % 6
    pure = np.clip(np.abs(sector - 3) - 1, 0, 1)
    return 255 * value * (1 - saturation + saturation * pure)


def _texture(rng: np.random.Generator, side: int) -> np.ndarray:
    """[side, side] in 0..1: stripes, dots, checks, mottling, or (almost) plain."""
    y, x = np.mgrid[:side, :side].astype(np.float32)
    turn = rng.uniform(0, math.pi)
    step = rng.uniform(0.5, 1.3)  # radians per pixel: periods of 5 to 13 pixels
    a = (x * math.cos(turn) + y * math.sin(turn)) * step
    b = (y * math.cos(turn) - x * math.sin(turn)) * step
    kind = rng.integers(5)
    if kind == 0:
        return 0.5 + 0.5 * np.clip(3 * np.sin(a), -1, 1)
    if kind == 1:
        return np.clip(3 * (np.sin(a) * np.sin(b) - 0.3), 0, 1)
    if kind == 2:
        return 0.5 + 0.5 * np.clip(4 * np.sin(a) * np.sin(b), -1, 1)
    if kind == 3:
        return _noise(rng, (side, side), cells=(6, 12))
    return 0.2 * _noise(rng, (side, side), cells=(3,))


def _ramp(rng: np.random.Generator, hw: tuple[int, int]) -> np.ndarray:
    """[H, W] float32 from 0 to 1 in a random direction."""
    turn = rng.uniform(0, 2 * math.pi)
    y = np.linspace(-1, 1, hw[0], dtype=np.float32)[:, None] * math.sin(turn)
    x = np.linspace(-1, 1, hw[1], dtype=np.float32)[None] * math.cos(turn)
    return 0.5 + (x + y) / (2 * (abs(math.sin(turn)) + abs(math.cos(turn))))


def _noise(
    rng: np.random.Generator, hw: tuple[int, int], *, cells: tuple[int, ...]
) -> np.ndarray:
    """[H, W] float32 in 0..1: octaves of smooth noise, coarse ones strongest."""
    total = np.zeros(hw, np.float32)
    for k, count in enumerate(cells):
        grid = rng.random((count + 1, count + 1), np.float32) - 0.5
        total += cv2.resize(grid, hw[::-1], interpolation=cv2.INTER_CUBIC) * 0.6**k
    return np.clip(0.5 + total, 0, 1)


# ---- backgrounds -------------------------------------------------------------------


def _background(rng: np.random.Generator, hw: tuple[int, int]) -> np.ndarray:
    """[H, W, 3] float32 RGB: a muted, textured ground with clutter that is no shape."""
    hue = rng.uniform(0, 360)
    tones = [
        _rgb(hue + rng.normal(0, 40), rng.uniform(0.05, 0.35), value)
        for value in rng.uniform(0.3, 0.85, 3)
    ]
    mix = _ramp(rng, hw)[..., None]
    canvas = tones[0] * (1 - mix) + tones[1] * mix
    mix = _noise(rng, hw, cells=(3, 6, 12, 24))[..., None] * rng.uniform(0.3, 0.9)
    canvas = (canvas * (1 - mix) + tones[2] * mix).astype(np.float32)
    canvas *= (1 + _weave(rng, hw))[..., None]
    for _ in range(rng.integers(0, 5)):
        _stain(canvas, rng)
    _strokes(canvas, rng, count=int(rng.integers(2, 13)))
    return canvas


def _weave(rng: np.random.Generator, hw: tuple[int, int]) -> np.ndarray:
    """[H, W] relative brightness: boards, cloth or grain, or next to nothing."""
    y, x = np.mgrid[: hw[0], : hw[1]].astype(np.float32)
    turn, step = rng.uniform(0, math.pi), rng.uniform(0.15, 1.2)
    a = (x * math.cos(turn) + y * math.sin(turn)) * step
    b = (y * math.cos(turn) - x * math.sin(turn)) * step
    strength = rng.uniform(0.02, 0.09)
    kind = rng.integers(4)
    if kind == 0:  # boards with dark joints
        return -3 * strength * (np.abs(np.sin(a / 4)) < 0.06)
    if kind == 1:
        return strength * np.sin(a) * np.sin(b)
    if kind == 2:
        return strength * np.sin(a + 3 * _noise(rng, hw, cells=(4, 8)))
    return strength * rng.standard_normal(hw, np.float32)


def _stain(canvas: np.ndarray, rng: np.random.Generator) -> None:
    """Blend in one soft patch without a clear outline, in place."""
    hw = canvas.shape[:2]
    y, x = np.mgrid[: hw[0], : hw[1]].astype(np.float32)
    radius = rng.uniform(0.06, 0.3) * min(hw)
    far = np.hypot(x - rng.uniform(0, hw[1]), y - rng.uniform(0, hw[0])) / radius
    far += 1.6 * (_noise(rng, hw, cells=(5, 10, 20)) - 0.5)
    mix = np.clip(1.5 - far, 0, 1) * rng.uniform(0.15, 0.6)
    canvas += (_muted(rng) - canvas) * mix[..., None]


def _strokes(canvas: np.ndarray, rng: np.random.Generator, *, count: int) -> None:
    """Draw open lines, curves, scribbles and specks, in place."""
    hw = np.array(canvas.shape[:2])
    for kind in rng.integers(4, size=count):
        start = rng.uniform(0, hw[::-1])
        reach = rng.uniform(0.1, 0.7) * hw.min()
        colour = tuple(float(c) for c in _muted(rng))
        if kind == 3:
            for spot in start + rng.normal(0, reach / 4, (int(rng.integers(5, 40)), 2)):
                size = int(rng.integers(8, 30))
                cv2.circle(canvas, _fixed(spot), size, colour, -1, cv2.LINE_AA, 4)
            continue
        ends = start + rng.normal(0, reach / 2, (3 + 2 * (kind == 2), 2))
        t = np.linspace(0, 1, 2 if kind == 0 else 40)[:, None]
        points = _bezier(np.vstack([start, ends]) if kind else ends[:2], t)
        points = np.round(points * 16).astype(np.int32)
        thick = int(rng.integers(1, 5))
        cv2.polylines(canvas, [points], False, colour, thick, cv2.LINE_AA, 4)


def _fixed(point: np.ndarray) -> tuple[int, int]:
    """A point in 1/16 pixel, as OpenCV's shift = 4 wants it."""
    return int(round(point[0] * 16)), int(round(point[1] * 16))


def _bezier(points: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Points [T, 2] of the Bezier curve over the control points, at t [T, 1]."""
    n = len(points) - 1
    return sum(
        math.comb(n, k) * t**k * (1 - t) ** (n - k) * p for k, p in enumerate(points)
    )


def _muted(rng: np.random.Generator) -> np.ndarray:
    saturation, value = rng.uniform(0.05, 0.5), rng.uniform(0.15, 0.95)
    return _rgb(rng.uniform(0, 360), saturation, value)


def _develop(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """Uneven light, slight softness and grain; [H, W, 3] uint8."""
    hw = canvas.shape[:2]
    canvas = canvas * (0.85 + 0.3 * _ramp(rng, hw))[..., None]
    if (blur := rng.uniform(0, 0.8)) > 0.3:
        canvas = cv2.GaussianBlur(canvas, (0, 0), blur)
    canvas = canvas + rng.normal(0, rng.uniform(1, 5), (*hw, 3))
    return np.clip(np.round(canvas), 0, 255).astype(np.uint8)
