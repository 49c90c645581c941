"""A detector as StableHLO programs for several platforms, one for each canvas size.

What is written is read by `detect.py`, which goes along into the folder, and compared:
the programs read back have to give the same bits as the detector itself on this device.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from frcnn_jax.export import detect
from frcnn_jax.types import Batch, Detections, Variables

PLATFORMS = ("cpu", "cuda", "tpu")
Canvas = tuple[int, int]


def write(
    folder: Path,
    predict: Callable[[Variables, Batch], Detections],
    variables: Variables,
    canvases: Sequence[Canvas],
    about: Mapping[str, Any],
    platforms: Sequence[str] = PLATFORMS,
) -> list[Path]:
    """Writes programs, weights, `about.json` and `detect.py`; returns the programs.

    `about` has the class names and how pictures are resized: `class_names`,
    `short_side`, `max_side`, `size_rule`. Canvases are (height, width) in pixels.
    Errors: FileExistsError where the folder is not empty, ValueError for a platform
    that JAX does not know or without flatbuffers.
    """
    if unknown := set(platforms) - set(PLATFORMS):
        there = ", ".join(PLATFORMS)
        raise ValueError(f"no platform {', '.join(sorted(unknown))}: there are {there}")
    if find_spec("flatbuffers") is None:
        raise ValueError("exporting needs one more library: pip install flatbuffers")
    if folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty: remove it or name another")
    folder.mkdir(parents=True, exist_ok=True)
    flat = traverse_util.flatten_dict(variables, sep="/")
    flat = {name: np.asarray(array) for name, array in sorted(flat.items())}
    files = []
    for canvas in canvases:
        program = exported(predict, flat, canvas, platforms)
        files.append(folder / f"{canvas[0]}x{canvas[1]}.stablehlo")
        files[-1].write_bytes(program.serialize())
    np.savez(folder / "weights.npz", **flat)
    told = {**about, "canvases": list(canvases), "platforms": list(platforms)}
    (folder / "about.json").write_text(json.dumps(told, indent=1) + "\n")
    shutil.copy(detect.__file__, folder / "detect.py")
    return files


def exported(
    predict: Callable[[Variables, Batch], Detections],
    flat: Mapping[str, np.ndarray],
    canvas: Canvas,
    platforms: Sequence[str],
):
    """The program of one canvas: weights and picture in, boxes, scores, labels out."""
    pair = jax.ShapeDtypeStruct((1, 2), np.float32)
    image = jax.ShapeDtypeStruct((1, *canvas, 3), np.uint8)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), dict(flat))
    export = jax.export.export(jax.jit(calls(predict)), platforms=platforms)
    return export(shapes, image, pair, pair)


def calls(predict: Callable[[Variables, Batch], Detections]) -> Callable:
    """`predict` with flat weights and without ground truth."""

    def program(weights, images, image_hw, scale_xy):
        variables = traverse_util.unflatten_dict(weights, sep="/")
        found = predict(variables, Batch(images, image_hw, scale_xy, *[None] * 4))
        return found.boxes, found.scores, found.labels

    return program


def check(
    folder: Path,
    predict: Callable[[Variables, Batch], Detections],
    variables: Variables,
    image: np.ndarray,
) -> int:
    """Compares the folder's programs with the detector; returns the detections seen.

    `image` (uint8 RGB, any size) is put into each canvas as it is, cut off where it is
    larger. Errors: ValueError naming the canvas whose bits differ.
    """
    read, seen = detect.Detector(folder), 0
    flat = traverse_util.flatten_dict(variables, sep="/")
    direct = jax.jit(calls(predict))
    for height, width in read.about["canvases"]:
        cut = image[:height, :width]
        canvas = np.zeros((1, height, width, 3), np.uint8)
        canvas[0, : cut.shape[0], : cut.shape[1]] = cut
        inputs = (
            canvas,
            np.array([cut.shape[:2]], np.float32),
            np.ones((1, 2), np.float32),
        )
        ours = jax.tree.map(np.asarray, direct(flat, *inputs))
        theirs = read.run(*inputs)
        if not all(
            a.tobytes() == b.tobytes() for a, b in zip(ours, theirs, strict=True)
        ):
            raise ValueError(
                f"{folder}: the program of {height}x{width} gives other numbers here"
                " than the detector that it was made of"
            )
        seen += int((ours[2] > 0).sum())
    return seen
