"""Pixels of the drawn data set: shapes with their textures, cluttered backgrounds.

Conventions: a canvas is [H, W, 3] float32 RGB in 0..255, painted in place; `develop`
makes it uint8. A shape has a window of its own, a square that may reach beyond the
image, and covers each of its pixels by a share in 0..1, so edges are smooth. Everything
random comes from the generator handed in, and in a fixed order: another order of calls
gives other pixels, and then `VERSION` in `shapes.py` has to rise.

Not here: how many shapes an image gets and where they may lie beside each other, boxes,
files (see `shapes.py`).
"""

import math
from typing import NamedTuple

import cv2
import numpy as np

CLASSES = ("circle", "square", "triangle", "star", "ring")
HUES = (8.0, 212.0, 128.0, 46.0, 288.0)  # preferred hue of each class, degrees
HUE_SPREAD = 14.0  # standard deviation, degrees: colour hints, shape decides
DIAMETERS = (22.0, 112.0)  # of the circle around a shape, pixels
FINE = 4  # subpixels per pixel and axis for smooth edges
MARGIN = 10  # pixels around a shape for its shadow


class Shape(NamedTuple):
    """A shape with its place, not yet painted."""

    label: int  # 1..5: CLASSES[label - 1]
    corner: tuple[int, int]  # x, y of the window's first pixel; may lie outside
    alpha: np.ndarray  # [h, w] float32, covered part of each pixel of the window
    rim: np.ndarray  # [h, w] float32, covered by the outline
    radius: float  # of the circle around it, pixels


# ---- shapes ------------------------------------------------------------------------


def place(
    rng: np.random.Generator, label: int, *, hw: tuple[int, int], near: list[Shape]
) -> Shape:
    """A shape with random size, turn, stretch and place, not yet painted.

    `hw` is the image's (height, width) in pixels. Two shapes in five that have earlier
    ones in `near` are put beside or over one of them.
    """
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
    return Shape(label, (int(corner[0]), int(corner[1])), alpha, rim, radius)


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
    shape: Shape, hw: tuple[int, int]
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


def coverage(shape: Shape, hw: tuple[int, int]) -> np.ndarray:
    """[H, W] float32: the part of each pixel of the image that the shape covers."""
    image, window = _overlap(shape, hw)
    alpha = np.zeros(hw, np.float32)
    alpha[image] = shape.alpha[window]
    return alpha


# ---- colour ------------------------------------------------------------------------


def paint(canvas: np.ndarray, shape: Shape, rng: np.random.Generator) -> None:
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


def background(rng: np.random.Generator, hw: tuple[int, int]) -> np.ndarray:
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


def develop(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """Uneven light, slight softness and grain; [H, W, 3] uint8."""
    hw = canvas.shape[:2]
    canvas = canvas * (0.85 + 0.3 * _ramp(rng, hw))[..., None]
    if (blur := rng.uniform(0, 0.8)) > 0.3:
        canvas = cv2.GaussianBlur(canvas, (0, 0), blur)
    canvas = canvas + rng.normal(0, rng.uniform(1, 5), (*hw, 3))
    return np.clip(np.round(canvas), 0, 255).astype(np.uint8)
