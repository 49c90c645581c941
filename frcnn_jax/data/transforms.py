"""From a file to pixels: decode, resize, flip, and boxes with them.

Conventions: images are uint8 RGB [H, W, 3]. Boxes are xyxy, continuous; functions say
whether they are in original or in network (resized) pixels. Nothing here is random.

Not here: normalisation (done on the device), padding (see `batching`), crops, colour
changes. A JPEG with flipped bits inside decodes to wrong pixels; only cut files are
sure to be found here, some of the others by the data check (see `doctor.pictures`).
"""

from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from frcnn_jax import config
from frcnn_jax.data import headers
from frcnn_jax.data.records import Record

FORMATS = {  # first bytes -> name
    b"\xff\xd8": "JPEG",
    b"\x89PNG": "PNG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"RIFF": "WebP",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
}
UNTURNED = "EXIF rotation not applied: the JSON goes without it"
REDUCED = {  # for 1/2, 1/4, 1/8 of a JPEG's sides; IMREAD_COLOR_RGB still says colour
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}  # marker of a complete file


class BadImage(ValueError):
    """An image file that cannot be used; the message names it and says why."""

    def __init__(self, message: str, fault: str = "unreadable-image"):
        """Keep the message; `fault` is its key in `findings.FAULTS`."""
        super().__init__(message)
        self.fault = fault


class Sample(NamedTuple):
    """One image of a batch before padding."""

    image: np.ndarray  # [h, w, 3] uint8 RGB, network pixels
    scale_xy: np.ndarray  # [2] float32, network pixels per original pixel
    boxes: np.ndarray  # [N, 4] float32, network pixels
    labels: np.ndarray  # [N] int32, 1..C
    crowd: np.ndarray  # [N] bool
    image_id: int  # row of the record in its data set


class Pixels(NamedTuple):
    """A decoded image and what was odd about it."""

    image: np.ndarray  # [H, W, 3] uint8 RGB, original pixels
    note: str  # "" when file and record agree
    full_hw: tuple[int, int]  # of the picture; larger than the image if that is reduced


def decode(path, max_pixels: int = config.Data.max_image_pixels) -> np.ndarray:
    """Read an image file as uint8 RGB [H, W, 3], turned as its EXIF tag says.

    16-bit images are scaled to 8 bits, grey ones repeated, alpha is dropped (the hidden
    colour shows), palettes and CMYK converted, of animations the first frame is taken.
    Raises BadImage for a file that is missing, empty, cut off, no image, of floats, or
    of more than `max_pixels` pixels.
    """
    return decode_bytes(_read(path), path, max_pixels)


def decode_bytes(encoded: bytes, name, max_pixels: int) -> np.ndarray:
    """Do as `decode` with what a file holds; messages begin with `name`."""
    _check_pixels(encoded, name, max_pixels)
    return _decode(encoded, name, upright=True)


def read_pixels(
    record: Record,
    max_pixels: int = config.Data.max_image_pixels,
    at_least: float = 0.0,
) -> Pixels:
    """Decode a record's image and settle it with the size its JSON states.

    The picture turned by EXIF is used when it has the stated size; else the picture as
    stored, when that one has it; else, when all boxes lie in the file's picture, that
    picture, with a note. Raises BadImage when boxes leave it (one pixel is forgiven).
    With `at_least` (a share of the sides, such as 0.3) JPEGs may be decoded at 1/2, 1/4
    or 1/8 of their size where that is enough: several times faster, not the same.
    """
    encoded = _read(record.path)
    _check_pixels(encoded, record.path, max_pixels)
    stated_hw = (record.height, record.width)
    parts = max((n for n in REDUCED if at_least and n * at_least <= 1), default=1)
    if parts > 1 and _format(encoded) == "JPEG":
        if headers.size(encoded) == stated_hw[::-1]:
            reduced = _decode(encoded, record.path, upright=True, parts=parts)
            return Pixels(reduced, "", stated_hw)
    turned = _decode(encoded, record.path, upright=True)
    if turned.shape[:2] == stated_hw:
        return Pixels(turned, "", stated_hw)
    stored = _decode(encoded, record.path, upright=False)
    if stored.shape[:2] == stated_hw:
        return Pixels(stored, UNTURNED, stated_hw)
    h, w = turned.shape[:2]
    sizes = f"the file is {w}x{h}, the JSON says {record.width}x{record.height}"
    if len(record.boxes) and (record.boxes[:, 2:].max(0) > (w + 1, h + 1)).any():
        message = f"{record.path}: {sizes} and boxes leave the file's picture"
        raise BadImage(message, "size-and-boxes")
    return Pixels(turned, f"size differs from the JSON: {sizes}", (h, w))


def _read(path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadImage(f"{path}: cannot be read ({error.strerror})") from error


def _check_pixels(encoded: bytes, path, limit: int) -> None:
    """Refuse what would fill the memory before it is decoded (40 us for a header)."""
    count = headers.pixels(encoded)
    if count and count > limit:
        raise BadImage(
            f"{path}: {count:,} pixels, and data.max_image_pixels is {limit:,}",
            "too-many-pixels",
        )


def _decode(encoded: bytes, path, *, upright: bool, parts: int = 1) -> np.ndarray:
    flags = cv2.IMREAD_COLOR_RGB | (0 if upright else cv2.IMREAD_IGNORE_ORIENTATION)
    flags |= REDUCED.get(parts, 0)
    name = _format(encoded)
    if not encoded:
        raise BadImage(f"{path}: empty file")
    # OpenCV 4 fills the lost part of a cut JPEG with grey and says nothing.
    if name in ENDS and ENDS[name] not in encoded:
        raise BadImage(f"{path}: truncated {name} (its end marker is missing)")
    try:
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
        reason = ""
    except cv2.error as error:
        image, reason = None, f": {error.err}"
    if image is None and name == "TIFF":
        why = "damaged, or of a kind not supported, such as 32 bits or floats"
        raise BadImage(f"{path}: TIFF {why}{reason}")
    if image is None and name:
        raise BadImage(f"{path}: truncated, damaged or unsupported {name}{reason}")
    if image is None:
        raise BadImage(f"{path}: not an image (starts with {_start(encoded)}){reason}")
    return image


def _format(encoded: bytes) -> str:
    return next((n for magic, n in FORMATS.items() if encoded.startswith(magic)), "")


def _start(encoded: bytes) -> str:
    text = encoded[:24].decode("utf-8", "replace").split("\n")[0].split(">")[0]
    return repr(text.split(" ")[0] or encoded[:8])


# Added to a side before its fraction is cut off, by `data.size_rule`.
ROUNDING = {"round": 0.5, "floor": 0.0}


def resized_hw(
    h: int, w: int, short_side: int, max_side: int, rule: str = "round"
) -> tuple[int, int]:
    """Give the size at which the short side is `short_side` or the long `max_side`.

    k = min(max_side / long, short_side / short), then int(side * k + 0.5) by the rule
    "round" (mmcv 2.1.0 `rescale_size`) and int(side * k) by "floor" (torchvision 0.29,
    where 334 pixels make 799), both exact; but never below one pixel.
    """
    k = min(max_side / max(h, w), short_side / min(h, w))
    half = ROUNDING[rule]
    return max(1, int(h * k + half)), max(1, int(w * k + half))


def resize(image: np.ndarray, hw: tuple[int, int], kind: str) -> np.ndarray:
    """Resample uint8 [H, W, C] to size `hw` bilinearly.

    "cv2_u8" is OpenCV's fixed-point rule (mmdetection, bit for bit); "cv2_f32" is the
    float rule (torch `interpolate`, to 0.006 grey levels) rounded to whole levels;
    neither filters when it shrinks. "pil" is Pillow's, which does (detectron2, bit for
    bit).
    """
    size = (hw[1], hw[0])
    if kind == "cv2_u8":
        return cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    if kind == "cv2_f32":
        floats = cv2.resize(
            image.astype(np.float32), size, interpolation=cv2.INTER_LINEAR
        )
        return np.rint(floats).clip(0, 255).astype(np.uint8)
    if kind == "pil":
        return np.asarray(
            Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)
        )
    raise ValueError(
        f"data.resize is {kind!r}; it must be 'cv2_u8', 'cv2_f32' or 'pil'"
    )


def scale_boxes(
    boxes: np.ndarray, scale_xy: np.ndarray, hw: tuple[int, int]
) -> np.ndarray:
    """Carry boxes [N, 4] from original to network pixels, clipped to `hw`.

    `scale_xy` are the true factors of each axis (new / old size), as mmdetection uses.
    """
    limit = np.array([hw[1], hw[0]] * 2, np.float32)
    factor = np.tile(np.asarray(scale_xy, np.float32), 2)
    return np.clip(np.asarray(boxes, np.float32) * factor, 0, limit)


def hflip(image: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mirror an image and its boxes: x1' = w - x2, x2' = w - x1 (no -1)."""
    w = np.float32(image.shape[1])
    x1, y1, x2, y2 = boxes.T
    return cv2.flip(image, 1), np.stack([w - x2, y1, w - x1, y2], axis=1)
