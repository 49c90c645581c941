"""Anchor boxes over a feature pyramid, in numpy: shapes are known while tracing.

Anchors are xyxy pixels of the padded network input. Order: level, row, column, then
anchor with the ratio as the slow and the size as the fast index, as in mmdetection
3.3.0, torchvision and jwyang (detectron2 has the size as the slow one). Three styles,
each exact:

- "exact": centred on the grid point itself (cell (0, 0) at pixel (0, 0)), not rounded;
  mmdetection 3.3.0 and detectron2.
- "rounded": the same with corners rounded to whole pixels, half to even; torchvision
  0.29, whose strides also follow the image, see `detectors.rpn.anchors_of`.
- "caffe": whole sides, rounded for a square of 16 pixels and multiplied, centred half a
  stride of 16 from the grid point; py-faster-rcnn and jwyang. In the continuous frame
  of `ops.boxes.BoxCoder`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

CAFFE_BASE = 16  # pixels; the square whose sides are rounded


class AnchorSpec(NamedTuple):
    """Anchor shapes of each level, finest first."""

    sizes: tuple[tuple[float, ...], ...]  # sqrt(area) in pixels, one row per level
    ratios: tuple[float, ...]  # height / width
    strides: tuple[int, ...]  # pixels per cell, one per level
    style: str = "exact"

    @property
    def per_cell(self) -> int:
        """Anchors per cell; the same on every level."""
        return len(self.sizes[0]) * len(self.ratios)


def base_anchors(
    sizes: Sequence[float], ratios: Sequence[float], style: str = "exact"
) -> np.ndarray:  # [A, 4]
    """Anchors around the origin: h = size * sqrt(ratio), w = size / sqrt(ratio)."""
    if style == "caffe":
        return _caffe_anchors(np.asarray(sizes), np.asarray(ratios))
    root = np.sqrt(np.asarray(ratios, np.float32))
    sides = np.asarray(sizes, np.float32)
    h = (root[:, None] * sides).ravel()
    w = (np.float32(1.0) / root[:, None] * sides).ravel()
    anchors = np.stack([-w, -h, w, h], -1) * np.float32(0.5)
    return np.round(anchors) if style == "rounded" else anchors


def _caffe_anchors(sizes: np.ndarray, ratios: np.ndarray) -> np.ndarray:
    w = np.round(np.sqrt(CAFFE_BASE**2 / ratios))
    sides = np.stack([w, np.round(w * ratios)], -1)[:, None]
    half = (sides * (sizes / CAFFE_BASE)[:, None] / 2).reshape(-1, 2)
    centre = CAFFE_BASE / 2
    return np.concatenate([centre - half, centre + half], -1).astype(np.float32)


def level_anchors(
    base: np.ndarray, stride: int, feature_hw: tuple[int, int]
) -> np.ndarray:  # [H * W * A, 4]
    """The base anchors moved to every cell of one level."""
    y, x = np.mgrid[: feature_hw[0], : feature_hw[1]]
    shift = np.stack([x, y, x, y], -1).reshape(-1, 1, 4).astype(np.float32) * stride
    return (base[None] + shift).reshape(-1, 4).astype(np.float32)


def pyramid_anchors(
    spec: AnchorSpec, feature_hw: Sequence[tuple[int, int]]
) -> tuple[np.ndarray, ...]:
    """Anchors of every level, each [H * W * A, 4] float32."""
    levels = zip(spec.sizes, spec.strides, feature_hw, strict=True)
    return tuple(
        level_anchors(base_anchors(sizes, spec.ratios, spec.style), stride, hw)
        for sizes, stride, hw in levels
    )


def cell_index(
    feature_hw: Sequence[tuple[int, int]], per_cell: int
) -> tuple[np.ndarray, ...]:
    """(row, column) of the cell of every anchor, per level [H * W * A, 2] int32.

    Compared with an image's own number of cells this tells which anchors exist for it,
    whatever the canvas.
    """
    grids = []
    for h, w in feature_hw:
        y, x = np.mgrid[:h, :w]
        cells = np.stack([y, x], -1).reshape(-1, 1, 2)
        grids.append(np.repeat(cells, per_cell, 1).reshape(-1, 2).astype(np.int32))
    return tuple(grids)
