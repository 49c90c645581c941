"""What the network sees of a bare picture: the whole or tiles, mirrored, which size.

A view is a part of a picture, resized to a short side and mirrored or not. Boxes of
views are brought together in `prediction/merge.py`. No pixels here, but for `cut`.
"""

from typing import NamedTuple

import numpy as np

from frcnn_jax import config


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


def plain(data: config.Data) -> Looks:
    """One view of the whole picture, as in scoring."""
    return Looks((data.eval_short_side,))


def of_picture(hw: tuple[int, int], looks: Looks) -> list[View]:
    """The views of a picture of (height, width), the whole of it first."""
    h, w = hw
    parts = [(0, 0, w, h)]
    return [
        View(part, side, flip)
        for part in parts
        for side in looks.short_sides
        for flip in looks.flips
    ]


def canvases(data: config.Data, looks: Looks) -> tuple[tuple[int, int], ...]:
    """The canvases (H, W) that hold every view: `data.buckets`, or else two.

    One for wide and one for tall views at the largest short side, so that not every
    side is another program.
    """
    if data.buckets:
        return data.buckets
    short, long = (
        -(-side // 32) * 32 for side in (max(looks.short_sides), data.max_side)
    )
    found = [(short, long), (long, short)]
    return tuple(dict.fromkeys(found))


def cut(image: np.ndarray, view: View) -> np.ndarray:
    """The part of an image [H, W, 3] that a view shows, neither resized nor flipped."""
    x1, y1, x2, y2 = view.part
    return image[y1:y2, x1:x2]
