"""What training draws for an image, and how that is applied to pixels and boxes.

In this order: colours, resizing (to a short side, or by large-scale jitter), a crop, a
mirror. Conventions: images are uint8 RGB [H, W, 3], boxes xyxy, continuous. `draw`
takes the only random numbers. It draws those of mirror, crop, jitter and colours
whether they are on or not, so that switching one off leaves the others as they were;
another list of short sides, drawn first, may change them.

Colours follow torchvision 0.29's ColorJitter (factors, order drawn, every step rounded
to whole levels; 1 level apart at most on a photograph). Jitter and crop are those of
its detection recipes, of detectron2 and of mmdetection's LSJ configurations: the image
is resized to a drawn share of what fits the crop, and cut to it at a drawn place.
Outside of a small image the canvas is empty and masked, where the peers have a grey
border.
"""

from typing import NamedTuple

import cv2
import numpy as np

from frcnn_jax import config
from frcnn_jax.data import transforms
from frcnn_jax.data.records import Record
from frcnn_jax.data.transforms import Pixels, Sample

GREY = np.array([0.2989, 0.587, 0.114], np.float32)  # torchvision's weights of RGB
MIN_SIDE = 1e-2  # network pixels; what a crop leaves smaller is dropped


class Drawn(NamedTuple):
    """What becomes of one image."""

    short_side: int
    flip: bool = False
    scale: float = 0.0  # of what fits the crop; 0 = by the short side
    place: tuple[float, float, float] = (0.0, 0.0, 0.0)  # down, across, box; 0..1
    factors: tuple[float, float, float] = (
        1.0,
        1.0,
        1.0,
    )  # brightness, contrast, saturation
    hue: float = 0.0  # shift in turns
    order: tuple[int, ...] = ()  # of brightness, contrast, saturation, hue


def draw(data: config.Data, rng: np.random.Generator) -> Drawn:
    """Draw what becomes of one training image."""
    sides = data.short_sides
    if data.short_side_mode == "choice":
        short_side = sides[rng.integers(len(sides))]
    elif data.short_side_mode == "range":
        short_side = int(rng.integers(min(sides), max(sides) + 1))
    else:
        raise ValueError(
            f"data.short_side_mode is {data.short_side_mode!r}; it must be 'choice' or"
            " 'range'"
        )
    flip = bool(rng.random() < data.flip)
    low, high = data.scale_jitter or (0.0, 0.0)
    scale = low + (high - low) * rng.random()
    place = tuple(rng.random(3).tolist())
    spread = (data.brightness, data.contrast, data.saturation)
    factors = [
        max(0.0, 1 + s * u) for s, u in zip(spread, rng.uniform(-1, 1, 3), strict=True)
    ]
    hue = data.hue * rng.uniform(-1, 1)
    order = tuple(rng.permutation(4).tolist())
    return Drawn(short_side, flip, scale, place, tuple(factors), hue, order)


def make_sample(
    pixels: Pixels, record: Record, data: config.Data, drawn: Drawn, image_id: int
) -> Sample:
    """Apply what was drawn to a decoded image and its record's boxes."""
    (h, w), image = pixels.full_hw, pixels.image
    hw = resized_hw(h, w, data, drawn)
    scale_xy = np.array([hw[1] / w, hw[0] / h], np.float32)
    image = transforms.resize(recolour(image, drawn), hw, data.resize)
    boxes = transforms.scale_boxes(record.boxes, scale_xy, hw)
    kept = np.arange(len(boxes))
    if data.crop:
        corner = crop_corner(hw, boxes, data, drawn.place)
        image, boxes, kept = crop(image, boxes, corner, data)
    if drawn.flip:
        image, boxes = transforms.hflip(image, boxes)
    labels, crowd = record.labels[kept], record.crowd[kept]
    return Sample(image, scale_xy, boxes, labels, crowd, image_id)


def resized_hw(h: int, w: int, data: config.Data, drawn: Drawn) -> tuple[int, int]:
    """Give the size that an image of h by w pixels is resized to."""
    if not drawn.scale:
        rule = data.size_rule
        return transforms.resized_hw(h, w, drawn.short_side, data.max_side, rule)
    k = min(data.crop[0] / h, data.crop[1] / w) * drawn.scale
    half = transforms.ROUNDING[data.size_rule]
    return max(1, int(h * k + half)), max(1, int(w * k + half))


# ---- crop


def crop_corner(
    hw: tuple[int, int],
    boxes: np.ndarray,
    data: config.Data,
    place: tuple[float, float, float],
) -> tuple[int, int]:
    """Give the upper left corner (y, x) of the crop of a resized image.

    Anywhere that the crop fills; with `data.crop_keeps_box` only where the centre of a
    box, itself drawn, stays inside.
    """
    room = [max(0, side - limit) for side, limit in zip(hw, data.crop, strict=True)]
    low, high = [0, 0], list(room)
    if data.crop_keeps_box and len(boxes):
        box = boxes[min(int(place[2] * len(boxes)), len(boxes) - 1)]
        for axis, centre in enumerate(((box[1] + box[3]) / 2, (box[0] + box[2]) / 2)):
            low[axis] = int(np.clip(centre - data.crop[axis], 0, room[axis]))
            high[axis] = int(np.clip(centre, low[axis], room[axis]))
    y, x = (
        a + int(u * (b - a + 1)) for a, b, u in zip(low, high, place[:2], strict=True)
    )
    return y, x


def crop(
    image: np.ndarray, boxes: np.ndarray, corner: tuple[int, int], data: config.Data
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut an image to `data.crop`; gives the boxes left, and which they are ([N] rows).

    Boxes are cut with it. Those with less than `data.crop_visible` of their area left,
    or with a side under 0.01 pixel, are dropped.
    """
    y, x = corner
    image = image[y : y + data.crop[0], x : x + data.crop[1]]
    limit = np.array([image.shape[1], image.shape[0]] * 2, np.float32)
    moved = np.clip(boxes - np.array([x, y, x, y], np.float32), 0, limit)
    side = moved[:, 2:] - moved[:, :2]
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    enough = side.prod(1) >= data.crop_visible * area
    kept = np.flatnonzero(enough & (side >= MIN_SIDE).all(1))
    return image, moved[kept], kept


# ---- colours


def recolour(image: np.ndarray, drawn: Drawn) -> np.ndarray:
    """Change brightness, contrast, saturation and hue in the drawn order."""
    changes = (_brightness, _contrast, _saturation)
    for step in drawn.order:
        if step < 3 and drawn.factors[step] != 1:
            image = changes[step](image, drawn.factors[step])
        elif step == 3 and drawn.hue:
            image = _hue(image, drawn.hue)
    return image


_LEVELS = np.arange(256, dtype=np.float32)


def _brightness(image: np.ndarray, factor: float) -> np.ndarray:
    return cv2.LUT(image, np.clip(_LEVELS * factor, 0, 255).astype(np.uint8))


def _contrast(image: np.ndarray, factor: float) -> np.ndarray:
    mean = float((image.reshape(-1, 3).mean(0) * GREY).sum())
    table = np.clip(_LEVELS * factor + mean * (1 - factor), 0, 255)
    return cv2.LUT(image, table.astype(np.uint8))


def _saturation(image: np.ndarray, factor: float) -> np.ndarray:
    matrix = np.eye(3, dtype=np.float32) * factor + (1 - factor) * GREY
    return cv2.transform(image, matrix)


def _hue(image: np.ndarray, turns: float) -> np.ndarray:
    hsv = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0] + 360 * turns) % 360
    rgb = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return (rgb * 255).round().clip(0, 255).astype(np.uint8)
