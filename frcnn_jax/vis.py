"""Pictures of boxes: one image, two side by side, many on a sheet. Pillow only.

Conventions: images are [H, W, 3] uint8 RGB; boxes are xyxy in pixels of the image drawn
on, continuous; labels are 1..C with 0 = empty row, not drawn. Everything is drawn on a
copy. Lines and letters grow with the picture, so that 100 and 4000 pixels both read.

Letters come from the font inside Pillow, which knows ASCII: accents are dropped
("Löwe" reads "Lowe"), and a name in another script is shown as its number ("#3").

Not here: masks, windows, video, reading files.
"""

import colorsys
import math
import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]

# Okabe and Ito (2008), told apart by colour-blind readers; ordered for first use
FIRST_COLORS: tuple[Color, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (204, 121, 167),
    (0, 114, 178),
)
DARK, LIGHT = (16, 16, 16), (255, 255, 255)
ENLARGED = 480  # pixels the shorter side of a panel may grow to
PAPER, INK = (238, 238, 236), (52, 52, 52)


class _Pen(NamedTuple):
    """Sizes in pixels for one picture."""

    line: int
    text: int
    pad: int


class _Chip(NamedTuple):
    """A name tag: where it goes and what it says."""

    text: str
    color: Color
    place: tuple[int, int, int, int]  # xyxy, whole pixels


def color(label: int) -> Color:
    """The RGB colour of a class, the same in every picture; labels count from 1."""
    if label <= len(FIRST_COLORS):
        return FIRST_COLORS[label - 1]
    step = label - len(FIRST_COLORS)
    hue = (0.07 + step * 0.618034) % 1.0  # golden ratio: neighbours differ most
    value, saturation = ((0.95, 0.7), (0.7, 0.9), (1.0, 0.45))[step % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    scores: np.ndarray | None = None,
    *,
    class_names: Sequence[str],
) -> np.ndarray:
    """Draw boxes with name tags onto a copy of an image.

    `boxes` [N, 4] xyxy pixels, `labels` [N] (row 0 of `class_names` is label 1),
    `scores` [N] or None. Low scores (without scores: large boxes) come first, so that
    the others stay on top and choose the place of their tag. Boxes reaching out of
    the image are drawn along its border.

    Raises ValueError for an image that is not [H, W, 3] uint8, rows that do not match,
    numbers that are not finite, and labels without a name.
    """
    _check_image(image)
    boxes, labels, scores = _checked_rows(boxes, labels, scores, class_names)
    picture = Image.fromarray(image).copy()
    pen = _pen(image.shape[0], image.shape[1])
    order = _drawing_order(boxes, scores)
    canvas = ImageDraw.Draw(picture, "RGBA")
    for k in order:
        _outline(canvas, boxes[k], color(int(labels[k])), pen=pen, size=picture.size)
    chips: list[_Chip] = []
    for k in reversed(order):  # the best choose first
        label = int(labels[k])
        name = readable(str(class_names[label - 1]), label)
        tail = "" if scores is None else f" {scores[k]:.2f}"
        text = _fitted(name, tail, pen, picture.width)
        place = _free_place(boxes[k], text, chips, pen=pen, size=picture.size)
        chips.append(_Chip(text, color(label), place))
    for chip in reversed(chips):
        _stamp(canvas, chip, pen)
    return np.array(picture)


def outline(image: np.ndarray, boxes: np.ndarray, label: int = 5) -> np.ndarray:
    """Draw frames [N, 4] xyxy pixels in the colour of a label, without tags, on a copy.

    Raises ValueError as `draw` does.
    """
    names = [""] * label
    _check_image(image)
    boxes, _, _ = _checked_rows(boxes, [label] * len(boxes), None, names)
    picture = Image.fromarray(image).copy()
    pen, canvas = _pen(*image.shape[:2]), ImageDraw.Draw(picture, "RGBA")
    for box in boxes:
        _outline(canvas, box, color(label), pen=pen, size=picture.size)
    return np.array(picture)


def side_by_side(
    image: np.ndarray,
    ground_truth: Any,
    predictions: Any,
    class_names: Sequence[str],
    score_threshold: float,
) -> np.ndarray:
    """Draw "ground truth" and "predictions" of one image as two captioned panels.

    Both are records with `.boxes` [N, 4] in pixels of `image` and `.labels` [N];
    `predictions` also has `.scores` [N] (a `types.Detections` of one image will do).
    Predictions below `score_threshold` are left out; the captions count the rest. Small
    images are enlarged by a whole factor, so that tags hide less of them.
    """
    _check_image(image)
    factor = max(1, ENLARGED // min(image.shape[:2]))
    size = (image.shape[1] * factor, image.shape[0] * factor)
    image = np.array(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    scores, labels = (np.asarray(predictions.scores), np.asarray(predictions.labels))
    keep = (scores >= score_threshold) & (labels > 0)
    found = np.asarray(predictions.boxes)[keep] * factor
    right = draw(image, found, labels[keep], scores[keep], class_names=class_names)
    labels = np.asarray(ground_truth.labels)
    boxes = np.asarray(ground_truth.boxes) * factor
    left = draw(image, boxes, labels, class_names=class_names)
    panels = [
        _captioned(left, f"ground truth: {(labels > 0).sum()}"),
        _captioned(
            right, f"predictions: {keep.sum()} (score >= {score_threshold:.2f})"
        ),
    ]
    return contact_sheet(panels, columns=2)


def contact_sheet(pictures: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Lay [H, W, 3] uint8 pictures out in rows on a neutral ground, unscaled.

    Columns are as wide and rows as high as their largest picture, which are centred.
    Raises ValueError without pictures or columns.
    """
    if not len(pictures) or columns < 1:
        raise ValueError(
            f"a sheet of {len(pictures)} pictures in {columns} columns is empty"
        )
    columns = min(columns, len(pictures))
    rows = [pictures[k : k + columns] for k in range(0, len(pictures), columns)]
    widths = [max(p.shape[1] for p in pictures[k::columns]) for k in range(columns)]
    heights = [max(p.shape[0] for p in row) for row in rows]
    gap = max(4, round(0.03 * math.sqrt(max(widths) * max(heights))))
    size = (sum(widths) + gap * (columns + 1), sum(heights) + gap * (len(rows) + 1))
    sheet = Image.new("RGB", size, PAPER)
    top = gap
    for row, height in zip(rows, heights, strict=True):
        left = gap
        for picture, width in zip(row, widths, strict=False):
            x = left + (width - picture.shape[1]) // 2
            y = top + (height - picture.shape[0]) // 2
            sheet.paste(Image.fromarray(picture), (x, y))
            left += width + gap
        top += height + gap
    return np.array(sheet)


def save(picture: np.ndarray, path: str | Path) -> None:
    """Write an [H, W, 3] uint8 picture; the suffix of `path` chooses the format."""
    Image.fromarray(picture).save(path, quality=92)


# ---- checks and sizes --------------------------------------------------------------


def _check_image(image: np.ndarray) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"image is {image.dtype} {image.shape}; drawing needs uint8 [H, W, 3]"
        )
    if image.size == 0:
        raise ValueError(f"image {image.shape} has no pixels")


def _checked_rows(
    boxes: Any, labels: Any, scores: Any, names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """The rows to draw, as arrays."""
    labels, boxes = np.asarray(labels), np.asarray(boxes, np.float64)
    boxes = boxes if boxes.size else boxes.reshape(0, 4)
    rows = np.zeros(len(labels)) if scores is None else np.asarray(scores, np.float64)
    if boxes.shape != (len(labels), 4) or rows.shape != labels.shape:
        raise ValueError(
            f"boxes {boxes.shape}, labels {labels.shape} and scores {rows.shape} "
            "do not match"
        )
    if labels.size and not 0 <= labels.min() <= labels.max() <= len(names):
        raise ValueError(
            f"labels {labels.min()}..{labels.max()} with {len(names)} class names; "
            "label 1 is the first name, 0 is an empty row"
        )
    keep = labels > 0
    boxes, labels, rows = boxes[keep], labels[keep].astype(int), rows[keep]
    broken = ~(np.isfinite(boxes).all(1) & np.isfinite(rows))
    if broken.any():
        first = int(np.flatnonzero(keep)[broken][0])
        raise ValueError(f"row {first} to draw has a box or score that is not finite")
    return boxes, labels, None if scores is None else rows


def _pen(height: int, width: int) -> _Pen:
    text = max(10, round(0.026 * math.sqrt(height * width)))
    return _Pen(line=max(2, round(text / 7)), text=text, pad=max(1, round(text / 6)))


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """The font inside Pillow, which knows ASCII."""
    return ImageFont.load_default(size)  # type: ignore[return-value]


def _drawing_order(boxes: np.ndarray, scores: np.ndarray | None) -> list[int]:
    if scores is not None:
        return np.argsort(scores, kind="stable").tolist()
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return np.argsort(-areas, kind="stable").tolist()


# ---- boxes -------------------------------------------------------------------------


def _pixels(box: np.ndarray, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """First and last pixel column and row that a box touches, inside the image."""
    (x1, x2), (y1, y2) = sorted(box[0::2]), sorted(box[1::2])
    spans = []
    for low, high, limit in ((x1, x2, size[0]), (y1, y2, size[1])):
        first = min(max(math.floor(low), 0), limit - 1)
        last = min(max(math.ceil(high) - 1, first), limit - 1)
        spans.append((first, last))
    return spans[0][0], spans[1][0], spans[0][1], spans[1][1]


def _outline(
    canvas: ImageDraw.ImageDraw,
    box: np.ndarray,
    shade: Color,
    *,
    pen: _Pen,
    size: tuple[int, int],
) -> None:
    """Draw the frame around the box's pixels, with a thin dark edge on both sides."""
    x1, y1, x2, y2 = _pixels(box, size)
    room = pen.line // 2  # half of the line lies outside the box, where there is room
    outer = (
        max(x1 - room, 0),
        max(y1 - room, 0),
        min(x2 + room, size[0] - 1),
        min(y2 + room, size[1] - 1),
    )
    edge = max(1, pen.line // 3)
    canvas.rectangle(_grown(outer, edge), outline=(*DARK, 110), width=edge)
    within = _grown(outer, -pen.line)
    if pen.line > 2 and min(within[2] - within[0], within[3] - within[1]) > 2 * edge:
        canvas.rectangle(within, outline=(*DARK, 110), width=edge)
    canvas.rectangle(outer, outline=shade, width=pen.line)


def _grown(box: tuple[int, int, int, int], by: int) -> tuple[int, int, int, int]:
    return box[0] - by, box[1] - by, box[2] + by, box[3] + by


# ---- name tags ---------------------------------------------------------------------


def readable(name: str, label: int) -> str:
    """The name in letters that `font` has, or the class's number."""
    plain = "".join(
        c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c)
    )
    plain = plain.translate({0xDF: "ss", 0xE6: "ae", 0xF8: "o", 0x142: "l", 0x131: "i"})
    if plain and plain.isascii() and plain.isprintable():
        return plain
    return f"#{label}"


def _fitted(name: str, tail: str, pen: _Pen, width: int) -> str:
    """The name and its tail, cut with an ellipsis beyond half the picture's width."""
    room = min(width - 2 * pen.pad, max(width // 2, 12 * pen.text))
    if font(pen.text).getlength(name + tail) <= room:
        return name + tail
    for length in range(len(name) - 1, 0, -1):
        text = name[:length].rstrip() + "…" + tail
        if font(pen.text).getlength(text) <= room:
            return text
    return tail.strip() or name[:1]


def _chip_size(text: str, pen: _Pen) -> tuple[int, int]:
    ascent, descent = font(pen.text).getmetrics()
    width = math.ceil(font(pen.text).getlength(text)) + 2 * pen.pad
    return width, ascent + descent + pen.pad


def _free_place(
    box: np.ndarray,
    text: str,
    chips: Sequence[_Chip],
    *,
    pen: _Pen,
    size: tuple[int, int],
) -> tuple[int, int, int, int]:
    """The first place at the box, kept inside the picture, that hides no other tag.

    Tried in turn: above, inside the top, below, inside the bottom, each at the left and
    at the right. When all are taken, the one that hides least.
    """
    width, height = _chip_size(text, pen)
    x1, y1, x2, y2 = _pixels(box, size)
    room = pen.line // 2
    left, right = x1 - room, x2 + room + 1 - width
    tops = (y1 - room - height, y1 - room, y2 + room + 1, y2 + room + 1 - height)
    best, least = None, math.inf
    for top in tops:
        for start in (left, right):
            x = max(min(start, size[0] - width), 0)
            y = max(min(top, size[1] - height), 0)
            place = (x, y, x + width, y + height)
            hidden = sum(_shared(place, chip.place) for chip in chips)
            if hidden < least:
                best, least = place, hidden
            if hidden == 0:
                return place
    assert best is not None
    return best


def _shared(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Pixels that two xyxy rectangles share."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0)


def _text_color(shade: Color) -> Color:
    """Black or white, whichever has the higher WCAG 2 contrast on the shade."""
    linear = [
        c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in shade
    ]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return DARK if luminance > 0.179 else LIGHT


def _stamp(canvas: ImageDraw.ImageDraw, chip: _Chip, pen: _Pen) -> None:
    x1, y1, x2, y2 = chip.place
    canvas.rectangle((x1, y1, x2 - 1, y2 - 1), fill=(*chip.color, 235))
    ascent, descent = font(pen.text).getmetrics()
    base = (y1 + y2 + ascent - descent) // 2
    ink = _text_color(chip.color)
    canvas.text((x1 + pen.pad, base), chip.text, ink, font(pen.text), anchor="ls")


def _captioned(picture: np.ndarray, text: str) -> np.ndarray:
    """The picture under a line of text on the neutral ground."""
    height, width = picture.shape[:2]
    size = max(11, round(0.032 * math.sqrt(height * width)))
    while size > 8 and font(size).getlength(text) > width:
        size -= 1
    band = round(1.7 * size)
    page = Image.new("RGB", (width, height + band), PAPER)
    page.paste(Image.fromarray(picture), (0, band))
    at = (0, band - round(0.5 * size))
    ImageDraw.Draw(page).text(at, text, INK, font(size), anchor="ls")
    return np.array(page)
