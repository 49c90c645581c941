"""What the network sees of a bare picture: the whole or tiles, mirrored, which size.

A view is a part of a picture, resized to a short side and mirrored or not. Boxes of
views are brought together in `prediction/merge.py`. No pixels here, but for `cut`.
"""

import math
from typing import NamedTuple

import numpy as np

from frcnn_jax import config

SMALLEST = 32  # pixels of a tile
LARGEST_OVERLAP = 0.9


class View(NamedTuple):
    """One look at a picture."""

    part: tuple[int, int, int, int]  # xyxy, whole pixels of the picture
    short_side: int  # the part is resized to it, as far as data.max_side allows
    flip: bool = False


class Looks(NamedTuple):
    """Which views every picture gets."""

    short_sides: tuple[int, ...]
    flips: tuple[bool, ...] = (False,)
    tile: int = 0  # side in pixels of the picture; 0 = no tiles
    overlap: float = 0.0  # share of a tile's side that neighbours have in common

    @property
    def per_part(self) -> int:
        """How many views the whole picture, and each tile, gets."""
        return len(self.short_sides) * len(self.flips)


def chosen(
    data: config.Data, *, tta: bool = False, tile: int = 0, overlap: float = 0.0
) -> Looks:
    """The views to take of every picture: one of the whole, as in scoring, or more.

    `tta` adds the short sides of training and mirrors all; `tile` > 0 adds tiles of so
    many pixels that share `overlap` of their sides with the next. Errors: ValueError
    for a tile below 32 pixels, an overlap outside 0..0.9.
    """
    if tile and tile < SMALLEST:
        raise ValueError(f"tile={tile}: tiles have {SMALLEST} pixels or more, 0 none")
    if not 0 <= overlap <= LARGEST_OVERLAP:
        raise ValueError(f"overlap={overlap:g}: choose from 0 to {LARGEST_OVERLAP}")
    sides = (data.eval_short_side, *(data.short_sides if tta else ()))
    flips = (False, True) if tta else (False,)
    return Looks(tuple(dict.fromkeys(sides)), flips, tile, overlap)


def of_picture(hw: tuple[int, int], looks: Looks) -> list[View]:
    """The views of a picture of (height, width), those of the whole first."""
    h, w = hw
    parts = [(0, 0, w, h)]
    if looks.tile:
        rows, columns = (_spans(side, looks.tile, looks.overlap) for side in (h, w))
        tiles = [(x1, y1, x2, y2) for y1, y2 in rows for x1, x2 in columns]
        parts += tiles if len(tiles) > 1 else []
    return [
        View(part, side, flip)
        for part in parts
        for side in looks.short_sides
        for flip in looks.flips
    ]


def _spans(length: int, tile: int, overlap: float) -> list[tuple[int, int]]:
    """Beginnings and ends of tiles along a side: as few as overlap enough, spread."""
    if length <= tile:
        return [(0, length)]
    step = max(1, int(tile * (1 - overlap)))
    steps = math.ceil((length - tile) / step)
    starts = [round(i * (length - tile) / steps) for i in range(steps + 1)]
    return [(start, start + tile) for start in starts]


def canvases(data: config.Data, looks: Looks) -> tuple[tuple[int, int], ...]:
    """The canvases (H, W) for views: `data.buckets`, or else those that hold all."""
    return data.buckets or for_all(data, looks)


def for_all(data: config.Data, looks: Looks) -> tuple[tuple[int, int], ...]:
    """Two or three canvases (H, W) that hold every view, whatever its picture's sides.

    One for wide, one for tall and, with tiles, one for square views at the largest
    short side, so that not every side is another program.
    """
    short, long = (
        -(-side // 32) * 32 for side in (max(looks.short_sides), data.max_side)
    )
    square = [(short, short)] if looks.tile and short < long else []
    return tuple(dict.fromkeys([*square, (short, long), (long, short)]))


def cut(image: np.ndarray, view: View) -> np.ndarray:
    """The part of an image [H, W, 3] that a view shows, neither resized nor flipped."""
    x1, y1, x2, y2 = view.part
    return image[y1:y2, x1:x2]
