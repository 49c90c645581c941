"""Runs an exported detector: this file, numpy and what runs the programs are enough.

That is JAX with flatbuffers for StableHLO, onnxruntime for ONNX.

    from detect import Detector
    detect = Detector("folder")
    found = detect(image)  # uint8 RGB [h, w, 3], any size
    found["boxes"], found["scores"], found["names"]

The folder has one program for each canvas size, `about.json` and this file, and beside
StableHLO `weights.npz`; ONNX files hold the weights themselves. Pictures are resized
bilinearly in float, which gives the levels of the resizing that the detector was
trained with to within one level, unless `about.json` says "pil", which also filters
when it shrinks: resize those yourself and call `run`.
"""

import json
from functools import partial
from pathlib import Path

import numpy as np

INPUTS = ("canvas", "image_hw", "scale_xy")  # by these names in ONNX


class Detector:
    """A detector read from an export folder; calls after the first are quick."""

    def __init__(self, folder):
        """Reads settings and weights; programs are read when they are needed."""
        self.folder = Path(folder)
        self.about = json.loads((self.folder / "about.json").read_text())
        onnx = self.about.get("format") == "onnx"
        self._program = _onnx if onnx else _stablehlo(self.folder)
        self._suffix = "onnx" if onnx else "stablehlo"
        self._programs = {}

    def __call__(self, image, score=None):
        """Boxes (xyxy, pixels of `image`), scores, labels (1..C) and names.

        `image` is uint8 RGB [h, w, 3]; `score` drops what is below it. Errors:
        ValueError for anything else, and for shapes that fit no canvas.
        """
        image = np.asarray(image)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(
                f"image is {image.dtype} {image.shape}, not uint8 [h, w, 3] RGB"
            )
        small = resized(image, self.target_hw(*image.shape[:2]))
        (h, w), (height, width) = small.shape[:2], self.canvas(*small.shape[:2])
        canvas = np.zeros((1, height, width, 3), np.uint8)
        canvas[0, :h, :w] = small
        scale = np.float32([[w / image.shape[1], h / image.shape[0]]])
        boxes, scores, labels = self.run(canvas, np.float32([[h, w]]), scale)
        kept = (
            labels[0] > 0 if score is None else (labels[0] > 0) & (scores[0] >= score)
        )
        labels = labels[0][kept]
        names = [self.about["class_names"][label - 1] for label in labels]
        found = {"boxes": boxes[0][kept], "scores": scores[0][kept]}
        return found | {"labels": labels, "names": names}

    def run(self, canvas, image_hw, scale_xy):
        """The program itself: boxes [1, D, 4] in original pixels, scores, labels.

        `canvas` is uint8 [1, H, W, 3], padded right and bottom with 0, one of the sizes
        in `about["canvases"]`; `image_hw` [1, 2] are the rows and columns of it that
        the picture fills, `scale_xy` [1, 2] canvas pixels per original pixel. Labels
        are 1..C, 0 in empty rows.
        """
        size = f"{canvas.shape[1]}x{canvas.shape[2]}"
        if size not in self._programs:
            file = self.folder / f"{size}.{self._suffix}"
            self._programs[size] = self._program(file)
        found = self._programs[size](canvas, image_hw, scale_xy)
        return tuple(np.asarray(x) for x in found)

    def target_hw(self, h, w):
        """Rows and columns at which the detector sees a picture of this size."""
        about = self.about
        k = min(about["max_side"] / max(h, w), about["short_side"] / min(h, w))
        half = {"round": 0.5, "floor": 0.0}[about["size_rule"]]
        return max(1, int(h * k + half)), max(1, int(w * k + half))

    def canvas(self, h, w):
        """The smallest canvas that holds so many rows and columns."""
        sizes = self.about["canvases"]
        fits = [(a * b, a, b) for a, b in sizes if a >= h and b >= w]
        if not fits:
            raise ValueError(f"{h}x{w} pixels fit into none of the canvases {sizes}")
        return min(fits)[1:]


def _stablehlo(folder):
    """What makes a function of a StableHLO file, with the folder's weights in it."""
    import jax
    import jax.export

    with np.load(folder / "weights.npz") as arrays:
        weights = jax.device_put(dict(arrays.items()))

    def read(file):
        program = jax.export.deserialize(bytearray(file.read_bytes()))
        return partial(jax.jit(program.call), weights)

    return read


def _onnx(file):
    """A function of an ONNX file."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file))
    return lambda *arrays: session.run(None, dict(zip(INPUTS, arrays, strict=True)))


def resized(image, hw):
    """Bilinear, without a filter, between the centres of pixels; uint8."""
    (y0, y1, fy), (x0, x1, fx) = (
        _places(n, m) for n, m in zip(image.shape[:2], hw, strict=True)
    )
    rows = image[y0] * (1 - fy)[:, None, None] + image[y1] * fy[:, None, None]
    out = rows[:, x0] * (1 - fx)[:, None] + rows[:, x1] * fx[:, None]
    return np.rint(out).astype(np.uint8)


def _places(n, m):
    """For each of m new pixels its two old neighbours of n, and the second's share."""
    place = np.clip((np.arange(m, dtype=np.float32) + 0.5) * (n / m) - 0.5, 0, n - 1)
    low = np.floor(place).astype(int)
    return low, np.minimum(low + 1, n - 1), (place - low).astype(np.float32)
